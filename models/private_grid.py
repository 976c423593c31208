"""A time grid that the plan fixes, and where the private fit starts: events and time at risk, with noise.

No histogram of events makes this grid: its intervals are the plan's equal bins, which cost nothing, and the
likelihood does not mind intervals without events as long as it has no parameter for each of them
(`models.private_hazard`).
"""

from __future__ import annotations

import math

import numpy as np

from models.private import noise_of, over_pieces, pieces_of
from models.step import Arrays, Context, Floats, Turn
from models.time_grid import interval_of
from schemas.cohort import Cohort
from schemas.plan import ArraySpec, PartSpec

# A noisy number of events below this is taken for this.
_FEWEST_EVENTS = 5.0
# A hazard of an interval is not believed to be larger.
_LARGEST_HAZARD = 1.0


class PrivateGrid:
    """Events, and intervals survived, in each piece of time.

    Settings:
        bin_edges: Upper edges of the intervals, increasing, exactly K.
        pieces: (K,) the piece of each interval, 0 to J - 1.
        share: Of the study's privacy budget.
        honest_sites: Whose noise suffices.

    State when done:
        edges: (K,) upper edges of the intervals.
        n_intervals: () K.
        alpha: (J,) log hazard of one interval in each piece, all patients alike; drawn to the overall hazard where
            events are few.
        events: (J,) noisy, at least 0.
        n_events: () noisy, at least `_FEWEST_EVENTS`.
        released_events: (J,) as they were released, with noise: below 0 too.
    """

    def __init__(self, context: Context) -> None:
        self._settings = context.settings
        self._edges = np.asarray(context.settings["bin_edges"], dtype=np.float64)
        self._pieces = pieces_of(context.settings, context.n_bins)
        self._widths = np.bincount(self._pieces).astype(np.float64)
        if self._edges.size != context.n_bins or np.any(np.diff(self._edges) <= 0):
            raise ValueError(f"bin_edges must be {context.n_bins} increasing numbers")

    def parts(self) -> tuple[PartSpec, ...]:
        """Return the one question: events, and share of each piece survived, which is at most 1."""
        j = self._widths.size
        releases = (
            ArraySpec(name="events", shape=(j,), meaning="observed events in each piece of time"),
            ArraySpec(name="survived", shape=(j,), meaning="pieces of time survived, in parts of a piece"),
        )
        noise = noise_of(self._settings, sensitivity=math.sqrt(1 + j))
        return (PartSpec(name="counts", sends=(), releases=releases, times=1, noise=noise),)

    def begin(self, inputs: Arrays) -> Turn:
        """Ask for the counts."""
        return Turn({}, "counts")

    def local(self, part: str, sent: Arrays, cohort: Cohort) -> Arrays:
        """Return this site's counts."""
        spells = interval_of(cohort.time, cohort.event, cohort.entry, self._edges, self._edges.size, exact=False)
        events = np.bincount(self._pieces[spells.event_interval], minlength=self._widths.size)
        survived = over_pieces(spells.survived, np.ones(self._edges.size), self._pieces).sum(axis=0)
        return {"events": events.astype(np.float64), "survived": survived / self._widths}

    def finish(self, part: str, state: Arrays, inputs: Arrays, total: Arrays) -> Turn:
        """Return the grid and the hazards to start from."""
        events = np.maximum(total["events"], 0.0)
        survived = np.maximum(total["survived"], 0.0) * self._widths
        n_events = max(float(total["events"].sum()), _FEWEST_EVENTS)
        overall = n_events / max(float(survived.sum()), n_events / _LARGEST_HAZARD)
        hazard: Floats = (events + 1.0) / (survived + 1.0 / overall)  # one event's worth of the overall hazard
        done = {
            "edges": self._edges,
            "n_intervals": np.array(float(self._edges.size)),
            "alpha": np.log(np.minimum(hazard, _LARGEST_HAZARD)),
            "events": events,
            "n_events": np.array(n_events),
            "released_events": np.array(total["events"]),
        }
        return Turn(done, None)

    def shrink(self, part: str, state: Arrays) -> Turn:
        """Ask the remaining sites the same."""
        return Turn(state, part)
