"""Cox's model on the common time grid, all sites in one risk set; Breslow or Efron ties, ridge penalty.

Times count as moved to the grid (`models.time_grid`). A Newton step takes two releases: `risk_sets` gives the sums
over risk sets, which are value and gradient; `weights` gives the one part of the information that is no function
of them. The hub sends back S0, each site forms its patients' weights c_i itself, and the information is
sum_i e^(x_i beta) c_i x_i x_i' - sum over deaths of xbar xbar': the same as with a p x p matrix for every
interval, for a fraction of the numbers. A point that lowers the likelihood is given up after `risk_sets` alone.
"""

from __future__ import annotations

import numpy as np

from models.moments import n_patients_spec
from models.newton import (
    DERIVATIVE_BOUND,
    MAX_ROUNDS,
    REFUSED,
    NewtonStep,
    Search,
    can_evaluate,
    inverse,
    packed,
    refused,
    unpacked,
    within_bounds,
)
from models.partial_likelihood import Deaths, deaths, risk_sums, weighted_products
from models.penalties import Penalties, switched_off
from models.preparation import Preparation
from models.step import Arrays, Context, DivergedError, Floats, Turn
from models.time_grid import Spells, grid_specs, interval_of
from schemas.cohort import Cohort
from schemas.plan import ArraySpec, PartSpec


class Cox:
    """Newton steps for beta.

    Settings:
        penalties: (p,) lambda of -1/2 lambda beta^2, on the model's scale; or an input of that name. At `OFF` or
            above a coefficient is exactly 0.
        ties: ``efron`` (default) or ``breslow``.
        exact: Whether the grid holds the exact event times.

    Inputs: `mean`, `scale` of `moments`; `edges`, `n_intervals` of `event_grid`.

    State when done:
        beta: (p,) log hazard ratios on the model's scale.
        covariance: (p, p) inverse of the penalised information; 0 for a coefficient that the data do not determine.
        log_likelihood: () partial log-likelihood without the penalty.
        n_patients, n_events: () patients, and events that the grid counts.
    """

    def __init__(self, context: Context) -> None:
        self._preparation = Preparation(context)
        self._names = tuple(column.name for column in context.design)
        self._p = len(context.design)
        self._n_bins = context.n_bins
        self._exact = bool(context.settings.get("exact", False))
        self._efron = is_efron(context)
        self._penalties = Penalties(context)

    def parts(self) -> tuple[PartSpec, ...]:
        """Return the two questions of a Newton step."""
        p, k = self._p, self._n_bins
        beta = ArraySpec(name="beta", shape=(p,), meaning="log hazard ratios")
        sends = (*self._preparation.specs(), *grid_specs(k), beta)
        s0 = ArraySpec(name="s0", shape=(k,), meaning="hazards of those at risk", bound=DERIVATIVE_BOUND)
        d0 = ArraySpec(name="d0", shape=(k,), meaning="hazards of those with the event", bound=DERIVATIVE_BOUND)
        events = ArraySpec(name="events", shape=(k,), meaning="patients with the event in each interval")
        risk_sets = [
            n_patients_spec(),
            events,
            ArraySpec(
                name="log_hazard_of_events",
                shape=(),
                meaning="log hazards of those with the event",
                bound=DERIVATIVE_BOUND,
            ),
            ArraySpec(
                name="covariates_of_events",
                shape=(p,),
                meaning="covariates of those with the event",
                bound=DERIVATIVE_BOUND,
            ),
            s0,
            _moments_spec("s1", "covariates times hazards of those at risk", k, p),
        ]
        if self._efron:
            risk_sets += [d0, _moments_spec("d1", "covariates times hazards of those with the event", k, p)]
        weighted = ArraySpec(
            name="hessian_weighted",
            shape=(p * (p + 1) // 2,),
            meaning="products of pairs of covariates, weighted by the events expected of each patient",
            bound=DERIVATIVE_BOUND,
        )
        return (
            PartSpec(name="risk_sets", sends=sends, releases=tuple(risk_sets), times=MAX_ROUNDS),
            PartSpec(
                name="weights",
                sends=(*sends, events, s0, *((d0,) if self._efron else ())),
                releases=(n_patients_spec(), weighted),
                times=MAX_ROUNDS,
            ),
        )

    def begin(self, inputs: Arrays) -> Turn:
        """Ask at beta = 0."""
        return self._ask(Search(np.zeros(self._p), np.zeros(self._p)))

    def local(self, part: str, sent: Arrays, cohort: Cohort) -> Arrays:
        """Return this site's sums over risk sets, or its weighted products."""
        releases = next(spec.releases for spec in self.parts() if spec.name == part)
        x = self._preparation.matrix(cohort, sent)
        log_hazard = x @ sent["beta"]
        spells = self._spells(sent, cohort)
        n_patients = {"n_patients": np.array(float(cohort.n_patients))}
        if part == "weights":
            weights = np.exp(log_hazard) * deaths(sent).weights(spells)
            return {**n_patients, "hessian_weighted": packed(weighted_products(x, weights))}
        if can_evaluate(log_hazard):
            answer = {**n_patients, **risk_sums(spells, x, log_hazard, efron=self._efron)}
            if within_bounds(releases, answer):
                return answer
        return refused(releases, "log_hazard_of_events", cohort.n_patients)

    def finish(self, part: str, state: Arrays, inputs: Arrays, total: Arrays) -> Turn:
        """Return the next question, or the estimates.

        Raises:
            DivergedError: When no patient has the event on this grid, or the search finds no end.
        """
        search = Search.of(state)
        penalties = self._penalties.of(inputs)
        if part == "risk_sets":
            return self._judge(search, total, penalties)
        beta = search.candidate
        rows = deaths(state)
        objective = _objective(state, rows, beta, penalties)
        xbar = rows.mean_covariates(state)
        gradient = state["covariates_of_events"] - rows.count @ xbar - penalties * beta
        weighted = unpacked(total["hessian_weighted"], self._p)
        information = weighted - weighted_products(xbar, rows.count) + np.diag(penalties)
        covariance = inverse(information, switched_off(np.diag(weighted), penalties))
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
                n_patients=float(state["n_patients"]),
                n_events=float(state["events"].sum()),
            ),
            None,
        )

    def shrink(self, part: str, state: Arrays) -> Turn:
        """Go on from the last point, over the remaining sites, with their own risk sets."""
        return self._ask(Search.of(state).restarted())

    def _judge(self, search: Search, total: Arrays, penalties: Floats) -> Turn:
        if float(total["log_hazard_of_events"]) <= REFUSED / 2:
            return self._ask(search.halved())
        if not total["events"].any():
            raise no_events()
        if search.falls(_objective(total, deaths(total), search.candidate, penalties)):
            return self._ask(search.halved())
        return Turn({**search.arrays(), "beta": search.candidate, **total}, "weights")

    def _ask(self, search: Search) -> Turn:
        return Turn({**search.arrays(), "beta": search.candidate}, "risk_sets")

    def _spells(self, sent: Arrays, cohort: Cohort) -> Spells:
        return interval_of(
            cohort.time, cohort.event, cohort.entry, sent["edges"], int(sent["n_intervals"]), exact=self._exact
        )


def _objective(sums: Arrays, rows: Deaths, beta: Floats, penalties: Floats) -> float:
    penalty = 0.5 * float(penalties @ beta**2)
    return float(sums["log_hazard_of_events"]) - rows.log_at_risk - penalty


def _moments_spec(name: str, meaning: str, n_bins: int, p: int) -> ArraySpec:
    return ArraySpec(name=name, shape=(n_bins, p), meaning=meaning, bound=DERIVATIVE_BOUND)


def is_efron(context: Context) -> bool:
    """Whether the step's ties are Efron's.

    Raises:
        ValueError: For ties of another name.
    """
    ties = context.settings.get("ties", "efron")
    if ties not in ("efron", "breslow"):
        raise ValueError(f"ties are efron or breslow, not {ties}")
    return bool(ties == "efron")


def estimates(
    beta: Floats,
    covariance: Floats,
    objective: float,
    penalties: Floats,
    *,
    n_patients: float,
    n_events: float,
) -> dict[str, Floats]:
    """Return the state that every fit ends with; `objective` is the penalised log-likelihood at `beta`."""
    return {
        "beta": beta,
        "covariance": covariance,
        "log_likelihood": np.array(objective + 0.5 * float(penalties @ beta**2)),
        "n_patients": np.array(n_patients),
        "n_events": np.array(n_events),
    }


def no_events() -> DivergedError:
    """Return the error of a fit without a single event."""
    return DivergedError(
        "no patient at risk has the event: nothing can be fitted; widen the eligibility, or choose an endpoint "
        "with events"
    )
