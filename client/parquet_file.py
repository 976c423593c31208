"""Reads a Parquet file: its cells have types already, which `client.cells` holds against the dictionary."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from client.problems import Problem
from client.raw_table import MAX_CELLS, MAX_COLUMNS, RawTable, Reading, header_problems, read_once, refused

__all__ = ["read_parquet"]


def read_parquet(path: Path, wanted: Collection[str], known: Collection[str]) -> Reading:
    """Read the columns `wanted` of a Parquet file.

    Args:
        path: The file.
        wanted: Names of the columns whose cells are kept.
        known: All names that the dictionary has for this table, by which a header is recognised.
    """
    file = path.name
    try:
        with pq.ParquetFile(path) as source:
            return _read(file, source, wanted, known)
    # Arrow has one base class for its own errors; damaged bytes also surface as the others.
    except (pa.ArrowException, OSError, ValueError, MemoryError, OverflowError, KeyError, IndexError):
        return refused(
            file, "unreadable", "cannot be read as Parquet: it is truncated or damaged", "export the table again"
        )


def _read(file: str, source: pq.ParquetFile, wanted: Collection[str], known: Collection[str]) -> Reading:
    names = source.schema_arrow.names
    header = tuple(name.strip() for name in names)
    if len(header) > MAX_COLUMNS:
        what = f"has more than {MAX_COLUMNS:,} columns"
        return refused(file, "too-large", what, "one row is one patient: turn the table, or keep fewer columns")
    problems = header_problems(file, header, known)
    if any(problem.kind in ("no-header", "no-identifier") for problem in problems):
        return Reading(None, tuple(problems))
    taken = [names[index] for index in read_once(header, wanted)]
    if source.metadata.num_rows * max(len(taken), 1) > MAX_CELLS:
        return refused(file, "too-large", f"has more than {MAX_CELLS:,} cells", "keep fewer columns or rows")
    table = source.read(columns=taken, use_threads=False)
    if table.num_rows != source.metadata.num_rows:
        return refused(file, "unreadable", "is damaged: rows are missing", "export the table again")
    cells: dict[str, pa.Array] = {}
    for name in taken:
        column = _plain(table.column(name))
        try:
            column.validate(full=True)
            cells[name.strip()] = column
        except pa.ArrowInvalid:
            what = "holds cells that are not valid text"
            problems.append(Problem(file, "unreadable", what, "export the table again", column=name.strip()))
    rows = np.arange(2, table.num_rows + 2, dtype=np.int64)
    return Reading(RawTable(file, header, cells, rows, is_text=False), tuple(problems))


def _plain(column: pa.ChunkedArray) -> pa.Array:
    """Return one array of plain values: dictionary encoding and the several kinds of text undone."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_string(column.type) or pa.types.is_string_view(column.type):
        column = column.cast(pa.large_string())
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks or [_no_cells(column.type)])


def _no_cells(kind: pa.DataType) -> pa.Array:
    return pa.array([], type=kind)
