"""Reads the cells of one column as its dictionary type says, strictly: what does not fit is refused, never coerced.

- A number has digits, the declared decimal sign and perhaps an exponent; no thousands separators, no `<5`.
- A boolean is 0 or 1, or one of the pairs true/false, vrai/faux, oui/non, yes/no, in any case of letters.
- A category is one of the dictionary's codes, letter for letter.
- An identifier is text on one line. Categories and identifiers never begin like a spreadsheet formula.

The vectorised path reads every good cell; only the bad ones are looked at one by one, to say what they look like.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from client.dialect import Dialect
from client.units import unit_hint
from schemas.dictionary import Column

__all__ = ["FALSE_WORDS", "TRUE_WORDS", "Finding", "ParsedColumn", "as_float64", "number_pattern", "parse_column"]

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]

TRUE_WORDS = ("1", "true", "vrai", "oui", "yes")
FALSE_WORDS = ("0", "false", "faux", "non", "no")
MAX_IDENTIFIER = 200
_FORMULA = re.compile(r"^[=+\-@\t\r]")
_CONTROL = r"[\x00-\x1f\x7f]"
_GROUPED = re.compile(r"^[+-]?\d{1,3}([ .,'’\u00a0\u202f]\d{3})+([.,]\d+)?$")
_BOUND = re.compile(r"^[<>≤≥~]")
_NOT_FINITE = re.compile(r"^[+-]?(inf|infinity)$", re.IGNORECASE)
_WORDS_FOR_MISSING = frozenset(
    {"na", "n/a", "#n/a", "nan", "null", "none", "nil", "nd", "n.d.", "nr", "ne", "missing", "unknown", "manquant"}
    | {"inconnu", "-", "--", ".", "?", "#value!", "#ref!", "#div/0!"}
)


@dataclass(frozen=True)
class Finding:
    """Something wrong with cells of one column.

    Attributes:
        kind: Fixed word for programs.
        what: In words, without any cell.
        remedy: What to do.
        mask: (n_rows,) the cells concerned.
    """

    kind: str
    what: str
    remedy: str
    mask: Mask


@dataclass(frozen=True)
class ParsedColumn:
    """The cells of one column.

    Attributes:
        values: (n_rows,) float64; NaN where empty or refused. 0 and 1 of a boolean, the position of a category
            in the dictionary's codes; all NaN for an identifier.
        labels: (n_rows,) texts of an identifier, empty where missing; None for the other types.
        findings: What is wrong.
        empty: (n_rows,) True where the cell says nothing.
    """

    values: Floats
    empty: Mask
    labels: NDArray[np.object_] | None = None
    findings: tuple[Finding, ...] = field(default=())


def parse_column(cells: pa.Array, column: Column, dialect: Dialect | None) -> ParsedColumn:
    """Read the cells of a column.

    Args:
        cells: Text, or the typed cells of a Parquet file.
        column: What the dictionary says of it.
        dialect: How numbers and missing cells are written; None for Parquet (decimal point, empty, NA).
    """
    kind = cells.type
    dialect = dialect or Dialect()
    if pa.types.is_null(kind):
        return _nothing(len(cells), np.ones(len(cells), dtype=np.bool_), column)
    if pa.types.is_large_string(kind):
        return _parse_text(pc.utf8_trim_whitespace(pc.fill_null(cells, "")), column, dialect)
    if column.type in ("category", "identifier"):
        return _parse_typed_text(cells, column, dialect)
    return _parse_typed_number(cells, column)


def _nothing(n: int, empty: Mask, column: Column, findings: tuple[Finding, ...] = ()) -> ParsedColumn:
    labels = np.full(n, "", dtype=object) if column.type == "identifier" else None
    return ParsedColumn(np.full(n, np.nan), empty, labels, findings)


# ---------------------------------------------------------------- typed cells of a Parquet file
def _parse_typed_number(cells: pa.Array, column: Column) -> ParsedColumn:
    kind = cells.type
    numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    if not (numeric or (pa.types.is_boolean(kind) and column.type == "boolean")):
        return _wrong_type(cells, column)
    values = as_float64(cells)
    empty = np.isnan(values)
    return _judge_numbers(values, empty, column, [])


def _parse_typed_text(cells: pa.Array, column: Column, dialect: Dialect) -> ParsedColumn:
    kind = cells.type
    if pa.types.is_floating(kind):
        values = as_float64(cells)
        if np.any(np.isinf(values)) or np.any(values[~np.isnan(values)] % 1 != 0):
            return _wrong_type(cells, column)
        cells = pa.array(values, mask=np.isnan(values)).cast(pa.int64())
    elif not (pa.types.is_integer(kind) or (pa.types.is_boolean(kind) and column.type == "category")):
        return _wrong_type(cells, column)
    return _parse_text(pc.fill_null(cells.cast(pa.large_string()), ""), column, dialect)


def _wrong_type(cells: pa.Array, column: Column) -> ParsedColumn:
    empty = np.asarray(cells.is_null())
    stored = re.split(r"[\[<(]", str(cells.type))[0]  # without the names that a nested type carries
    what = f"the cells are stored as {stored}, and the dictionary says {column.type}"
    finding = Finding("wrong-type", what, "store the column in the dictionary's type", ~empty)
    return _nothing(len(cells), empty, column, (finding,))


def as_float64(cells: pa.Array) -> Floats:
    """Return typed cells as numbers, NaN where there is none."""
    floats = pc.fill_null(cells.cast(pa.float64(), safe=False), float("nan"))
    return np.array(floats.to_numpy(zero_copy_only=False), dtype=np.float64)


# ---------------------------------------------------------------- text
def _parse_text(text: pa.Array, column: Column, dialect: Dialect) -> ParsedColumn:
    missing = pa.array(sorted({"", *dialect.missing}), type=text.type)
    empty = np.asarray(pc.is_in(text, value_set=missing))
    if column.type == "identifier":
        return _identifiers(text, empty, column)
    if column.type == "category":
        return _categories(text, empty, column, dialect)
    if column.type == "boolean":
        return _booleans(text, empty, column, dialect)
    return _numbers(text, empty, column, dialect)


def _numbers(text: pa.Array, empty: Mask, column: Column, dialect: Dialect) -> ParsedColumn:
    good = ~empty & np.asarray(pc.match_substring_regex(text, number_pattern(dialect.decimal)))
    plain = text.filter(pa.array(good))
    if dialect.decimal == ",":
        plain = pc.replace_substring(plain, ",", ".")
    values = np.full(len(text), np.nan)
    values[good] = np.fromiter(map(float, plain.to_pylist()), dtype=np.float64, count=len(plain))
    findings = _say_what_they_look_like(text, ~empty & ~good, column, dialect)
    return _judge_numbers(values, empty, column, findings)


def number_pattern(decimal: str) -> str:
    """Return the pattern of a number with this decimal sign."""
    sign = re.escape(decimal)
    return rf"^[+-]?([0-9]+({sign}[0-9]*)?|{sign}[0-9]+)([eE][+-]?[0-9]+)?$"


def _judge_numbers(values: Floats, empty: Mask, column: Column, findings: list[Finding]) -> ParsedColumn:
    """Refuse numbers that the column's type or range does not allow; they become NaN."""

    def refuse(kind: str, what: str, remedy: str, mask: Mask) -> None:
        if mask.any():
            findings.append(Finding(kind, what, remedy, mask))
            values[mask] = np.nan

    refuse("not-finite", "is not a finite number", "correct it or leave the cell empty", np.isinf(values))
    with np.errstate(invalid="ignore"):
        if column.type == "boolean":
            wrong = ~np.isnan(values) & (values != 0) & (values != 1)
            refuse("not-boolean", "is not 0 or 1", "write 0 or 1, or leave the cell empty", wrong)
        if column.type == "integer":
            wrong = ~np.isnan(values) & (values != np.round(values))
            refuse("not-integer", "is not a whole number", "correct it, or change the dictionary", wrong)
        low = values < column.min if column.min is not None else np.zeros(len(values), dtype=np.bool_)
        high = values > column.max if column.max is not None else np.zeros(len(values), dtype=np.bool_)
    outside = np.asarray(low | high)
    if outside.any():
        hint = unit_hint(column, values[~np.isnan(values)])
        # Told apart, because a time of 0 is a date gone wrong and no question of units.
        not_positive = (
            outside & (values <= 0) if column.min is not None and column.min > 0 else np.zeros_like(outside)
        )
        what = f"is 0 or negative; the dictionary's range is {_range(column)}"
        refuse("not-positive", what, "correct the cell; for a time, the date it is counted from or to", not_positive)
        what = f"lies outside the dictionary's range, {_range(column)}"
        refuse("out-of-range", what, hint or "correct the cell; check its unit", outside & ~not_positive)
    return ParsedColumn(values, empty, None, tuple(findings))


def _range(column: Column) -> str:
    unit = f" {column.unit}" if column.unit else ""
    if column.min is None:
        return f"at most {column.max:g}{unit}"
    if column.max is None:
        return f"at least {column.min:g}{unit}"
    return f"{column.min:g} to {column.max:g}{unit}"


def _booleans(text: pa.Array, empty: Mask, column: Column, dialect: Dialect) -> ParsedColumn:
    word = pc.utf8_lower(text)
    # pandas writes a column of 0 and 1 with an empty cell among them as 0.0 and 1.0.
    zero, one = f"0{dialect.decimal}0", f"1{dialect.decimal}0"
    true = ~empty & np.asarray(pc.is_in(word, value_set=pa.array([*TRUE_WORDS, one], type=text.type)))
    false = ~empty & np.asarray(pc.is_in(word, value_set=pa.array([*FALSE_WORDS, zero], type=text.type)))
    values = np.where(true, 1.0, np.where(false, 0.0, np.nan))
    return ParsedColumn(
        values, empty, None, tuple(_say_what_they_look_like(text, ~empty & ~true & ~false, column, dialect))
    )


def _categories(text: pa.Array, empty: Mask, column: Column, dialect: Dialect) -> ParsedColumn:
    codes = pa.array(column.codes or (), type=text.type)
    index = pc.fill_null(pc.index_in(text, value_set=codes).cast(pa.float64()), float("nan"))
    values = np.array(index.to_numpy(zero_copy_only=False), dtype=np.float64)
    formula = np.asarray(pc.match_substring_regex(text, r"^[=+\-@]")) & ~_numeric(text)
    values[formula] = np.nan
    # A code may be spelled like a word for "not known" (NA, North America); the code goes before.
    empty = empty & np.isnan(values)
    return ParsedColumn(
        values, empty, None, tuple(_say_what_they_look_like(text, ~empty & np.isnan(values), column, dialect))
    )


def _identifiers(text: pa.Array, empty: Mask, column: Column) -> ParsedColumn:
    formula = ~empty & np.asarray(pc.match_substring_regex(text, r"^[=+\-@]")) & ~_numeric(text)
    control = np.asarray(pc.match_substring_regex(text, _CONTROL))
    long = np.asarray(pc.greater(pc.utf8_length(text), MAX_IDENTIFIER))
    findings = [
        Finding(kind, what, remedy, mask)
        for kind, what, remedy, mask in (
            ("formula", "begins like a spreadsheet formula", "remove the sign in front", formula),
            ("control-character", "holds a line break or another control character", "remove it", control),
            ("too-long", f"is longer than {MAX_IDENTIFIER} characters", "shorten it", long),
        )
        if mask.any()
    ]
    labels = np.array(text.to_pylist(), dtype=object)
    labels[empty | formula | control | long] = ""
    return ParsedColumn(np.full(len(text), np.nan), empty, labels, tuple(findings))


def _numeric(text: pa.Array) -> Mask:
    pattern = r"^[+-]?([0-9]+([.,][0-9]*)?|[.,][0-9]+)([eE][+-]?[0-9]+)?$"
    return np.asarray(pc.match_substring_regex(text, pattern))


# ---------------------------------------------------------------- cells that do not fit
_NOT_A = {
    "number": "a number",
    "integer": "a number",
    "boolean": "0 or 1",
    "category": "one of the dictionary's codes",
}


def _say_what_they_look_like(text: pa.Array, bad: Mask, column: Column, dialect: Dialect) -> list[Finding]:
    """Group the bad cells by what they look like; at most a handful of groups."""
    if not bad.any():
        return []
    rows = np.flatnonzero(bad)
    cells: list[str] = text.filter(pa.array(bad)).to_pylist()
    looks = [_look(cell, column, dialect) for cell in cells]
    findings = []
    for look in Counter(looks):
        mask = np.zeros(len(text), dtype=np.bool_)
        chosen = [i for i, other in enumerate(looks) if other == look]
        mask[rows[chosen]] = True
        what, remedy = _words(look, column, dialect, [cells[i] for i in chosen])
        findings.append(Finding(look, what, remedy, mask))
    return findings


def _look(cell: str, column: Column, dialect: Dialect) -> str:
    other = "." if dialect.decimal == "," else ","
    is_number = bool(re.match(number_pattern(other), cell)) or bool(re.match(number_pattern(dialect.decimal), cell))
    if _FORMULA.match(cell) and not is_number and len(cell) > 1 and cell.lower() not in _WORDS_FOR_MISSING:
        return "not-finite" if _NOT_FINITE.match(cell) else "formula"
    if cell.lower() in _WORDS_FOR_MISSING:
        return "missing-word"
    if column.type in ("number", "integer"):
        if _GROUPED.match(cell) and not re.match(rf"^[+-]?\d{{1,3}}{re.escape(other)}\d{{3}}$", cell):
            return "thousands-separator"
        if is_number:
            return "decimal"
        if _BOUND.match(cell):
            return "bound"
        return "not-finite" if _NOT_FINITE.match(cell) else "not-a-number"
    if column.type == "category":
        folded = cell.casefold()
        return "letter-case" if any(folded == code.casefold() for code in column.codes or ()) else "unknown-code"
    return "not-boolean"


def _words(look: str, column: Column, dialect: Dialect, cells: Sequence[str]) -> tuple[str, str]:
    wanted = _NOT_A[column.type]
    distinct = len(set(cells))
    decimal, missing = dialect.where("decimal"), dialect.where("missing")
    comma, point = ("comma", "point") if dialect.decimal == "." else ("point", "comma")
    words: dict[str, tuple[str, str]] = {
        "formula": ("begins like a spreadsheet formula", f"write {wanted}, or leave the cell empty"),
        "not-finite": ("is not a finite number", "correct it or leave the cell empty"),
        "missing-word": (
            'looks like a word for "not known" that site.toml does not name',
            f"add the word to missing at {missing}, or leave the cell empty",
        ),
        "thousands-separator": ("is written with a separator of thousands", "export the numbers without it"),
        "decimal": (
            f"is written with a decimal {comma}, but {decimal} says {point}",
            f'set decimal = "{"," if dialect.decimal == "." else "."}" at {decimal}',
        ),
        "bound": (
            "is a bound (< or >), not a number",
            "write the number that the partnership agreed on, or leave it empty",
        ),
        "not-a-number": ("is not a number", "correct it or leave the cell empty"),
        "letter-case": ("differs from a code in upper and lower case alone", "write the code as the dictionary does"),
        "unknown-code": (
            f"is none of the dictionary's codes ({distinct} different spelling{'s' if distinct > 1 else ''})",
            "use the codes of the dictionary",
        ),
        "not-boolean": (
            "is not 0 or 1 (nor true/false, vrai/faux, oui/non, yes/no)",
            "write 0 or 1, or leave it empty",
        ),
    }
    return words[look]
