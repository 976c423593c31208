"""Intervals of the scores of a simulated evaluation, by drawing its patients again (`archipel.bootstrap`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from archipel.bootstrap import FoldOfModels, bootstrap, cox_slopes, percentile_interval, resample_weights
from archipel.fold_fits import Fold
from archipel.judging import Judged, slope_of
from models.step import Floats
from schemas.result import Scores
from schemas.result_intervals import Interval, IntervalOf

__all__ = ["fold_weights", "with_intervals"]

_METHOD = (
    "Bootstrap: the patients of each fold were drawn again 1,000 times, with the models as they were trained; 2.5 "
    "and 97.5 % quantiles."
)


def fold_weights(folds: Sequence[Fold]) -> Floats:
    """Return (N, B) how often each of all patients is drawn, within the folds of the first repeat."""
    first = [fold for fold in folds if fold.repeat == folds[0].repeat]
    n = sum(test.size for test in folds[0].test.values())
    return resample_weights([_rows(fold) for fold in first], n)


def with_intervals(
    scores: Scores, per_fold: Sequence[Sequence[Judged]], weights: Floats, *, by_patients: bool = False
) -> Scores:
    """Return the scores of one kind of model with their intervals.

    Args:
        scores: Of `per_fold`.
        per_fold: Of each fold its models.
        weights: Of `fold_weights`.
        by_patients: Whether folds count by their patients.
    """
    folds = [_fold_of(models, by_patients=by_patients) for models in per_fold if models]
    found = {**bootstrap(folds, weights), "calibration_slope": _slopes(per_fold, weights)}
    values: dict[IntervalOf, float | None] = {
        "c_index": scores.c_index.mean,
        "c_index_within": scores.c_index_within.mean if scores.c_index_within else None,
        "c_index_uno": scores.c_index_uno.mean if scores.c_index_uno else None,
        "ibs": scores.ibs,
        "calibration_slope": scores.calibration_slope,
    }
    intervals: dict[IntervalOf, Interval] = {}
    for name, value in values.items():
        interval = percentile_interval(found[name]) if value is not None and name in found else None
        if interval is not None:
            intervals[name] = interval
    return scores.model_copy(update={"intervals": intervals, "interval_method": _METHOD if intervals else ""})


def _rows(fold: Fold) -> NDArray[np.intp]:
    """Return the places of a fold's test patients among all patients, in the order in which they are judged."""
    return np.flatnonzero(np.concatenate(list(fold.test.values())))


def _fold_of(models: Sequence[Judged], *, by_patients: bool) -> FoldOfModels:
    first = models[0]
    parts = [model.brier_parts for model in models]
    known = [part for part in parts if part is not None]
    return FoldOfModels(
        rows=_rows(first.fold),
        patients=first.patients,
        site=np.repeat(np.arange(len(first.fold.test)), [int(test.sum()) for test in first.fold.test.values()]),
        scores=np.array([model.log_hazard for model in models]),
        shares=np.array([model.weight for model in models]),
        uno_weight=first.uno_weight,
        brier=np.array(known) if len(known) == len(parts) else None,
        weight=float(first.patients.n_patients) if by_patients else 1.0,
    )


def _slopes(per_fold: Sequence[Sequence[Judged]], weights: Floats) -> Floats:
    """Return the (B,) mean slopes over repeats and models, each moved to where the slope itself lies.

    The slope is a fit with Efron's ties and its resamples have Breslow's, which lie a little nearer to 0.
    """
    every = [model for models in per_fold for model in models]
    total, shares = np.zeros(weights.shape[1]), 0.0
    for key in sorted({(model.fold.repeat, model.name) for model in every}):
        own = [model for model in every if (model.fold.repeat, model.name) == key]
        slope = slope_of(own)
        if slope is None:
            continue
        time, event, entry = (
            np.concatenate([getattr(model.patients, name) for model in own]) for name in ("time", "event", "entry")
        )
        score, rows = np.concatenate([m.log_hazard for m in own]), np.concatenate([_rows(m.fold) for m in own])
        drawn = np.column_stack((np.ones(rows.size), weights[rows]))
        fitted = cox_slopes(time, event, score, entry, drawn)
        share = sum(model.weight for model in own)
        total, shares = total + share * (fitted[1:] - fitted[0] + slope), shares + share
    return total / shares if shares else np.full(weights.shape[1], np.nan)
