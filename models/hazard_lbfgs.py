"""Grouped proportional hazards on all features of all layers: ridge regression by a quasi-Newton search.

The model and the likelihood are those of `models.hazard`; what differs is that no information matrix leaves a site,
which with p features would be p (p + 1) / 2 numbers. A round carries K + 2 p numbers up and as many down, and a fit
takes some dozens of rounds (`models.lbfgs`). There are no standard errors: with more features than patients they
would describe the penalty.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from models.cox import no_events
from models.grouped_likelihood import alpha_at_zero, slope_specs, slopes
from models.lbfgs import Descent
from models.newton import DERIVATIVE_BOUND, can_evaluate, refused, within_bounds
from models.penalties import OFF, Penalties
from models.preparation import Preparation
from models.step import Arrays, Context, DivergedError, Floats, Turn
from models.time_grid import grid_specs, interval_of
from schemas.cohort import Cohort
from schemas.plan import ArraySpec, PartSpec

MAX_ROUNDS = 300
# Where the first question is asked: only the counts of its answer are used.
_FIRST_ALPHA = -7.0
# Share of the objective that one more step may still promise at the end.
_TOLERANCE = 1e-13
# Of the coefficients in one round: sites refuse a question that is far from the last (`privacy.inbound`).
_LONGEST_STEP = 1.0


class HazardLbfgs:
    """Quasi-Newton steps for alpha and beta, with a ridge penalty on beta alone.

    Settings and inputs: those of `models.hazard.Hazard`.

    State when done:
        beta: (p,) log hazard ratios on the model's scale; exactly 0 where the penalty switches a layer off.
        alpha: (K,) log baseline hazards at the means.
        cumulative_hazard: (K,) at the end of each interval, at the means; padding repeats the last.
        log_likelihood: () without the penalty.
        n_patients, n_events: () patients, and events that the grid counts.
    """

    def __init__(self, context: Context) -> None:
        self._preparation = Preparation(context)
        self._p = len(context.design)
        self._n_bins = context.n_bins
        self._exact = bool(context.settings.get("exact", False))
        self._penalties = Penalties(context)

    def parts(self) -> tuple[PartSpec, ...]:
        """Return the one question: value, gradient, and the diagonal of the information, at a point."""
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
                name="diagonal_beta", shape=(p,), meaning="its information on each coefficient alone", bound=bound
            ),
        )
        return (PartSpec(name="slopes", sends=sends, releases=releases, times=MAX_ROUNDS),)

    def begin(self, inputs: Arrays) -> Turn:
        """Ask for the counts, from which alpha at beta = 0 follows."""
        point = np.zeros(self._n_bins + self._p)
        point[: self._n_bins] = _FIRST_ALPHA
        return self._ask(Descent.start(point), started=False)

    def local(self, part: str, sent: Arrays, cohort: Cohort) -> Arrays:
        """Return this site's value, gradient and diagonal at the point sent."""
        releases = self.parts()[0].releases
        x = self._preparation.matrix(cohort, sent)
        log_hazard = x @ sent["beta"]
        if not can_evaluate(log_hazard):
            return refused(releases, "log_likelihood", cohort.n_patients)
        spells = interval_of(
            cohort.time, cohort.event, cohort.entry, sent["edges"], int(sent["n_intervals"]), exact=self._exact
        )
        answer = slopes(spells, x, log_hazard, sent["alpha"])
        return answer if within_bounds(releases, answer) else refused(releases, "log_likelihood", cohort.n_patients)

    def finish(self, part: str, state: Arrays, inputs: Arrays, total: Arrays) -> Turn:
        """Return the next point, or the estimates.

        Raises:
            DivergedError: When no patient has the event on this grid, or the search finds no end.
        """
        search = Descent.of(state)
        if not state["started"]:
            if not total["events"].any():
                raise no_events()
            alpha = alpha_at_zero(total["events"], total["n_survived"])
            return self._ask(Descent.start(np.concatenate((alpha, np.zeros(self._p)))))
        penalties = self._penalties.of(inputs)
        is_on = penalties < OFF
        weights = np.where(is_on, penalties, 0.0)
        beta = search.candidate[self._n_bins :]
        objective = float(total["log_likelihood"]) - 0.5 * float(weights @ beta**2)
        if search.falls_short(objective):
            return self._ask(search.halved())
        slope = np.where(is_on, total["gradient_beta"] - weights * beta, 0.0)
        diagonal = np.where(is_on, total["diagonal_beta"] + weights, 0.0)
        after = search.accepted(
            objective,
            np.concatenate((total["gradient_alpha"], slope)),
            np.concatenate((total["hessian_alpha"], diagonal)),
        )
        if not np.all(np.isfinite(after.direction)):
            raise DivergedError("the search left the numbers: add a penalty to the layers of this model")
        if after.promise <= _TOLERANCE * (1 + abs(objective)):
            return Turn(self._done(after, weights, inputs, total), None)
        length = float(np.linalg.norm(after.direction[self._n_bins :]))
        return self._ask(replace(after, length=min(1.0, _LONGEST_STEP / max(length, _LONGEST_STEP))))

    def shrink(self, part: str, state: Arrays) -> Turn:
        """Go on from the last point, over the remaining sites."""
        return self._ask(Descent.of(state).restarted(), started=bool(state["started"]))

    def _ask(self, search: Descent, *, started: bool = True) -> Turn:
        candidate = search.candidate
        asked = {"alpha": candidate[: self._n_bins], "beta": candidate[self._n_bins :]}
        return Turn({**search.arrays(), **asked, "started": np.array(float(started))}, "slopes")

    def _done(self, search: Descent, weights: Floats, inputs: Arrays, total: Arrays) -> dict[str, Floats]:
        in_use = np.arange(self._n_bins) < int(inputs["n_intervals"])
        alpha, beta = np.where(in_use, search.point[: self._n_bins], 0.0), search.point[self._n_bins :]
        objective = float(total["log_likelihood"]) if search.objective is None else search.objective
        return {
            "beta": beta,
            "alpha": alpha,
            "cumulative_hazard": np.cumsum(np.where(in_use, np.exp(alpha), 0.0)),
            "log_likelihood": np.array(objective + 0.5 * float(weights @ beta**2)),
            "n_patients": np.array(float(total["n_patients"])),
            "n_events": np.array(float(total["events"].sum())),
        }
