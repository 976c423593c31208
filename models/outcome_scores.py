"""How a model of an outcome without a time does on patients it has not seen: all parts are sums over sites.

Discrimination is the area under the ROC curve, counted in pairs of patients of one site (one with the category and
one without: concordant when the first has the higher probability); with three categories and more it is the mean over
the categories, one against the rest (Provost & Domingos 2000). The Brier score is half the squared distance of the
predicted probabilities from the outcome (for a binary outcome (p - y)^2). The calibration slope is the coefficient b
of a new fit with the log odds a_c + b x beta_c (Cox 1958, Biometrika 45:562): 1 is right, below 1 the predictions are
too extreme.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.moments import n_patients_spec
from models.multinomial import Multinomial, outcome_of
from models.newton import (
    DERIVATIVE_BOUND,
    NewtonStep,
    Search,
    can_evaluate,
    inverse,
    packed,
    refused,
    unpacked,
    within_bounds,
)
from models.preparation import Preparation
from models.site_only import MIN_EVENTS_TO_FIT, MIN_PATIENTS_TO_FIT, prepared_alone, run_alone
from models.softmax import indicators, log_odds_of, log_probabilities
from models.step import Arrays, Context, DivergedError, Floats, Turn
from schemas.cohort import Cohort
from schemas.plan import ArraySpec, PartSpec

# Of a fit of one slope; one that is not at its end by then has none, because the log odds separate the outcomes.
_MOST_SLOPE_ROUNDS = 15


def roc_pairs(positive: NDArray[np.bool_], score: Floats) -> tuple[float, float, float]:
    """Count the pairs behind the area under the ROC curve (Hanley & McNeil 1982, Radiology 143:29).

    Args:
        positive: (n,) True for patients with the outcome.
        score: (n,) higher means the outcome is more likely.

    Returns:
        Numbers of concordant, tied and comparable pairs; the area is (concordant + tied / 2) / comparable.
    """
    without = np.sort(score[~positive])
    below = np.searchsorted(without, score[positive], side="left")
    not_above = np.searchsorted(without, score[positive], side="right")
    return float(below.sum()), float((not_above - below).sum()), float(positive.sum() * without.size)


def n_rankings(n_outcomes: int) -> int:
    """Return how many areas there are: one for a binary outcome, else one for each category."""
    return 1 if n_outcomes == 2 else n_outcomes


@dataclass(frozen=True)
class OutcomeSums:
    """What a site, or one process over all sites, sums of its judged patients.

    Attributes:
        pairs: (3, R) concordant, tied and comparable pairs of each ranking.
        brier: () sum over patients.
        log_likelihood: () sum over patients.
        n_patients: () patients.
    """

    pairs: Floats
    brier: float
    log_likelihood: float
    n_patients: int

    @property
    def auc(self) -> float | None:
        """The mean area over the rankings that have pairs; None without any."""
        return mean_area(self.pairs)


def outcome_sums(outcome: Floats, log_odds: Floats) -> OutcomeSums:
    """Return the sums over patients whose (n, C - 1) log odds a model has predicted."""
    logs = log_probabilities(log_odds)
    y = indicators(outcome, logs.shape[1])
    rankings = [1] if logs.shape[1] == 2 else range(logs.shape[1])
    return OutcomeSums(
        pairs=np.array([roc_pairs(y[:, c] == 1, logs[:, c]) for c in rankings]).T,
        brier=float(0.5 * ((np.exp(logs) - y) ** 2).sum()),
        log_likelihood=float((logs * y).sum()),
        n_patients=len(outcome),
    )


def mean_area(pairs: Floats) -> float | None:
    """Return the mean area under the ROC curve of (3, R) counts over the rankings that have pairs."""
    known = pairs[:, pairs[2] > 0]
    return float(np.mean((known[0] + 0.5 * known[1]) / known[2])) if known.size else None


def area_state(pairs: Floats) -> dict[str, Floats]:
    """Return the counts and what they give; an area without a pair is 0, which `comparable` tells apart."""
    concordant, tied, comparable = pairs
    area = np.divide(concordant + 0.5 * tied, comparable, out=np.zeros(len(tied)), where=comparable > 0)
    return {"auc": area, "c_index": np.asarray(mean_area(pairs) or 0.0), "comparable": np.asarray(comparable.sum())}


def pair_specs(n_outcomes: int) -> tuple[ArraySpec, ...]:
    """Return the arrays of the counted pairs."""
    r = n_rankings(n_outcomes)
    return (
        ArraySpec(name="concordant", shape=(r,), meaning="pairs of patients of one site in the right order"),
        ArraySpec(name="tied", shape=(r,), meaning="pairs of patients of one site with the same probability"),
        ArraySpec(
            name="comparable", shape=(r,), meaning="pairs of patients of one site with and without the outcome"
        ),
        n_patients_spec(),
    )


class OutcomeScores:
    """One round: pairs, squared error and log-likelihood of the judged patients.

    Settings: `outcomes` as of `models.multinomial.Multinomial`. Inputs: the model, with `alpha` and `beta`.

    State when done: auc (R,), c_index () their mean, comparable () pairs in all, brier () and log_likelihood () means
    over patients, n_patients ().
    """

    def __init__(self, context: Context) -> None:
        self._n_outcomes = len(context.settings["outcomes"])
        self._model = _Sent(context)

    def parts(self) -> tuple[PartSpec, ...]:
        """Return the one question: the sums."""
        releases = (
            *pair_specs(self._n_outcomes),
            ArraySpec(name="brier", shape=(), meaning="squared error of the predicted probabilities"),
            ArraySpec(name="log_likelihood", shape=(), meaning="log-likelihood of the predicted probabilities"),
        )
        return (PartSpec(name="sums", sends=self._model.specs(), releases=releases, times=1),)

    def begin(self, inputs: Arrays) -> Turn:
        """Ask at once."""
        return Turn({}, "sums")

    def local(self, part: str, sent: Arrays, cohort: Cohort) -> Arrays:
        """Return this site's sums."""
        sums = outcome_sums(outcome_of(cohort), self._model.log_odds(cohort, sent))
        return {
            **_counted(sums.pairs, sums.n_patients),
            "brier": np.array(sums.brier),
            "log_likelihood": np.array(sums.log_likelihood),
        }

    def finish(self, part: str, state: Arrays, inputs: Arrays, total: Arrays) -> Turn:
        """Form the scores over all sites."""
        n = np.maximum(total["n_patients"], 1.0)
        means = {name: np.asarray(total[name] / n) for name in ("brier", "log_likelihood")}
        return Turn({**area_state(_pairs(total)), **means, "n_patients": total["n_patients"]}, None)

    def shrink(self, part: str, state: Arrays) -> Turn:
        """Ask the remaining sites the same."""
        return Turn(state, part)


class OutcomeSiteOnly:
    """One round: the pairs of each site's held-out patients, ordered by a model of the site's own training patients.

    Settings: `outcomes`, `penalties`, `standardise` of the study. State: auc, c_index, comparable, n_patients (those
    judged).
    """

    def __init__(self, context: Context) -> None:
        self._context = context

    def parts(self) -> tuple[PartSpec, ...]:
        """Return the one question: counts of pairs."""
        specs = pair_specs(len(self._context.settings["outcomes"]))
        return (PartSpec(name="pairs", sends=(), releases=specs, times=1),)

    def begin(self, inputs: Arrays) -> Turn:
        """Ask at once."""
        return Turn({}, "pairs")

    def local(self, part: str, sent: Arrays, cohort: Cohort) -> Arrays:
        """Fit on the patients that are not held out and count the pairs of those that are."""
        held_out = np.zeros(cohort.n_patients, dtype=np.bool_) if cohort.held_out is None else cohort.held_out
        model = fit_outcome_alone(cohort.take(~held_out), self._context)
        judged = cohort.take(held_out)
        sums = outcome_sums(outcome_of(judged), _Sent(self._context).log_odds(judged, model))
        return _counted(sums.pairs, judged.n_patients)

    def finish(self, part: str, state: Arrays, inputs: Arrays, total: Arrays) -> Turn:
        """Form the area over all sites' pairs."""
        return Turn({**area_state(_pairs(total)), "n_patients": total["n_patients"]}, None)

    def shrink(self, part: str, state: Arrays) -> Turn:
        """Ask the remaining sites the same."""
        return Turn(state, part)


def fit_outcome_alone(cohort: Cohort, context: Context) -> dict[str, Floats]:
    """Fit the study's model on one site's patients; beta = 0, which orders nobody, where it cannot be fitted.

    Returns:
        What `models.preparation` needs, alpha (m,) and beta (m p,).
    """
    m, p = len(context.settings["outcomes"]) - 1, len(context.design)
    prepared = prepared_alone(cohort, context)
    if cohort.n_patients >= MIN_PATIENTS_TO_FIT and cohort.n_events >= MIN_EVENTS_TO_FIT:
        try:
            fit = run_alone(Multinomial(context), prepared, cohort)
            return {**prepared, "alpha": fit["alpha"], "beta": fit["beta"]}
        except DivergedError:
            pass
    return {**prepared, "alpha": np.zeros(m), "beta": np.zeros(m * p)}


class OutcomeSlope:
    """Newton steps for the calibration slope b, with an intercept a_c for each category.

    Settings: `outcomes`. Inputs: what the model needs, with `beta`.

    State when done: slope () and slope_se (), 0 where all log odds are equal; n_patients ().
    """

    def __init__(self, context: Context) -> None:
        self._m = len(context.settings["outcomes"]) - 1
        self._model = _Sent(context)

    def parts(self) -> tuple[PartSpec, ...]:
        """Return the one question: value, gradient and information at a point."""
        q, bound = self._m + 1, DERIVATIVE_BOUND
        sends = (
            *self._model.specs(),
            ArraySpec(name="fit_alpha", shape=(self._m,), meaning="intercepts of the calibration fit"),
            ArraySpec(name="fit_beta", shape=(1,), meaning="calibration slope"),
        )
        releases = (
            n_patients_spec(),
            ArraySpec(name="log_likelihood", shape=(), meaning="log-likelihood of the calibration fit", bound=bound),
            ArraySpec(name="gradient", shape=(q,), meaning="its slope", bound=bound),
            ArraySpec(name="hessian", shape=(q * (q + 1) // 2,), meaning="its information", bound=bound),
        )
        return (PartSpec(name="newton", sends=sends, releases=releases, times=_MOST_SLOPE_ROUNDS),)

    def begin(self, inputs: Arrays) -> Turn:
        """Ask at the model itself: its own intercepts and slope 1."""
        point = np.concatenate((inputs["alpha"], np.ones(1)))
        return self._ask(Search(point, np.zeros_like(point)))

    def local(self, part: str, sent: Arrays, cohort: Cohort) -> Arrays:
        """Return this site's term of the fit."""
        releases = self.parts()[0].releases
        of_model = self._model.log_odds(cohort, sent) - sent["alpha"]
        log_odds = sent["fit_alpha"] + sent["fit_beta"][0] * of_model
        if not can_evaluate(np.abs(log_odds)):
            return refused(releases, "log_likelihood", cohort.n_patients)
        sums = _slope_sums(outcome_of(cohort), of_model, log_odds)
        answer = {"n_patients": np.array(float(cohort.n_patients)), **sums}
        return answer if within_bounds(releases, answer) else refused(releases, "log_likelihood", cohort.n_patients)

    def finish(self, part: str, state: Arrays, inputs: Arrays, total: Arrays) -> Turn:
        """Return the next point, or the slope.

        Raises:
            DivergedError: When the log odds separate the outcomes perfectly.
        """
        search = Search.of(state)
        objective = float(total["log_likelihood"])
        if search.falls(objective):
            return self._ask(search.halved())
        information = unpacked(total["hessian"], self._m + 1)
        covariance = inverse(information, np.diag(information))
        direction = covariance @ total["gradient"]
        step = NewtonStep(direction, float(total["gradient"] @ direction), np.diag(information))
        following = search.stepped(objective, step, ("",) * self._m + ("the predicted log odds",))
        if following is not None and following.rounds >= _MOST_SLOPE_ROUNDS:
            raise DivergedError("the predicted log odds tell the outcomes of these few patients apart perfectly")
        if following is not None:
            return self._ask(following)
        is_known = covariance[-1, -1] > 0
        done = {
            "slope": np.asarray((search.candidate + direction)[-1] if is_known else 0.0),
            "slope_se": np.sqrt(covariance[-1, -1]),
            "n_patients": total["n_patients"],
        }
        return Turn(done, None)

    def shrink(self, part: str, state: Arrays) -> Turn:
        """Go on from the last point, over the remaining sites."""
        return self._ask(Search.of(state).restarted())

    def _ask(self, search: Search) -> Turn:
        point = search.candidate
        return Turn({**search.arrays(), "fit_alpha": point[: self._m], "fit_beta": point[self._m :]}, "newton")


class _Sent:
    """The model that a site is sent to predict with."""

    def __init__(self, context: Context) -> None:
        self._preparation = Preparation(context)
        self._m, self._p = len(context.settings["outcomes"]) - 1, len(context.design)

    def specs(self) -> tuple[ArraySpec, ...]:
        return (
            *self._preparation.specs(),
            ArraySpec(name="alpha", shape=(self._m,), meaning="log odds of each category at the means"),
            ArraySpec(name="beta", shape=(self._m * self._p,), meaning="coefficients of the model to judge"),
        )

    def log_odds(self, cohort: Cohort, sent: Arrays) -> Floats:
        return log_odds_of(self._preparation.matrix(cohort, sent), sent["alpha"], sent["beta"])


def _slope_sums(outcome: Floats, of_model: Floats, log_odds: Floats) -> dict[str, Floats]:
    """Return log-likelihood, gradient and packed information of the calibration fit.

    Args:
        outcome: (n,) codes.
        of_model: (n, m) log odds of the model that is judged.
        log_odds: (n, m) of the calibration fit.
    """
    m = log_odds.shape[1]
    logs = log_probabilities(log_odds)
    y, chance = indicators(outcome, m + 1), np.exp(logs[:, 1:])
    # (n, m, m + 1): each category's own intercept, and the common slope.
    own = np.broadcast_to(np.eye(m), (len(y), m, m))
    design = np.concatenate((own, of_model[:, :, None]), axis=2)
    weight = chance[:, :, None] * (np.eye(m) - chance[:, None, :])
    return {
        "log_likelihood": np.array((y * logs).sum()),
        "gradient": np.einsum("nc,ncq->q", y[:, 1:] - chance, design),
        "hessian": packed(np.einsum("ncq,ncd,ndr->qr", design, weight, design)),
    }


def outcome_calibration_slope(outcome: Floats, log_odds: Floats) -> tuple[float, float]:
    """Return the calibration slope of predicted log odds, and its standard error, where all of them are in one place.

    Args:
        outcome: (n,) codes of patients that the model has not seen.
        log_odds: (n, m) that the model gives them.

    Raises:
        DivergedError: When the log odds separate the outcomes perfectly.
    """
    m = log_odds.shape[1]
    centre = log_odds.mean(axis=0)
    step = OutcomeSlope(Context((), 1, (), {"outcomes": [""] * (m + 1)}))
    turn = step.begin({"alpha": centre})
    while turn.ask is not None:
        asked = turn.state["fit_alpha"] + turn.state["fit_beta"][0] * (log_odds - centre)
        total = {"n_patients": np.array(float(len(outcome))), **_slope_sums(outcome, log_odds - centre, asked)}
        turn = step.finish(turn.ask, turn.state, {}, total)
    return float(turn.state["slope"]), float(turn.state["slope_se"])


def _counted(pairs: Floats, n_patients: int) -> dict[str, Floats]:
    concordant, tied, comparable = pairs
    n = np.array(float(n_patients))
    return {"concordant": concordant, "tied": tied, "comparable": comparable, "n_patients": n}


def _pairs(total: Arrays) -> Floats:
    return np.stack([total[name] for name in ("concordant", "tied", "comparable")])


def pooled_pairs(sums: Sequence[OutcomeSums]) -> Floats:
    """Return the (3, R) counts over several sites."""
    total: Floats = np.sum([one.pairs for one in sums], axis=0)
    return total
