"""Cox's model stratified by site: each site has its own baseline hazard and its own risk sets.

A site forms them at its own exact event times, and releases value, gradient and information only: p + p(p+1)/2
numbers and one, no sum over a risk set. Another estimator than `cox` (differences between sites are not used), equal
to R's ``strata(site)``.
"""

from __future__ import annotations

import numpy as np

from models.cox import estimates, is_efron, no_events
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
from models.partial_likelihood import deaths, risk_sums, weighted_products
from models.penalties import Penalties, switched_off
from models.preparation import Preparation
from models.step import Arrays, Context, Floats, Turn
from models.time_grid import Spells, interval_of
from schemas.cohort import Cohort
from schemas.plan import ArraySpec, PartSpec


class CoxStratified:
    """Newton steps for beta, one release each.

    Settings:
        penalties: As of `models.cox.Cox`.
        ties: ``efron`` (default) or ``breslow``.

    Inputs: `mean`, `scale` of `moments`.

    State when done: as `models.cox.Cox`.
    """

    def __init__(self, context: Context) -> None:
        self._preparation = Preparation(context)
        self._names = tuple(column.name for column in context.design)
        self._p = len(context.design)
        self._efron = is_efron(context)
        self._penalties = Penalties(context)

    def parts(self) -> tuple[PartSpec, ...]:
        """Return the one question: value, gradient and information at a point."""
        p, bound = self._p, DERIVATIVE_BOUND
        sends = (*self._preparation.specs(), ArraySpec(name="beta", shape=(p,), meaning="log hazard ratios"))
        releases = (
            n_patients_spec(),
            ArraySpec(name="n_events", shape=(), meaning="patients with the event"),
            ArraySpec(name="log_likelihood", shape=(), meaning="partial log-likelihood of the site", bound=bound),
            ArraySpec(name="gradient", shape=(p,), meaning="its slope in each coefficient", bound=bound),
            ArraySpec(
                name="hessian",
                shape=(p * (p + 1) // 2,),
                meaning="minus its curvature in each pair of coefficients",
                bound=bound,
            ),
            ArraySpec(
                name="hessian_terms",
                shape=(p,),
                meaning="size of the terms of that curvature, to tell what the data do not determine",
                bound=bound,
            ),
        )
        return (PartSpec(name="newton", sends=sends, releases=releases, times=MAX_ROUNDS),)

    def begin(self, inputs: Arrays) -> Turn:
        """Ask at beta = 0."""
        return self._ask(Search(np.zeros(self._p), np.zeros(self._p)))

    def local(self, part: str, sent: Arrays, cohort: Cohort) -> Arrays:
        """Return this site's value, gradient and information."""
        releases = self.parts()[0].releases
        x = self._preparation.matrix(cohort, sent)
        log_hazard = x @ sent["beta"]
        if can_evaluate(log_hazard):
            answer = self._summand(own_spells(cohort), x, log_hazard)
            if within_bounds(releases, answer):
                return answer
        return refused(releases, "log_likelihood", cohort.n_patients)

    def _summand(self, spells: Spells, x: Floats, log_hazard: Floats) -> dict[str, Floats]:
        sums = risk_sums(spells, x, log_hazard, efron=self._efron)
        rows = deaths(sums)
        xbar = rows.mean_covariates(sums)
        weighted = weighted_products(x, np.exp(log_hazard) * rows.weights(spells))
        return {
            "n_patients": np.array(float(log_hazard.size)),
            "n_events": np.array(sums["events"].sum()),
            "log_likelihood": sums["log_hazard_of_events"] - np.array(rows.log_at_risk),
            "gradient": sums["covariates_of_events"] - rows.count @ xbar,
            "hessian": packed(weighted - weighted_products(xbar, rows.count)),
            "hessian_terms": np.diag(weighted).copy(),
        }

    def finish(self, part: str, state: Arrays, inputs: Arrays, total: Arrays) -> Turn:
        """Return the next point, or the estimates.

        Raises:
            DivergedError: When no patient has the event, or the search finds no end.
        """
        search = Search.of(state)
        beta, penalties = search.candidate, self._penalties.of(inputs)
        objective = float(total["log_likelihood"]) - 0.5 * float(penalties @ beta**2)
        if search.falls(objective):
            return self._ask(search.halved())
        if not total["n_events"]:
            raise no_events()
        gradient = total["gradient"] - penalties * beta
        information = unpacked(total["hessian"], self._p) + np.diag(penalties)
        covariance = inverse(information, switched_off(total["hessian_terms"], penalties))
        direction = covariance @ gradient
        step = NewtonStep(direction, float(gradient @ direction), np.diag(information))
        following = search.stepped(objective, step, self._names)
        if following is not None:
            return self._ask(following)
        return Turn(
            estimates(
                beta + direction,
                covariance,
                objective + step.decrement / 2,
                penalties,
                n_patients=float(total["n_patients"]),
                n_events=float(total["n_events"]),
            ),
            None,
        )

    def shrink(self, part: str, state: Arrays) -> Turn:
        """Go on from the last point, over the remaining sites."""
        return self._ask(Search.of(state).restarted())

    def _ask(self, search: Search) -> Turn:
        return Turn({**search.arrays(), "beta": search.candidate}, "newton")


def own_spells(cohort: Cohort) -> Spells:
    """Return where a site's patients are at risk at its own exact event times (entry < t <= time)."""
    times = np.unique(cohort.time[cohort.event])
    return interval_of(cohort.time, cohort.event, cohort.entry, times, times.size, exact=True)
