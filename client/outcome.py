"""What a study's endpoint is in a site's tables: who has it whole, what is wrong with it, and its arrays.

A time to an event is a time and a mark; with competing events the mark says which; an outcome without a time is one
column of codes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.dictionary import Dictionary
from schemas.endpoint import Endpoint

__all__ = ["EndpointArrays", "endpoint_arrays", "unknown_codes"]

Floats = NDArray[np.float64]
Values = Callable[[str], Floats]


@dataclass(frozen=True)
class EndpointArrays:
    """The endpoint of every patient of the tables, as in `schemas.cohort.Cohort`.

    Attributes:
        time: (n,) NaN where not known; 0 without a time.
        event: (n,) bool.
        entry: (n,) 0 where the study has no delayed entry.
        outcome: (n,) codes, NaN where not known; None for a time to one event.
    """

    time: Floats
    event: NDArray[np.bool_]
    entry: Floats
    outcome: Floats | None


def endpoint_arrays(endpoint: Endpoint, dictionary: Dictionary, values: Values) -> EndpointArrays:
    """Return the endpoint of all patients.

    Args:
        endpoint: Of the study.
        dictionary: Of its columns.
        values: Column -> (n,) its cells as numbers, a category as the place of its code, NaN where empty.
    """
    if endpoint.outcome is not None:
        outcome = values(endpoint.outcome)
        nothing = np.zeros(outcome.size)
        return EndpointArrays(nothing, outcome > 0, nothing, outcome)
    time, event = values(endpoint.time), values(endpoint.event)
    entry = np.zeros(time.size) if endpoint.entry is None else values(endpoint.entry)
    if not endpoint.has_competing:
        return EndpointArrays(time, event == 1, entry, None)
    causes = _cause_numbers(endpoint, dictionary)
    outcome = np.where(np.isnan(event), np.nan, 0.0)
    for place, number in enumerate(causes, start=1):
        outcome[event == number] = place
    return EndpointArrays(time, outcome == 1, entry, outcome)


def unknown_codes(endpoint: Endpoint, dictionary: Dictionary, values: Values) -> tuple[str, str, NDArray[np.bool_]]:
    """Return what the mark of the endpoint must be, how to mend it, and the (n,) patients in whom it is not."""
    if endpoint.outcome is not None:
        outcome = values(endpoint.outcome)
        allowed: tuple[int, ...] = (0, 1) if endpoint.type == "binary" else tuple(range(1000))
        return "is not 0 or 1", "write 1 where the outcome is there, else 0", _outside(outcome, allowed)
    event = values(endpoint.event)
    if not endpoint.has_competing:
        return "is not 0 or 1", "write 1 where the event was observed, else 0", _outside(event, (0, 1))
    what = "is neither 0 nor an event that the study names"
    remedy = "correct the code, or let the study name it under `competing`"
    return what, remedy, _outside(event, (0, *_cause_numbers(endpoint, dictionary)))


def _cause_numbers(endpoint: Endpoint, dictionary: Dictionary) -> tuple[int, ...]:
    """Return the number that stands for each cause in the cells, that of interest first."""
    column = dictionary.column(endpoint.event)
    codes = (column.codes if column is not None else None) or ()
    return tuple(codes.index(cause) if isinstance(cause, str) else cause for cause in endpoint.causes)


def _outside(values: Floats, allowed: tuple[int, ...]) -> NDArray[np.bool_]:
    return np.asarray(~np.isnan(values) & ~np.isin(values, allowed), dtype=np.bool_)
