"""Which releases differ by too little, in pairs and in combination."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.differencing import (
    Members,
    differs_too_little,
    fingerprints,
    isolates_too_few,
    n_different,
    plan_fault,
    site_members,
    sites_differ_too_little,
)
from schemas.study import Evaluation
from tests.plans import small_plan

SALT = b"a secret of sixteen bytes"


def people(*numbers: int) -> dict[str, str]:
    return {str(number): "" for number in numbers}


def cohort(ages: dict[str, int], youngest: int) -> dict[str, str]:
    return fingerprints({who: str(age).encode() for who, age in ages.items() if age >= youngest}, SALT)


@pytest.mark.parametrize(("n_of_18", "refused"), [(0, False), (1, True), (9, True), (10, False)])
def test_ages_from_18_and_then_from_19(n_of_18: int, refused: bool) -> None:
    ages = {f"p{i}": 18 if i < n_of_18 else 40 for i in range(60)}
    assert differs_too_little([cohort(ages, 18)], cohort(ages, 19)) is refused
    assert isolates_too_few([cohort(ages, 18)], cohort(ages, 19)) is refused


@pytest.mark.parametrize(("n_opted_out", "refused"), [(0, False), (1, True), (9, True), (10, False)])
def test_an_opt_out_between_two_runs(n_opted_out: int, refused: bool) -> None:
    assert differs_too_little([people(*range(50))], people(*range(n_opted_out, 50))) is refused


def test_one_patient_for_another_is_a_difference_of_two() -> None:
    assert n_different(people(1, 2, 3), people(2, 3, 4)) == 2
    assert differs_too_little([people(*range(50))], people(*range(1, 51)))


def test_a_corrected_cell_is_a_difference_of_one_patient() -> None:
    rows = {f"p{i}": b"age 40" for i in range(30)}
    before, after = fingerprints(rows, SALT), fingerprints({**rows, "p7": b"age 41"}, SALT)
    assert n_different(before, after) == 1
    assert differs_too_little([before], after)
    assert isolates_too_few([before], after)


def test_any_earlier_release_counts_not_the_last_alone() -> None:
    first, second = people(*range(50)), people(*range(20, 50))
    assert differs_too_little([first, second], people(*range(1, 50)))


@pytest.mark.parametrize(("left_out", "refused"), [(0, False), (1, True), (2, True), (3, False)])
def test_all_sites_and_then_all_but_some(left_out: int, refused: bool) -> None:
    sites = [f"site-{i}" for i in range(8)]
    assert sites_differ_too_little([sites], sites[left_out:]) is refused


def test_four_releases_can_isolate_one_patient_although_each_two_differ_by_ten() -> None:
    everybody = set(range(100))
    s, t = set(range(11)), set(range(10, 21))  # share patient 10
    released = [people(*everybody), people(*everybody - s), people(*everybody - t)]
    last = people(*everybody - s - t)
    pairs = itertools.combinations([*released, last], 2)
    assert not any(differs_too_little([one], other) for one, other in pairs)
    assert isolates_too_few(released, last)
    assert not isolates_too_few(released[:-1], released[-1])


def test_more_combinations_than_can_be_tried_are_refused() -> None:
    rng = np.random.default_rng(0)
    releases = [people(*np.flatnonzero(rng.random(200) < 0.5).tolist()) for _ in range(9)]
    assert isolates_too_few(releases[:-1], releases[-1])


cohorts = st.lists(st.sets(st.integers(0, 14)), min_size=1, max_size=3)


@given(cohorts, st.sets(st.integers(0, 14)))
def test_a_pair_that_is_refused_is_refused_in_combination_too(previous: list[set[int]], now: set[int]) -> None:
    before = [people(*members) for members in previous]
    if differs_too_little(before, people(*now), at_least=4):
        assert isolates_too_few(before, people(*now), at_least=4)


@given(cohorts, st.sets(st.integers(0, 14)))
def test_no_small_combination_is_overlooked(previous: list[set[int]], now: set[int]) -> None:
    releases: list[Members] = [people(*members) for members in [*previous, now]]
    found = False
    for weights in itertools.product((-2, -1, 0, 1, 2), repeat=len(releases)):
        sums = {
            person: sum(w for w, members in zip(weights, releases, strict=True) if str(person) in members)
            for person in range(15)
        }
        found |= 0 < sum(value != 0 for value in sums.values()) < 4
    if found:
        assert isolates_too_few(releases[:-1], releases[-1], at_least=4)


@given(st.dictionaries(st.text(max_size=8), st.binary(max_size=8), max_size=6))
def test_fingerprints_depend_on_the_secret_and_hide_who(rows: dict[str, bytes]) -> None:
    ours, others = fingerprints(rows, SALT), fingerprints(rows, SALT + b"x")
    assert len(ours) == len(rows)
    assert not set(ours) & set(others)
    assert all(len(mark) == 32 for mark in (*ours, *ours.values()))


def test_a_short_secret_is_no_secret() -> None:
    with pytest.raises(ValueError, match="shorter"):
        fingerprints({}, b"short")


def test_a_plan_below_ten_patients_is_refused() -> None:
    assert plan_fault(small_plan(), 3) is None
    assert plan_fault(small_plan(min_patients=9), 3) == "patients"


def test_a_plan_with_held_out_patients_needs_three_sites() -> None:
    plan = small_plan(evaluation=Evaluation(folds=5))
    both = plan.model_copy(update={"steps": (plan.steps[0], plan.steps[1].model_copy(update={"cohort": "training"}))})
    assert plan_fault(both, 3) is None
    assert plan_fault(both, 2) == "sites"
    assert plan_fault(plan, 2) is None


def test_a_folded_step_may_have_fewer_at_a_site() -> None:
    plan = small_plan(min_patients=1)
    folded = tuple(step.model_copy(update={"settings": {"look_at": "training", "n_folds": 5}}) for step in plan.steps)
    assert plan_fault(plan.model_copy(update={"steps": folded}), 3) is None
    assert plan_fault(plan.model_copy(update={"steps": folded}), 2) == "sites"


def test_site_members_of_a_list() -> None:
    assert site_members(("a", "b")) == {"a": "", "b": ""}
