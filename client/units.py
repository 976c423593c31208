"""Recognises a column that was written in another unit than the dictionary's: months for days, mg/dL for mmol/L.

A wrong unit passes silently wherever the wrong numbers happen to lie in the allowed range, so a follow-up time
that never reaches a sensible part of its range is refused as well. Only hints come out, never a number of the table.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from schemas.dictionary import Column

__all__ = ["looks_too_short", "unit_hint"]

Floats = NDArray[np.float64]

DAYS_A_YEAR = 365.25
DAYS_A_MONTH = DAYS_A_YEAR / 12
_TOO_SHORT = {"day": 24.0, "month": 10.0}
"""A follow-up in days whose longest time is below a 24th of the dictionary's maximum cannot be told from months,
one in months below a tenth not from years; both a little under the factor between the units."""

_MOSTLY = 0.95
_UNITS = {
    "d": "day", "day": "day", "days": "day",
    "month": "month", "months": "month",
    "y": "year", "year": "year", "years": "year",
    "cm": "cm", "kg": "kg", "g/l": "g/L", "g/dl": "g/dL", "mmol/l": "mmol/L", "mg/dl": "mg/dL",
    "umol/l": "umol/L", "µmol/l": "umol/L", "μmol/l": "umol/L",
}  # fmt: skip
# For each unit: a value in the other unit times the factor is a value in this one.
_OTHERS: dict[str, tuple[tuple[float, str], ...]] = {
    "day": ((DAYS_A_MONTH, "months"), (DAYS_A_YEAR, "years"), (7.0, "weeks"), (1 / 24, "hours")),
    "month": ((1 / DAYS_A_MONTH, "days"), (12.0, "years")),
    "year": ((1 / 12, "months"), (1 / DAYS_A_YEAR, "days")),
    "cm": ((100.0, "metres"), (0.1, "millimetres"), (2.54, "inches")),
    "kg": ((0.001, "grams"), (0.4536, "pounds")),
    "g/L": ((10.0, "g/dL"),),
    "g/dL": ((0.1, "g/L"),),
    "mmol/L": ((1 / 18.016, "mg/dL (as for glucose)"), (1 / 38.67, "mg/dL (as for cholesterol)")),
    "umol/L": ((88.42, "mg/dL (as for creatinine)"), (1000.0, "mmol/L")),
    "mg/dL": ((18.016, "mmol/L (as for glucose)"), (1 / 88.42, "µmol/L (as for creatinine)")),
}


def unit_hint(column: Column, values: Floats) -> str:
    """Return in which unit the values of a column seem to be written, or an empty text.

    Asked where cells lie outside the column's range.

    Args:
        column: With its unit and range.
        values: (n,) the known cells, in whatever unit they are.
    """
    if not len(values) or np.mean(_inside(column, values)) > 0.5:
        return ""
    for factor, other in _OTHERS.get(_UNITS.get((column.unit or "").lower(), ""), ()):
        if np.mean(_inside(column, values * factor)) >= _MOSTLY:
            return f"check the unit: this looks like {other}, and the dictionary says {column.unit}"
    return ""


def looks_too_short(column: Column, times: Floats) -> bool:
    """Tell whether follow-up times use so little of the dictionary's range that they are another unit's."""
    share = _TOO_SHORT.get(_UNITS.get((column.unit or "").lower(), ""))
    return share is not None and column.max is not None and len(times) > 0 and bool(times.max() * share < column.max)


def _inside(column: Column, values: Floats) -> NDArray[np.bool_]:
    inside = np.ones(len(values), dtype=np.bool_)
    if column.min is not None:
        inside &= values >= column.min
    if column.max is not None:
        inside &= values <= column.max
    return inside
