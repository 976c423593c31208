"""Whose patients stand behind earlier sums: a run that differs from one by too few is refused before it releases."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.members import Members, closeness, load_members, members_of, record_members, salt_of
from client.state import SitePaths, fold_key
from models.compile import compile_plan
from privacy.storage import StorageError
from schemas.codes import Code
from schemas.cohort import Cohort, Layer
from schemas.messages import Draft, encode
from schemas.study import Criterion, Eligibility, Model, Privacy
from tests.guards import GuardedSite, roster_of
from tests.plans import small_dictionary, small_study
from tests.secure_guards import hub_of, masked_sites

SALT = b"s" * 32
PLAN = compile_plan(small_study(privacy=Privacy(secure_sum=False)), small_dictionary())


def cohort_of(n: int = 40) -> Cohort:
    ages = np.arange(n, dtype=np.float64)[:, None] + 20
    return Cohort(
        patient_ids=tuple(f"P{i}" for i in range(n)),
        time=np.arange(1.0, n + 1),
        event=np.arange(n) % 2 == 0,
        entry=np.zeros(n),
        layers={"clinical": Layer(("age_years",), ages)},
    )


def of(cohort: Cohort, **changed: object) -> Members:
    return members_of(cohort, PLAN, ("A", "B", "C"), SALT).model_copy(update=changed)


def corrected(cohort: Cohort, n: int) -> Cohort:
    time = cohort.time.copy()
    time[:n] += 1
    return replace(cohort, time=time)


# ---------------------------------------------------------------- the rule
@pytest.mark.parametrize(
    ("situation", "now", "code"),
    [
        ("the same patients", cohort_of(), None),
        ("one patient fewer", cohort_of(39), Code.COHORT_TOO_CLOSE),
        ("nine more", cohort_of(49), Code.COHORT_TOO_CLOSE),
        ("ten more", cohort_of(50), None),
        ("one cell corrected", corrected(cohort_of(), 1), Code.COHORT_TOO_CLOSE),
        ("ten cells corrected", corrected(cohort_of(), 10), None),
        ("an unknown value in one cell", replace(cohort_of(), entry=np.where(np.arange(40) == 3, np.nan, 0.0)),
         Code.COHORT_TOO_CLOSE),
    ],
)  # fmt: skip
def test_a_cohort_differs_from_an_earlier_one_by_nobody_or_by_ten(
    situation: str, now: Cohort, code: Code | None
) -> None:
    assert closeness(of(now), [of(cohort_of())]) is code, situation


def test_under_differential_privacy_cohorts_may_differ_as_they_like() -> None:
    noisy = of(cohort_of(39), exact=False)
    assert closeness(noisy, [of(cohort_of())]) is None
    assert closeness(of(cohort_of()), [noisy]) is None


def test_patients_count_over_studies_that_read_other_columns_and_rows_do_not() -> None:
    other = cohort_of(39)
    other = replace(other, layers={"clinical": Layer(("sex",), np.zeros((39, 1)))})
    assert closeness(of(other), [of(cohort_of())]) is Code.COHORT_TOO_CLOSE
    same = replace(cohort_of(), layers={"clinical": Layer(("sex",), np.zeros((40, 1)))})
    assert closeness(of(same), [of(cohort_of())]) is None


def test_a_few_patients_that_three_cohorts_isolate_together_are_found() -> None:
    def without(*gone: int) -> Cohort:
        return cohort_of(60).take(np.array([i for i in range(60) if i not in gone]))

    left, right = set(range(12)), set(range(11, 23))  # they share patient 11
    earlier = [of(without()), of(without(*left)), of(without(*right))]
    assert closeness(earlier[1], earlier[:1]) is closeness(earlier[2], earlier[:2]) is None
    assert closeness(of(without(*left, *right)), earlier) is Code.COHORT_TOO_CLOSE


@pytest.mark.parametrize(
    ("situation", "changed", "code"),
    [
        ("the same sites", {}, None),
        ("one site fewer", {"sites": ("A", "B")}, Code.SITES_TOO_CLOSE),
        ("two sites more", {"sites": ("A", "B", "C", "D", "E")}, Code.SITES_TOO_CLOSE),
        ("three sites more", {"sites": ("A", "B", "C", "D", "E", "F")}, None),
        ("another question", {"sites": ("A", "B"), "question": "another"}, None),
        ("in clear", {"sites": ("A", "B"), "masked": False}, None),
    ],
)
def test_lists_of_sites_differ_by_none_or_by_three(
    situation: str, changed: dict[str, object], code: Code | None
) -> None:
    earlier = of(cohort_of(), masked=True)
    assert closeness(earlier.model_copy(update=changed), [earlier]) is code, situation


def test_a_question_is_an_endpoint_and_who_is_in_the_cohort() -> None:
    def question(**changed: object) -> str:
        plan = compile_plan(small_study(**changed), small_dictionary())
        return members_of(cohort_of(), plan, ("A",), SALT).question

    assert question() == question(title="Another title", model=Model(covariates=("sex",)))
    adults = (Criterion(column="age_years", op=">=", value=18.0),)
    assert question() != question(eligibility=Eligibility(criteria=adults))


# ---------------------------------------------------------------- the file
def test_no_identifier_and_no_cell_is_in_the_file(tmp_path: Path) -> None:
    paths = SitePaths(tmp_path)
    record_members(paths, "run-1", members_of(cohort_of(), PLAN, ("A", "B", "C"), salt_of(fold_key(paths))))
    content = paths.members("run-1").read_bytes()
    assert b"P7" not in content
    assert paths.members("run-1").stat().st_mode & 0o077 == 0
    assert load_members(paths, "run-1").rows.keys() != of(cohort_of()).rows.keys(), "another site's secret"
    record_members(paths, "run-2", members_of(cohort_of(), PLAN, ("A", "B", "C"), salt_of(fold_key(paths))))
    assert load_members(paths, "run-2") == load_members(paths, "run-1")


def test_a_run_that_cannot_be_compared_is_an_error(tmp_path: Path) -> None:
    paths = SitePaths(tmp_path)
    with pytest.raises(StorageError, match=r"members\.json"):
        load_members(paths, "run-1")
    record_members(paths, "run-1", members_of(cohort_of(), PLAN, ("A",), salt_of(fold_key(paths))))
    paths.members("run-1").write_bytes(b"{}")
    with pytest.raises(StorageError, match="damaged"):
        load_members(paths, "run-1")


# ---------------------------------------------------------------- the guard
def set_up(site: GuardedSite, run_id: str) -> str:
    draft = encode(Draft(run_id, "setup", "setup", 0, 40, 12))
    return site.answer(site.setup(run_id=run_id), draft).code


@pytest.mark.parametrize(("patients", "code"), [(range(39), Code.COHORT_TOO_CLOSE), (range(40), ""), (range(50), "")])
def test_a_second_run_over_nearly_the_same_patients_is_not_set_up(tmp_path: Path, patients: range, code: str) -> None:
    site = GuardedSite(tmp_path)
    site.set_up()
    assert site.answer(site.ask(), site.draft()).status == "ok"
    site.patients = patients
    assert set_up(site, "run-2") == code


def test_a_run_in_which_nothing_left_does_not_count(tmp_path: Path) -> None:
    site = GuardedSite(tmp_path)
    site.set_up()
    site.patients = range(39)
    assert set_up(site, "run-2") == ""
    assert site.answer(site.ask(), site.draft()).status == "ok"
    late = site.answer(site.ask(run_id="run-2"), site.draft(run_id="run-2"))
    assert late.code == Code.COHORT_TOO_CLOSE, "run-1 has released since run-2 was set up"


def test_leave_one_site_out_is_refused_at_every_site(tmp_path: Path) -> None:
    names = ("A", "B", "C", "D")
    sites = masked_sites(tmp_path, names)
    first = hub_of(sites)
    first.set_up()
    first.value("moments", "sums", 0, {})
    fewer = {name: site for name, site in sites.items() if name != "D"}
    for site in fewer.values():
        site.decide(roster_of(*fewer))
    second = hub_of(fewer)
    second.run_id = "run-2"
    codes = {name: second.send(name, second.keys_request()).code for name in fewer}
    assert codes == dict.fromkeys(fewer, Code.SITES_TOO_CLOSE)


def test_without_the_fingerprints_of_an_earlier_run_nothing_is_set_up(tmp_path: Path) -> None:
    site = GuardedSite(tmp_path)
    site.set_up()
    site.answer(site.ask(), site.draft())
    site.paths.members("run-1").unlink()
    assert set_up(site, "run-2") == Code.STORAGE_FAILED
