"""Layers of many alike columns: read as a block, judged as one column at a time is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.cells import parse_column
from client.check import CheckReport
from client.cohort_of import CohortReport, cohort_and_counts, part_of
from client.dialect import Dialect
from client.problems import COLUMNS_SHOWN
from client.raw_table import RawTable
from client.settings import SiteFloors
from client.tables import SiteTables, read_site_tables
from client.wide import COLUMNS_EXAMINED, parse_block
from schemas.cohort import Cohort, Layer
from schemas.dictionary import Dictionary, WideLayer
from tests.client import tables_kit
from tests.client.tables_kit import as_csv, check, clinical, kinds, study, write

PATIENTS = [f"P{i:03d}" for i in range(24)]
FEATURES = ("TP53", "ERBB2", "KRAS")
OF = study(model={"layers": ["clinical", "assay"], "covariates": ["age_years"], "penalty": 1.0})


def layer(**more: Any) -> WideLayer:
    return WideLayer(**{"name": "assay", "features": "assay.features", "identifiers": FEATURES, **more})


def described(**more: Any) -> Dictionary:
    return Dictionary(**{**dict(tables_kit.dictionary()), "layers": (layer(**more),)})


def assay(patients: Sequence[str] = PATIENTS, features: Sequence[str] = FEATURES) -> dict[str, list[str]]:
    cells = {name: [f"{i + 0.25 * k}" for i in range(len(patients))] for k, name in enumerate(features, start=1)}
    return {"patient_id": list(patients), **cells}


def site(folder: Path, table: Mapping[str, Sequence[str]] | bytes | None, name: str = "assay.csv") -> Path:
    write(folder, clinical())
    return folder if table is None else write(folder, table, name)


def read(folder: Path, dialect: Dialect | None = None, **more: Any) -> SiteTables:
    return read_site_tables(folder, described(**more), dialect or Dialect())


def checked(folder: Path, **more: Any) -> CheckReport:
    return check(folder, OF, dictionary=described(**more))


def cohort(folder: Path, **more: Any) -> tuple[Cohort, CohortReport]:
    return cohort_and_counts(folder, described(**more), OF, Dialect(), SiteFloors(), site="kit")


# ---------------------------------------------------------------- the block
CELLS = st.sampled_from(
    [
        *("", "NA", "ND", "0", "1", "-1.5", "+2", "1,5", "2.50", ".5", "1e3", "1E-2", "12", "1e400", "inf", "nan"),
        *(
            "NaN",
            "1.0",
            "0.0",
            "true",
            "Non",
            "=1+1",
            "<5",
            "1 000",
            "0x1p3",
            "1_0",
            "text",
            " 7 ",
            "99",
            "-0.0",
            "1.",
        ),
    ]
)
TYPES = st.sampled_from(["number", "integer", "boolean"])
RANGES = st.sampled_from([{}, {"min": 0.0}, {"max": 10.0}, {"min": -1.0, "max": 20.0}])


def _in_turn(table: RawTable, of: WideLayer, source: np.ndarray, dialect: Dialect) -> tuple[np.ndarray, set]:
    """Return values and (kind, column, rows) of findings, one column after the other: the slow oracle."""
    values = np.full((len(source), len(of.identifiers)), np.nan)
    found = set()
    for j, name in enumerate(of.identifiers):
        if name in table.cells:
            column = of.feature.model_copy(update={"name": name})
            parsed = parse_column(table.cells[name].take(source), column, dialect if table.is_text else None)
            values[:, j] = parsed.values
            found |= {(one.kind, name, int(one.mask.sum())) for one in parsed.findings if one.mask.any()}
    return values, found


@given(st.data(), TYPES, RANGES, st.sampled_from([".", ","]), st.booleans())
def test_block_is_read_as_its_columns_are_one_by_one(data, kind, limits, decimal, is_text):
    n = data.draw(st.integers(1, 6))
    rows = data.draw(st.lists(st.lists(CELLS, min_size=3, max_size=3), min_size=n, max_size=n))
    source = np.flatnonzero(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    of = layer(type=kind, **({} if kind == "boolean" else limits))
    dialect = Dialect(decimal=decimal, delimiter=";", missing=("", "NA"))
    columns = [pa.array(cells, type=pa.large_string()) for cells in zip(*rows, strict=True)]
    header = ("patient_id", *FEATURES)
    table = RawTable("assay.csv", header, dict(zip(FEATURES, columns, strict=True)), np.arange(2, n + 2), is_text)
    block = parse_block(table, of, source, dialect)
    values, found = _in_turn(table, of, source, dialect)
    np.testing.assert_array_equal(block.values, values)
    assert {(one.kind, one.column, one.n_rows) for one in block.problems} == found


ARRAYS = st.one_of(
    st.lists(st.none() | st.floats(width=32), min_size=4, max_size=4).map(lambda x: pa.array(x, pa.float32())),
    st.lists(st.none() | st.integers(-3, 3), min_size=4, max_size=4).map(lambda x: pa.array(x, pa.int8())),
    st.lists(st.none() | st.booleans(), min_size=4, max_size=4).map(lambda x: pa.array(x, pa.bool_())),
    st.lists(st.none() | CELLS, min_size=4, max_size=4).map(lambda x: pa.array(x, pa.large_string())),
    st.just(pa.nulls(4)),
    st.just(pa.array([1, None, 3, 4], pa.timestamp("s"))),
)


@given(st.lists(ARRAYS, min_size=3, max_size=3), TYPES, RANGES)
def test_typed_block_of_mixed_columns_is_read_as_its_columns_are(columns, kind, limits):
    of = layer(type=kind, **({} if kind == "boolean" else limits))
    cells = dict(zip(FEATURES, columns, strict=True))
    table = RawTable("assay.parquet", ("patient_id", *FEATURES), cells, np.arange(2, 6), is_text=False)
    source = np.array([0, 2, 3])
    block = parse_block(table, of, source, Dialect())
    values, found = _in_turn(table, of, source, Dialect())
    np.testing.assert_array_equal(block.values, values)
    assert {(one.kind, one.column, one.n_rows) for one in block.problems} == found


def test_cells_stand_at_their_patients_in_the_order_of_the_identifiers(tmp_path: Path) -> None:
    tables = read(site(tmp_path, assay(PATIENTS[::-1][:15], FEATURES[::-1])))
    values = tables.blocks["assay"]
    assert tables.problems == ()
    assert np.isnan(values[:9]).all()
    assert values[9:, 2].tolist() == [i + 0.25 for i in range(15)][::-1]  # KRAS is the file's first feature
    assert values[9:, 0].tolist() == [i + 0.75 for i in range(15)][::-1]


def test_parquet_and_csv_and_a_french_csv_give_the_same_block(tmp_path: Path) -> None:
    table = assay()
    expected = read(site(tmp_path / "csv", table)).blocks["assay"]
    typed = {name: cells if name == "patient_id" else [float(c) for c in cells] for name, cells in table.items()}
    site(tmp_path / "parquet", None)
    pq.write_table(pa.table(typed), tmp_path / "parquet" / "assay.parquet")
    french = Dialect(delimiter=";", decimal=",")
    comma = {name: [cell.replace(".", ",") for cell in cells] for name, cells in table.items()}
    own = {name: [cell.replace(".", ",") for cell in cells] for name, cells in clinical().items()}
    write(tmp_path / "french", as_csv(own, french))
    write(tmp_path / "french", as_csv(comma, french), "assay.csv")
    np.testing.assert_array_equal(read(tmp_path / "parquet").blocks["assay"], expected)
    np.testing.assert_array_equal(read(tmp_path / "french", french).blocks["assay"], expected)


def test_cell_below_the_limit_of_detection_counts_as_half_of_it(tmp_path: Path) -> None:
    table = assay()
    table["KRAS"][:4] = ["0", "0.49", "0.5", ""]
    values = read(site(tmp_path, table), limit_of_detection=0.5, min=0.0).blocks["assay"][:, 2]
    assert values[:3].tolist() == [0.25, 0.25, 0.5]
    assert np.isnan(values[3])


def test_cell_out_of_range_is_refused_before_the_limit_of_detection_is_seen(tmp_path: Path) -> None:
    table = assay()
    table["KRAS"][3] = "-7"
    (problem,) = read(site(tmp_path, table), limit_of_detection=0.5, min=0.0).problems
    assert (problem.kind, problem.where) == ("out-of-range", "assay.csv row 5, column KRAS")


# ---------------------------------------------------------------- what is wrong, in words
def test_wrong_cells_are_named_by_file_row_and_column_and_never_shown(tmp_path: Path) -> None:
    table = assay()
    table["ERBB2"][2], table["KRAS"][7] = "secret-word", "4,25"
    report = checked(site(tmp_path, table))
    assert [(one.kind, one.where) for one in report.problems] == [
        ("not-a-number", "assay.csv row 4, column ERBB2"),
        ("decimal", "assay.csv row 9, column KRAS"),
    ]
    assert not report.can_take_part
    assert "secret-word" not in report.text() + report.as_json()
    assert "4,25" not in report.text()


def test_an_opted_out_patients_cells_are_not_judged(tmp_path: Path) -> None:
    table = assay()
    table["KRAS"][7] = "not a number"
    tables = read_site_tables(site(tmp_path, table), described(), Dialect(), frozenset({PATIENTS[7]}))
    assert tables.problems == ()
    assert tables.blocks["assay"].shape == (23, 3)


def test_ten_thousand_columns_wrong_alike_are_told_in_a_few_lines(tmp_path: Path) -> None:
    features = tuple(f"G{i}" for i in range(10_000))
    cells = {"patient_id": PATIENTS[:12], **{name: ["1,5"] * 12 for name in features}}
    report = checked(site(tmp_path, as_csv(cells)), identifiers=features)
    wrong = [one for one in report.problems if one.blocks]
    assert len(wrong) == COLUMNS_SHOWN + 2
    assert f"{10_000 - COLUMNS_EXAMINED:,} more columns" in report.text()


def test_features_that_the_table_lacks_are_counted_and_missing(tmp_path: Path) -> None:
    report = checked(site(tmp_path, assay(features=("KRAS",))))
    (problem,) = report.problems
    assert (problem.kind, problem.severity) == ("absent-features", "warning")
    assert problem.what == "2 of 3 features are not in this table and not known here: TP53, ERBB2"
    assert report.can_take_part
    values = cohort(tmp_path)[0].layers["assay"].values
    assert np.isnan(values[:, :2]).all()
    assert not np.isnan(values[:, 2]).any()


def test_a_table_with_none_of_the_features_is_an_error(tmp_path: Path) -> None:
    report = checked(site(tmp_path, assay(features=("A", "B"))))
    assert kinds(report) == {"missing-column", "unknown-column"}
    assert not report.can_take_part


def test_without_the_list_of_features_the_check_says_that_no_cell_was_checked(tmp_path: Path) -> None:
    report = check(site(tmp_path, assay()), dictionary=described(identifiers=()))
    (problem,) = (one for one in report.problems if one.file == "assay.csv")
    assert (problem.kind, problem.severity) == ("no-features", "warning")
    assert "assay.features is not there" in problem.what
    assert report.can_take_part


def test_columns_that_are_no_features_are_counted_and_not_read(tmp_path: Path) -> None:
    table = {**assay(), "MYC": ["secret"] * 24, "NRAS": ["secret"] * 24}
    report = checked(site(tmp_path, table))
    (problem,) = report.problems
    assert problem.what == "2 columns are no feature of this layer and not read"
    assert report.can_take_part
    assert cohort(tmp_path)[0].layers["assay"].columns == FEATURES


def test_a_column_that_stands_twice_is_an_error(tmp_path: Path) -> None:
    text = as_csv(assay()).replace(b"KRAS", b"TP53")
    report = checked(site(tmp_path, text))
    assert [(one.kind, one.column) for one in report.problems if one.blocks] == [("double-column", "TP53")]
    assert not report.can_take_part


def test_a_double_identifier_is_an_error(tmp_path: Path) -> None:
    report = checked(site(tmp_path, assay([*PATIENTS[:12], PATIENTS[3]])))
    assert [(one.kind, one.where) for one in report.problems] == [
        ("double-identifier", "assay.csv row 14, column patient_id")
    ]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_million_columns_are_refused(tmp_path: Path, kind: str) -> None:
    names = ["patient_id", *(f"G{i}" for i in range(1_000_000))]
    site(tmp_path, None)
    if kind == "csv":
        write(tmp_path, (",".join(names) + "\nP000" + ",1" * 1_000_000 + "\n").encode(), "assay.csv")
    else:
        # A table of so many columns takes minutes to write; one beyond the limit is refused alike.
        pq.write_table(pa.table({name: pa.nulls(1) for name in names[:100_002]}), tmp_path / "assay.parquet")
    report = checked(tmp_path)
    (problem,) = [one for one in report.problems if one.blocks]
    assert (problem.kind, problem.what) == ("too-large", "has more than 100,000 columns")


def test_without_its_file_the_layer_is_missing_and_the_site_takes_part(tmp_path: Path) -> None:
    report = checked(site(tmp_path, None))
    assert [(one.kind, one.file) for one in report.problems] == [("missing-layer", "assay")]
    assert report.can_take_part
    held, counts = cohort(tmp_path)
    assert counts.missing_layers == ("assay",)
    assert not held.has_layer("assay").any()
    assert held.layers["assay"].values.shape == (24, 3)


def test_a_layer_of_fewer_than_ten_patients_counts_as_missing(tmp_path: Path) -> None:
    report = checked(site(tmp_path, assay(PATIENTS[:9])))
    assert [(one.kind, one.file) for one in report.problems] == [("thin-layer", "assay.csv")]
    held, counts = cohort(tmp_path)
    assert counts.missing_layers == ("assay",)
    assert not held.has_layer("assay").any()


def test_a_layer_without_any_filled_cell_counts_as_missing(tmp_path: Path) -> None:
    table = {name: cells if name == "patient_id" else [""] * 24 for name, cells in assay().items()}
    report = checked(site(tmp_path, table))
    assert report.can_take_part
    assert cohort(tmp_path)[1].missing_layers == ("assay",)


def test_a_feature_of_fewer_than_ten_patients_is_not_used(tmp_path: Path) -> None:
    table = assay()
    table["KRAS"][9:] = [""] * 15
    report = checked(site(tmp_path, table))
    assert [(one.kind, one.what) for one in report.problems] == [
        ("thin-features", "1 feature is known of too few patients of the study and not used here")
    ]
    values = cohort(tmp_path)[0].layers["assay"].values
    assert np.isnan(values[:, 2]).all()
    assert not np.isnan(values[:, :2]).any()


def test_constant_features_are_counted(tmp_path: Path) -> None:
    table = assay()
    table["KRAS"] = ["2"] * 24
    report = checked(site(tmp_path, table))
    assert [(one.kind, one.what) for one in report.problems] == [
        ("constant-features", "1 feature is the same for all patients")
    ]
    assert report.can_take_part


def test_a_layer_that_the_study_does_not_read_keeps_no_site_out(tmp_path: Path) -> None:
    table = assay()
    table["KRAS"][0] = "wrong"
    report = check(site(tmp_path, table), study(), dictionary=described())
    assert [(one.kind, one.needed) for one in report.problems] == [("not-a-number", False)]
    assert report.can_take_part


# ---------------------------------------------------------------- held-out patients
@given(st.data())
def test_no_sum_over_a_side_of_the_split_stands_on_few_patients(data):
    n, floor = 12, 4
    known = np.array(data.draw(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=n, max_size=n)))
    held_out = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    base = Cohort(
        patient_ids=tuple(str(i) for i in range(n)),
        time=np.ones(n),
        event=np.ones(n, dtype=bool),
        entry=np.zeros(n),
        layers={},
        held_out=held_out,
    )
    whole = replace(base, layers={"assay": Layer(FEATURES, np.where(known, 1.0, np.nan))})
    for part in ("training", "held_out"):
        seen = part_of(whole, part, floor).layers["assay"].observed
        assert not ((seen.sum(axis=0) > 0) & (seen.sum(axis=0) < floor)).any()
        assert not 0 < seen.any(axis=1).sum() < floor
    assert part_of(whole, "all", floor).layers["assay"].observed.sum() == known.sum()
