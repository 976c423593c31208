from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client import parquet_file
from client.dialect import Dialect
from client.parquet_file import read_parquet
from client.raw_table import Reading
from client.tables import read_site_tables
from tests.client.tables_kit import as_csv, check, clinical, dictionary, write

KNOWN = frozenset(clinical())


def read(path: Path) -> Reading:
    return read_parquet(path, KNOWN, KNOWN)


def typed() -> pd.DataFrame:
    table = pd.DataFrame(clinical())
    return table.astype(
        {"time_days": float, "event": int, "age_years": float, "lesions": "int32", "height_cm": float}
    )


def test_typed_and_text_tables_hold_the_same_patients(tmp_path: Path) -> None:
    (tmp_path / "parquet").mkdir()
    typed().astype({"sex": "category"}).to_parquet(tmp_path / "parquet" / "clinical.parquet", index=False)
    write(tmp_path / "csv", clinical())
    reports = [check(tmp_path / kind) for kind in ("parquet", "csv")]
    assert [problem.kind for problem in reports[0].problems] == [problem.kind for problem in reports[1].problems]
    assert reports[0].can_take_part
    assert reports[0].n_patients == reports[1].n_patients == 24


def test_rows_of_parquet_count_a_header_too(tmp_path: Path) -> None:
    table = typed()
    table.loc[3, "age_years"] = 500.0
    table.to_parquet(tmp_path / "clinical.parquet", index=False)
    (problem,) = [problem for problem in check(tmp_path).problems if problem.severity == "error"]
    assert problem.where == "clinical.parquet row 5, column age_years"


def test_truncated_at_any_length_is_a_problem(tmp_path: Path) -> None:
    typed().to_parquet(tmp_path / "clinical.parquet", index=False)
    whole = (tmp_path / "clinical.parquet").read_bytes()
    for length in range(0, len(whole), 97):
        (tmp_path / "clinical.parquet").write_bytes(whole[:length])
        (problem,) = read(tmp_path / "clinical.parquet").problems
        assert problem.kind == "unreadable"
        assert "truncated" in problem.what


@settings(max_examples=200)
@given(flips=st.lists(st.tuples(st.integers(0, 10_000), st.integers(1, 255)), min_size=1, max_size=8))
def test_flipped_bytes_end_in_a_table_or_in_problems(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int]]
) -> None:
    folder = tmp_path_factory.mktemp("parquet")
    path = folder / "clinical.parquet"
    typed().to_parquet(path, index=False)
    data = bytearray(path.read_bytes())
    for place, mask in flips:
        data[place % len(data)] ^= mask
    path.write_bytes(bytes(data))
    report = check(folder)
    assert report.can_take_part or report.problems


def test_text_that_is_not_utf8_is_a_problem(tmp_path: Path) -> None:
    broken = pa.array([b"\xff\xfe", b"P2"]).view(pa.string())
    pq.write_table(pa.table({"patient_id": ["P1", "P2"], "sex": broken}), tmp_path / "clinical.parquet")
    (problem,) = read(tmp_path / "clinical.parquet").problems
    assert (problem.kind, problem.column) == ("unreadable", "sex")


def test_a_name_twice_in_the_header_is_a_problem(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["P1"]), pa.array(["x"]), pa.array(["y"])], ["patient_id", "sex", "sex"])
    pq.write_table(table, tmp_path / "clinical.parquet")
    (problem,) = read(tmp_path / "clinical.parquet").problems
    assert (problem.kind, problem.column) == ("double-column", "sex")


def test_a_csv_named_parquet_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "clinical.parquet").write_bytes(as_csv(clinical()))
    (problem,) = read(tmp_path / "clinical.parquet").problems
    assert problem.kind == "unreadable"


def test_empty_columns_and_no_rows_are_read(tmp_path: Path) -> None:
    frame = typed().assign(height_cm=None)
    frame.to_parquet(tmp_path / "clinical.parquet", index=False)
    assert check(tmp_path).can_take_part
    frame.iloc[:0].to_parquet(tmp_path / "clinical.parquet", index=False)
    report = check(tmp_path, dictionary=dictionary(), dialect=Dialect())
    assert "no-rows" in {problem.kind for problem in report.problems}


def test_a_table_without_row_groups_has_no_rows(tmp_path: Path) -> None:
    schema = pa.schema([("patient_id", pa.string()), ("sex", pa.string())])
    pq.ParquetWriter(tmp_path / "clinical.parquet", schema).close()
    reading = read(tmp_path / "clinical.parquet")
    assert reading.problems == ()
    assert reading.table is not None
    assert reading.table.n_rows == 0


@pytest.mark.parametrize(("columns", "kind"), [(["0", "1"], "no-header"), (["id", "sex"], "no-identifier")])
def test_a_table_without_its_names_is_a_problem(tmp_path: Path, columns: list[str], kind: str) -> None:
    pd.DataFrame([["P1", "male"]], columns=columns).to_parquet(tmp_path / "clinical.parquet")
    reading = read(tmp_path / "clinical.parquet")
    assert reading.table is None
    assert reading.problems[0].kind == kind


def test_tables_beyond_the_limits_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed().to_parquet(tmp_path / "clinical.parquet", index=False)
    monkeypatch.setattr(parquet_file, "MAX_CELLS", 200)
    assert [problem.kind for problem in read(tmp_path / "clinical.parquet").problems] == ["too-large"]
    monkeypatch.setattr(parquet_file, "MAX_COLUMNS", 5)
    assert "columns" in read(tmp_path / "clinical.parquet").problems[0].what


def test_several_row_groups_and_exact_decimals_are_one_column(tmp_path: Path) -> None:
    frame = typed()
    table = pa.Table.from_pandas(frame, preserve_index=False)
    index = table.column_names.index("age_years")
    table = table.set_column(index, "age_years", table.column("age_years").cast(pa.decimal128(6, 2)))
    pq.write_table(table, tmp_path / "clinical.parquet", row_group_size=7)
    tables = read_site_tables(tmp_path, dictionary(), Dialect())
    assert tables.problems == ()
    assert tables.columns["clinical", "age_years"].values.tolist() == frame["age_years"].tolist()
