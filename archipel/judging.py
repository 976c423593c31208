"""How a fitted model does on patients that it has not seen, and what that comes to over folds.

C is Harrell's over all pairs of the test patients, pairs across sites included, which only a simulation can count;
the integrated Brier score runs over the 10 to 80 % quantiles of the training event times; the calibration slope is a
Cox fit of the out-of-fold log hazard, one for each repeat.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from math import sqrt

import numpy as np
from scipy.special import stdtrit

from archipel.fold_fits import Fitted, Fold
from models.calibration import calibration_slope
from models.censoring import (
    CensoringCurve,
    brier_losses,
    censoring_curve,
    ibs_times,
    mean_loss,
    mean_over,
    uno_weights,
)
from models.concordance import c_index, harrell, pairs_of_each
from models.step import DivergedError, Floats
from schemas.cohort import Cohort, concatenate
from schemas.errors import ArchipelError
from schemas.result import CIndex, Difference, ScoredModel, Scores
from schemas.study import Study


@dataclass(frozen=True)
class Judged:
    """One model's predictions for the test patients of one fold.

    Attributes:
        name: Whose model: a site, or empty for all sites'.
        weight: Patients that trained it, where several models of one fold are averaged.
        patients: The test patients, without their layers.
        survival: (n_test, n_horizons) at the study's horizons.
        comparable: Pairs behind `c_index`.
        c_index: Over all pairs; None where the fold has no comparable pairs.
        c_index_within: Over pairs inside the sites; None likewise.
        ibs: None where it does not exist (no event among the training patients' quantiles).
        c_index_uno: Uno's C; None where the fold has no pairs for it.
        uno_weight: (n_test,) of pairs whose first event is the patient's.
        brier_parts: (n_test,) of which `ibs` is the mean; None where it does not exist.
    """

    name: str
    weight: float
    fold: Fold
    patients: Cohort
    log_hazard: Floats
    survival: Floats
    comparable: int
    c_index: float | None
    c_index_within: float | None
    ibs: float | None
    c_index_uno: float | None
    uno_weight: Floats
    brier_parts: Floats | None


@dataclass(frozen=True)
class Judge:
    """Scores models on the test patients of one fold."""

    study: Study
    fold: Fold
    train: Cohort
    test: Cohort

    def __call__(self, name: str, model: Fitted, weight: float = 1.0) -> Judged:
        """Return how a model does."""
        test, score = self.test, model.log_hazard(self.test)
        concordant, tied, comparable = _pairs([(test, score)])
        right, ties, every = pairs_of_each(test.time, test.event, score, test.entry, self._uno_weight)
        horizons = np.asarray(self.study.endpoint.horizons_days, dtype=np.float64)
        parts = self._brier_parts(model, score)
        return Judged(
            name=name,
            weight=weight,
            fold=self.fold,
            patients=replace(test, layers={}),
            log_hazard=score,
            survival=model.survival(score, horizons),
            comparable=int(comparable),
            c_index=c_index(concordant, tied, comparable) if comparable else None,
            c_index_within=_c_index(self._by_site(score)),
            ibs=None if parts is None else float(parts.mean()),
            c_index_uno=c_index(right.sum(), ties.sum(), every.sum()) if every.sum() > 0 else None,
            uno_weight=self._uno_weight,
            brier_parts=parts,
        )

    @cached_property
    def _everybody(self) -> Cohort:
        """Training and test patients together: from whom the censoring curve is taken."""
        return concatenate([replace(self.train, layers={}), replace(self.test, layers={})])

    @cached_property
    def _censoring(self) -> CensoringCurve:
        everybody = self._everybody
        late = bool(everybody.entry.any())
        return censoring_curve(everybody.time, everybody.event, everybody.entry if late else None)

    @cached_property
    def _uno_weight(self) -> Floats:
        """Return the (n_test,) weights of Uno's C; none count where its range of times or its meaning is missing.

        Competing events are not like censoring, which somebody might have been spared.
        """
        train, test = self.train, self.test
        if self.study.endpoint.has_competing or not train.event.any():
            return np.zeros(test.n_patients)
        until = float(np.quantile(train.time[train.event], 0.8))
        return uno_weights(test.time, test.event, self._censoring, until)

    def _by_site(self, score: Floats) -> list[tuple[Cohort, Floats]]:
        """Return the test patients and their scores site by site; the fold took them in that order."""
        ends = np.cumsum([0, *(int(test.sum()) for test in self.fold.test.values())])
        rows = [np.arange(start, end) for start, end in pairwise(ends) if end > start]
        bare = replace(self.test, layers={})
        return [(bare.take(own), score[own]) for own in rows]

    def _brier_parts(self, model: Fitted, score: Floats) -> Floats | None:
        """Return the (n_test,) parts of the integrated Brier score, whose mean it is (`models.censoring`).

        None with competing events: the survival of one cause alone is nobody's.
        """
        if self.study.endpoint.has_competing:
            return None
        try:
            times = ibs_times(self.train.time, self.train.event)
        except ArchipelError:
            return None
        test, late = self.test, bool(self._everybody.entry.any())
        loss, seen = brier_losses(
            test.time,
            test.event,
            model.survival(score, times),
            times,
            self._censoring,
            test.entry if late else None,
            model.survival_each(score, test.entry) if late else None,
        )
        return mean_over(mean_loss(loss, seen.sum(axis=0)), times) * test.n_patients


def scores_of(per_fold: Sequence[Sequence[Judged]], *, by_patients: bool = False) -> Scores:
    """Return the scores of one kind of model over all folds; several models of a fold are averaged by weight.

    Args:
        per_fold: Of each fold.
        by_patients: Whether folds count by their patients: where they are sites.
    """
    c_all = _fold_means(per_fold, lambda model: model.c_index, by_patients=by_patients)
    each = [_weighted([(model.ibs, model.weight) for model in models]) for models in per_fold]
    ibs = _weighted(list(zip(each, _fold_weights(per_fold, by_patients=by_patients), strict=True)))
    uno = _fold_means(per_fold, lambda model: model.c_index_uno, by_patients=by_patients)
    slope = _slope([model for models in per_fold for model in models])
    reasons = {
        "c_index": "no fold had comparable pairs, or no site could train a model alone",
        "ibs": "no fold had events enough to judge survival, or competing events leave no survival to judge",
        "calibration_slope": "the predictions do not vary, or no fit of them exists",
    }
    values = {"c_index": c_all.mean, "ibs": ibs, "calibration_slope": slope}
    return Scores(
        c_index=c_all,
        c_index_within=_fold_means(per_fold, lambda model: model.c_index_within, by_patients=by_patients),
        c_index_uno=uno if uno.mean is not None else None,
        comparable_pairs=sum(models[0].comparable for models in per_fold if models),
        ibs=ibs,
        calibration_slope=slope,
        reasons={name: reasons[name] for name, value in values.items() if value is None},
    )


def difference_of(
    first: ScoredModel, second: ScoredModel, scores: dict[ScoredModel, Scores], test_share: float
) -> Difference | None:
    """Return how much higher the first model's C is than the second's, paired over the folds, with an interval.

    Folds share training patients, so their differences are not independent: the variance of their mean is taken as
    (1/J + n_test/n_training) s^2 (Nadeau & Bengio 2003, Machine Learning 52:239, equation 9), with Student's t of
    J - 1 degrees of freedom.

    Args:
        first: With scores.
        second: With scores over the same folds.
        scores: Of all models.
        test_share: Test patients over training patients of a fold.
    """
    pairs = zip(scores[first].c_index.per_fold, scores[second].c_index.per_fold, strict=True)
    values = [one - other for one, other in pairs if one is not None and other is not None]
    if not values:
        return None
    mean, n = float(np.mean(values)), len(values)
    if n < 2:
        return Difference(first=first, second=second, c_index=mean, lower=None, upper=None, folds=n)
    half = float(stdtrit(n - 1, 0.975)) * float(np.std(values, ddof=1)) * sqrt(1 / n + test_share)
    return Difference(first=first, second=second, c_index=mean, lower=mean - half, upper=mean + half, folds=n)


def _c_index(parts: Sequence[tuple[Cohort, Floats]]) -> float | None:
    """Return C over the pairs inside each part, or None where there is no comparable pair."""
    concordant, tied, comparable = _pairs(parts)
    return c_index(concordant, tied, comparable) if comparable else None


def _pairs(parts: Sequence[tuple[Cohort, Floats]]) -> tuple[float, float, float]:
    """Return concordant, tied and comparable pairs inside the parts."""
    counts = [harrell(test.time, test.event, score, test.entry) for test, score in parts]
    return sum(n[0] for n in counts), sum(n[1] for n in counts), sum(n[2] for n in counts)


def _fold_weights(per_fold: Sequence[Sequence[Judged]], *, by_patients: bool) -> list[float]:
    return [float(models[0].patients.n_patients) if by_patients and models else 1.0 for models in per_fold]


def _fold_means(
    per_fold: Sequence[Sequence[Judged]], value: Callable[[Judged], float | None], *, by_patients: bool
) -> CIndex:
    values = [_weighted([(value(model), model.weight) for model in models]) for models in per_fold]
    known = [c for c in values if c is not None]
    return CIndex(
        mean=_weighted(list(zip(values, _fold_weights(per_fold, by_patients=by_patients), strict=True))),
        sd=float(np.std(known, ddof=1)) if len(known) > 1 else None,
        per_fold=tuple(values),
    )


def _slope(models: Sequence[Judged]) -> float | None:
    """Return the mean slope of the out-of-fold log hazard: one for each repeat and model, weighted."""
    slopes: list[tuple[float | None, float]] = []
    for key in sorted({(m.fold.repeat, m.name) for m in models}):
        own = [m for m in models if (m.fold.repeat, m.name) == key]
        slopes.append((slope_of(own), sum(m.weight for m in own)))
    return _weighted(slopes)


def slope_of(models: Sequence[Judged]) -> float | None:
    """Return the calibration slope of one model's out-of-fold log hazards; None where no fit of them exists."""
    try:
        slope, _ = calibration_slope(
            np.concatenate([m.patients.time for m in models]),
            np.concatenate([m.patients.event for m in models]),
            np.concatenate([m.log_hazard for m in models]),
            np.concatenate([m.patients.entry for m in models]),
        )
    except DivergedError:
        return None
    return slope


def _weighted(values: Sequence[tuple[float | None, float]]) -> float | None:
    known = [(value, weight) for value, weight in values if value is not None]
    total = sum(weight for _, weight in known)
    return sum(value * weight for value, weight in known) / total if total else None
