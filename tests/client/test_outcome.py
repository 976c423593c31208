from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from client.cohort_of import cohort_and_counts, part_of
from client.dialect import Dialect
from client.errors import TablesRefusedError, TooFewPatientsError
from client.settings import SiteFloors
from schemas.cohort import Cohort, concatenate
from schemas.dictionary import Dictionary
from schemas.study import Study
from tests.client.tables_kit import clinical, dictionary, study, write

COMPETING = {"event": {"type": "integer", "min": 0, "max": 9}}


def cohort_of(folder: Path, of: Study, described: Dictionary | None = None) -> Cohort:
    return cohort_and_counts(folder, described or dictionary(), of, Dialect(), SiteFloors(), site="kit")[0]


def outcome_study(outcome: str, kind: str = "binary") -> Study:
    method = "logistic" if kind == "binary" else "multinomial"
    return study(
        endpoint={"type": kind, "outcome": outcome}, model={"method": method, "covariates": ["age_years", "lesions"]}
    )


def two_kinds() -> Study:
    return study(endpoint={"time": "time_days", "event": "event", "cause": 2, "competing": [5]})


def test_a_binary_outcome_of_a_boolean_or_of_two_codes_is_0_and_1_and_has_no_time(tmp_path: Path) -> None:
    write(tmp_path, clinical())
    steroids, sex = (cohort_of(tmp_path, outcome_study(name)) for name in ("steroids", "sex"))
    np.testing.assert_array_equal(steroids.outcome, [i % 3 % 2 for i in range(24)])
    np.testing.assert_array_equal(sex.outcome, [i % 2 for i in range(24)])
    np.testing.assert_array_equal(sex.event, sex.outcome == 1)
    np.testing.assert_array_equal((sex.time, sex.entry), np.zeros((2, 24)))


def test_a_time_to_one_event_has_no_outcome(tmp_path: Path) -> None:
    write(tmp_path, clinical())
    assert cohort_of(tmp_path, study()).outcome is None


def test_patients_without_a_known_outcome_are_left_out_and_counted(tmp_path: Path) -> None:
    table = clinical()
    table["sex"][3] = ""
    write(tmp_path, table)
    cohort, counts = cohort_and_counts(tmp_path, dictionary(), outcome_study("sex"), Dialect(), SiteFloors())
    assert (cohort.n_patients, counts.n_incomplete) == (23, 1)


def test_times_that_are_wrong_do_not_matter_to_a_study_without_a_time(tmp_path: Path) -> None:
    table = clinical()
    table["time_days"][0] = "0"
    write(tmp_path, table)
    assert cohort_of(tmp_path, outcome_study("sex")).n_patients == 24
    with pytest.raises(TablesRefusedError, match="0 or negative"):
        cohort_of(tmp_path, study())


def test_a_number_that_is_neither_0_nor_1_is_no_binary_outcome(tmp_path: Path) -> None:
    write(tmp_path, clinical())
    of = study(
        endpoint={"type": "binary", "outcome": "lesions"}, model={"method": "logistic", "covariates": ["age_years"]}
    )
    with pytest.raises(TablesRefusedError, match="is not 0 or 1"):
        cohort_of(tmp_path, of)


def test_a_site_where_nobody_has_the_outcome_is_below_the_floor_of_events(tmp_path: Path) -> None:
    table = clinical()
    table["steroids"] = ["0"] * 24
    write(tmp_path, table)
    with pytest.raises(TooFewPatientsError, match="observed event"):
        cohort_of(tmp_path, outcome_study("steroids"))


def test_competing_events_are_numbered_from_that_of_interest(tmp_path: Path) -> None:
    table = clinical()
    table["event"] = [("0", "2", "5")[i % 3] for i in range(24)]
    write(tmp_path, table)
    cohort = cohort_of(tmp_path, two_kinds(), dictionary(**COMPETING))
    np.testing.assert_array_equal(cohort.outcome, [i % 3 for i in range(24)])
    np.testing.assert_array_equal(cohort.event, [i % 3 == 1 for i in range(24)])
    assert cohort.time[0] == 30


def test_a_kind_of_event_that_the_study_does_not_name_is_refused(tmp_path: Path) -> None:
    table = clinical()
    table["event"][7] = "3"
    table["event"][1] = "2"
    write(tmp_path, table)
    with pytest.raises(TablesRefusedError, match="neither 0 nor an event that the study names"):
        cohort_of(tmp_path, two_kinds(), dictionary(**COMPETING))


def test_kinds_of_event_can_be_codes_of_a_category(tmp_path: Path) -> None:
    table = clinical()
    table["event"] = [("none", "relapse", "death")[i % 3] for i in range(24)]
    write(tmp_path, table)
    described = dictionary(event={"type": "category", "codes": ("none", "death", "relapse")})
    of = study(endpoint={"time": "time_days", "event": "event", "cause": "relapse", "competing": ["death"]})
    cohort = cohort_of(tmp_path, of, described)
    np.testing.assert_array_equal(cohort.outcome, [i % 3 for i in range(24)])


def test_an_interaction_holds_the_covariate_of_the_treated_and_nothing_of_the_others(tmp_path: Path) -> None:
    table = clinical()
    table["age_years"][4] = ""
    table["steroids"][6] = ""
    write(tmp_path, table)
    of = study(
        model={"covariates": ["steroids", "age_years"], "treatment": "steroids", "interactions": ["age_years"]}
    )
    cohort = cohort_of(tmp_path, of)
    arm, age, both = cohort.matrix(("steroids", "age_years", "steroids x age_years")).T
    treated = arm == 1
    np.testing.assert_array_equal(both[treated], age[treated])
    assert np.isnan(both[~treated]).all()
    assert treated.sum() == 8
    assert np.isnan(arm[6])


def test_outcomes_follow_their_patients(tmp_path: Path) -> None:
    write(tmp_path, clinical())
    cohort = cohort_of(tmp_path, outcome_study("sex"))
    some = cohort.take(np.array([5, 2]))
    np.testing.assert_array_equal(some.outcome, [1, 0])
    np.testing.assert_array_equal(concatenate([some, cohort]).outcome[:3], [1, 0, 0])
    assert part_of(cohort, "all", 10).outcome is not None
