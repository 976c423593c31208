"""Grouped proportional hazards (Prentice & Gloeckler 1978), the default likelihood.

On a common grid of K intervals a patient at risk survives interval k with probability exp(-exp(alpha_k + x_i beta));
beta are the log hazard ratios of Cox's model, alpha the log baseline hazards. The likelihood
(`models.grouped_likelihood`) is separable over patients: no risk-set sum leaves a site, and one release of gradient
and information is one Newton step. The information of alpha is diagonal, which the hub's solution uses.

The search ends with one scoring step: the same release with the expected information, whose inverse is the
covariance. So standard errors are those of a generalised linear model, as R's glm reports them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from models.cox import no_events
from models.grouped_likelihood import CEILING, FLOOR, alpha_at_zero, is_open, slope_specs, summand
from models.newton import (
    DERIVATIVE_BOUND,
    MAX_ROUNDS,
    NewtonStep,
    Search,
    can_evaluate,
    inverse,
    refused,
    unpacked,
    within_bounds,
)
from models.penalties import Penalties, switched_off
from models.preparation import Preparation
from models.step import Arrays, Context, Floats, Turn
from models.time_grid import grid_specs, interval_of
from schemas.cohort import Cohort
from schemas.plan import ArraySpec, PartSpec

# Where the first question is asked: hazards so small that the likelihood is Poisson's (see `_first_direction`).
_FIRST_ALPHA = -7.0
# A baseline hazard moves by at most this factor's logarithm in one step.
_LONGEST_ALPHA_STEP = 5.0
# The scoring step squares what this leaves as error once more, up to a factor of about 1/20.
_TOLERANCE = 1e-11


class Hazard:
    """Newton steps for alpha and beta, with a ridge penalty on beta alone.

    Settings:
        penalties: As of `models.cox.Cox`.
        exact: Whether the grid holds the exact event times.

    Inputs: `mean`, `scale` of `moments`; `edges`, `n_intervals` of `event_grid`.

    State when done:
        beta: (p,) log hazard ratios on the model's scale.
        covariance: (p, p) of beta: the inverse of the penalised expected information, alpha eliminated; 0 for a
            coefficient that the data do not determine.
        alpha: (K,) log baseline hazards at the means; `FLOOR`, `CEILING` in closed intervals, 0 as padding.
        covariance_full: (K + p, K + p) of (alpha, beta).
        cumulative_hazard: (K,) at the end of each interval, at the means; padding repeats the last.
        log_likelihood: () without the penalty.
        n_patients, n_events: () patients, and events that the grid counts.
    """

    def __init__(self, context: Context) -> None:
        self._preparation = Preparation(context)
        self._names = ("",) * context.n_bins + tuple(column.name for column in context.design)
        self._p = len(context.design)
        self._n_bins = context.n_bins
        self._exact = bool(context.settings.get("exact", False))
        self._penalties = Penalties(context)

    def parts(self) -> tuple[PartSpec, ...]:
        """Return the two questions: value, gradient and observed, or expected, information at a point."""
        p, k, bound = self._p, self._n_bins, DERIVATIVE_BOUND
        sends = (
            *self._preparation.specs(),
            *grid_specs(k),
            ArraySpec(name="alpha", shape=(k,), meaning="log baseline hazards"),
            ArraySpec(name="beta", shape=(p,), meaning="log hazard ratios"),
        )
        releases = (
            *slope_specs(k, p),
            ArraySpec(
                name="hessian_alpha_beta",
                shape=(k, p),
                meaning="its information on each baseline hazard and coefficient",
                bound=bound,
            ),
            ArraySpec(
                name="hessian_beta",
                shape=(p * (p + 1) // 2,),
                meaning="its information on each pair of coefficients",
                bound=bound,
            ),
        )
        return (
            PartSpec(name="newton", sends=sends, releases=releases, times=MAX_ROUNDS),
            PartSpec(name="scoring", sends=sends, releases=releases, times=MAX_ROUNDS),
        )

    def begin(self, inputs: Arrays) -> Turn:
        """Ask at beta = 0."""
        point = np.zeros(self._n_bins + self._p)
        point[: self._n_bins] = _FIRST_ALPHA
        return self._ask(Search(point, np.zeros_like(point)), started=False)

    def local(self, part: str, sent: Arrays, cohort: Cohort) -> Arrays:
        """Return this site's value, gradient and information at the point sent."""
        releases = self.parts()[0].releases
        x = self._preparation.matrix(cohort, sent)
        log_hazard = x @ sent["beta"]
        if not can_evaluate(log_hazard):
            return refused(releases, "log_likelihood", cohort.n_patients)
        spells = interval_of(
            cohort.time, cohort.event, cohort.entry, sent["edges"], int(sent["n_intervals"]), exact=self._exact
        )
        answer = summand(spells, x, log_hazard, sent["alpha"], expected=part == "scoring")
        return answer if within_bounds(releases, answer) else refused(releases, "log_likelihood", cohort.n_patients)

    def finish(self, part: str, state: Arrays, inputs: Arrays, total: Arrays) -> Turn:
        """Return the next point, or the estimates.

        Raises:
            DivergedError: When no patient has the event on this grid, or the search finds no end.
        """
        search = Search.of(state)
        alpha, beta = search.candidate[: self._n_bins], search.candidate[self._n_bins :]
        penalties = self._penalties.of(inputs)
        objective = float(total["log_likelihood"]) - 0.5 * float(penalties @ beta**2)
        if search.falls(objective):
            return self._ask(_shortened(search))
        if not state["started"]:
            return self._ask(self._first_search(total, penalties))
        closing = np.where(_in_use(total), alpha, _closed_alpha(total))
        if not np.array_equal(closing, alpha):  # a site with an interval's only events has left
            moved = Search(np.concatenate((closing, beta)), np.zeros_like(search.point), rounds=search.rounds + 1)
            return self._ask(replace(moved, first_information=search.first_information))
        model = self._model(alpha, beta, total, penalties)
        if part == "scoring":
            point = search.candidate + model.step.direction
            return Turn(self._done(point, objective, model, inputs, total), None)
        following = search.stepped(objective, model.step, self._names, _TOLERANCE)
        if following is None:
            last = replace(search, point=search.candidate, direction=model.step.direction, length=1.0)
            return self._ask(replace(last, objective=objective, rounds=search.rounds + 1), "scoring")
        longest = np.max(np.abs(following.direction[: self._n_bins]))
        return self._ask(replace(following, length=min(1.0, _LONGEST_ALPHA_STEP / max(longest, 1.0))))

    def shrink(self, part: str, state: Arrays) -> Turn:
        """Go on from the last point, over the remaining sites."""
        return self._ask(Search.of(state).restarted(), started=bool(state["started"]))

    def _first_search(self, total: Arrays, penalties: Floats) -> Search:
        """Return the search that starts at beta = 0 with the alpha that fits there.

        At beta = 0 all at risk are alike: exp(-exp(alpha)) is the share that survives, and the counts give the
        likelihood.

        Raises:
            DivergedError: When there is no event at all.
        """
        if not total["events"].any():
            raise no_events()
        open_ = _in_use(total)
        events, survived = total["events"][open_], total["n_survived"][open_]
        alpha = alpha_at_zero(total["events"], total["n_survived"])
        at_risk = events + survived
        objective = float(events @ np.log(events / at_risk) + survived @ np.log(survived / at_risk))
        return Search(
            np.concatenate((alpha, np.zeros(self._p))),
            self._first_direction(total, penalties),
            objective=objective,
            rounds=1,
        )

    def _first_direction(self, total: Arrays, penalties: Floats) -> Floats:
        """Return nearly the Newton step from there, out of the answer to the first question; it saves a round.

        At the tiny hazard u of the first question the likelihood is that of Poisson counts with person-time, so the
        releases divided by u are sums of 1, x and xx' over person-time by interval (xx' over all intervals). Person-
        time hazards d_k / T_k turn them into gradient and, with the overall hazard, information of beta.
        """
        open_, u = _in_use(total), np.exp(_FIRST_ALPHA)
        person_time = total["hessian_alpha"][open_] / u
        x_time = total["hessian_alpha_beta"] / u
        mean = x_time[open_] / person_time[:, None]
        x_of_events = total["gradient_beta"] + u * x_time.sum(axis=0)
        events = total["events"][open_]
        products = unpacked(total["hessian_beta"], self._p) / u
        hazard = events.sum() / max(person_time.sum(), 1.0)
        information = hazard * (products - x_time[open_].T @ mean) + np.diag(penalties)
        covariance = inverse(information, switched_off(hazard * np.diag(products), penalties))
        direction = np.zeros(self._n_bins + self._p)
        direction[self._n_bins :] = covariance @ (x_of_events - events @ mean)
        direction[: self._n_bins][open_] = -mean @ direction[self._n_bins :]
        return direction

    def _ask(self, search: Search, part: str = "newton", *, started: bool = True) -> Turn:
        candidate = search.candidate
        asked = {"alpha": candidate[: self._n_bins], "beta": candidate[self._n_bins :]}
        return Turn({**search.arrays(), **asked, "started": np.array(float(started))}, part)

    def _model(self, alpha: Floats, beta: Floats, total: Arrays, penalties: Floats) -> _ArrowModel:
        open_ = is_open(alpha)
        # (K, p): how much each baseline hazard gives way to each coefficient, A^-1 B of the arrow matrix
        # [[A, B], [B', C]] with A diagonal.
        give = np.zeros((self._n_bins, self._p))
        give[open_] = total["hessian_alpha_beta"][open_] / total["hessian_alpha"][open_, None]
        alone = np.zeros(self._n_bins)
        alone[open_] = 1 / total["hessian_alpha"][open_]
        information = unpacked(total["hessian_beta"], self._p)
        scale = np.diag(information).copy()
        schur = information + np.diag(penalties) - total["hessian_alpha_beta"].T @ give
        covariance = inverse(schur, switched_off(scale, penalties))
        gradient_beta = total["gradient_beta"] - penalties * beta
        along_beta = covariance @ (gradient_beta - give.T @ total["gradient_alpha"])
        along_alpha = alone * total["gradient_alpha"] - give @ along_beta
        direction = np.concatenate((along_alpha, along_beta))
        decrement = float(along_alpha @ total["gradient_alpha"] + along_beta @ gradient_beta)
        diagonal = np.concatenate((total["hessian_alpha"], scale + penalties))
        return _ArrowModel(NewtonStep(direction, decrement, diagonal), covariance, give, alone)

    def _done(
        self, point: Floats, objective: float, model: _ArrowModel, inputs: Arrays, total: Arrays
    ) -> dict[str, Floats]:
        in_use = np.arange(self._n_bins) < int(inputs["n_intervals"])
        alpha, beta = np.where(in_use, point[: self._n_bins], 0.0), point[self._n_bins :]
        penalty = 0.5 * float(self._penalties.of(inputs) @ beta**2)
        return {
            "beta": beta,
            "covariance": model.covariance,
            "alpha": alpha,
            "covariance_full": model.covariance_full,
            "cumulative_hazard": np.cumsum(np.where(in_use, np.exp(alpha), 0.0)),
            # With the last step's gain by second-order expansion: no further round is needed.
            "log_likelihood": np.array(objective + model.step.decrement / 2 + penalty),
            "n_patients": np.array(float(total["n_patients"])),
            "n_events": np.array(float(total["events"].sum())),
        }


@dataclass(frozen=True)
class _ArrowModel:
    """The second-order model at a point.

    Attributes:
        step: Newton step of (alpha, beta).
        covariance: (p, p) inverse of beta's information with alpha eliminated.
        give: (K, p) A^-1 B, see `Hazard._model`.
        alone: (K,) diagonal of A^-1, 0 in closed intervals.
    """

    step: NewtonStep
    covariance: Floats
    give: Floats
    alone: Floats

    @property
    def covariance_full(self) -> Floats:
        """(K + p, K + p) covariance of (alpha, beta), from the block inverse of the arrow matrix."""
        cross = -self.give @ self.covariance
        alpha = np.diag(self.alone) - cross @ self.give.T
        return np.block([[alpha, cross], [cross.T, self.covariance]])


def _shortened(search: Search) -> Search:
    """Return the search with half the step; without the first direction, a guess, when half of it is still bad."""
    if search.first_information is None and search.length < 1.0:
        return replace(search.halved(), direction=np.zeros_like(search.direction))
    return search.halved()


def _in_use(total: Arrays) -> NDArray[np.bool_]:
    """Return the (K,) intervals that the counts leave open."""
    in_use: NDArray[np.bool_] = (total["events"] > 0) & (total["n_survived"] > 0)
    return in_use


def _closed_alpha(total: Arrays) -> Floats:
    """Return the (K,) alpha that each interval has if it is closed."""
    return np.where(total["events"] > 0, CEILING, FLOOR)
