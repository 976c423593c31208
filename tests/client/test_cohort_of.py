from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.cohort_of import CohortReport, cohort_and_counts, cohort_from_tables, part_of
from client.dialect import Dialect
from client.errors import TablesRefusedError, TooFewPatientsError
from client.settings import Floors, SiteFloors
from schemas.codes import Code
from schemas.cohort import Cohort, Layer
from schemas.design import design_columns
from schemas.study import Study, load_study
from tests.client.tables_kit import as_csv, clinical, dictionary, rna, study, write

CONFIGS = Path(__file__).parents[2] / "configs"


def cohort_of(folder: Path, of: Study, opted_out: frozenset[str] = frozenset()) -> tuple[Cohort, CohortReport]:
    return cohort_and_counts(folder, dictionary(), of, Dialect(), SiteFloors(), opted_out, site="kit")


def test_demo_cohort_equals_a_slow_reading_of_its_table(tmp_path: Path) -> None:
    of, described = load_study(CONFIGS / "cgd" / "study.toml")
    text = (CONFIGS / "demo" / "cgd_clinical.csv").read_text(encoding="utf-8")
    write(tmp_path, text.encode())
    cohort, counts = cohort_and_counts(tmp_path, described, of, Dialect(), SiteFloors(), site="all")
    lines = [line.replace('"', "").split(",") for line in text.splitlines()]
    rows = [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]
    assert (cohort.n_patients, cohort.n_events) == (128, 44)
    assert counts == CohortReport(128, 0, 0, 0, 128)
    assert cohort.patient_ids == tuple(row["patient_id"] for row in rows)
    assert cohort.time.tolist() == [float(row["time_days"]) for row in rows]
    assert cohort.entry.tolist() == [0.0] * 128
    assert cohort.site == "all"
    matrix = cohort.matrix(design_columns(of, described))
    slow = [
        [
            float(row["treatment"] == "rIFN-g"), float(row["sex"] == "female"), float(row["age_years"]),
            float(row["height_cm"]), float(row["weight_kg"]), float(row["inheritance"] == "autosomal"),
            float(row["steroids"]), float(row["prophylactic_antibiotics"]),
        ]
        for row in rows
    ]  # fmt: skip
    np.testing.assert_array_equal(matrix, slow)


def test_french_export_gives_the_same_cohort(tmp_path: Path) -> None:
    french = Dialect(delimiter=";", decimal=",", encoding="cp1252", missing=("", "ND"))
    table = clinical()
    table["age_years"][2] = ""
    table["family"][0] = "Forêt"
    of = study(evaluation={"folds": 5, "group": "family"})
    write(tmp_path / "english", table)
    table["age_years"] = [cell.replace(".", ",") or "ND" for cell in table["age_years"]]
    table["steroids"] = [{"0": "faux", "1": "VRAI"}[cell] for cell in table["steroids"]]
    write(tmp_path / "french", as_csv(table, french, line="\r\n"))
    one = cohort_from_tables(tmp_path / "english", dictionary(), of, Dialect(), SiteFloors())
    other = cohort_from_tables(tmp_path / "french", dictionary(), of, french, SiteFloors())
    np.testing.assert_array_equal(one.layers["clinical"].values, other.layers["clinical"].values)
    np.testing.assert_array_equal(one.time, other.time)
    assert one.group is not None
    assert other.group is not None
    assert one.group.tolist() == other.group.tolist()
    assert one.group[0] == "Forêt"


def test_an_empty_category_is_missing_in_all_its_indicators(tmp_path: Path) -> None:
    described = dictionary(sex={"codes": ("male", "female", "other")})
    table = clinical()
    table["sex"][:3] = ["", "other", "male"]
    cohort = cohort_from_tables(write(tmp_path, table), described, study(), Dialect(), SiteFloors())
    columns = cohort.layers["clinical"].columns
    assert columns == ("age_years", "sex[female]", "sex[other]", "steroids", "lesions")
    indicators = cohort.matrix(("sex[female]", "sex[other]"))
    assert np.isnan(indicators[0]).all()
    assert indicators[1:3].tolist() == [[0.0, 1.0], [0.0, 0.0]]


def test_everyone_left_out_is_counted(tmp_path: Path) -> None:
    table = clinical()
    table["age_years"][:2] = ["10", ""]
    table["lesions"][5] = ""
    of = study(eligibility={"criteria": [{"column": "age_years", "op": ">=", "value": 18}], "complete_cases": True})
    cohort, counts = cohort_of(write(tmp_path, table), of, frozenset({"P007", "P999"}))
    assert counts == CohortReport(24, n_opted_out=1, n_ineligible=2, n_incomplete=1, n_patients=20)
    assert {"P000", "P001", "P005", "P007"}.isdisjoint(cohort.patient_ids)
    assert cohort.layers["clinical"].observed.all()


@pytest.mark.parametrize(
    ("column", "op", "value", "n"),
    [
        ("sex", "==", "female", 12), ("sex", "!=", "female", 11), ("steroids", "==", True, 8),
        ("steroids", "==", 1, 8), ("age_years", "<", 40, 20), ("age_years", "<=", 31.5, 12),
        ("age_years", ">", 25.5, 18),
    ],
)  # fmt: skip
def test_criteria_hold_or_not_and_never_on_empty_cells(
    tmp_path: Path, column: str, op: str, value: float | bool | str, n: int
) -> None:
    table = clinical()
    table["sex"][0] = ""
    of = study(eligibility={"criteria": [{"column": column, "op": op, "value": value}]})
    floors = Floors(min_patients=1, min_events_per_interval=1, min_events=0)
    of = of.model_copy(update={"privacy": of.privacy.model_copy(update={"min_patients": 1})})
    cohort = cohort_from_tables(write(tmp_path, table), dictionary(), of, Dialect(), floors)
    assert cohort.n_patients == n


def test_a_patient_without_an_endpoint_is_left_out_where_the_dictionary_lets_it_be_empty(tmp_path: Path) -> None:
    described = dictionary(time_days={"required": False})
    table = clinical()
    table["time_days"][4] = ""
    write(tmp_path, table)
    cohort, counts = cohort_and_counts(tmp_path, described, study(), Dialect(), SiteFloors())
    assert counts.n_incomplete == 1
    assert "P004" not in cohort.patient_ids
    with pytest.raises(TablesRefusedError, match="row 6, column time_days"):
        cohort_of(tmp_path, study())


def test_a_layer_known_of_fewer_than_the_floor_is_missing(tmp_path: Path) -> None:
    of = study(model={"covariates": ["age_years", "G1", "G2"]})
    write(tmp_path, clinical())
    write(tmp_path, rna([f"P{i:03d}" for i in range(10)]), "rna.csv")
    enough, counts = cohort_of(tmp_path, of)
    assert enough.layers["rna"].observed.sum() == 20
    assert counts.missing_layers == ()
    few, counts = cohort_of(tmp_path, of, frozenset({"P000"}))
    assert not few.layers["rna"].observed.any()
    assert few.layers["rna"].values.shape == (23, 2)
    assert counts.missing_layers == ("rna",)
    (tmp_path / "rna.csv").unlink()
    assert cohort_of(tmp_path, of)[1].missing_layers == ("rna",)


@pytest.mark.parametrize(("n_known", "n_kept"), [(0, 0), (1, 0), (9, 0), (10, 10), (24, 24)])
def test_a_covariate_known_of_fewer_than_the_floor_is_missing(tmp_path: Path, n_known: int, n_kept: int) -> None:
    table = clinical()
    table["lesions"][n_known:] = [""] * (24 - n_known)
    cohort, _ = cohort_of(write(tmp_path, table), study())
    assert (~np.isnan(cohort.matrix(("lesions",)))).sum() == n_kept
    assert not np.isnan(cohort.matrix(("age_years",))).any()


@given(st.lists(st.booleans(), min_size=30, max_size=60), st.integers(10, 20), st.integers(0, 2**32))
def test_sums_of_two_parts_never_differ_by_few_patients_of_a_covariate(
    known: list[bool], n_held_out: int, seed: int
) -> None:
    n = len(known)
    held_out = np.random.default_rng(seed).permutation(n) < n_held_out
    values = np.where(known, 1.0, np.nan)[:, None]
    cohort = Cohort(("",) * n, np.ones(n), np.ones(n, dtype=bool), np.zeros(n), {"clinical": Layer(("x",), values)})
    cohort = replace(cohort, held_out=held_out)
    everybody, training, judged = (
        int(part_of(cohort, part, 10).layers["clinical"].observed.sum()) for part in ("all", "training", "held_out")
    )
    assert everybody == sum(known), "whether few of all are known is decided when the tables are read"
    if everybody >= 10:
        assert all(count == 0 or count >= 10 for count in (training, judged, everybody - training))


def test_group_and_fold_are_labels(tmp_path: Path) -> None:
    of = study(evaluation={"folds": {"column": "lesions"}, "group": "sex"})
    cohort, _ = cohort_of(write(tmp_path, clinical()), of)
    assert cohort.fold is not None
    assert cohort.group is not None
    assert cohort.fold[:6].tolist() == ["0", "1", "2", "3", "4", "0"]
    assert cohort.group[:2].tolist() == ["male", "female"]


def test_entry_is_read_where_the_study_has_it(tmp_path: Path) -> None:
    of = study(endpoint={"time": "time_days", "event": "event", "entry": "entry_days"})
    cohort, _ = cohort_of(write(tmp_path, clinical()), of)
    assert cohort.entry.tolist() == [float(i) for i in range(24)]


def test_refusals_carry_the_code_that_may_leave(tmp_path: Path) -> None:
    table = clinical()
    table["time_days"][4] = "never"
    with pytest.raises(TablesRefusedError) as refused:
        cohort_of(write(tmp_path, table), study())
    assert refused.value.code is Code.TABLES_REFUSED
    with pytest.raises(TooFewPatientsError, match="fewer than 10 patients") as few:
        cohort_of(write(tmp_path, clinical(9)), study())
    assert few.value.code is Code.TOO_FEW_PATIENTS


def test_the_stricter_floor_of_study_and_site_holds(tmp_path: Path) -> None:
    write(tmp_path, clinical())
    with pytest.raises(TooFewPatientsError):
        cohort_of(tmp_path, study(privacy={"min_patients": 25}))
    with pytest.raises(TooFewPatientsError):
        cohort_from_tables(tmp_path, dictionary(), study(), Dialect(), SiteFloors(min_patients=25))


def test_the_order_of_rows_and_columns_does_not_matter(tmp_path: Path) -> None:
    table = clinical()
    turned = {name: table[name][::-1] for name in reversed(table)}
    one, _ = cohort_of(write(tmp_path / "one", table), study())
    other, _ = cohort_of(write(tmp_path / "other", turned), study())
    assert one.patient_ids == other.patient_ids[::-1]
    np.testing.assert_array_equal(one.layers["clinical"].values, other.layers["clinical"].values[::-1])
