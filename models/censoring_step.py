"""The censoring curve of all sites, from sums: what Uno's C is weighted by.

It is taken from the patients who trained the model, as is usual (Uno et al. 2011, Statistics in Medicine 30:1105):
those who are judged are a fifth of them, too few for a curve whose square is divided by. The bins of time are those
of `models.ranking`, narrower than the intervals of the grid, in which events would hide when censoring fell.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.moments import n_patients_spec
from models.ranking import n_time_bins, time_edges
from models.step import Arrays, Context, Floats, Turn
from models.time_grid import grid_specs
from schemas.cohort import Cohort
from schemas.plan import ArraySpec, PartSpec

__all__ = ["Censoring", "life_table"]


@dataclass(frozen=True)
class Censoring:
    """One round: events, censorings and late entries in each bin of time.

    Inputs: edges(K), n_intervals and events(K) of the grid. State when done: censoring_survival (T,) the probability
    of not being censored before the middle of each bin; n_patients ().
    """

    context: Context

    def parts(self) -> tuple[PartSpec, ...]:
        """Return the one question."""
        k = self.context.n_bins
        events = ArraySpec(name="events", shape=(k,), meaning="events in each interval of the grid")
        shape = (n_time_bins(k),)
        releases = (
            n_patients_spec(),
            ArraySpec(name="n_failed", shape=shape, meaning="patients with the event in each bin of time"),
            ArraySpec(name="n_censored", shape=shape, meaning="patients without it by the bin of time they left in"),
            ArraySpec(name="n_entered", shape=shape, meaning="patients who came under observation later, by bin"),
        )
        return (PartSpec(name="counts", sends=(*grid_specs(k), events), releases=releases, times=1),)

    def begin(self, inputs: Arrays) -> Turn:
        """Ask at once."""
        return Turn({}, "counts")

    def local(self, part: str, sent: Arrays, cohort: Cohort) -> Arrays:
        """Return this site's counts."""
        edges = time_edges(sent)

        def counted(times: Floats, who: NDArray[np.bool_]) -> Floats:
            rows = np.searchsorted(edges, times[who], side="left")
            return np.bincount(rows, minlength=edges.size).astype(np.float64)

        return {
            "n_patients": np.array(float(cohort.n_patients)),
            "n_failed": counted(cohort.time, cohort.event),
            "n_censored": counted(cohort.time, ~cohort.event),
            "n_entered": counted(cohort.entry, cohort.entry > 0),
        }

    def finish(self, part: str, state: Arrays, inputs: Arrays, total: Arrays) -> Turn:
        """Return the curve."""
        survival = life_table(total["n_failed"], total["n_censored"], total["n_entered"])
        return Turn({"censoring_survival": survival, "n_patients": total["n_patients"]}, None)

    def shrink(self, part: str, state: Arrays) -> Turn:
        """Ask the remaining sites the same."""
        return Turn(state, part)


def life_table(events: Floats, censored: Floats, entered: Floats) -> Floats:
    """Return (T,) the probability of not being censored before the middle of each bin.

    Of those at risk as a bin begins, who has the event in it is at risk of censoring for half of it, and who enters
    in it likewise (the actuarial rule: Cutler & Ederer 1958, Journal of Chronic Diseases 8:699).

    Args:
        events: (T,) patients with the event in each bin.
        censored: (T,) patients who left without it.
        entered: (T,) patients who came under observation there, of those who did after the origin.
    """
    at_risk = np.cumsum((events + censored)[::-1])[::-1] - 0.5 * events
    at_risk = at_risk - np.cumsum(entered[::-1])[::-1] + 0.5 * entered
    share = np.divide(censored, at_risk, out=np.zeros(censored.size), where=at_risk > 0)
    through: Floats = np.cumprod(1.0 - np.clip(share, 0.0, 1.0), dtype=np.float64)
    return np.sqrt(np.concatenate(([1.0], through[:-1])) * through)
