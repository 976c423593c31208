"""What a CSV file of everyday hospitals looks like, and how each contradiction with site.toml is named."""

import csv
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from client import csv_file
from client.csv_file import read_csv
from client.dialect import Dialect
from client.raw_table import Reading, spreadsheet_letters
from tests.client.tables_kit import as_csv, clinical

KNOWN = frozenset(clinical())
FRENCH = Dialect(delimiter=";", decimal=",", encoding="cp1252")
DIALECTS = [
    Dialect(delimiter=delimiter, encoding=encoding, quote=quote)
    for delimiter in (",", ";", "\t", "|")
    for encoding in ("utf-8", "utf-8-sig", "cp1252")
    for quote in ('"', "'")
]


def read(path: Path, data: bytes, dialect: Dialect | None = None) -> Reading:
    path = path / "clinical.csv"
    path.write_bytes(data)
    return read_csv(path, dialect or Dialect(), KNOWN, KNOWN)


def only(reading: Reading) -> tuple[str, str, str]:
    (problem,) = reading.problems
    return problem.kind, problem.where, f"{problem.what} -> {problem.remedy}"


def no_controls(encoding: str) -> st.SearchStrategy[str]:
    characters = st.characters(codec="cp1252" if encoding == "cp1252" else "utf-8", exclude_categories=["Cc", "Cs"])
    return st.text(characters, max_size=8).map(str.strip)


@given(
    data=st.data(),
    dialect=st.sampled_from(DIALECTS),
    quote_all=st.booleans(),
    line=st.sampled_from(["\n", "\r\n", "\r"]),
)
def test_any_text_survives_the_round_trip_through_each_dialect(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, dialect: Dialect, quote_all: bool, line: str
) -> None:
    n = data.draw(st.integers(1, 5))
    cells = st.lists(no_controls(dialect.encoding), min_size=n, max_size=n)
    table = {"patient_id": [f"P{i}" for i in range(n)], "sex": data.draw(cells), "family": data.draw(cells)}
    written = as_csv(table, dialect, quote_all=quote_all, line=line)
    # cp1252 text whose bytes also happen to be UTF-8 ("Ã©") is refused on purpose.
    assume(dialect.encoding != "cp1252" or written.isascii() or not _is_utf8(written))
    reading = read(tmp_path_factory.mktemp("csv"), written, dialect)
    assert reading.problems == ()
    assert reading.table is not None
    assert {name: column.to_pylist() for name, column in reading.table.cells.items()} == table
    assert reading.table.rows.tolist() == list(range(2, n + 2))


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


@given(
    data=st.binary(max_size=400),
    start=st.sampled_from([b"", b"patient_id,sex\n", b'"patient_id";"sex"\n', b"\xff\xfe"]),
)
def test_hostile_bytes_end_in_a_table_or_in_problems(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, start: bytes
) -> None:
    folder = tmp_path_factory.mktemp("csv")
    for dialect in (Dialect(), FRENCH):
        reading = read(folder, start + data, dialect)
        assert reading.table is not None or reading.problems


@pytest.mark.parametrize(
    ("written", "declared", "place"),
    [
        (Dialect(delimiter=";"), Dialect(), 'set delimiter = ";"'),
        (Dialect(), Dialect(delimiter=";"), 'set delimiter = ","'),
        (Dialect(delimiter="\t"), Dialect(), r'set delimiter = "\t"'),
        (Dialect(delimiter="|"), Dialect(delimiter="\t"), 'set delimiter = "|"'),
    ],
)
def test_other_delimiter_names_the_line_to_change(
    tmp_path: Path, written: Dialect, declared: Dialect, place: str
) -> None:
    declared = declared.found_at({"delimiter": "site.toml line 9"})
    kind, _, said = only(read(tmp_path, as_csv(clinical(), written), declared))
    assert kind == "delimiter"
    assert place in said
    assert "site.toml line 9" in said


def test_other_quote_names_the_line_to_change(tmp_path: Path) -> None:
    declared = Dialect().found_at({"quote": "site.toml line 12"})
    kind, _, said = only(read(tmp_path, as_csv(clinical(), Dialect(quote="'"), quote_all=True), declared))
    assert kind == "quote"
    assert "site.toml line 12" in said


def test_cp1252_bytes_in_declared_utf8_name_row_and_line(tmp_path: Path) -> None:
    table = clinical()
    table["family"][4] = "Forêt"
    declared = Dialect().found_at({"encoding": "site.toml line 10"})
    kind, where, said = only(read(tmp_path, as_csv(table, Dialect(encoding="cp1252")), declared))
    assert (kind, where) == ("encoding", "clinical.csv row 6")
    assert 'encoding = "cp1252" at site.toml line 10' in said


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_utf8_bytes_in_declared_cp1252_name_the_line(tmp_path: Path, encoding: str) -> None:
    table = clinical()
    table["family"][4] = "Forêt"
    kind, _, said = only(read(tmp_path, as_csv(table, Dialect(encoding=encoding)), Dialect(encoding="cp1252")))
    assert kind == "encoding"
    assert 'encoding = "utf-8"' in said


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_byte_order_mark_is_accepted_under_either_name(tmp_path: Path, encoding: str) -> None:
    reading = read(tmp_path, b"\xef\xbb\xbf" + as_csv(clinical()), Dialect(encoding=encoding))
    assert reading.problems == ()
    assert reading.table is not None
    assert reading.table.header[0] == "patient_id"


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "empty"),
        (b"\n\n  \n", "empty"),
        ("patient_id,sex\n".encode("utf-16"), "encoding"),
        ("patient_id,sex\n".encode("utf-16-le"), "nul-byte"),
        (b"patient_id,sex\nP1,ma\0le\n", "nul-byte"),
        (b"PK\x03\x04rest of a workbook", "not-csv"),
        (b"PAR1 rest of a Parquet file", "not-csv"),
        (b"P1,12,male\nP2,13,female\n", "no-header"),
        (b"sex,event\nmale,1\n", "no-identifier"),
        (b'patient_id,sex\nP1,"male\nP2,female\n', "quote"),
        (b'patient_id,sex\nP1,"ma"le\n', "quote"),
        (b"patient_id,sex\nP1," + b"x" * 200_000 + b"\n", "quote"),
        (b"patient_id,sex,sex\nP1,a,b\n", "double-column"),
        (b"patient_id,sex\nP1,male,7\n", "ragged"),
        (b"patient_id,sex\nP1\n", "ragged"),
        (b"patient_id,sex,weather\nP1,male,7\n", "unknown-column"),
        (b"patient_id,sex\nP1,male\n,\n", "blank-row"),
        (b"patient_id" + b",x" * 1_000_000 + b"\n", "too-large"),
    ],
)
def test_each_kind_of_damage_has_its_name(tmp_path: Path, data: bytes, kind: str) -> None:
    assert only(read(tmp_path, data))[0] == kind


def test_rows_are_counted_as_a_spreadsheet_does(tmp_path: Path) -> None:
    data = b'patient_id,family,sex\n\nP1,"two\nlines",male\n\nP2,F1\nP3,F2,male\n'
    reading = read(tmp_path, data)
    assert only(reading)[:2] == ("ragged", "clinical.csv row 5")
    assert reading.table is not None
    assert reading.table.rows.tolist() == [3, 6]


def test_decimal_comma_between_commas_is_hinted_at(tmp_path: Path) -> None:
    kind, where, said = only(read(tmp_path, b"patient_id,age_years\nP1,12,5\nP2,13,5\n"))
    assert (kind, where) == ("ragged", "clinical.csv rows 2, 3")
    assert "decimal comma" in said


def test_only_wanted_columns_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "clinical.csv"
    path.write_bytes(as_csv(clinical()))
    table = read_csv(path, Dialect(), {"patient_id", "sex"}, KNOWN).table
    assert table is not None
    assert set(table.cells) == {"patient_id", "sex"}
    assert table.header == tuple(clinical())


def test_absent_file_is_a_problem(tmp_path: Path) -> None:
    (problem,) = read_csv(tmp_path / "rna.csv", Dialect(), KNOWN, KNOWN).problems
    assert problem.kind == "unreadable"


def test_columns_have_the_letters_of_a_spreadsheet() -> None:
    assert [spreadsheet_letters(index) for index in (0, 25, 26, 51, 52, 701, 702)] == [
        "A", "Z", "AA", "AZ", "BA", "ZZ", "AAA",
    ]  # fmt: skip


def test_tables_beyond_the_limits_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_file, "MAX_CELLS", 100)
    assert only(read(tmp_path, as_csv(clinical(30))))[0] == "too-large"
    monkeypatch.setattr(csv_file, "MAX_BYTES", 100)
    assert "Parquet" in only(read(tmp_path, as_csv(clinical(30))))[2]


def test_portions_of_rows_make_one_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_file, "_CELLS_AT_ONCE", 35)
    table = read(tmp_path, as_csv(clinical(30))).table
    assert table is not None
    assert {name: column.to_pylist() for name, column in table.cells.items()} == clinical(30)


def test_a_byte_that_cp1252_does_not_know_is_a_problem(tmp_path: Path) -> None:
    kind, where, _ = only(read(tmp_path, b"patient_id,sex\nP1,\x81\xe9\n", Dialect(encoding="cp1252")))
    assert (kind, where) == ("encoding", "clinical.csv row 2")


def test_a_limit_that_a_library_has_raised_does_not_let_a_quote_swallow_the_file(tmp_path: Path) -> None:
    before = csv.field_size_limit(1 << 30)
    try:
        text = "patient_id,sex\nP1," + '"' + "x" * 200_000
        (tmp_path / "clinical.csv").write_text(text)
        reading = read_csv(tmp_path / "clinical.csv", Dialect(), {"patient_id", "sex"}, {"patient_id", "sex"})
        assert [problem.kind for problem in reading.problems] == ["quote"]
    finally:
        csv.field_size_limit(before)
