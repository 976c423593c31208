"""Predicted survival under each arm of a treatment, averaged over the patients, and the difference between the two.

Marginal standardisation (G-computation: Robins 1986; for hazards Makuch 1982, Journal of Chronic Diseases 35:437):
every patient's curve is predicted twice, as if treated and as if not, whatever they received, with their own other
covariates; the curves are averaged over the patients. In a randomised trial the difference estimates what the
treatment does; elsewhere only as far as the covariates account for who was treated.

The interval is by the delta method. With h_k the baseline hazards of `models.baseline`, events over the hazards under
observation S0_k, and E_k = S1_k / S0_k their mean covariates (Tsiatis 1981, Annals of Statistics 9:93),

    Var(log h) = diag(1 / d) + E V E',   Cov(log h, beta) = -E V,   V the covariance of beta,

so the variance of the difference at t is D' V* D with D its derivatives by (log h, beta): sums over patients, which
the sites release. The patients are taken as given: the interval is of the difference among them, not among others.
"""

from __future__ import annotations

import numpy as np

from models.baseline import cumulative_hazard_at
from models.moments import n_patients_spec
from models.newton import DERIVATIVE_BOUND
from models.preparation import Preparation
from models.scores import individual_hazard, prediction_specs
from models.step import Arrays, Context, Floats, Turn
from models.time_grid import observation_of
from schemas.cohort import Cohort
from schemas.design import DesignColumn
from schemas.plan import ArraySpec, PartSpec

ARMS = (0.0, 1.0)
"""Control and treated, in the order of every array by arm."""


class TreatmentResponse:
    """One round: sums of the patients' predicted survival under both arms, with the derivatives.

    Settings:
        treatment: Name of the design column that is 1 in treated patients.
        exact: Whether the grid holds the exact event times.

    Inputs: those of a prediction, and `covariance` (p, p) of a fit. T = K + H times: the K edges of the grid, then
    the H horizons; A = 2 arms, control first.

    State when done:
        survival: (2, T) means over the patients; after the last interval in use padded with its last value.
        standard_error: (2, T).
        difference: (T,) treated minus control.
        difference_se: (T,).
        n_patients: ().
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._preparation = Preparation(context)
        self._p = len(context.design)
        self._n_bins = context.n_bins
        self._horizons = np.asarray(context.horizons, dtype=np.float64)
        self._exact = bool(context.settings.get("exact", False))
        self._treatment: str = context.settings["treatment"]

    def parts(self) -> tuple[PartSpec, ...]:
        """Return the one question: the sums over patients."""
        p, k, bound = self._p, self._n_bins, DERIVATIVE_BOUND
        t = k + self._horizons.size
        releases = (
            n_patients_spec(),
            ArraySpec(name="survival", shape=(2, t), meaning="sum of predicted survival under each arm at each time"),
            ArraySpec(
                name="slope_baseline",
                shape=(2, t),
                meaning="its slope in the cumulative baseline hazard, under each arm at each time",
                bound=bound,
            ),
            ArraySpec(
                name="slope_beta",
                shape=(2, t, p),
                meaning="its slope in each coefficient, under each arm at each time",
                bound=bound,
            ),
            ArraySpec(name="events", shape=(k,), meaning="patients with the event in each interval"),
            ArraySpec(
                name="hazard_observed",
                shape=(k,),
                meaning="hazards of those under observation, each for the share of the interval",
                bound=bound,
            ),
            ArraySpec(
                name="covariates_observed",
                shape=(k, p),
                meaning="covariates times hazards of those under observation",
                bound=bound,
            ),
        )
        return (PartSpec(name="arms", sends=prediction_specs(self._context), releases=releases, times=1),)

    def begin(self, inputs: Arrays) -> Turn:
        """Ask for the sums."""
        return Turn({}, "arms")

    def local(self, part: str, sent: Arrays, cohort: Cohort) -> Arrays:
        """Return this site's sums."""
        observed = self._preparation.matrix(cohort, sent)
        cumulative = self._cumulative(sent)
        survival, slope, by_beta = [], [], []
        for arm in ARMS:
            x = self._as_if(arm, observed, cohort, sent)
            hazard = individual_hazard(cumulative, (x * sent["beta"]).sum(axis=1))  # (n, T)
            surviving = np.exp(-hazard)
            survival.append(surviving.sum(axis=0))
            # dS/dbeta = -H S x, and dS/dH0 = -(H / H0) S, where H / H0 is the hazard ratio even at H0 = 0.
            ratio = individual_hazard(np.ones(1), (x * sent["beta"]).sum(axis=1))
            slope.append(-(ratio * surviving).sum(axis=0))
            by_beta.append(-(hazard * surviving).T @ x)
        return {
            "n_patients": np.array(float(cohort.n_patients)),
            "survival": np.stack(survival),
            "slope_baseline": np.stack(slope),
            "slope_beta": np.stack(by_beta),
            **self._under_observation(sent, cohort, observed),
        }

    def finish(self, part: str, state: Arrays, inputs: Arrays, total: Arrays) -> Turn:
        """Return the mean curves, their difference and the standard errors."""
        n = max(float(total["n_patients"]), 1.0)
        spread = _Spread.of(total, inputs["covariance"])
        # (T, K): how the cumulative hazard at each time moves with the log hazard of each interval.
        hazard = np.diff(inputs["cumulative_hazard"], prepend=0.0)
        reach = np.stack([self._cumulative({**inputs, "cumulative_hazard": one}) for one in _steps(hazard)], axis=1)
        by_hazard = total["slope_baseline"][:, :, None] * reach[None] / n
        by_beta = total["slope_beta"] / n
        survival = total["survival"] / n
        done = {
            "survival": survival,
            "standard_error": np.stack([spread.error(by_hazard[a], by_beta[a]) for a in range(2)]),
            "difference": survival[1] - survival[0],
            "difference_se": spread.error(by_hazard[1] - by_hazard[0], by_beta[1] - by_beta[0]),
            "n_patients": total["n_patients"],
        }
        return Turn(done, None)

    def shrink(self, part: str, state: Arrays) -> Turn:
        """Ask the remaining sites the same."""
        return Turn(state, part)

    def _as_if(self, arm: float, x: Floats, cohort: Cohort, sent: Arrays) -> Floats:
        """Return the (n, p) matrix that the patients would have under one arm."""
        changed, mean, scale = np.array(x), sent["mean"], sent["scale"]
        for j, column in enumerate(self._context.design):
            if column.name == self._treatment:
                changed[:, j] = (arm - mean[j]) / scale[j]
            elif column.treatment is not None:
                cells = cohort.matrix((self._main(column),))[:, 0] - mean[j]
                changed[:, j] = arm * np.where(np.isnan(cells), 0.0, cells) / scale[j]
        return changed

    def _main(self, interaction: DesignColumn) -> DesignColumn:
        """Return the covariate's own column."""
        own = [
            column
            for column in self._context.design
            if column.treatment is None and (column.column, column.code) == (interaction.column, interaction.code)
        ]
        return own[0]

    def _cumulative(self, sent: Arrays) -> Floats:
        """Return the (T,) cumulative baseline hazard at the edges and the horizons."""
        horizons = cumulative_hazard_at(
            self._horizons, sent["edges"], int(sent["n_intervals"]), sent["cumulative_hazard"], exact=self._exact
        )
        return np.concatenate((sent["cumulative_hazard"], horizons))

    def _under_observation(self, sent: Arrays, cohort: Cohort, x: Floats) -> dict[str, Floats]:
        seen = observation_of(
            cohort.time, cohort.event, cohort.entry, sent["edges"], int(sent["n_intervals"]), exact=self._exact
        )
        hazard = individual_hazard(np.ones(1), (x * sent["beta"]).sum(axis=1))
        return {
            "events": seen.has_event.sum(axis=0),
            "hazard_observed": seen.share.T @ hazard[:, 0],
            "covariates_observed": seen.share.T @ (hazard * x),
        }


class _Spread:
    """The joint covariance of the log baseline hazards and the coefficients, as the module's head gives it."""

    def __init__(self, own: Floats, mean: Floats, covariance: Floats) -> None:
        self._own, self._mean, self._covariance = own, mean, covariance

    @classmethod
    def of(cls, total: Arrays, covariance: Floats) -> _Spread:
        has_events = (total["events"] > 0) & (total["hazard_observed"] > 0)
        own = np.divide(1.0, total["events"], out=np.zeros(has_events.size), where=has_events)
        observed = np.where(has_events, total["hazard_observed"], 1.0)[:, None]
        return cls(own, np.where(has_events[:, None], total["covariates_observed"] / observed, 0.0), covariance)

    def error(self, by_hazard: Floats, by_beta: Floats) -> Floats:
        """Return the (T,) standard errors of what has the derivatives (T, K) by log h and (T, p) by beta."""
        through_beta = by_beta - by_hazard @ self._mean
        variance = (by_hazard**2 * self._own).sum(axis=1)
        variance += np.einsum("tp,pq,tq->t", through_beta, self._covariance, through_beta)
        return np.asarray(np.sqrt(np.maximum(variance, 0.0)), dtype=np.float64)


def _steps(hazard: Floats) -> list[Floats]:
    """Return for each interval the cumulative hazard that it alone would make."""
    return [np.cumsum(np.where(np.arange(hazard.size) == k, hazard, 0.0)) for k in range(hazard.size)]
