"""The common time grid: in which intervals a patient is at risk, and sums over risk sets.

Interval k = 0..K-1 is (edge[k-1], edge[k]], with edge[-1] = 0. The rules, for one and all methods:

- an event at t belongs to the first interval whose edge is >= t;
- a patient censored at c counts through the last interval with edge <= c: who is censored inside an interval
  counts up to the interval before (Prentice & Gloeckler 1978, section 2);
- with exact times a patient who enters at e is at risk at the event time t[k] if e < t[k];
- on a merged grid a patient counts from the first interval that begins at e or later. Entry moves up to the next
  edge, because being at risk for a whole interval that one entered late counts time in which one could not have
  had the event (immortal time). Who enters and leaves within one interval contributes nothing, events included.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from models.step import Floats
from schemas.plan import ArraySpec


@dataclass(frozen=True)
class Spells:
    """The intervals in which each patient is at risk: first, first + 1, ..., stop - 1.

    Attributes:
        first: (n,) first interval at risk; 0 where the patient contributes nothing.
        stop: (n,) one past the last interval at risk; 0 where the patient contributes nothing.
        event: (n,) bool, True where the patient has the event in interval stop - 1.
        n_bins: K, the length of arrays over intervals, padding included.
    """

    first: NDArray[np.intp]
    stop: NDArray[np.intp]
    event: NDArray[np.bool_]
    n_bins: int

    @property
    def survived(self) -> Spells:
        """The intervals that each patient is known to have survived: at risk, and no event there."""
        stop = self.stop - self.event
        empty = stop <= self.first
        return Spells(
            np.where(empty, 0, self.first), np.where(empty, 0, stop), np.zeros_like(self.event), self.n_bins
        )

    def over_patients(self, values: Floats) -> Floats:
        """Return the sums of `values` over the patients at risk in each interval.

        Args:
            values: (n,) or (n, q).

        Returns:
            (K,) or (K, q).
        """
        if self._is_delayed:  # dense: differences of running sums would cancel where few are at risk
            return self.at_risk.T @ values
        # Without delayed entry who is at risk in an interval was so in all before it: one running sum, from the
        # last to leave to the first, holds all risk sets, and adds numbers of one sign only.
        running = np.cumsum(values[self._last_first], axis=0)
        sums = np.zeros((self.n_bins, *values.shape[1:]))
        occupied = self._n_at_risk > 0
        sums[occupied] = running[self._n_at_risk[occupied] - 1]
        return sums

    def over_events(self, values: Floats) -> Floats:
        """Return the (K,) or (K, q) sums of the (n,) or (n, q) `values` over the patients with their event there."""
        return self._has_event.T @ values[self.event]

    def over_intervals(self, values: Floats) -> Floats:
        """Return the (n,) sums of the (K,) `values` over the intervals in which each patient is at risk."""
        if self._is_delayed:
            return self.at_risk @ values
        return np.concatenate(([0.0], np.cumsum(values)))[self.stop]

    @cached_property
    def at_risk(self) -> Floats:
        """(n, K), 1 where the patient is at risk in the interval, else 0."""
        interval = np.arange(self.n_bins)
        inside = (interval >= self.first[:, None]) & (interval < self.stop[:, None])
        return inside.astype(np.float64)

    @property
    def event_interval(self) -> NDArray[np.intp]:
        """(n_events,) the interval of each event."""
        return self.stop[self.event] - 1

    @cached_property
    def _is_delayed(self) -> bool:
        return bool(self.first.any())

    @cached_property
    def _last_first(self) -> NDArray[np.intp]:
        return np.argsort(-self.stop, kind="stable")

    @cached_property
    def _n_at_risk(self) -> NDArray[np.intp]:
        leaving = np.bincount(self.stop, minlength=self.n_bins + 1)
        return np.cumsum(leaving[::-1])[::-1][1:]

    @cached_property
    def _has_event(self) -> Floats:
        interval = np.arange(self.n_bins)
        there: NDArray[np.bool_] = self.event_interval[:, None] == interval
        return there.astype(np.float64)


def interval_of(
    time: Floats,
    event: NDArray[np.bool_],
    entry: Floats,
    edges: Floats,
    n_intervals: int,
    *,
    exact: bool,
) -> Spells:
    """Place patients on the grid, by the rules at the head of this module.

    Args:
        time: (n,) time to event or censoring, > 0.
        event: (n,) bool.
        entry: (n,) observed only after it; 0 where observed from the origin.
        edges: (K,) upper edges, increasing, padded after the first `n_intervals`.
        n_intervals: Intervals in use. An event after the last of them counts as survival of it.
        exact: Whether the edges are the exact event times.
    """
    active = edges[:n_intervals]
    stop = np.searchsorted(active, time, side="right")
    interval = np.searchsorted(active, time, side="left")
    in_grid = event & (interval < n_intervals)
    stop = np.where(in_grid, interval + 1, stop)
    if exact:
        first = np.searchsorted(active, entry, side="right")
    else:
        first = np.searchsorted(np.concatenate(([0.0], active)), entry, side="left")
    empty = stop <= first
    return Spells(
        first=np.where(empty, 0, first).astype(np.intp),
        stop=np.where(empty, 0, stop).astype(np.intp),
        event=in_grid & ~empty,
        n_bins=edges.size,
    )


@dataclass(frozen=True)
class Observation:
    """For how much of each interval each patient was under observation, and where the events were.

    The likelihoods ask which intervals a patient survived whole (`Spells`). Predictions must not: in a wide interval
    most of those censored inside it would drop out of the denominator, and survival would look far too short.

    Attributes:
        share: (n, K) of the interval's width, 0 to 1; with exact times 1 where the patient is at risk.
        has_event: (n, K), 1 where the patient has the event in the interval.
    """

    share: Floats
    has_event: Floats

    @property
    def at_risk(self) -> Floats:
        """(n, K), what each patient adds to the number at risk: one whole with the event, else the share.

        The life table's rule (Cutler & Ederer 1958), with the true share in place of one half.
        """
        return np.where(self.has_event > 0, 1.0, self.share)


def observation_of(
    time: Floats,
    event: NDArray[np.bool_],
    entry: Floats,
    edges: Floats,
    n_intervals: int,
    *,
    exact: bool,
) -> Observation:
    """Return what was observed of each patient in each interval; arguments as of `interval_of`."""
    if exact:
        spells = interval_of(time, event, entry, edges, n_intervals, exact=True)
        has_event = np.zeros((time.size, edges.size))
        has_event[spells.event, spells.event_interval] = 1.0
        return Observation(spells.at_risk, has_event)
    upper = edges[:n_intervals]
    lower = np.concatenate(([0.0], upper[:-1]))
    share, has_event = np.zeros((time.size, edges.size)), np.zeros((time.size, edges.size))
    seen = np.minimum(time[:, None], upper) - np.maximum(entry[:, None], lower)
    share[:, :n_intervals] = np.clip(seen, 0.0, None) / (upper - lower)
    has_event[:, :n_intervals] = event[:, None] & (time[:, None] > lower) & (time[:, None] <= upper)
    return Observation(share, has_event)


def grid_specs(n_bins: int) -> tuple[ArraySpec, ...]:
    """Return what a site is sent to place its patients on the grid: `edges` and `n_intervals`."""
    return (
        ArraySpec(name="edges", shape=(n_bins,), meaning="upper edges of the intervals of the common time grid"),
        ArraySpec(name="n_intervals", shape=(), meaning="how many of the edges are in use"),
    )
