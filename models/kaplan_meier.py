"""Observed and predicted survival by risk group: the Kaplan-Meier and the calibration figure, in one round.

Observed is the product-limit estimate (Kaplan & Meier 1958, JASA 53:457) on the common time grid, with Greenwood's
standard error; whoever is under observation for a part of an interval counts for that part, as in a life table.
Predicted is the mean over the group's patients of their own predicted survival.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.baseline import cumulative_hazard_at
from models.moments import n_patients_spec
from models.scores import individual_hazard, log_hazards, prediction_specs
from models.step import Arrays, Context, Floats, Turn
from models.time_grid import Observation, observation_of
from schemas.cohort import Cohort
from schemas.plan import ArraySpec, PartSpec

N_GROUPS = 3


def product_limit(at_risk: Floats, events: Floats) -> tuple[Floats, Floats]:
    """Return survival and its standard error from counts at risk and events, along the last axis.

    S_k = prod_{j<=k} (1 - d_j / r_j); Greenwood (1926): Var S_k = S_k^2 sum_{j<=k} d_j / (r_j (r_j - d_j)). Where
    nobody is at risk the curve stays as it was; where all at risk fail it is 0, and so is the standard error (R gives
    none there).

    Args:
        at_risk: (..., K).
        events: (..., K), at most `at_risk`.
    """
    left = at_risk - events
    surviving = np.divide(left, at_risk, out=np.ones(left.shape), where=at_risk > 0)
    curve: Floats = np.cumprod(surviving, axis=-1, dtype=np.float64)
    terms = np.divide(events, at_risk * left, out=np.zeros(left.shape), where=left > 0)
    return curve, curve * np.sqrt(np.cumsum(terms, axis=-1))


def group_sums(log_hazard: Floats, cutpoints: Floats, seen: Observation, hazard: Floats) -> dict[str, Floats]:
    """Return what one site adds to the groups: patients, at risk, events, predicted survival.

    Args:
        log_hazard: (n,).
        cutpoints: (G - 1,) ascending, between the groups.
        seen: In which intervals each patient was observed.
        hazard: (H,) cumulative hazards at the horizons, of a patient at the means.
    """
    group = (log_hazard[:, None] > cutpoints).sum(axis=1)
    member = (group[:, None] == np.arange(cutpoints.size + 1)).astype(np.float64)
    return {
        "n_group": member.sum(axis=0),
        "at_risk": member.T @ seen.at_risk,
        "events": member.T @ seen.has_event,
        "predicted_survival": member.T @ np.exp(-individual_hazard(hazard, log_hazard)),
    }


@dataclass(frozen=True)
class KaplanMeier:
    """One round: patients at risk and events by risk group and interval, and sums of predicted survival.

    Settings:
        n_groups: G, 3 by default.

    Inputs: mean(p), scale(p), beta(p), edges(K), n_intervals, cumulative_hazard(K), cutpoints(G - 1). H is the number
    of horizons.

    State when done:
        survival: (G, K) observed at the edges, low risk first; padded with its last value.
        standard_error: (G, K) Greenwood.
        at_risk: (G, K).
        events: (G, K).
        n_group: (G,) patients; where it is 0 the group's other figures mean nothing.
        predicted: (G, H) mean predicted survival at the horizons.
        observed: (G, H) observed survival there, linear within an interval; beyond the grid its last value.
        observed_standard_error: (G, H).
        n_patients: ().
    """

    context: Context

    def parts(self) -> tuple[PartSpec, ...]:
        """Return the one question: counts and predictions by group."""
        k, h = self.context.n_bins, len(self.context.horizons)
        groups = self._n_groups
        cutpoints = ArraySpec(name="cutpoints", shape=(groups - 1,), meaning="log hazards between the risk groups")
        releases = (
            n_patients_spec(),
            ArraySpec(name="n_group", shape=(groups,), meaning="patients of each risk group, lowest first"),
            ArraySpec(
                name="at_risk",
                shape=(groups, k),
                meaning="of them, at risk in each interval, by the share of it observed",
            ),
            ArraySpec(name="events", shape=(groups, k), meaning="of them, with the event in each interval"),
            ArraySpec(
                name="predicted_survival",
                shape=(groups, h),
                meaning="sum over each group of the predicted survival at each horizon",
            ),
        )
        sends = (*prediction_specs(self.context), cutpoints)
        return (PartSpec(name="groups", sends=sends, releases=releases, times=1),)

    def begin(self, inputs: Arrays) -> Turn:
        """Ask for the counts."""
        return Turn({}, "groups")

    def local(self, part: str, sent: Arrays, cohort: Cohort) -> Arrays:
        """Return this site's counts and sums."""
        scores = log_hazards(self.context, sent, cohort)
        hazard = self._at_horizons(sent["cumulative_hazard"], sent)
        sums = group_sums(scores, sent["cutpoints"], self._observation(sent, cohort), hazard)
        return {"n_patients": np.array(float(cohort.n_patients)), **sums}

    def finish(self, part: str, state: Arrays, inputs: Arrays, total: Arrays) -> Turn:
        """Return the curves."""
        curve, error = product_limit(total["at_risk"], total["events"])
        done = {
            "survival": curve,
            "standard_error": error,
            "at_risk": total["at_risk"],
            "events": total["events"],
            "n_group": total["n_group"],
            "predicted": total["predicted_survival"] / np.maximum(total["n_group"], 1.0)[:, None],
            "observed": 1.0 - np.stack([self._at_horizons(1.0 - row, inputs) for row in curve]),
            "observed_standard_error": np.stack([self._at_horizons(row, inputs) for row in error]),
            "n_patients": total["n_patients"],
        }
        return Turn(done, None)

    def shrink(self, part: str, state: Arrays) -> Turn:
        """Ask the remaining sites the same."""
        return Turn(state, part)

    @property
    def _n_groups(self) -> int:
        return int(self.context.settings.get("n_groups", N_GROUPS))

    def _observation(self, sent: Arrays, cohort: Cohort) -> Observation:
        exact, n_intervals = bool(self.context.settings.get("exact", False)), int(sent["n_intervals"])
        return observation_of(cohort.time, cohort.event, cohort.entry, sent["edges"], n_intervals, exact=exact)

    def _at_horizons(self, curve: Floats, grid: Arrays) -> Floats:
        # Any curve that starts from 0 is read off as a cumulative hazard is.
        horizons = np.asarray(self.context.horizons, dtype=np.float64)
        exact = bool(self.context.settings.get("exact", False))
        return cumulative_hazard_at(horizons, grid["edges"], int(grid["n_intervals"]), curve, exact=exact)
