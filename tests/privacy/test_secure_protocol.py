"""Rounds of a plan have one place each, and keys differ in everything that they are for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from privacy.secure_errors import RunError
from privacy.secure_protocol import pair_key, round_index, self_key
from tests.plans import small_plan
from tests.privacy.secure_federation import Federation, roster_of, run_of

RUN = run_of(3, 2)


def test_every_round_that_a_plan_can_have_has_its_own_place_in_order() -> None:
    plan = small_plan()
    rounds = [(step.name, number) for step in plan.steps for number in range(sum(part.times for part in step.parts))]
    assert [round_index(plan, *one) for one in rounds] == list(range(plan.max_rounds))


@pytest.mark.parametrize(
    ("step", "number"), [("moments", 1), ("fit", small_plan().max_rounds - 1), ("fit", -1), ("other", 0)]
)
def test_a_round_that_the_plan_has_not_has_no_place(step: str, number: int) -> None:
    with pytest.raises(RunError):
        round_index(small_plan(), step, number)


def test_a_pair_has_one_key_and_one_of_the_two_adds() -> None:
    states = Federation(RUN).states
    private = {site: states[site].secrets[0, 0].tobytes() for site in ("s00", "s01")}
    public = {site: states["s02"].masks[i, 0].tobytes() for i, site in enumerate(("s00", "s01"))}
    one, adds = pair_key(RUN, 0, "s00", "s01", private["s00"], public["s01"])
    other, takes = pair_key(RUN, 0, "s01", "s00", private["s01"], public["s00"])
    assert one == other
    assert (adds, takes) == (True, False)


def test_a_key_differs_in_everything_that_it_is_for() -> None:
    secret = bytes(range(32))
    keys = [
        self_key(RUN, 0, "s00", secret),
        self_key(RUN, 1, "s00", secret),
        self_key(RUN, 0, "s01", secret),
        self_key(RUN, 0, "s00", secret[::-1]),
        self_key(replace(RUN, run_id="run-2"), 0, "s00", secret),
        self_key(replace(RUN, plan_hash="b" * 64), 0, "s00", secret),
        self_key(replace(RUN, roster=roster_of(4)), 0, "s00", secret),
        RUN.derive(secret, "mask", 0, "s00"),
        RUN.derive(secret, "mask", 0, "s00", "s01"),
        RUN.derive(secret, "mask", 0, "s0", "0s01"),
    ]
    assert len(set(keys)) == len(keys)
