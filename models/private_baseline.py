"""The baseline hazard behind predictions under differential privacy: the rule of `models.baseline`, with noise.

Piecewise constant over a few pieces of time: events over the hazards of those under observation (Holford 1976).
"""

from __future__ import annotations

import math

import numpy as np

from models.preparation import Preparation
from models.private import noise_of, pieces_of
from models.step import Arrays, Context, Floats, Turn
from models.time_grid import grid_specs, observation_of
from schemas.cohort import Cohort
from schemas.plan import ArraySpec, PartSpec

# A patient's hazard ratio counts as at most this: with x at the mean 1, and rarely more once beta is shrunk.
MAX_RATIO = 4.0
# Of one interval, and positive: what noise can make of a sum must stay a hazard.
_HAZARDS = (1e-12, 2.0)


class PrivateBaseline:
    """Cumulative baseline hazard at the means, from one noisy release.

    Settings:
        pieces: (K,) the piece of each interval, 0 to J - 1.
        share: Of the study's privacy budget.
        honest_sites: Whose noise suffices.

    Inputs: `mean`, `scale` of `private_moments`; `edges`, `n_intervals` of `private_grid`; `beta` of a fit.

    State when done:
        cumulative_hazard: (K,) at the end of each interval; rises evenly within a piece.
        released_events: (J,) as they were released, with noise: below 0 too.
    """

    def __init__(self, context: Context) -> None:
        self._settings = context.settings
        self._p = len(context.design)
        self._preparation = Preparation(context)
        self._pieces = pieces_of(context.settings, context.n_bins)
        self._widths = np.bincount(self._pieces).astype(np.float64)

    def parts(self) -> tuple[PartSpec, ...]:
        """Return the one question: events, and hazards under observation in units of the largest that counts."""
        p, j = self._p, self._widths.size
        beta = ArraySpec(name="beta", shape=(p,), meaning="log hazard ratios")
        releases = (
            ArraySpec(name="events", shape=(j,), meaning="observed events in each piece of time"),
            ArraySpec(
                name="hazard_observed",
                shape=(j,),
                meaning=f"hazards of those under observation, at most {MAX_RATIO:g} each, in units of {MAX_RATIO:g}",
            ),
        )
        noise = noise_of(self._settings, sensitivity=math.sqrt(1 + j))
        sends = (*self._preparation.specs(), *grid_specs(self._pieces.size), beta)
        return (PartSpec(name="risk_sets", sends=sends, releases=releases, times=1, noise=noise),)

    def begin(self, inputs: Arrays) -> Turn:
        """Ask for the sums."""
        return Turn({}, "risk_sets")

    def local(self, part: str, sent: Arrays, cohort: Cohort) -> Arrays:
        """Return this site's events and hazards under observation, by piece."""
        seen = observation_of(
            cohort.time, cohort.event, cohort.entry, sent["edges"], int(sent["n_intervals"]), exact=False
        )
        with np.errstate(all="ignore"):  # as in `models.private_hazard`
            score = np.nan_to_num(self._preparation.log_hazard(cohort, sent))
        ratio = np.exp(np.minimum(score, math.log(MAX_RATIO)))
        starts = np.flatnonzero(np.diff(self._pieces, prepend=-1))
        by_interval = seen.share.T @ (ratio / MAX_RATIO)
        return {
            "events": np.add.reduceat(seen.has_event.sum(axis=0), starts),
            "hazard_observed": np.add.reduceat(by_interval, starts) / self._widths,
        }

    def finish(self, part: str, state: Arrays, inputs: Arrays, total: Arrays) -> Turn:
        """Return the cumulative hazard; a piece with few events is drawn to the overall hazard."""
        events = np.maximum(total["events"], 0.0)
        observed = np.maximum(total["hazard_observed"], 0.0) * MAX_RATIO * self._widths
        overall = (events.sum() + 1.0) / (observed.sum() + 1.0)
        hazard: Floats = (events + 1.0) / (observed + 1.0 / overall)
        cumulative = np.cumsum(np.clip(hazard, *_HAZARDS)[self._pieces])
        return Turn({"cumulative_hazard": cumulative, "released_events": np.array(total["events"])}, None)

    def shrink(self, part: str, state: Arrays) -> Turn:
        """Ask the remaining sites the same."""
        return Turn(state, part)
