"""What is wrong with a site's tables, in words for who keeps them: file, row and column, and no cell value.

Rows are counted as a spreadsheet shows them: the header is row 1, and a record with a line break inside a quoted
cell is one row. A Parquet file is counted the same way. Nothing of a cell is kept, so nothing of it can be shown;
names of columns are shown only where the dictionary knows them or the file's first row is surely a header.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from schemas.errors import Fault

__all__ = ["COLUMNS_SHOWN", "ROWS_SHOWN", "Problem", "cap_columns", "errors_of", "rows_of"]

Severity = Literal["error", "warning"]
ROWS_SHOWN = 10
COLUMNS_SHOWN = 10


@dataclass(frozen=True)
class Problem:
    """One thing to correct or to know.

    Attributes:
        file: Name of the table's file, or of the list of opted-out patients.
        kind: A fixed word by which programs tell problems apart (``not-a-number``).
        what: What is wrong there.
        remedy: What to do about it.
        column: Name of the column, where it is about one.
        rows: The first rows concerned, at most `ROWS_SHOWN`.
        n_rows: How many rows are concerned in all.
        severity: An error has to be corrected; a warning is to be read.
        needed: Whether the study reads this part of the tables.
    """

    file: str
    kind: str
    what: str
    remedy: str = ""
    column: str | None = None
    rows: tuple[int, ...] = ()
    n_rows: int = field(default=0)
    severity: Severity = "error"
    needed: bool = True

    @property
    def row(self) -> int | None:
        """The first row concerned."""
        return self.rows[0] if self.rows else None

    @property
    def where(self) -> str:
        """The place as a person finds it: ``clinical.csv row 87, column time_days``."""
        parts = []
        if self.rows:
            shown = ", ".join(str(row) for row in self.rows)
            more = self.n_rows - len(self.rows)
            rest = f" and {more} more rows" if more > 1 else " and 1 more row" if more == 1 else ""
            parts.append(f"row{'s' if self.n_rows > 1 else ''} {shown}{rest}")
        if self.column is not None:
            parts.append(f"column {self.column}")
        return f"{self.file} {', '.join(parts)}" if parts else self.file

    @property
    def blocks(self) -> bool:
        """Whether the site cannot take part until this is corrected."""
        return self.severity == "error" and self.needed

    def fault(self) -> Fault:
        """Return the problem as the fault that an error carries."""
        return Fault(self.where, self.what, self.remedy)

    def __str__(self) -> str:
        """Return the problem as one line."""
        return f"{self.severity}: {self.fault()}"


def rows_of(rows: NDArray[np.int64], mask: NDArray[np.bool_]) -> tuple[tuple[int, ...], int]:
    """Return the first rows that `mask` selects, and how many it selects."""
    chosen = rows[mask]
    return tuple(int(row) for row in chosen[:ROWS_SHOWN]), len(chosen)


def errors_of(problems: Iterable[Problem]) -> list[Problem]:
    """Return what has to be corrected before the site can take part."""
    return [problem for problem in problems if problem.blocks]


def cap_columns(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Return the problems with at most `COLUMNS_SHOWN` columns of a file for each kind, and a count of the rest.

    A layer has thousands of columns, and one wrong setting spoils all of them in the same way.
    """
    groups: dict[tuple[str, str, str, bool], list[Problem]] = {}
    for problem in problems:
        groups.setdefault((problem.file, problem.kind, problem.severity, problem.needed), []).append(problem)
    capped: list[Problem] = []
    for group in groups.values():
        capped += group[:COLUMNS_SHOWN]
        more = len(group) - COLUMNS_SHOWN
        if more > 0:
            what = f"the same in {more} more column{'s' if more > 1 else ''}"
            capped.append(replace(group[0], what=what, remedy="", column=None, rows=(), n_rows=0))
    return tuple(capped)
