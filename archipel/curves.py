"""Turns counts by risk group into the curves and points that a result holds, counts below ten hidden.

Two sources, one shape: the `kaplan_meier` step of a plan (in-sample, on the common grid), and the out-of-fold
predictions of a simulated cross-validation (held-out, at exact times).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from archipel.judging import Judged
from models.baseline import cumulative_hazard_at
from models.kaplan_meier import N_GROUPS, product_limit
from models.step import Floats
from schemas.cohort import Cohort, concatenate
from schemas.result import Calibration, CalibrationPoint, KaplanMeier, SurvivalCurve
from schemas.shown import SHOWN_FROM, shown_at_risk, shown_count
from schemas.study import Study

GROUPS = ("low risk", "middle risk", "high risk")
_THIRDS = "thirds of the predicted log hazard"
_Z95 = 1.959963984540054
_MANY_PATIENTS = 500
"""From so many on calibration is shown in ten groups, else in five."""


def risk_group_curves(found: Mapping[str, Floats], edges: Floats) -> tuple[SurvivalCurve, ...]:
    """Return the curves of the `kaplan_meier` step.

    Args:
        found: The step's arrays by their own names, (3, K) each.
        edges: (n_intervals,) upper edges in use.
    """
    n = len(edges)
    return tuple(
        _curve(
            GROUPS[g],
            edges,
            found["survival"][g, :n],
            found["standard_error"][g, :n],
            found["at_risk"][g, :n],
            int(found["n_group"][g]),
        )
        for g in range(N_GROUPS)
        if found["n_group"][g] > 0
    )


def calibration_points(found: Mapping[str, Floats], horizons: Sequence[float]) -> tuple[CalibrationPoint, ...]:
    """Return predicted against observed survival of the `kaplan_meier` step's groups at the horizons."""
    return tuple(
        _point(
            horizon,
            g,
            int(found["n_group"][g]),
            float(found["predicted"][g, h]),
            float(found["observed"][g, h]),
            float(found["observed_standard_error"][g, h]),
        )
        for h, horizon in enumerate(horizons)
        for g in range(N_GROUPS)
        if found["n_group"][g] > 0
    )


def held_out_calibration(
    found: Mapping[str, Floats], edges: Floats, horizons: Sequence[float]
) -> tuple[CalibrationPoint, ...]:
    """Return predicted against observed survival of unseen patients, of the `held_out_calibration` step.

    Args:
        found: The step's arrays by their own names, ten groups; with fewer than 500 patients neighbours are joined.
        edges: (n_intervals,) upper edges in use of the grid of all patients.
        horizons: H times.
    """
    n_groups = len(found["n_group"])
    joined = 1 if found["n_patients"] >= _MANY_PATIENTS else 2
    n_group, at_risk, events, predicted = (
        array.reshape(n_groups // joined, joined, *array.shape[1:]).sum(axis=1)
        for array in (
            found["n_group"],
            found["at_risk"],
            found["events"],
            found["predicted"] * found["n_group"][:, None],
        )
    )
    curve, error = product_limit(at_risk, events)
    times = np.asarray(horizons, dtype=np.float64)

    def read(row: Floats) -> Floats:
        return cumulative_hazard_at(times, edges, len(edges), row[: len(edges)], exact=False)

    return tuple(
        _point(
            horizon,
            g,
            int(n_group[g]),
            float(predicted[g, h] / n_group[g]),
            float(1.0 - read(1.0 - curve[g])[h]),
            float(read(error[g])[h]),
        )
        for h, horizon in enumerate(horizons)
        for g in range(len(n_group))
        if n_group[g] > 0
    )


def held_out_figures(judged: Sequence[Judged], study: Study) -> tuple[KaplanMeier, Calibration | None]:
    """Return the figures of the first repeat's out-of-fold predictions: curves by thirds, calibration by more."""
    first = [model for model in judged if model.fold.repeat == judged[0].fold.repeat]
    patients = concatenate([model.patients for model in first])
    score = np.concatenate([model.log_hazard for model in first])
    predicted = np.concatenate([model.survival for model in first])
    group = np.searchsorted(np.quantile(score, [1 / 3, 2 / 3]), score, side="left")
    members = [(g, patients.take(group == g)) for g in range(N_GROUPS) if (group == g).any()]
    curves = tuple(_exact_curve(GROUPS[g], cohort) for g, cohort in members)
    n_groups = 10 if patients.n_patients >= _MANY_PATIENTS else 5
    risk = np.searchsorted(np.quantile(score, np.arange(1, n_groups) / n_groups), score, side="left")
    points = tuple(
        _point(horizon, g, int(own.sum()), float(predicted[own, h].mean()), *_exact_at(patients.take(own), horizon))
        for h, horizon in enumerate(study.endpoint.horizons_days)
        for g, own in ((g, risk == g) for g in range(n_groups))
        if own.any()
    )
    return (
        KaplanMeier(basis="held-out", grouping=_THIRDS, curves=curves),
        Calibration(basis="held-out", points=points) if points else None,
    )


def _exact_curve(name: str, cohort: Cohort) -> SurvivalCurve:
    times, at_risk, events = exact_counts(cohort)
    survival, error = product_limit(at_risk, events)
    shown = shown_at_risk(cohort.n_patients) is not None
    return _curve(
        name,
        times,
        survival,
        error,
        at_risk,
        cohort.n_patients,
        censored=tuple(float(t) for t in np.unique(cohort.time[~cohort.event])) if shown else (),
    )


def _exact_at(cohort: Cohort, horizon: float) -> tuple[float, float]:
    """Return observed survival and its standard error at a horizon."""
    times, at_risk, events = exact_counts(cohort)
    survival, error = product_limit(at_risk, events)
    k = int(np.searchsorted(times, horizon, side="right"))
    return (float(survival[k - 1]), float(error[k - 1])) if k else (1.0, 0.0)


def exact_counts(cohort: Cohort) -> tuple[Floats, Floats, Floats]:
    """Return all distinct times with patients at risk and events at each."""
    times = np.unique(cohort.time)
    under = (cohort.entry[:, None] < times) & (cohort.time[:, None] >= times)
    failing: NDArray[np.bool_] = (cohort.time[:, None] == times) & cohort.event[:, None]
    return times, under.sum(axis=0).astype(np.float64), failing.sum(axis=0).astype(np.float64)


def _curve(
    name: str,
    times: Floats,
    survival: Floats,
    error: Floats,
    at_risk: Floats,
    n_group: int,
    censored: tuple[float, ...] = (),
) -> SurvivalCurve:
    intervals = [log_log_interval(float(s), float(e)) for s, e in zip(survival, error, strict=True)]
    return SurvivalCurve(
        group=name,
        times=(0.0, *map(float, times)),
        survival=(1.0, *map(float, survival)),
        lower=(None, *(interval[0] for interval in intervals)),
        upper=(None, *(interval[1] for interval in intervals)),
        n_at_risk=(shown_at_risk(n_group), *(shown_at_risk(int(n)) for n in at_risk)),
        censored=censored,
    )


def _point(
    horizon: float, group: int, n_group: int, predicted: float, observed: float, error: float
) -> CalibrationPoint:
    lower, upper = log_log_interval(observed, error)
    shown = n_group >= SHOWN_FROM
    return CalibrationPoint(
        horizon=horizon,
        group=group + 1,
        patients=shown_count(n_group),
        predicted=min(max(predicted, 0.0), 1.0),
        observed=observed if shown else None,
        lower=lower if shown else None,
        upper=upper if shown else None,
    )


def log_log_interval(survival: float, error: float) -> tuple[float | None, float | None]:
    """Return the 95 % interval of a survival probability on the log(-log) scale (Kalbfleisch & Prentice 2002, 1.4).

    None where it does not exist: before the first event and where nobody is left.
    """
    if not 0 < survival < 1 or error <= 0:
        return None, None
    theta = np.log(-np.log(survival))
    half = _Z95 * error / (survival * abs(np.log(survival)))
    return float(np.exp(-np.exp(theta + half))), float(np.exp(-np.exp(theta - half)))
