"""Intervals of a simulated evaluation: patients are drawn again within the folds, 1,000 times, from a fixed seed.

The models stay as they were trained (Efron & Tibshirani 1993, An Introduction to the Bootstrap, section 13.3: the
percentile interval), so an interval says how far a score hangs on who was there to be judged, not on who was there to
train. A patient who is drawn twice counts twice, in every repeat of the cross-validation alike, and forms no pair
with themselves. Nothing is drawn one resample at a time: weights of patients times pairs is one matrix product.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.step import Floats
from schemas.cohort import Cohort
from schemas.result_intervals import Interval

__all__ = ["N_RESAMPLES", "FoldOfModels", "bootstrap", "cox_slopes", "percentile_interval", "resample_weights"]

N_RESAMPLES = 1000
_SEED = 20111117
_MOST_ROUNDS = 20
_CELLS_AT_A_TIME = 4_000_000
# Of 1,000 resamples so many must have the figure; else the interval would be of those alone in which it exists.
_FEWEST = 0.9


@dataclass(frozen=True)
class FoldOfModels:
    """One fold's test patients, and what is known of them under one kind of model.

    Attributes:
        rows: (n,) place of each among all patients.
        patients: n test patients.
        site: (n,) a number for each one's site.
        scores: (m, n) log hazards of the m models of the fold.
        shares: (m,) weight of each of these models.
        uno_weight: (n,) of pairs whose first event is the patient's, for Uno's C.
        brier: (m, n) each patient's part of the integrated score; None where it does not exist.
        weight: Of the fold in the mean over folds.
    """

    rows: NDArray[np.intp]
    patients: Cohort
    site: NDArray[np.intp]
    scores: Floats
    shares: Floats
    uno_weight: Floats
    brier: Floats | None
    weight: float = 1.0


def resample_weights(strata: Sequence[NDArray[np.intp]], n: int, n_resamples: int = N_RESAMPLES) -> Floats:
    """Return (n, n_resamples) how often each patient is drawn, as many from each stratum as it has.

    Args:
        strata: Places of the patients of each; who is in none is not drawn.
        n: Patients in all.
        n_resamples: Columns.
    """
    rng = np.random.default_rng(_SEED)
    weights = np.zeros((n, n_resamples))
    for rows in strata:
        if rows.size:
            weights[rows] = rng.multinomial(rows.size, np.full(rows.size, 1 / rows.size), size=n_resamples).T
    return weights


def bootstrap(folds: Sequence[FoldOfModels], weights: Floats) -> Mapping[str, Floats]:
    """Return C, C inside sites, Uno's C and the integrated Brier score of each resample; NaN where one has none.

    Args:
        folds: Of one kind of model.
        weights: (N, B) of `resample_weights`.

    Returns:
        `c_index`, `c_index_within`, `c_index_uno` and `ibs`, each (B,).
    """
    found = [_of_fold(fold, weights[fold.rows]) for fold in folds if fold.shares.size]
    of_fold = np.array([fold.weight for fold in folds if fold.shares.size])
    names = ("c_index", "c_index_within", "c_index_uno", "ibs")
    return {name: _mean(np.array([one[name] for one in found]), of_fold) for name in names} if found else {}


def percentile_interval(values: Floats) -> Interval | None:
    """Return the 2.5 and 97.5 % quantiles; None where too many resamples have no value."""
    known = values[np.isfinite(values)]
    if known.size < _FEWEST * max(values.size, 1) or not known.size:
        return None
    lower, upper = np.quantile(known, [0.025, 0.975])
    return Interval(lower=float(lower), upper=float(upper)) if lower < upper else None


def cox_slopes(time: Floats, event: NDArray[np.bool_], score: Floats, entry: Floats, weights: Floats) -> Floats:
    """Return the (B,) Cox coefficients of the score under weights, by Newton steps; NaN where there is none.

    Breslow's ties: those of the resample's own making, a patient drawn twice, have no order to be averaged over.

    Args:
        time: (n,).
        event: (n,).
        score: (n,).
        entry: (n,).
        weights: (n, B).
    """
    block = max(1, _CELLS_AT_A_TIME // max(len(time), 1))
    parts = [
        _cox_slopes(time, event, score, entry, weights[:, start : start + block])
        for start in range(0, weights.shape[1], block)
    ]
    return np.concatenate(parts)


def _of_fold(fold: FoldOfModels, weights: Floats) -> dict[str, Floats]:
    patients, n_resamples = fold.patients, weights.shape[1]
    failing = np.flatnonzero(patients.event)
    sums = {name: np.zeros(n_resamples) for name in ("right", "all", "right_in", "all_in", "right_uno", "all_uno")}
    block = max(1, _CELLS_AT_A_TIME // max(patients.n_patients, 1))
    for start in range(0, failing.size, block):
        rows = failing[start : start + block]
        t = patients.time[rows, None]
        later = (patients.time > t) | ((patients.time == t) & ~patients.event)
        pairs = ((patients.entry < t) & later).astype(np.float64)
        right = pairs * _order(fold, rows)
        inside = fold.site[rows, None] == fold.site
        first = weights[rows]
        for name, matrix in (("right", right), ("all", pairs)):
            met = (matrix @ weights) * first
            sums[name] += met.sum(axis=0)
            sums[f"{name}_uno"] += fold.uno_weight[rows] @ met
            sums[f"{name}_in"] += (((matrix * inside) @ weights) * first).sum(axis=0)
    return {
        "c_index": _ratio(sums["right"], sums["all"]),
        "c_index_within": _ratio(sums["right_in"], sums["all_in"]),
        "c_index_uno": _ratio(sums["right_uno"], sums["all_uno"]),
        "ibs": _brier(fold, weights),
    }


def _order(fold: FoldOfModels, rows: NDArray[np.intp]) -> Floats:
    """Return (rows, n) how right the order is, 0 to 1; the mean over the models, since all rank the same pairs."""
    total: Floats = np.zeros((rows.size, fold.rows.size))
    for share, score in zip(fold.shares, fold.scores, strict=True):
        own = score[rows, None]
        total += share * ((own > score) + 0.5 * (own == score))
    return np.asarray(total / fold.shares.sum(), dtype=np.float64)


def _brier(fold: FoldOfModels, weights: Floats) -> Floats:
    if fold.brier is None:
        return np.full(weights.shape[1], np.nan)
    each: Floats = fold.shares @ fold.brier / fold.shares.sum()
    return _ratio(each @ weights, weights.sum(axis=0))


def _ratio(over: Floats, under: Floats) -> Floats:
    shares: Floats = np.divide(over, under, out=np.full(over.shape, np.nan), where=under > 0)
    return shares


def _mean(values: Floats, weight: Floats) -> Floats:
    """Return the weighted mean over the folds (first axis) that have a value."""
    known = np.isfinite(values)
    over, under = weight @ np.where(known, values, 0.0), weight @ known.astype(np.float64)
    return _ratio(over, under)


def _cox_slopes(time: Floats, event: NDArray[np.bool_], score: Floats, entry: Floats, weights: Floats) -> Floats:
    centred = score - score.mean()
    order = np.argsort(time, kind="stable")
    time, event, centred, entry, weights = time[order], event[order], centred[order], entry[order], weights[order]
    times, group = np.unique(time[event], return_inverse=True)
    starts = np.searchsorted(group, np.arange(times.size))
    deaths = np.add.reduceat(weights[event], starts, axis=0)
    observed = centred[event] @ weights[event]
    late = np.argsort(entry, kind="stable")
    first, entered = np.searchsorted(time, times), np.searchsorted(entry[late], times)
    delayed = bool(entry.any())

    def at_risk(values: Floats) -> Floats:
        """Return the (m, B) sums over those at risk: not left before, without those who have not entered yet."""
        sums = np.cumsum(values[::-1], axis=0)[::-1][first]
        if not delayed:
            return sums
        to_come = np.concatenate((np.cumsum(values[late][::-1], axis=0)[::-1], np.zeros((1, values.shape[1]))))
        return sums - to_come[entered]

    beta, step = np.zeros(weights.shape[1]), np.ones(weights.shape[1])
    for _ in range(_MOST_ROUNDS):
        hazard = weights * np.exp(np.clip(np.outer(centred, beta), -500.0, 500.0))
        s0 = at_risk(hazard)
        mean = _where(at_risk(hazard * centred[:, None]), s0)
        variance = _where(at_risk(hazard * centred[:, None] ** 2), s0) - mean**2
        information = (deaths * variance).sum(axis=0)
        gradient = observed - (deaths * mean).sum(axis=0)
        step = np.divide(gradient, information, out=np.full(beta.shape, np.nan), where=information > 1e-12)
        beta = beta + np.clip(step, -2.0, 2.0)
        if not (np.abs(step[np.isfinite(step)]) > 1e-6).any():
            break
    return np.where(np.abs(step) <= 1e-6, beta, np.nan)


def _where(over: Floats, under: Floats) -> Floats:
    return np.divide(over, under, out=np.zeros(over.shape), where=under > 0)
