"""Reads a layer of many alike columns as one block of numbers, with the care that `client.cells` has for one column.

The dictionary describes all features of such a layer at once, so the whole table is judged in a few vectorised
passes; only where a cell does not fit is its column looked at by `client.cells`, to say in words what is wrong. A
feature that this site's table lacks is not known here; a column that is no feature of the layer is passed over and
counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from client.cells import FALSE_WORDS, TRUE_WORDS, as_float64, number_pattern, parse_column
from client.dialect import Dialect
from client.problems import Problem, rows_of
from client.raw_table import RawTable
from schemas.dictionary import PATIENT_ID, WideLayer

__all__ = ["ABSENT_SHOWN", "COLUMNS_EXAMINED", "WideBlock", "parse_block", "wide_header_problems"]

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]

ABSENT_SHOWN = 5
COLUMNS_EXAMINED = 50
"""Columns with a cell that does not fit whose cells are described; one wrong setting spoils thousands alike."""

_CELLS_AT_ONCE = 2_000_000


@dataclass(frozen=True)
class WideBlock:
    """A layer's cells.

    Attributes:
        values: (n_rows, n_features) float64 in the order of the dictionary's identifiers; NaN where a cell is empty
            or refused, or the table has no such feature. Cells below the limit of detection are half of it.
        problems: What is wrong, uncapped.
    """

    values: Floats
    problems: tuple[Problem, ...] = ()


def parse_block(table: RawTable, layer: WideLayer, source: NDArray[np.intp], dialect: Dialect) -> WideBlock:
    """Read the features of a layer from its table.

    Args:
        table: Read with all of the layer's identifiers.
        layer: What the dictionary says of it.
        source: Rows of the table that are looked at, ascending; no cell of another row is.
        dialect: How the file's numbers and missing cells are written; a Parquet file's texts are read plainly.
    """
    dialect = dialect if table.is_text else Dialect()
    chosen = np.zeros(table.n_rows, dtype=np.bool_)
    chosen[source] = True
    values = np.full((len(source), len(layer.identifiers)), np.nan)
    bad: list[int] = []
    present = [j for j, name in enumerate(layer.identifiers) if name in table.cells]
    at_once = max(1, _CELLS_AT_ONCE // max(table.n_rows, 1))
    for start in range(0, len(present), at_once):
        slab = present[start : start + at_once]
        cells = [table.cells[layer.identifiers[j]] for j in slab]
        numbers, wrong = _slab(cells, layer, chosen, dialect)
        values[:, slab] = numbers
        bad += [slab[j] for j in np.flatnonzero(wrong)]
    problems = _described(table, layer, bad, source, dialect)
    if layer.limit_of_detection is not None:
        values[values < layer.limit_of_detection] = layer.limit_of_detection / 2
    return WideBlock(values, tuple(problems))


def wide_header_problems(table: RawTable, layer: WideLayer, found: Sequence[Problem]) -> list[Problem]:
    """Return what is wrong with the header of a layer's table, names of strange columns and missing features counted.

    Args:
        table: Read with all of the layer's identifiers.
        layer: What the dictionary says of it.
        found: What reading the file found.
    """
    problems = [problem for problem in found if problem.kind != "unknown-column"]
    if not layer.identifiers:
        what = f"the dictionary's features file {layer.features} is not there, so no cell of this table was checked"
        return [
            *problems,
            Problem(table.file, "no-features", what, "ask the study's author for it", severity="warning"),
        ]
    features, header = set(layer.identifiers), set(table.header)
    strange = sum(name != PATIENT_ID and name not in features for name in table.header)
    if strange:
        what = f"{strange:,} column{'s are' if strange > 1 else ' is'} no feature of this layer and not read"
        problems.append(Problem(table.file, "unknown-column", what, severity="warning"))
    absent = [name for name in layer.identifiers if name not in header]
    if len(absent) == len(layer.identifiers):
        what = f"none of the layer's {len(absent):,} features stands in the header"
        remedy = f"name the columns as {layer.features} does"
        problems.append(Problem(table.file, "missing-column", what, remedy, rows=(1,), n_rows=1))
    elif absent:
        shown = ", ".join(absent[:ABSENT_SHOWN]) + (", …" if len(absent) > ABSENT_SHOWN else "")
        are = "features are" if len(absent) > 1 else "feature is"
        what = f"{len(absent):,} of {len(layer.identifiers):,} {are} not in this table and not known here: {shown}"
        problems.append(Problem(table.file, "absent-features", what, severity="warning"))
    return problems


# ---------------------------------------------------------------- cells to numbers
def _slab(cells: Sequence[pa.Array], layer: WideLayer, chosen: Mask, dialect: Dialect) -> tuple[Floats, Mask]:
    """Return the (n_rows, n_columns) numbers of some columns, and in which of them a cell does not fit."""
    n, m = int(chosen.sum()), len(cells)
    values = np.full((m, n), np.nan)
    wrong = np.zeros((m, n), dtype=np.bool_)
    by_type: dict[pa.DataType, list[int]] = {}
    for j, column in enumerate(cells):
        by_type.setdefault(column.type, []).append(j)
    for kind, columns in by_type.items():
        if pa.types.is_null(kind):
            continue
        flat = pa.concat_arrays([cells[j] for j in columns])
        if n < len(chosen):
            flat = flat.filter(pa.array(np.tile(chosen, len(columns))))
        found, refused = _flat(flat, layer, dialect)
        values[columns] = found.reshape(len(columns), n)
        wrong[columns] = refused.reshape(len(columns), n)
    wrong |= _unfit(values, layer)
    values[wrong] = np.nan
    return values.T, np.asarray(wrong.any(axis=1), dtype=np.bool_)


def _flat(cells: pa.Array, layer: WideLayer, dialect: Dialect) -> tuple[Floats, Mask]:
    """Return the numbers of cells of one kind, NaN where empty, and which of them are none."""
    kind = cells.type
    if pa.types.is_large_string(kind):
        text = pc.utf8_trim_whitespace(pc.fill_null(cells, ""))
        empty = pc.is_in(text, value_set=pa.array(sorted({"", *dialect.missing}), type=text.type))
        return _words(text, empty, dialect) if layer.type == "boolean" else _numbers(text, empty, dialect)
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    if is_number or (pa.types.is_boolean(kind) and layer.type == "boolean"):
        values = as_float64(cells)
        return values, np.zeros(len(values), dtype=np.bool_)
    return np.full(len(cells), np.nan), ~np.asarray(cells.is_null())


def _numbers(text: pa.Array, empty: pa.Array, dialect: Dialect) -> tuple[Floats, Mask]:
    filled = pc.if_else(empty, pa.scalar(None, text.type), text)
    fast = _all_numbers(filled, dialect)
    if fast is not None:
        return fast, np.zeros(len(fast), dtype=np.bool_)
    # Some cell is no number, or is written as Arrow does not read one (`+5`): every cell is held against the rule.
    good = ~np.asarray(empty) & np.asarray(pc.match_substring_regex(text, number_pattern(dialect.decimal)))
    plain = text.filter(pa.array(good))
    if dialect.decimal == ",":
        plain = pc.replace_substring(plain, ",", ".")
    values = np.full(len(text), np.nan)
    values[good] = np.fromiter(map(float, plain.to_pylist()), dtype=np.float64, count=len(plain))
    return values, ~np.asarray(empty) & ~good


def _all_numbers(filled: pa.Array, dialect: Dialect) -> Floats | None:
    """Return the numbers of texts, NaN where null; None unless every one of them is a finite number.

    Arrow reads a part of what `number_pattern` allows, and beyond it only words for infinity and for no number,
    which are not finite.
    """
    if dialect.decimal == ",":
        if pc.any(pc.match_substring(filled, ".")).as_py():
            return None
        filled = pc.replace_substring(filled, ",", ".")
    try:
        numbers = filled.cast(pa.float64())
    except pa.ArrowInvalid:
        return None
    if not pc.all(pc.is_finite(numbers)).as_py() and numbers.null_count < len(numbers):
        return None
    return as_float64(numbers)


def _words(text: pa.Array, empty: pa.Array, dialect: Dialect) -> tuple[Floats, Mask]:
    word = pc.utf8_lower(text)
    zero, one = f"0{dialect.decimal}0", f"1{dialect.decimal}0"
    blank = np.asarray(empty)
    true = ~blank & np.asarray(pc.is_in(word, value_set=pa.array([*TRUE_WORDS, one], type=text.type)))
    false = ~blank & np.asarray(pc.is_in(word, value_set=pa.array([*FALSE_WORDS, zero], type=text.type)))
    return np.where(true, 1.0, np.where(false, 0.0, np.nan)), ~blank & ~true & ~false


def _unfit(values: Floats, layer: WideLayer) -> Mask:
    """Return where a number is none that the layer's type or range allows."""
    wrong = np.isinf(values)
    with np.errstate(invalid="ignore"):
        if layer.type == "boolean":
            wrong |= ~np.isnan(values) & (values != 0) & (values != 1)
        if layer.type == "integer":
            wrong |= ~np.isnan(values) & (values != np.round(values))
        if layer.min is not None:
            wrong |= values < layer.min
        if layer.max is not None:
            wrong |= values > layer.max
    return np.asarray(wrong, dtype=np.bool_)


# ---------------------------------------------------------------- cells that do not fit
def _described(
    table: RawTable, layer: WideLayer, bad: Sequence[int], source: NDArray[np.intp], dialect: Dialect
) -> list[Problem]:
    """Return in words what is wrong with the cells of the first bad columns, and a count of the others."""
    problems = []
    rows = table.rows[source]
    for j in bad[:COLUMNS_EXAMINED]:
        name = layer.identifiers[j]
        column = layer.feature.model_copy(update={"name": name})
        parsed = parse_column(table.cells[name].take(source), column, dialect if table.is_text else None)
        for finding in parsed.findings:
            shown, n = rows_of(rows, finding.mask)
            problems.append(Problem(table.file, finding.kind, finding.what, finding.remedy, name, shown, n))
    more = len(bad) - COLUMNS_EXAMINED
    if more > 0:
        what = f"{more:,} more column{'s hold' if more > 1 else ' holds'} cells that do not fit"
        problems.append(Problem(table.file, "more-columns", what, "correct what is named first, and check again"))
    return problems
