"""Multinomial and logistic regression: an outcome without a time, by the same Newton engine as survival.

The likelihood (`models.softmax`) is separable over patients: one release of value, gradient and information is one
Newton step, and the last information gives the standard errors, as R's glm and nnet::multinom report them. A ridge
penalty lies on the coefficients and never on the intercepts; with three categories and more it draws each category's
log odds towards the reference, so which category is the reference then matters.
"""

from __future__ import annotations

import numpy as np

from models.moments import n_patients_spec
from models.newton import (
    DERIVATIVE_BOUND,
    MAX_ROUNDS,
    NewtonStep,
    Search,
    can_evaluate,
    inverse,
    packed,
    refused,
    unpacked,
    within_bounds,
)
from models.penalties import Penalties, switched_off
from models.preparation import Preparation
from models.softmax import by_category, in_order, log_odds_of, summand
from models.step import Arrays, Context, DivergedError, Floats, Turn
from schemas.cohort import Cohort
from schemas.plan import ArraySpec, PartSpec


class Multinomial:
    """Newton steps for the intercepts alpha and the coefficients beta of C - 1 = m categories against the reference.

    Settings:
        outcomes: Names of the C categories, the reference first.
        penalties: As of `models.cox.Cox`: (p,), the same for every category.

    Inputs: what `models.preparation` needs.

    State when done:
        alpha: (m,) log odds of a patient at the means.
        beta: (m p,) log odds ratios on the model's scale, category by category.
        covariance: (m p, m p) of beta: the inverse of the penalised information, alpha eliminated; 0 for a
            coefficient that the data do not determine.
        covariance_full: (m + m p, m + m p) of (alpha, beta).
        outcomes: (C,) patients of each category.
        log_likelihood: () without the penalty.
        n_patients, n_events: () patients, and those whose outcome is not the reference.
    """

    def __init__(self, context: Context) -> None:
        self._preparation = Preparation(context)
        self._outcomes: tuple[str, ...] = tuple(context.settings["outcomes"])
        self._m = len(self._outcomes) - 1
        self._p = len(context.design)
        names = [column.name for column in context.design]
        self._names = ("",) * self._m + tuple(
            name if self._m == 1 else f"{name} ({outcome})" for outcome in self._outcomes[1:] for name in names
        )
        self._penalties = Penalties(context)
        if self._m < 1:
            raise ValueError("an outcome has two categories at least")

    def parts(self) -> tuple[PartSpec, ...]:
        """Return the one question: value, gradient and information at a point."""
        m, p, bound = self._m, self._p, DERIVATIVE_BOUND
        q = m * (1 + p)
        sends = (
            *self._preparation.specs(),
            ArraySpec(name="alpha", shape=(m,), meaning="log odds of each category at the means"),
            ArraySpec(name="beta", shape=(m * p,), meaning="log odds ratios, category by category"),
        )
        releases = (
            n_patients_spec(),
            ArraySpec(name="outcomes", shape=(m + 1,), meaning="patients of each category of the outcome"),
            ArraySpec(name="log_likelihood", shape=(), meaning="log-likelihood", bound=bound),
            ArraySpec(name="gradient_alpha", shape=(m,), meaning="its slope in each intercept", bound=bound),
            ArraySpec(name="gradient_beta", shape=(m * p,), meaning="its slope in each coefficient", bound=bound),
            ArraySpec(
                name="hessian",
                shape=(q * (q + 1) // 2,),
                meaning="its information on each pair of intercepts and coefficients",
                bound=bound,
            ),
        )
        return (PartSpec(name="newton", sends=sends, releases=releases, times=MAX_ROUNDS),)

    def begin(self, inputs: Arrays) -> Turn:
        """Ask where all categories are equally likely, of which every point without covariates follows."""
        point = np.zeros(self._m * (1 + self._p))
        return self._ask(Search(point, np.zeros_like(point)), started=False)

    def local(self, part: str, sent: Arrays, cohort: Cohort) -> Arrays:
        """Return this site's value, gradient and information at the point sent."""
        releases = self.parts()[0].releases
        x = self._preparation.matrix(cohort, sent)
        log_odds = log_odds_of(x, sent["alpha"], sent["beta"])
        if not can_evaluate(np.abs(log_odds)):
            return refused(releases, "log_likelihood", cohort.n_patients)
        answer = summand(outcome_of(cohort), x, log_odds)
        answer |= {"n_patients": np.array(float(cohort.n_patients)), "hessian": packed(answer["hessian"])}
        return answer if within_bounds(releases, answer) else refused(releases, "log_likelihood", cohort.n_patients)

    def finish(self, part: str, state: Arrays, inputs: Arrays, total: Arrays) -> Turn:
        """Return the next point, or the estimates.

        Raises:
            DivergedError: When nobody has one of the categories, or the search finds no end.
        """
        search = Search.of(state)
        self._verify_outcomes(total)
        penalties = np.concatenate((np.zeros(self._m), np.tile(self._penalties.of(inputs), self._m)))
        theta = search.candidate
        objective = float(total["log_likelihood"]) - 0.5 * float(penalties @ theta**2)
        if search.falls(objective):
            return self._ask(search.halved())
        gradient = np.concatenate((total["gradient_alpha"], total["gradient_beta"]))
        information = unpacked(total["hessian"], self._m * (1 + self._p))
        if not state["started"]:
            theta, objective, gradient, information = self._without_covariates(total, gradient, information)
            search = Search(theta, np.zeros_like(theta), rounds=1)
        step, covariance = _newton(theta, gradient, information, penalties)
        following = search.stepped(objective, step, self._names)
        if following is not None:
            return self._ask(following)
        return Turn(
            self._done(theta + step.direction, objective + step.decrement / 2, penalties, covariance, total), None
        )

    def shrink(self, part: str, state: Arrays) -> Turn:
        """Go on from the last point, over the remaining sites."""
        return self._ask(Search.of(state).restarted(), started=bool(state["started"]))

    def _without_covariates(
        self, total: Arrays, gradient: Floats, information: Floats
    ) -> tuple[Floats, float, Floats, Floats]:
        """Return the point that fits best without covariates, with all that is known there, for no further round.

        At beta = 0 all patients are alike: the information is (diag(pi) - pi pi') times sum zz', whatever alpha is,
        and the gradient is sum (y - pi) z. Both follow from the answer at equal probabilities.
        """
        m, share = self._m, 1 / (self._m + 1)
        products = by_category(information, m)[0, :, 0] / (share * (1 - share))  # sum zz'
        chance = total["outcomes"][1:] / total["outcomes"].sum()
        theta = np.zeros_like(gradient)
        theta[:m] = np.log(total["outcomes"][1:] / total["outcomes"][0])
        moved = (share - chance)[:, None] * products[0]
        weight = np.diag(chance) - np.outer(chance, chance)
        blocks = weight[:, None, :, None] * products[None, :, None, :]
        objective = float(total["outcomes"] @ np.log(total["outcomes"] / total["outcomes"].sum()))
        at_chance = gradient + np.concatenate((moved[:, 0], moved[:, 1:].reshape(-1)))
        return theta, objective, at_chance, in_order(blocks)

    def _verify_outcomes(self, total: Arrays) -> None:
        absent = [name for name, n in zip(self._outcomes, total["outcomes"], strict=True) if n < 0.5]
        if absent:
            raise DivergedError(
                f"no patient has the outcome {' or '.join(absent)}: its odds cannot be fitted; widen the "
                "eligibility, or take it out of the dictionary's codes"
            )

    def _ask(self, search: Search, *, started: bool = True) -> Turn:
        theta = search.candidate
        asked = {"alpha": theta[: self._m], "beta": theta[self._m :], "started": np.array(float(started))}
        return Turn({**search.arrays(), **asked}, "newton")

    def _done(
        self, theta: Floats, objective: float, penalties: Floats, covariance: Floats, total: Arrays
    ) -> dict[str, Floats]:
        m = self._m
        return {
            "alpha": theta[:m],
            "beta": theta[m:],
            "covariance": covariance[m:, m:],
            "covariance_full": covariance,
            "outcomes": total["outcomes"],
            "log_likelihood": np.array(objective + 0.5 * float(penalties @ theta**2)),
            "n_patients": np.array(float(total["n_patients"])),
            "n_events": np.array(float(total["outcomes"][1:].sum())),
        }


def outcome_of(cohort: Cohort) -> Floats:
    """Return the (n,) codes of the outcome.

    Raises:
        ValueError: For a cohort whose endpoint is a time.
    """
    if cohort.outcome is None:
        raise ValueError("the cohort has no outcome without a time")
    return cohort.outcome


def _newton(theta: Floats, gradient: Floats, information: Floats, penalties: Floats) -> tuple[NewtonStep, Floats]:
    """Return the Newton step of the penalised likelihood, and the inverse of its information."""
    covariance = inverse(information + np.diag(penalties), switched_off(np.diag(information), penalties))
    slope = gradient - penalties * theta
    direction = covariance @ slope
    return NewtonStep(direction, float(slope @ direction), np.diag(information) + penalties), covariance
