"""Strict reading of one column: good cells come out exact, every bad one is named by what it looks like."""

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.cells import FALSE_WORDS, TRUE_WORDS, ParsedColumn, parse_column
from client.dialect import Dialect
from schemas.dictionary import Column

COMMA = Dialect(delimiter=";", decimal=",")
NUMBER = Column(name="x", type="number")
INTEGER = Column(name="x", type="integer")
BOOLEAN = Column(name="x", type="boolean")
SEX = Column(name="x", type="category", codes=("male", "female"))
IDENTIFIER = Column(name="x", type="identifier")


def parse(cells: list[str], column: Column, dialect: Dialect | None = None) -> ParsedColumn:
    return parse_column(pa.array(cells, type=pa.large_string()), column, dialect or Dialect())


def found(parsed: ParsedColumn) -> dict[str, list[int]]:
    return {finding.kind: np.flatnonzero(finding.mask).tolist() for finding in parsed.findings}


@given(values=st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=20), comma=st.booleans())
def test_every_float_is_read_back_exactly(values: list[float], comma: bool) -> None:
    cells = [repr(value).replace(".", ",") if comma else repr(value) for value in values]
    parsed = parse(cells, NUMBER, COMMA if comma else None)
    assert parsed.values.tolist() == values
    assert parsed.findings == ()


@given(st.lists(st.text(max_size=12), max_size=12))
def test_any_text_is_read_or_named_and_never_both(cells: list[str]) -> None:
    trimmed = [cell.strip() for cell in cells]
    for column in (NUMBER, INTEGER, BOOLEAN, SEX):
        parsed = parse(cells, column)
        named = np.zeros(len(cells), dtype=int)
        for finding in parsed.findings:
            named += finding.mask
        assert parsed.empty.tolist() == [cell in ("", "NA") for cell in trimmed] or column is SEX
        assert ((~np.isnan(parsed.values)).astype(int) + parsed.empty + named == 1).all()


@pytest.mark.parametrize(
    ("cell", "kind"),
    [
        ("abc", "not-a-number"), ("1_000", "not-a-number"), ("0x1f", "not-a-number"), ("1e", "not-a-number"),
        ("٣", "not-a-number"), ("1/2", "not-a-number"), ("1,5", "decimal"), ("1,500", "decimal"),
        ("1 500", "thousands-separator"), ("1,500,000", "thousands-separator"), ("1'500.5", "thousands-separator"),
        ("1 500,2", "thousands-separator"), ("<5", "bound"), ("≥ 90", "bound"), ("inf", "not-finite"),
        ("-Infinity", "not-finite"), ("1e999", "not-finite"), ("nan", "missing-word"), ("#N/A", "missing-word"),
        ("-", "missing-word"), ("?", "missing-word"), ("=1+1", "formula"), ("@SUM(A1)", "formula"),
        ('=HYPERLINK("http://x")', "formula"), ("+cmd|x", "formula"),
    ],
)  # fmt: skip
def test_a_cell_that_is_no_number_is_named_by_its_look(cell: str, kind: str) -> None:
    parsed = parse(["1.5", cell, "", "NA", "+2", "-.5", "3."], NUMBER)
    assert found(parsed) == {kind: [1]}
    assert parsed.values[[0, 4, 5, 6]].tolist() == [1.5, 2.0, -0.5, 3.0]
    assert np.isnan(parsed.values[[1, 2, 3]]).all()
    assert parsed.empty.tolist() == [False, False, True, True, False, False, False]


def test_decimal_point_in_declared_comma_names_the_line() -> None:
    dialect = COMMA.found_at({"decimal": "site.toml line 11"})
    parsed = parse_column(pa.array(["1.5", "2,5"], type=pa.large_string()), NUMBER, dialect)
    assert found(parsed) == {"decimal": [0]}
    assert parsed.findings[0].remedy == 'set decimal = "." at site.toml line 11'
    assert "site.toml line 11 says comma" in parsed.findings[0].what


@pytest.mark.parametrize("dialect", [Dialect(), COMMA])
def test_booleans_are_words_of_two_languages(dialect: Dialect) -> None:
    true, false = [*TRUE_WORDS, "TRUE", "Vrai", "OUI"], [*FALSE_WORDS, "False", "FAUX", "Non"]
    zero = "0,0" if dialect.decimal == "," else "0.0"
    parsed = parse([*true, *false, zero, ""], BOOLEAN, dialect)
    assert parsed.values[:-1].tolist() == [1.0] * len(true) + [0.0] * (len(false) + 1)
    assert np.isnan(parsed.values[-1])
    assert parsed.findings == ()
    assert found(parse(["2", "t", "01"], BOOLEAN, dialect)) == {"not-boolean": [0, 1, 2]}


def test_categories_match_letter_for_letter() -> None:
    parsed = parse(["female", " male ", "Male", "males", "=male", "", "n/a"], SEX)
    assert parsed.values[:2].tolist() == [1.0, 0.0]
    assert found(parsed) == {"letter-case": [2], "unknown-code": [3], "formula": [4], "missing-word": [6]}


def test_distinct_unknown_codes_are_counted_not_shown() -> None:
    parsed = parse(["m", "m", "f"], SEX)
    assert "2 different spellings" in parsed.findings[0].what


def test_a_code_goes_before_a_word_for_missing() -> None:
    continent = Column(name="x", type="category", codes=("EU", "NA"))
    parsed = parse(["NA", "EU", ""], continent)
    assert parsed.values[:2].tolist() == [1.0, 0.0]
    assert parsed.empty.tolist() == [False, False, True]


def test_a_declared_word_stands_for_missing() -> None:
    parsed = parse(["-9", "1"], NUMBER, Dialect(missing=("-9",)))
    assert math.isnan(parsed.values[0])
    assert parsed.empty.tolist() == [True, False]


def test_whole_numbers_written_with_a_point_are_whole() -> None:
    assert found(parse(["2.0", "2", "2.5"], INTEGER)) == {"not-integer": [2]}


def test_identifiers_are_one_line_of_text() -> None:
    cells = ["P1", "", "a\nb", "=1+1", "-5", "x" * 201, "é ü", "@x"]
    parsed = parse(cells, IDENTIFIER)
    assert found(parsed) == {"formula": [3, 7], "control-character": [2], "too-long": [5]}
    assert parsed.labels is not None
    assert parsed.labels.tolist() == ["P1", "", "", "", "-5", "", "é ü", ""]


def test_range_is_inclusive_and_zero_is_told_apart() -> None:
    column = Column(name="x", type="number", min=1, max=10, unit="day")
    parsed = parse(["1", "10", "0", "-3", "10.5"], column)
    assert found(parsed) == {"not-positive": [2, 3], "out-of-range": [4]}
    assert "1 to 10 day" in parsed.findings[0].what


@pytest.mark.parametrize(
    ("cells", "column", "values"),
    [
        (pa.array([1, None, 3], pa.int16()), INTEGER, [1.0, None, 3.0]),
        (pa.array([1.5, float("nan"), None]), NUMBER, [1.5, None, None]),
        (pa.array([1.0, 2.0]), INTEGER, [1.0, 2.0]),
        (pa.array([True, False, None]), BOOLEAN, [1.0, 0.0, None]),
        (pa.array([1, 0], pa.int8()), BOOLEAN, [1.0, 0.0]),
        (pa.array(["1.5", "NA"], pa.large_string()), NUMBER, [1.5, None]),
        (pa.array([None, None], pa.null()), NUMBER, [None, None]),
        (pa.array([2, 1]), Column(name="x", type="category", codes=("1", "2")), [1.0, 0.0]),
        (pa.array([2.0, None]), Column(name="x", type="category", codes=("1", "2")), [1.0, None]),
    ],
)
def test_typed_cells_are_read_where_their_type_fits(cells: pa.Array, column: Column, values: list[Any]) -> None:
    parsed = parse_column(cells, column, None)
    assert [None if math.isnan(value) else value for value in parsed.values] == values
    assert parsed.findings == ()
    assert parsed.empty.tolist() == [value is None for value in values]


@pytest.mark.parametrize(
    ("cells", "column"),
    [
        (pa.array([True]), NUMBER),
        (pa.array([b"x"]), NUMBER),
        (pa.array([[1]]), NUMBER),
        (pa.array([{"secret": 1}]), SEX),
        (pa.array([1], pa.timestamp("s")), NUMBER),
        (pa.array([1.5]), SEX),
        (pa.array([float("inf")]), IDENTIFIER),
    ],
)
def test_typed_cells_of_another_type_are_refused(cells: pa.Array, column: Column) -> None:
    parsed = parse_column(cells, column, None)
    assert found(parsed) == {"wrong-type": [0]}
    assert np.isnan(parsed.values).all()
    assert "secret" not in parsed.findings[0].what


def test_whole_number_identifiers_are_their_digits() -> None:
    big = 2**53 + 1
    parsed = parse_column(pa.array([big]), IDENTIFIER, None)
    assert parsed.labels is not None
    assert parsed.labels.tolist() == [str(big)]
