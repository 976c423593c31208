"""How the models of a real run did on unseen patients: from the sums that the run's steps found, fold by fold.

Intervals come from variances that are sums over patients; no patient, and no site, is ever left out of a sum to get
one. Test patients of different folds are different people, so of a mean over F folds the variance is that of the
folds' figures, added up, over F^2 (LeDell, Petersen & van der Laan 2015, Electronic Journal of Statistics 9:1583). It
is of the models as they were trained: other training patients would have given others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp, log, log1p, sqrt
from typing import get_args

import numpy as np

from archipel.wording import Z95
from models.progress import Progress
from models.step import Floats
from schemas.plan import Plan
from schemas.result import CIndex, ScoredModel, Scores
from schemas.result_intervals import (
    SITES_FOR_MEAN,
    SITES_FOR_SPREAD,
    Interval,
    IntervalOf,
    OverSites,
    SiteFigure,
)

__all__ = ["federated_scores", "mean_interval"]

_NO_PAIRS = "the unseen patients of no site form a comparable pair"
_METHOD = (
    "Infinitesimal jackknife: the variance of C and of the integrated Brier score is a sum over patients, formed at "
    "the sites; the censoring curve counts as known. Of the calibration slope, the standard error of its fit."
)


def federated_scores(progress: Progress, prefix: str) -> dict[ScoredModel, Scores]:
    """Return the scores of the federated model and of each site alone, as far as the run came to any.

    Args:
        progress: Done.
        prefix: Of the names of the steps that judged.
    """
    arrays = progress.arrays
    found: dict[ScoredModel, Scores] = {}
    if f"{prefix}concordance.c_index" in arrays:
        found["federated"] = _federated(progress, prefix)
    if f"{prefix}site_only.c_index" in arrays:
        alone = "a site keeps its own model's survival predictions to itself"
        index = _index(arrays, f"{prefix}site_only.c_index", f"{prefix}site_only.comparable")
        interval = _of_index(arrays, f"{prefix}site_only", "c_index", "variance")
        found["site_only"] = _scores(
            index,
            within=index,
            pairs=_total(arrays, f"{prefix}site_only.comparable"),
            reasons={"ibs": alone, "calibration_slope": alone},
            brier=_mean_of(arrays, f"{prefix}site_only.brier"),
            log_likelihood=_mean_of(arrays, f"{prefix}site_only.log_likelihood"),
            intervals={"c_index": interval, "c_index_within": interval},
        )
    return found


def _federated(progress: Progress, prefix: str) -> Scores:
    arrays, step, ranking = progress.arrays, f"{prefix}concordance", f"{prefix}ranking"
    within = _index(arrays, f"{step}.c_index", f"{step}.comparable")
    of_all = f"{ranking}.c_index" in arrays
    index = _index(arrays, f"{ranking}.c_index", f"{ranking}.comparable") if of_all else within
    has_uno = of_all and not progress.plan.study.endpoint.has_competing
    inside = _of_index(arrays, step, "c_index", "variance")
    return _scores(
        index,
        within=within,
        uno=_index(arrays, f"{ranking}.uno", f"{ranking}.uno_comparable") if has_uno else None,
        pairs=_total(arrays, f"{ranking if of_all else step}.comparable"),
        ibs=_mean_of(arrays, f"{prefix}brier.ibs"),
        slope=_mean_of(arrays, f"{prefix}slope.slope"),
        brier=_mean_of(arrays, f"{step}.brier"),
        log_likelihood=_mean_of(arrays, f"{step}.log_likelihood"),
        intervals={
            "c_index": _of_index(arrays, ranking, "c_index", "variance") if of_all else inside,
            "c_index_within": inside,
            "c_index_uno": _of_index(arrays, ranking, "uno", "uno_variance", "uno_comparable") if has_uno else None,
            "ibs": _of_figure(arrays, f"{prefix}brier.ibs", f"{prefix}brier.ibs_variance", scale="log"),
            "calibration_slope": _of_slope(arrays, f"{prefix}slope"),
        },
        over=_over_sites(arrays, f"{prefix}site_figures"),
        reasons={
            "ibs": progress.skipped.get(f"{prefix}brier", "") or _no_ibs(progress.plan),
            "calibration_slope": progress.skipped.get(f"{prefix}slope", ""),
        },
    )


def _scores(
    index: CIndex,
    *,
    within: CIndex,
    uno: CIndex | None = None,
    pairs: int,
    ibs: float | None = None,
    slope: float | None = None,
    brier: float | None,
    log_likelihood: float | None,
    intervals: Mapping[IntervalOf, Interval | None],
    over: tuple[OverSites, ...] = (),
    reasons: Mapping[str, str],
) -> Scores:
    values = {"c_index": index.mean, "ibs": ibs, "calibration_slope": slope}
    all_reasons = {"c_index": _NO_PAIRS, **reasons}
    known = {name: interval for name, interval in intervals.items() if interval is not None}
    return Scores(
        c_index=index,
        c_index_within=within,
        c_index_uno=uno,
        comparable_pairs=pairs,
        ibs=ibs,
        calibration_slope=slope,
        brier=brier,
        log_likelihood=log_likelihood,
        intervals=known,
        interval_method=_METHOD if known else "",
        over_sites=over,
        reasons={name: all_reasons[name] or "not computed" for name, value in values.items() if value is None},
    )


def _over_sites(arrays: Mapping[str, Floats], step: str) -> tuple[OverSites, ...]:
    """Return mean and spread over the sites, withheld where too few of them count."""
    if f"{step}.n_sites" not in arrays:
        return ()
    counts, means, spreads = (arrays[f"{step}.{name}"] for name in ("n_sites", "mean", "sd"))
    return tuple(
        OverSites(
            figure=figure,
            sites=int(n),
            mean=float(mean) if n >= SITES_FOR_MEAN else None,
            sd=float(sd) if n >= SITES_FOR_SPREAD else None,
        )
        for figure, n, mean, sd in zip(get_args(SiteFigure), counts, means, spreads, strict=True)
    )


def _index(arrays: Mapping[str, Floats], figure: str, comparable: str) -> CIndex:
    per_fold = tuple(
        float(c) if n > 0 else None
        for c, n in zip(np.atleast_1d(arrays[figure]), np.atleast_1d(arrays[comparable]), strict=True)
    )
    known = [c for c in per_fold if c is not None]
    return CIndex(
        mean=float(np.mean(known)) if known else None,
        sd=float(np.std(known, ddof=1)) if len(known) > 1 else None,
        per_fold=per_fold,
    )


def _total(arrays: Mapping[str, Floats], name: str) -> int:
    return round(float(arrays[name].sum()))


def _mean_of(arrays: Mapping[str, Floats], name: str) -> float | None:
    """Return the mean over the folds (one held-out part is one fold), or None where the step came to nothing."""
    return float(np.mean(arrays[name])) if name in arrays else None


def _no_ibs(plan: Plan) -> str:
    """Return why a study has no integrated Brier score whatever its run; empty where it could."""
    if not plan.study.endpoint.has_time:
        return "the outcome has no time; see `brier`"
    return "events compete, so the survival of one alone is nobody's" if plan.study.endpoint.has_competing else ""


def _of_index(
    arrays: Mapping[str, Floats], step: str, figure: str, variance: str, comparable: str = "comparable"
) -> Interval | None:
    """Return the interval of a C over the folds that have pairs."""
    if f"{step}.{variance}" not in arrays:
        return None
    has_pairs = np.atleast_1d(arrays[f"{step}.{comparable}"]) > 0
    values, variances = (np.atleast_1d(arrays[f"{step}.{name}"])[has_pairs] for name in (figure, variance))
    return mean_interval(values, variances, scale="logit")


def _of_figure(arrays: Mapping[str, Floats], figure: str, variance: str, *, scale: str) -> Interval | None:
    if variance not in arrays:
        return None
    return mean_interval(np.atleast_1d(arrays[figure]), np.atleast_1d(arrays[variance]), scale=scale)


def _of_slope(arrays: Mapping[str, Floats], step: str) -> Interval | None:
    if f"{step}.slope_se" not in arrays:
        return None
    return mean_interval(
        np.atleast_1d(arrays[f"{step}.slope"]), np.atleast_1d(arrays[f"{step}.slope_se"]) ** 2, scale="identity"
    )


def mean_interval(
    values: Sequence[float] | Floats, variances: Sequence[float] | Floats, *, scale: str
) -> Interval | None:
    """Return the 95 % interval of the mean of the folds' figures; None where no variance is known.

    Args:
        values: One for each fold.
        variances: Of each; 0 where it is not known, or where a fold leaves nothing to vary.
        scale: ``logit`` for a share, ``log`` for what is above 0, on which the interval is symmetric (delta method);
            ``identity`` else.
    """
    n = len(values)
    if not n or not np.any(np.asarray(variances) > 0):
        return None
    mean, half = float(np.mean(values)), Z95 * sqrt(float(np.sum(variances))) / n
    if scale == "log" and mean > 0:
        return Interval(lower=mean * exp(-half / mean), upper=mean * exp(half / mean))
    if scale == "logit" and 0 < mean < 1:
        at, half = log(mean) - log1p(-mean), half / (mean * (1 - mean))
        lower, upper = (1 / (1 + exp(-end)) for end in (max(at - half, -700.0), min(at + half, 700.0)))
        return Interval(lower=lower, upper=upper)
    return Interval(lower=mean - half, upper=mean + half)
