"""What a plan says of its rounds and terms."""

from __future__ import annotations

import pytest

from schemas.plan import read_plan
from schemas.study import Privacy
from tests.plans import small_plan

PLAN = small_plan()
ROUNDS = [("moments", 0), *(("fit", number) for number in range(5))]


def test_every_round_has_a_place_of_its_own() -> None:
    assert [PLAN.round_index(*place) for place in ROUNDS] == list(range(PLAN.max_rounds))


@pytest.mark.parametrize("place", [("moments", 1), ("fit", 5), ("fit", -1), ("rows", 0)])
def test_a_round_that_the_plan_has_not_has_no_place(place: tuple[str, int]) -> None:
    with pytest.raises(KeyError):
        PLAN.round_index(*place)


def test_the_terms_change_with_each_of_them_and_with_nothing_else() -> None:
    hashes = {
        PLAN.terms_hash,
        small_plan(on_dropout="continue").terms_hash,
        small_plan(min_patients=11).terms_hash,
        small_plan(secure_sum=True).terms_hash,
        PLAN.model_copy(
            update={"study": PLAN.study.model_copy(update={"privacy": Privacy(min_events_per_interval=6)})}
        ).terms_hash,
    }
    assert len(hashes) == 5
    assert small_plan(title="Another title").terms_hash == PLAN.terms_hash


def test_a_changed_copy_has_a_hash_of_its_own() -> None:
    before = PLAN.hash
    changed = PLAN.model_copy(update={"code_version": "0.0.9"})
    assert changed.hash == read_plan(changed.content).hash != before
    assert PLAN.model_copy().hash == before
