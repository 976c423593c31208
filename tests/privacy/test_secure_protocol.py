"""Keys differ in everything that they are for."""

from __future__ import annotations

from dataclasses import replace

from privacy.secure_protocol import pair_key, self_key
from tests.privacy.secure_federation import Federation, roster_of, run_of

RUN = run_of(3, 2)


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
