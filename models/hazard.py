"""Grouped proportional hazards (Prentice & Gloeckler 1978), the default likelihood.

On a common grid of K intervals a patient at risk survives interval k with probability exp(-exp(eta_ik)), where
eta_ik = alpha_k + x_i beta; beta are the log hazard ratios of Cox's model, alpha the log baseline hazards. A
patient contributes

    l_i = log(1 - exp(-exp(eta_im))) [event in interval m]  -  sum over intervals survived of exp(eta_ik)

(their equation 4), so the likelihood is separable over patients: no risk-set sum leaves a site, and one release of
gradient and information is one Newton step. The information of alpha is diagonal, which the hub's solution uses.

An interval without events, or one that nobody at risk survives, takes part in no estimate of beta: its likelihood
has its supremum 0 at a hazard of 0 or infinity whatever beta is. Such an interval is closed: its alpha is `FLOOR`
or `CEILING`, and the sites leave it out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from models.cox import no_events, penalties_of
from models.moments import covariate_specs, n_patients_spec, standardised
from models.newton import (
    DERIVATIVE_BOUND,
    LOG_HAZARD_LIMIT,
    MAX_ROUNDS,
    Inverse,
    NewtonStep,
    Search,
    inverse,
    packed,
    refused,
    unpacked,
    within_bounds,
)
from models.step import Arrays, Context, Floats, Turn
from models.time_grid import grid_specs, interval_of
from schemas.cohort import Cohort
from schemas.plan import ArraySpec, PartSpec

FLOOR = -50.0
CEILING = 25.0
# Any value does: the first answer tells how many had the event and how many survived, at beta = 0.
_FIRST_ALPHA = -2.0
# A baseline hazard moves by at most this factor's logarithm in one step.
_LONGEST_ALPHA_STEP = 5.0


class Hazard:
    """Newton steps for alpha and beta, with a ridge penalty on beta alone.

    Settings:
        penalties: (p,) lambda of -1/2 lambda beta^2, on the model's scale.
        exact: Whether the grid holds the exact event times.

    Inputs: `mean`, `scale` of `moments`; `edges`, `n_intervals` of `event_grid`.

    State when done:
        beta: (p,) log hazard ratios on the model's scale.
        covariance: (p, p) of beta: the inverse of the penalised information, alpha eliminated; 0 for a coefficient
            that the data do not determine.
        alpha: (K,) log baseline hazards at the means; `FLOOR`, `CEILING` in closed intervals, 0 as padding.
        covariance_full: (K + p, K + p) of (alpha, beta).
        cumulative_hazard: (K,) at the end of each interval, at the means; padding repeats the last.
        log_likelihood: () without the penalty.
        n_patients, n_events: () patients, and events that the grid counts.
    """

    def __init__(self, context: Context) -> None:
        self._design = context.design
        self._names = ("",) * context.n_bins + tuple(column.name for column in context.design)
        self._p = len(context.design)
        self._n_bins = context.n_bins
        self._exact = bool(context.settings.get("exact", False))
        self._penalties = penalties_of(context)

    def parts(self) -> tuple[PartSpec, ...]:
        """Return the one question: value, gradient and information at a point."""
        p, k, bound = self._p, self._n_bins, DERIVATIVE_BOUND
        sends = (
            *covariate_specs(p),
            *grid_specs(k),
            ArraySpec(name="alpha", shape=(k,), meaning="log baseline hazards"),
            ArraySpec(name="beta", shape=(p,), meaning="log hazard ratios"),
        )
        releases = (
            n_patients_spec(),
            ArraySpec(name="events", shape=(k,), meaning="patients with the event in each interval"),
            ArraySpec(name="n_survived", shape=(k,), meaning="patients known to survive each interval"),
            ArraySpec(name="log_likelihood", shape=(), meaning="log-likelihood", bound=bound),
            ArraySpec(name="gradient_alpha", shape=(k,), meaning="its slope in each baseline hazard", bound=bound),
            ArraySpec(name="gradient_beta", shape=(p,), meaning="its slope in each coefficient", bound=bound),
            ArraySpec(
                name="hessian_alpha", shape=(k,), meaning="minus its curvature in each baseline hazard", bound=bound
            ),
            ArraySpec(
                name="hessian_alpha_beta",
                shape=(k, p),
                meaning="minus its curvature in each baseline hazard and coefficient",
                bound=bound,
            ),
            ArraySpec(
                name="hessian_beta",
                shape=(p * (p + 1) // 2,),
                meaning="minus its curvature in each pair of coefficients",
                bound=bound,
            ),
        )
        return (PartSpec(name="newton", sends=sends, releases=releases, times=MAX_ROUNDS),)

    def begin(self, inputs: Arrays) -> Turn:
        """Ask at beta = 0."""
        point = np.zeros(self._n_bins + self._p)
        point[: self._n_bins] = _FIRST_ALPHA
        return self._ask(Search(point, np.zeros_like(point)), started=False)

    def local(self, part: str, sent: Arrays, cohort: Cohort) -> Arrays:
        """Return this site's value, gradient and information at the point sent."""
        releases = self.parts()[0].releases
        x = standardised(cohort, self._design, sent["mean"], sent["scale"])
        log_hazard = x @ sent["beta"]
        if np.any(np.abs(log_hazard) > LOG_HAZARD_LIMIT):
            return refused(releases, "log_likelihood", cohort.n_patients)
        answer = self._summand(sent, cohort, x, log_hazard)
        return answer if within_bounds(releases, answer) else refused(releases, "log_likelihood", cohort.n_patients)

    def _summand(self, sent: Arrays, cohort: Cohort, x: Floats, log_hazard: Floats) -> dict[str, Floats]:
        spells = interval_of(
            cohort.time, cohort.event, cohort.entry, sent["edges"], int(sent["n_intervals"]), exact=self._exact
        )
        survived = spells.survived
        alpha = sent["alpha"]
        is_open = (alpha > FLOOR) & (alpha < CEILING)
        baseline = np.where(is_open, np.exp(np.where(is_open, alpha, 0.0)), 0.0)
        ratio = np.exp(log_hazard)
        # Survival: exp(eta_ik) = exp(alpha_k) exp(x_i beta) splits, so no patients x intervals table is needed.
        expected = ratio * survived.over_intervals(baseline)
        # Events, in open intervals: derivatives of log(1 - exp(-u)) by eta = log u.
        in_open = is_open[spells.event_interval]
        u = np.where(in_open, baseline[spells.event_interval] * ratio[spells.event], 1.0)
        value, slope, curvature = (np.where(in_open, term, 0.0) for term in event_terms(u))
        slope_of, curvature_of = np.zeros(cohort.n_patients), np.zeros(cohort.n_patients)
        slope_of[spells.event], curvature_of[spells.event] = slope, curvature
        columns = np.column_stack((np.ones(cohort.n_patients), x))
        at_risk = baseline[:, None] * survived.over_patients(ratio[:, None] * columns)
        curved = spells.over_events(curvature_of[:, None] * columns) + at_risk
        ones = np.ones(cohort.n_patients)
        return {
            "n_patients": np.array(float(cohort.n_patients)),
            "events": spells.over_events(ones),
            "n_survived": survived.over_patients(ones),
            "log_likelihood": np.array(value.sum() - expected.sum()),
            "gradient_alpha": spells.over_events(slope_of) - at_risk[:, 0],
            "gradient_beta": (slope_of - expected) @ x,
            "hessian_alpha": curved[:, 0],
            "hessian_alpha_beta": curved[:, 1:],
            "hessian_beta": packed((x * (curvature_of + expected)[:, None]).T @ x),
        }

    def finish(self, part: str, state: Arrays, inputs: Arrays, total: Arrays) -> Turn:
        """Return the next point, or the estimates.

        Raises:
            DivergedError: When no patient has the event on this grid, or the search finds no end.
        """
        search = Search.of(state)
        alpha, beta = search.candidate[: self._n_bins], search.candidate[self._n_bins :]
        objective = float(total["log_likelihood"]) - 0.5 * float(self._penalties @ beta**2)
        if search.falls(objective):
            return self._ask(search.halved())
        fitting = _fitting_alpha(alpha, total, started=bool(state["started"]))
        if not np.array_equal(fitting, alpha):
            point = np.concatenate((fitting, beta))
            moved = replace(search, point=point, direction=np.zeros_like(point), objective=None)
            return self._ask(replace(moved, rounds=search.rounds + 1))
        model = self._model(alpha, beta, total)
        following = search.stepped(objective, model.step, self._names)
        if following is None:
            return Turn(self._done(search.candidate + model.step.direction, objective, model, inputs, total), None)
        longest = np.max(np.abs(following.direction[: self._n_bins]))
        return self._ask(replace(following, length=min(1.0, _LONGEST_ALPHA_STEP / max(longest, 1.0))))

    def shrink(self, part: str, state: Arrays) -> Turn:
        """Go on from the last point, over the remaining sites."""
        return self._ask(Search.of(state).restarted(), started=bool(state["started"]))

    def _ask(self, search: Search, *, started: bool = True) -> Turn:
        candidate = search.candidate
        asked = {"alpha": candidate[: self._n_bins], "beta": candidate[self._n_bins :]}
        return Turn({**search.arrays(), **asked, "started": np.array(float(started))}, "newton")

    def _model(self, alpha: Floats, beta: Floats, total: Arrays) -> _ArrowModel:
        is_open = (alpha > FLOOR) & (alpha < CEILING)
        # (K, p): how much each baseline hazard gives way to each coefficient, A^-1 B of the arrow matrix
        # [[A, B], [B', C]] with A diagonal.
        give = np.zeros((self._n_bins, self._p))
        give[is_open] = total["hessian_alpha_beta"][is_open] / total["hessian_alpha"][is_open, None]
        alone = np.zeros(self._n_bins)
        alone[is_open] = 1 / total["hessian_alpha"][is_open]
        information = unpacked(total["hessian_beta"], self._p)
        scale = np.diag(information).copy()
        schur = information + np.diag(self._penalties) - total["hessian_alpha_beta"].T @ give
        solved = inverse(schur, scale)
        gradient_beta = total["gradient_beta"] - self._penalties * beta
        along_beta = solved.matrix @ (gradient_beta - give.T @ total["gradient_alpha"])
        along_alpha = alone * total["gradient_alpha"] - give @ along_beta
        direction = np.concatenate((along_alpha, along_beta))
        decrement = float(along_alpha @ total["gradient_alpha"] + along_beta @ gradient_beta)
        diagonal = np.concatenate((total["hessian_alpha"], scale + self._penalties))
        return _ArrowModel(NewtonStep(direction, decrement, diagonal), solved, give, alone)

    def _done(
        self, point: Floats, objective: float, model: _ArrowModel, inputs: Arrays, total: Arrays
    ) -> dict[str, Floats]:
        in_use = np.arange(self._n_bins) < int(inputs["n_intervals"])
        alpha, beta = np.where(in_use, point[: self._n_bins], 0.0), point[self._n_bins :]
        penalty = 0.5 * float(self._penalties @ beta**2)
        return {
            "beta": beta,
            "covariance": model.inverse.covariance,
            "alpha": alpha,
            "covariance_full": model.covariance,
            "cumulative_hazard": np.cumsum(np.where(in_use, np.exp(alpha), 0.0)),
            # The last step's gain by the exact second-order expansion: no further round is needed.
            "log_likelihood": np.array(objective + model.step.decrement / 2 + penalty),
            "n_patients": np.array(float(total["n_patients"])),
            "n_events": np.array(float(total["events"].sum())),
        }


@dataclass(frozen=True)
class _ArrowModel:
    """The second-order model at a point.

    Attributes:
        step: Newton step of (alpha, beta).
        inverse: Of beta's information with alpha eliminated.
        give: (K, p) A^-1 B, see `Hazard._model`.
        alone: (K,) diagonal of A^-1, 0 in closed intervals.
    """

    step: NewtonStep
    inverse: Inverse
    give: Floats
    alone: Floats

    @property
    def covariance(self) -> Floats:
        """(K + p, K + p) covariance of (alpha, beta), from the block inverse of the arrow matrix."""
        beta = self.inverse.covariance
        cross = -self.give @ beta
        alpha = np.diag(self.alone) - cross @ self.give.T
        return np.block([[alpha, cross], [cross.T, beta]])


def _fitting_alpha(alpha: Floats, total: Arrays, *, started: bool) -> Floats:
    """Return `alpha` with the intervals closed that the counts close; at the start, the estimate at beta = 0.

    At beta = 0 all at risk are alike, and exp(-exp(alpha)) is the share that survives.

    Raises:
        DivergedError: When there is no event at all.
    """
    events, survived = total["events"], total["n_survived"]
    if not events.any():
        raise no_events()
    both = (events > 0) & (survived > 0)
    odds = np.where(both, events, 1.0) / np.where(both, survived, 1.0)
    known = alpha if started else np.log(np.log1p(odds))
    return np.where(both, known, np.where(events > 0, CEILING, FLOOR))


def event_terms(u: Floats) -> tuple[Floats, Floats, Floats]:
    """Return log(1 - exp(-u)) with its slope and minus its curvature in log u, without cancellation.

    With a = u / (exp(u) - 1) the slope is a and minus the curvature a (u + a - 1) >= 0. Below 0.05 the last factor is
    taken from the series of a (Bernoulli numbers), because there it is a small difference of numbers near 1.

    Args:
        u: (m,) hazards > 0.
    """
    failing = -np.expm1(-u)
    slope = u * np.exp(-u) / failing
    near = np.minimum(u, 0.05)
    series = near / 2 + near**2 / 12 - near**4 / 720 + near**6 / 30240
    return (
        np.where(u < np.log(2.0), np.log(failing), np.log1p(-np.minimum(np.exp(-u), 0.5))),
        slope,
        slope * np.where(u < 0.05, series, u + slope - 1),
    )
