"""Nested evaluation where all tables lie in one place: site-only, federated and pooled models on the same folds.

Every fold fits the whole recipe (moments, components, penalties, grid, coefficients, baseline) on its training
patients alone and scores its test patients (`archipel.judging`). A model of the clinical columns alone stands beside
one that has more, because omics can hurt. With three sites and more every site is also judged by a model of all
others: what a hospital may expect that joins later.

Folds do not depend on one another, so large studies use several processes; the figures are the same.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from threadpoolctl import threadpool_limits

from archipel.fold_fits import (
    Fold,
    clinical_only,
    fit,
    fit_alone,
    make_folds,
    with_dealt_inner_folds,
    without_noise,
)
from archipel.judging import Judge, Judged, difference_of, scores_of
from archipel.score_intervals import fold_weights, with_intervals
from models.step import DivergedError
from schemas.cohort import Cohort, concatenate
from schemas.dictionary import Dictionary
from schemas.result import Difference, ScoredModel, Scores
from schemas.study import Study

MIN_SITES_LEAVE_ONE_OUT = 3
OnFold = Callable[[int, int], None]
_PAIRS: tuple[tuple[ScoredModel, ScoredModel], ...] = (
    ("federated", "site_only"),
    ("federated", "federated_clinical"),
    ("new_site", "new_site_clinical"),
)


@dataclass(frozen=True)
class CrossValidation:
    """All folds of all models.

    Attributes:
        federated: The federated model's predictions, one entry a fold.
        judged: The same of every model, one entry a fold for each of its models.
        penalties: For each fold the (p,) penalties of the federated model; empty where the study fixes them.
    """

    federated: tuple[Judged, ...]
    scores: Mapping[ScoredModel, Scores]
    differences: tuple[Difference, ...] = ()
    judged: Mapping[ScoredModel, Sequence[Sequence[Judged]]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Work:
    """What every fold needs; processes inherit it, so that no cohort is copied.

    Attributes:
        folds: Of the cross-validation, then one for each site that is left out.
        n_folds: Of the cross-validation.
    """

    study: Study
    dictionary: Dictionary
    cohorts: Mapping[str, Cohort]
    folds: Sequence[Fold]
    n_folds: int
    masked: bool


def cross_validate(
    study: Study,
    dictionary: Dictionary,
    cohorts: Mapping[str, Cohort],
    *,
    masked: bool = False,
    on_fold: OnFold | None = None,
    processes: int | None = None,
    new_sites: bool = True,
) -> CrossValidation:
    """Fit and judge the site-only, the federated and the pooled model on every fold.

    Args:
        study: To be judged.
        dictionary: Of its columns.
        cohorts: Site -> its patients.
        masked: Whether the sums of the federated model are formed under masks.
        on_fold: Told how many folds are done, and of how many.
        processes: To work in; by default as many as there are cores where the study is large enough to gain.
        new_sites: Whether to judge every site by a model of all others.

    Raises:
        DivergedError: When a federated fit finds no estimate; it names the fold.
    """
    cohorts = with_dealt_inner_folds(study, cohorts)
    folds = make_folds(study, cohorts)
    left_out = _sites_left_out(cohorts) if new_sites and len(cohorts) >= MIN_SITES_LEAVE_ONE_OUT else []
    work = _Work(study, dictionary, cohorts, [*folds, *left_out], len(folds), masked)
    judged: dict[ScoredModel, list[list[Judged]]] = {}
    for index, models in enumerate(_all_folds(work, processes or _processes(study))):
        for name, own in models.items():
            judged.setdefault(name, []).append(own)
        if on_fold is not None:
            on_fold(index + 1, len(work.folds))
    scores = {name: _scores(name, per_fold, folds, left_out) for name, per_fold in judged.items()}
    return CrossValidation(
        federated=tuple(models[0] for models in judged["federated"]),
        scores=scores,
        differences=_differences(scores, folds),
        judged=judged,
    )


_OF_SITES: tuple[ScoredModel, ...] = ("new_site", "new_site_clinical")


def _scores(
    name: ScoredModel, per_fold: Sequence[Sequence[Judged]], folds: Sequence[Fold], left_out: Sequence[Fold]
) -> Scores:
    by_patients = name in _OF_SITES
    scores = scores_of(per_fold, by_patients=by_patients)
    return with_intervals(scores, per_fold, fold_weights(left_out if by_patients else folds), by_patients=by_patients)


def _all_folds(work: _Work, processes: int) -> Iterator[dict[ScoredModel, list[Judged]]]:
    """Yield what each fold's models do, in order."""
    global _inherited
    if processes == 1 or len(work.folds) == 1:
        for index in range(len(work.folds)):
            yield _of_fold(work, index)
        return
    _inherited = work
    try:
        context = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(min(processes, len(work.folds)), mp_context=context) as pool:
            yield from pool.map(_of_inherited_fold, range(len(work.folds)))
    finally:
        _inherited = None


_inherited: _Work | None = None


def _of_inherited_fold(index: int) -> dict[ScoredModel, list[Judged]]:
    assert _inherited is not None  # set before the process was forked
    with threadpool_limits(limits=1, user_api="blas"):
        return _of_fold(_inherited, index)


def _processes(study: Study) -> int:
    """Return how many processes gain time; where they cannot inherit the cohorts there is one."""
    large = bool(study.model.wide_layers) or study.model.tunes_penalty
    return (os.cpu_count() or 1) if large and sys.platform == "linux" else 1


def _of_fold(work: _Work, index: int) -> dict[ScoredModel, list[Judged]]:
    fold = work.folds[index]
    train = {site: part for site, c in work.cohorts.items() if (part := c.take(~fold.test[site])).n_patients}
    test = concatenate([work.cohorts[site].judged(mask) for site, mask in fold.test.items() if mask.any()])
    judge = Judge(work.study, fold, concatenate(list(train.values())), test)
    try:
        if index >= work.n_folds:
            return _left_out(work, judge, train)
        return _cross_validated(work, judge, train)
    except DivergedError as error:
        raise DivergedError(f"repeat {fold.repeat}, fold {fold.fold}: {error}") from None


def _cross_validated(work: _Work, judge: Judge, train: Mapping[str, Cohort]) -> dict[ScoredModel, list[Judged]]:
    study, dictionary = work.study, work.dictionary
    found: dict[ScoredModel, list[Judged]] = {
        "federated": [judge("", fit(study, dictionary, train, masked=work.masked))],
        "pooled": [judge("", fit(without_noise(study), dictionary, _pooled(study, train)))],
        "site_only": [
            judge(site, alone, part.n_patients)
            for site, part in train.items()
            if (alone := fit_alone(study, dictionary, part)) is not None
        ],
    }
    clinical = clinical_only(study, dictionary)
    if clinical is not None:
        found["federated_clinical"] = [judge("", fit(clinical, dictionary, train, masked=work.masked))]
    return found


def _left_out(work: _Work, judge: Judge, train: Mapping[str, Cohort]) -> dict[ScoredModel, list[Judged]]:
    """Judge one site by a model of all others; a site's own failure to give one is no failure of the study."""
    study, dictionary = work.study, work.dictionary
    clinical = clinical_only(study, dictionary)
    found: dict[ScoredModel, list[Judged]] = {"new_site": [judge("", fit(study, dictionary, train))]}
    if clinical is not None:
        found["new_site_clinical"] = [judge("", fit(clinical, dictionary, train))]
    return found


def _sites_left_out(cohorts: Mapping[str, Cohort]) -> list[Fold]:
    """Return a split for each site whose patients can be judged."""
    judged = [site for site, cohort in cohorts.items() if cohort.n_patients > 1 and cohort.event.any()]
    return [
        Fold(0, index, {other: np.full(c.n_patients, other == site) for other, c in cohorts.items()})
        for index, site in enumerate(judged)
    ]


def _differences(scores: Mapping[ScoredModel, Scores], folds: Sequence[Fold]) -> tuple[Difference, ...]:
    """Return the paired differences between the models that were judged."""
    n_test = [sum(int(test.sum()) for test in fold.test.values()) for fold in folds]
    n = sum(test.size for test in folds[0].test.values())
    share = float(np.mean([tested / max(n - tested, 1) for tested in n_test]))
    known = [(one, other) for one, other in _PAIRS if one in scores and other in scores]
    found = [difference_of(one, other, dict(scores), share) for one, other in known]
    return tuple(difference for difference in found if difference is not None)


def _pooled(study: Study, cohorts: Mapping[str, Cohort]) -> Mapping[str, Cohort]:
    """Return one table of everybody; the strata of a stratified model stay apart, as they do in a pooled fit."""
    if study.model.method == "cox-stratified":
        return cohorts
    return {"pooled": concatenate(list(cohorts.values()))}
