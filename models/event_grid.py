"""The common time grid, made from the events of all sites: no interval with few of them.

Sites count events in fine bins that the plan fixes from the dictionary's range; the hub, and under the secure sum
every site (`privacy.verified`), merges bins from the left until each interval holds enough events of the federation.

Where a study asks for it (`count_censored`), patients who leave without an event are counted too, and of those an
interval has none or as many as it needs events. The sums over those at risk in neighbouring intervals differ by those
who left in between; the dead can be taken out of that difference, and whoever was censored alone remains (attack 4 of
docs/attacks.md, which also says what this costs and why it is not the default).
"""

from __future__ import annotations

import numpy as np

from models.moments import n_patients_spec
from models.step import Arrays, Context, DivergedError, Floats, Turn
from models.time_grid import interval_of
from schemas.cohort import Cohort
from schemas.plan import ArraySpec, PartSpec


class EventGrid:
    """A histogram of event times, merged into intervals.

    An event counts in the histogram if its patient is at risk in the event's bin. On merged intervals, which are
    wider, delayed entry can still leave out a few of the events counted here (the patient entered inside the
    interval); what a fit used is its own `n_events`.

    Settings:
        bin_edges: Upper edges of the bins, increasing, at most K.
        min_events: Events of the federation in each interval, at least.
        count_censored: Whether each interval, and the time behind the last, also has none or so many censored.
        exact: Whether the bins are the exact event times; then none are merged, and those without an event of
            these patients are left out.

    State when done:
        edges: (K,) upper edges of the intervals, the last one repeated as padding.
        n_intervals: () intervals in use.
        events: (K,) events in each interval, 0 as padding.
        n_patients: () patients.
    """

    def __init__(self, context: Context) -> None:
        self._n_bins = context.n_bins
        self._bins = np.asarray(context.settings["bin_edges"], dtype=np.float64)
        self._min_events = int(context.settings.get("min_events", 1))
        self._exact = bool(context.settings.get("exact", False))
        self._counts_censored = bool(context.settings.get("count_censored", False)) and not self._exact
        if not 0 < self._bins.size <= self._n_bins or np.any(np.diff(self._bins) <= 0):
            raise ValueError(f"bin_edges must be 1 to {self._n_bins} increasing numbers")

    def parts(self) -> tuple[PartSpec, ...]:
        """Return the one question: the histogram."""
        releases = [
            n_patients_spec(),
            ArraySpec(name="events", shape=(self._n_bins,), meaning="observed events in each bin of time"),
        ]
        if self._counts_censored:
            meaning = "patients whose observation ends without an event, by how many bins they were observed for"
            releases.append(ArraySpec(name="censored", shape=(self._n_bins + 1,), meaning=meaning))
        return (PartSpec(name="histogram", sends=(), releases=tuple(releases), times=1, verified=True),)

    def begin(self, inputs: Arrays) -> Turn:
        """Ask for the histogram."""
        return Turn({}, "histogram")

    def local(self, part: str, sent: Arrays, cohort: Cohort) -> Arrays:
        """Return this site's events per bin, and who leaves without one where that is counted."""
        spells = interval_of(cohort.time, cohort.event, cohort.entry, self._bins, self._bins.size, exact=self._exact)
        counts = np.bincount(spells.stop[spells.event] - 1, minlength=self._n_bins)
        counted = {"n_patients": np.array(float(cohort.n_patients)), "events": counts.astype(np.float64)}
        if self._counts_censored:
            left = np.bincount(spells.stop[~spells.event], minlength=self._n_bins + 1)
            counted["censored"] = left.astype(np.float64)
        return counted

    def finish(self, part: str, state: Arrays, inputs: Arrays, total: Arrays) -> Turn:
        """Return the intervals.

        Raises:
            DivergedError: When all sites together have fewer events than one interval needs, or no interval keeps the
                censored together.
        """
        needed = 1 if self._exact else self._min_events
        counts = total["events"][: self._bins.size]
        if counts.sum() < needed:
            raise DivergedError(
                f"the sites together have fewer than {needed} events that can be used: no model of the time to an "
                "event can be fitted; widen the eligibility, wait for longer follow-up, or invite more sites"
            )
        stops = (
            merge_with_censored(counts, total["censored"], needed)
            if self._counts_censored
            else merge_bins(counts, needed)
        )
        if not stops:
            raise DivergedError(
                f"no common time grid has {needed} events and no or {needed} censored patients in each interval: "
                "leave `count_censored` out, wait for longer follow-up, or invite more sites"
            )
        edges, events = np.full(self._n_bins, self._bins[stops[-1] - 1]), np.zeros(self._n_bins)
        edges[: len(stops)] = self._bins[np.asarray(stops) - 1]
        events[: len(stops)] = np.diff(np.concatenate(([0.0], np.cumsum(counts)))[[0, *stops]])
        done: dict[str, Floats] = {
            "edges": edges,
            "n_intervals": np.array(float(len(stops))),
            "events": events,
            "n_patients": total["n_patients"],
        }
        return Turn(done, None)

    def shrink(self, part: str, state: Arrays) -> Turn:
        """Ask the remaining sites the same."""
        return Turn(state, part)


def merge_bins(counts: Floats, min_events: int) -> list[int]:
    """Return for each interval the number of bins up to and including its last one.

    Greedy from the left: an interval ends with the bin that gives it `min_events` events. What remains joins the
    last interval, which ends with the last bin that has an event: in time beyond it nobody has one, and whoever
    is censored there would otherwise no longer count in the last interval at all.

    Args:
        counts: (n_bins,) events, at least `min_events` in all.
        min_events: At least 1.
    """
    last = int(np.flatnonzero(counts)[-1]) + 1
    stops: list[int] = []
    held = 0.0
    for bin_, count in enumerate(counts[:last]):
        held += count
        if held >= min_events:
            stops.append(bin_ + 1)
            held = 0.0
    stops[-1] = last
    return stops


def merge_with_censored(counts: Floats, censored: Floats, at_least: int) -> list[int]:
    """Return for each interval the number of bins up to and including its last one; none where there is no way.

    As many intervals as the rules allow, found exactly: the most over the first s bins is one more than the most over
    the first r, for the best r from which bins r + 1 to s make an interval; of several ways the first. The grid ends
    with a bin that has an event, the last one behind which nobody or enough are left; they survive the last interval,
    with their events.

    Whoever enters late is not counted. Entries blur a difference of neighbouring sums; one who enters alone where
    nobody leaves is not hidden by this rule.

    Args:
        counts: (B,) events.
        censored: (B' + 1,) patients who leave without an event, by the number of bins that they survived; B' >= B.
        at_least: In each interval, 1 or more.
    """
    dead = np.concatenate(([0.0], np.cumsum(counts)))
    left = np.concatenate(([0.0], np.cumsum(censored)))
    most = np.zeros(dead.size, dtype=np.intp)  # intervals over the first s bins; 0 where there is no way
    begins = np.zeros(dead.size, dtype=np.intp)  # bins before the last of them
    for s in range(1, dead.size):
        before = np.flatnonzero((most[:s] > 0) | (np.arange(s) == 0))
        gone = left[s] - left[before]
        fits = before[(dead[s] - dead[before] >= at_least) & ((gone == 0) | (gone >= at_least))]
        if fits.size:
            begins[s] = fits[np.argmax(most[fits])]
            most[s] = most[begins[s]] + 1
    behind = dead[-1] - dead + left[-1] - left[: dead.size]
    is_end = (most > 0) & ((behind == 0) | (behind >= at_least)) & (np.append(0.0, counts) > 0)
    stops: list[int] = []
    at = int(np.flatnonzero(is_end)[-1]) if is_end.any() else 0
    while at:
        stops.append(at)
        at = int(begins[at])
    return stops[::-1]
