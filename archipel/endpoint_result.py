"""What a result says beyond the time to one event: an outcome without a time, a treatment's arms, competing events.

Everything is read from the arrays that the steps of a plan left; counts below ten are hidden as everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from archipel.curves import GROUPS, log_log_interval
from models.step import Floats
from schemas.design import design_columns, treatment_column
from schemas.endpoint import outcome_codes
from schemas.plan import Plan
from schemas.result import CovariateFacts
from schemas.result_endpoints import (
    ArmCurve,
    CompetingEvents,
    IncidenceCurve,
    IncidencePoint,
    OutcomeFacts,
    TreatmentAt,
    TreatmentResponse,
)
from schemas.shown import HIDDEN, NOT_SHOWN, SHOWN_FROM, shown_at_risk, shown_count

__all__ = ["by_outcome", "competing_events", "outcome_facts", "treatment_response"]

Arrays = Mapping[str, Floats]
Bounds = tuple[tuple[float | None, ...], tuple[float | None, ...]]
_EVERYBODY = "all patients"
_Z95 = 1.959963984540054


def by_outcome(covariates: Sequence[CovariateFacts], plan: Plan) -> tuple[CovariateFacts, ...]:
    """Return the covariates once for each value of the outcome whose odds they change, in the order of `beta`."""
    codes = outcome_codes(plan.study.endpoint, plan.dictionary)
    if len(codes) <= 2:
        return tuple(covariates)
    return tuple(
        covariate.model_copy(update={"name": f"{covariate.name} ({code})", "outcome": code})
        for code in codes[1:]
        for covariate in covariates
    )


def outcome_facts(plan: Plan, arrays: Arrays) -> OutcomeFacts | None:
    """Return what is known of an outcome without a time; None for a time to an event."""
    endpoint = plan.study.endpoint
    codes = outcome_codes(endpoint, plan.dictionary)
    if endpoint.has_time:
        return None
    return OutcomeFacts(
        type="binary" if endpoint.type == "binary" else "category",
        codes=codes,
        patients=_shown_cells([int(n) for n in arrays["fit.outcomes"]]),
        log_odds_at_means={code: float(a) for code, a in zip(codes[1:], arrays["fit.alpha"], strict=True)},
    )


def _shown_cells(counts: Sequence[int]) -> tuple[str, ...]:
    """Return the counts of an outcome's values: where one is hidden, a second one too, for the total is known."""
    shown = [shown_count(n) for n in counts]
    if sum(cell == HIDDEN for cell in shown) == 1:
        rest = [place for place, cell in enumerate(shown) if cell != HIDDEN]
        shown[min(rest, key=lambda place: counts[place])] = NOT_SHOWN
    return tuple(shown)


# ---------------------------------------------------------------- treatment
def treatment_response(plan: Plan, arrays: Arrays) -> TreatmentResponse | None:
    """Return the predicted curves under both arms; None where the run has none."""
    if "treatment.survival" not in arrays:
        return None
    study = plan.study
    n = int(arrays["grid.n_intervals"])
    k = arrays["grid.edges"].size
    survival, error = arrays["treatment.survival"], arrays["treatment.standard_error"]
    difference, spread = arrays["treatment.difference"], arrays["treatment.difference_se"]
    names = _arm_names(plan)
    control, treated = (_arm(names[arm], survival[arm, :n], error[arm, :n]) for arm in (0, 1))
    lower, upper = _wald(difference[:n], spread[:n])
    at, at_lower, at_upper = difference[k:], *_wald(difference[k:], spread[k:])
    return TreatmentResponse(
        column=str(study.model.treatment),
        interactions=study.model.interactions,
        penalised=study.model.tunes_penalty
        or any(study.model.penalty_of(layer) > 0 for layer in ("clinical", *study.model.wide_layers)),
        times=(0.0, *map(float, arrays["grid.edges"][:n])),
        control=control,
        treated=treated,
        difference=(0.0, *map(float, difference[:n])),
        lower=(None, *lower),
        upper=(None, *upper),
        horizons=tuple(
            TreatmentAt(
                time=time,
                control=_share(survival[0, k + h]),
                treated=_share(survival[1, k + h]),
                difference=float(at[h]),
                lower=at_lower[h],
                upper=at_upper[h],
            )
            for h, time in enumerate(study.endpoint.horizons_days)
        ),
    )


def _arm_names(plan: Plan) -> tuple[str, str]:
    """Return the names of the control and of the treatment."""
    arm = treatment_column(plan.study, plan.dictionary)
    described = plan.dictionary.column(arm.column)
    codes = (described.codes if described is not None else None) or ()
    return (codes[0], codes[1]) if len(codes) == 2 else (f"{arm.column}: no", f"{arm.column}: yes")


def _arm(name: str, survival: Floats, error: Floats) -> ArmCurve:
    lower, upper = _intervals(survival, error)
    return ArmCurve(arm=name, survival=(1.0, *map(_share, survival)), lower=(None, *lower), upper=(None, *upper))


def _wald(value: Floats, error: Floats) -> Bounds:
    """Return the ends of the 95 % intervals; None where nothing was estimated."""
    known = error > 0
    ends = [[float(v + sign * _Z95 * e) if ok else None for v, e, ok in zip(value, error, known, strict=True)]
            for sign in (-1, 1)]  # fmt: skip
    return tuple(ends[0]), tuple(ends[1])


# ---------------------------------------------------------------- competing events
def competing_events(plan: Plan, arrays: Arrays) -> CompetingEvents | None:
    """Return the cumulative incidence of every kind of event; None where the run has none."""
    if "incidence.incidence" not in arrays:
        return None
    found = {name.removeprefix("incidence."): a for name, a in arrays.items() if name.startswith("incidence.")}
    causes = tuple(str(cause) for cause in plan.study.endpoint.causes)
    edges = arrays["grid.edges"][: int(arrays["grid.n_intervals"])]
    at_risk = found["at_risk"].sum(axis=0)
    predicted = found["overall_predicted"]
    overall = tuple(
        _incidence(
            cause, _EVERYBODY, edges, (found["overall"][c], found["overall_standard_error"][c]), at_risk, predicted[c]
        )
        for c, cause in enumerate(causes)
    )
    groups = [g for g in range(len(GROUPS)) if found["n_group"][g] > 0]
    observed = [(found["incidence"][g, 0], found["standard_error"][g, 0]) for g in range(len(GROUPS))]
    by_risk = tuple(_incidence(causes[0], GROUPS[g], edges, observed[g], found["at_risk"][g]) for g in groups)
    return CompetingEvents(
        causes=causes,
        basis="in-sample",
        overall=overall,
        by_risk=by_risk,
        points=tuple(
            _point(cause, horizon, g, int(found["n_group"][g]), *(float(found[name][g, c, h]) for name in _POINT))
            for c, cause in enumerate(causes)
            for h, horizon in enumerate(plan.study.endpoint.horizons_days)
            for g in groups
        ),
        hazard_ratios=_other_coefficients(plan, arrays, causes),
    )


_POINT = ("predicted", "observed", "observed_standard_error")


def _incidence(
    cause: str,
    group: str,
    edges: Floats,
    observed: tuple[Floats, Floats],
    at_risk: Floats,
    predicted: Floats | None = None,
) -> IncidenceCurve:
    n = edges.size
    lower, upper = _intervals(observed[0][:n], observed[1][:n])
    counts = [shown_at_risk(int(count)) for count in at_risk[:n]]
    return IncidenceCurve(
        cause=cause,
        group=group,
        times=(0.0, *map(float, edges)),
        incidence=(0.0, *map(_share, observed[0][:n])),
        lower=(None, *lower),
        upper=(None, *upper),
        predicted=() if predicted is None else (0.0, *map(_share, predicted[:n])),
        n_at_risk=(counts[0] if counts else None, *counts),
    )


def _point(
    cause: str, horizon: float, group: int, n_group: int, predicted: float, observed: float, error: float
) -> IncidencePoint:
    lower, upper = log_log_interval(observed, error)
    shown = n_group >= SHOWN_FROM
    return IncidencePoint(
        cause=cause,
        horizon=horizon,
        group=group + 1,
        patients=shown_count(n_group),
        predicted=_share(predicted),
        observed=_share(observed) if shown else None,
        lower=lower if shown else None,
        upper=upper if shown else None,
    )


def _other_coefficients(plan: Plan, arrays: Arrays, causes: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return the log hazard ratios of the competing events, per unit of each covariate."""
    names = [column.name for column in design_columns(plan.study, plan.dictionary)]
    scale = arrays["moments.scale"]
    fitted = {cause: arrays[f"cause_{number}_fit.beta"] / scale for number, cause in enumerate(causes[1:], start=2)}
    return {cause: dict(zip(names, map(float, beta), strict=True)) for cause, beta in fitted.items()}


def _intervals(share: Floats, error: Floats) -> Bounds:
    ends = [log_log_interval(float(s), float(e)) for s, e in zip(share, error, strict=True)]
    return tuple(low for low, _ in ends), tuple(high for _, high in ends)


def _share(value: float) -> float:
    """Return a probability without the rounding that may carry it past its ends."""
    return float(np.clip(value, 0.0, 1.0))
