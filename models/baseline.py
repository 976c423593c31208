"""The baseline hazard that predictions stand on, and survival from a cumulative hazard on the grid.

With exact event times it is Breslow's (1974). On a merged grid it is the hazard of a piecewise exponential model at
the given coefficients (Holford 1976, Biometrics 32:587): events over the hazards of those under observation, each
for the share of the interval in which they were (docs/adr/0009).
"""

from __future__ import annotations

import numpy as np

from models.moments import n_patients_spec
from models.newton import DERIVATIVE_BOUND
from models.predictor import Predictor
from models.preparation import Preparation
from models.step import Arrays, Context, Floats, Turn
from models.time_grid import grid_specs, observation_of
from schemas.cohort import Cohort
from schemas.plan import ArraySpec, PartSpec

_LONGEST_EXPONENT = 700.0


class Baseline:
    """Cumulative baseline hazard at the means: events / hazards under observation, summed over the intervals so far.

    Settings:
        exact: Whether the grid holds the exact event times.
        with_covariates: Whether to sum the covariates with the hazards, for the interval of a Cox model's curves
            (`models.baseline_spread`); a grouped hazard fit has what it needs already.

    Inputs: `mean`, `scale` of `moments`; `edges`, `n_intervals` of `event_grid`; `beta` of a fit.

    State when done:
        cumulative_hazard: (K,) at the end of each interval; padding repeats the last.
        n_patients: () patients.
        events, hazard_observed: (K,) and mean_covariates: (K, p), with `with_covariates`: the sums themselves, and
            the means of the covariates over those under observation, their hazards as weights.
    """

    def __init__(self, context: Context) -> None:
        self._p = len(context.design)
        self._preparation = Preparation(context)
        self._predictor = Predictor(context)
        self._n_bins = context.n_bins
        self._exact = bool(context.settings.get("exact", False))
        self._with_covariates = bool(context.settings.get("with_covariates", False))

    def parts(self) -> tuple[PartSpec, ...]:
        """Return the one question: events and hazards under observation."""
        k = self._n_bins
        releases = (
            n_patients_spec(),
            ArraySpec(name="events", shape=(k,), meaning="patients with the event in each interval"),
            ArraySpec(
                name="hazard_observed",
                shape=(k,),
                meaning="hazards of those under observation, each for the share of the interval",
                bound=DERIVATIVE_BOUND,
            ),
            *(self._covariates_spec(),) * self._with_covariates,
        )
        sends = (*self._predictor.specs(), *grid_specs(k))
        return (PartSpec(name="risk_sets", sends=sends, releases=releases, times=1),)

    def begin(self, inputs: Arrays) -> Turn:
        """Ask for the sums."""
        return Turn({}, "risk_sets")

    def local(self, part: str, sent: Arrays, cohort: Cohort) -> Arrays:
        """Return this site's events and hazards under observation."""
        seen = observation_of(
            cohort.time, cohort.event, cohort.entry, sent["edges"], int(sent["n_intervals"]), exact=self._exact
        )
        hazard = np.exp(self._predictor.log_hazard(cohort, sent))
        answer = {
            "n_patients": np.array(float(cohort.n_patients)),
            "events": seen.has_event.sum(axis=0),
            "hazard_observed": seen.share.T @ hazard,
        }
        if self._with_covariates:
            answer["covariates_observed"] = (seen.share * hazard[:, None]).T @ self._preparation.matrix(cohort, sent)
        return answer

    def finish(self, part: str, state: Arrays, inputs: Arrays, total: Arrays) -> Turn:
        """Return the cumulative hazard."""
        has_events = total["events"] > 0
        hazard = np.where(has_events, total["events"], 0.0) / np.where(has_events, total["hazard_observed"], 1.0)
        done = {"cumulative_hazard": np.cumsum(hazard), "n_patients": total["n_patients"]}
        if self._with_covariates:
            observed = np.where(total["hazard_observed"] > 0, total["hazard_observed"], 1.0)
            done |= {
                "events": total["events"],
                "hazard_observed": total["hazard_observed"],
                "mean_covariates": total["covariates_observed"] / observed[:, None],
            }
        return Turn(done, None)

    def shrink(self, part: str, state: Arrays) -> Turn:
        """Ask the remaining sites the same."""
        return Turn(state, part)

    def _covariates_spec(self) -> ArraySpec:
        return ArraySpec(
            name="covariates_observed",
            shape=(self._n_bins, self._p),
            meaning="covariates times hazards of those under observation, each for the share of the interval",
            bound=DERIVATIVE_BOUND,
        )


def cumulative_hazard_at(
    times: Floats, edges: Floats, n_intervals: int, cumulative_hazard: Floats, *, exact: bool
) -> Floats:
    """Return the baseline cumulative hazard at any times, in the shape of `times`.

    On exact event times it steps at each of them. On a merged grid it is known at the edges only, and rises evenly
    between them. Beyond the last edge it stays as it was there: nothing was observed.

    Args:
        times: Times >= 0.
        edges: (K,) upper edges, padded after the first `n_intervals`.
        n_intervals: Intervals in use.
        cumulative_hazard: (K,) at the edges.
        exact: Whether the edges are the exact event times.
    """
    knots = np.concatenate(([0.0], edges[: int(n_intervals)]))
    values = np.concatenate(([0.0], cumulative_hazard[: int(n_intervals)]))
    if exact:
        return values[np.searchsorted(knots[1:], times, side="right")]
    return np.interp(times, knots, values)


def survival(log_hazard: Floats, cumulative: Floats) -> Floats:
    """Return the (n, m) probabilities exp(-H_j e^(log hazard_i)) of surviving m times.

    Args:
        log_hazard: (n,) relative to the means.
        cumulative: (m,) baseline cumulative hazards at the times.
    """
    expected = np.exp(np.minimum(log_hazard, _LONGEST_EXPONENT))[:, None] * cumulative[None, :]
    return np.exp(-expected)
