"""A table as it stands in its file: text or typed cells, before the dictionary has said what they mean."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from client.problems import COLUMNS_SHOWN, Problem
from schemas.dictionary import PATIENT_ID

__all__ = [
    "MAX_CELLS",
    "MAX_COLUMNS",
    "RawTable",
    "Reading",
    "header_problems",
    "read_once",
    "refused",
    "spreadsheet_letters",
]

MAX_COLUMNS = 100_000
"""As many as a dictionary may describe (`schemas.dictionary`)."""

MAX_CELLS = 200_000_000
"""Rows times columns that are read; 10,000 patients with 20,000 genes."""


@dataclass(frozen=True)
class RawTable:
    """One file.

    Attributes:
        file: Its name.
        header: All column names in the file's order, spaces around them removed.
        cells: The cells of the columns that were asked for and stand in the header exactly once.
        rows: (n_rows,) the row of each record as a spreadsheet counts, the header being row 1.
        is_text: True for CSV, where every cell is text and the dialect says how numbers are written.
    """

    file: str
    header: tuple[str, ...]
    cells: Mapping[str, pa.Array]
    rows: NDArray[np.int64]
    is_text: bool

    @property
    def n_rows(self) -> int:
        """Number of records."""
        return len(self.rows)


@dataclass(frozen=True)
class Reading:
    """What came of reading a file: the table, unless the file cannot be read at all, and what is wrong with it."""

    table: RawTable | None
    problems: tuple[Problem, ...] = ()


def refused(file: str, kind: str, what: str, remedy: str, rows: tuple[int, ...] = ()) -> Reading:
    """Return the reading of a file that cannot be read at all."""
    return Reading(None, (Problem(file, kind, what, remedy, rows=rows, n_rows=len(rows)),))


def header_problems(file: str, header: Sequence[str], known: Collection[str]) -> list[Problem]:
    """Return what is wrong with the header itself.

    Args:
        file: Name of the file.
        header: The column names.
        known: The dictionary's names for this table.
    """
    if not any(name in known for name in header):
        what = "the first row holds none of the dictionary's column names"
        return [Problem(file, "no-header", what, "let the first row hold the column names", rows=(1,), n_rows=1)]
    problems = []
    for name in sorted(name for name, count in Counter(header).items() if count > 1 and name in known):
        what = "the header holds this name more than once"
        problems.append(
            Problem(file, "double-column", what, "keep one of the columns", column=name, rows=(1,), n_rows=1)
        )
    if PATIENT_ID not in header:
        what = f"there is no column `{PATIENT_ID}`"
        remedy = "give the column of the identifiers this name"
        problems.append(Problem(file, "no-identifier", what, remedy, rows=(1,), n_rows=1))
    unknown = [index for index, name in enumerate(header) if name not in known]
    if unknown:
        shown = ", ".join(spreadsheet_letters(index) for index in unknown[:COLUMNS_SHOWN])
        more = f" and {len(unknown) - COLUMNS_SHOWN} more" if len(unknown) > COLUMNS_SHOWN else ""
        what = f"not in the dictionary and not read: column {shown}{more}"
        problems.append(Problem(file, "unknown-column", what, severity="warning"))
    return problems


def read_once(header: Sequence[str], wanted: Collection[str]) -> list[int]:
    """Return the positions of the wanted columns whose name stands in the header exactly once."""
    counts = Counter(header)
    return [index for index, name in enumerate(header) if name in wanted and counts[name] == 1]


def spreadsheet_letters(index: int) -> str:
    """Return the letters over a column in a spreadsheet: 0 is A, 26 is AA.

    Unknown columns are named so and not by their header, which in a table turned on its side is a patient.
    """
    letters = ""
    index += 1
    while index:
        index, rest = divmod(index - 1, 26)
        letters = chr(ord("A") + rest) + letters
    return letters
