"""What the experiments share: models fitted and judged fold by fold, and their figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from archipel.fold_fits import Fitted, Fold, fit, make_folds, with_dealt_inner_folds
from archipel.judging import Judge, Judged, scores_of
from schemas.cohort import Cohort, Layer, concatenate
from schemas.dictionary import Dictionary
from schemas.study import Study

Cohorts = Mapping[str, Cohort]
Fit = Callable[[Cohorts], Fitted]


def half_of_the_sites(cohorts: Cohorts) -> frozenset[str]:
    """Return every second site in the order of their names, from the second on."""
    return frozenset(sorted(cohorts)[1::2])


def without_layer(cohorts: Cohorts, layer: str, sites: frozenset[str]) -> dict[str, Cohort]:
    """Return the cohorts with a layer missing for every patient of some sites."""
    emptied = {}
    for site, cohort in cohorts.items():
        if site in sites:
            held = cohort.layers[layer]
            empty = Layer(held.columns, np.full_like(held.values, np.nan))
            cohort = replace(cohort, layers={**cohort.layers, layer: empty})
        emptied[site] = cohort
    return emptied


def judge_fold(study: Study, cohorts: Cohorts, fold: Fold, fit_on: Fit) -> Judged:
    """Return how a model of a fold's training patients does on its test patients."""
    train = {site: part for site, c in cohorts.items() if (part := c.take(~fold.test[site])).n_patients}
    test = concatenate([cohorts[site].judged(mask) for site, mask in fold.test.items() if mask.any()])
    return Judge(study, fold, concatenate(list(train.values())), test)("", fit_on(train))


def federated(
    study: Study,
    dictionary: Dictionary,
    cohorts: Cohorts,
    *,
    trained_on: Callable[[Cohorts], Cohorts] = lambda train: train,
) -> list[list[Judged]]:
    """Return the federated model's judgement on every fold that the cohorts carry.

    Args:
        study: To be judged.
        dictionary: Of its columns.
        cohorts: Site -> its patients.
        trained_on: Which of the training patients the model sees; all, by default.
    """
    dealt = with_dealt_inner_folds(study, cohorts)
    return [
        [judge_fold(study, dealt, fold, lambda train: fit(study, dictionary, trained_on(train)))]
        for fold in make_folds(study, dealt)
    ]


def summary(judged: Sequence[Sequence[Judged]]) -> dict[str, Any]:
    """Return C (Harrell's, over all pairs of a test fold) with its folds, integrated Brier score and slope."""
    scores = scores_of(judged)
    return {
        "c_index": rounded(scores.c_index.mean),
        "sd": rounded(scores.c_index.sd),
        "ibs": rounded(scores.ibs),
        "calibration_slope": rounded(scores.calibration_slope),
        "per_fold": [rounded(value) for value in scores.c_index.per_fold],
    }


def rounded(value: float | None) -> float | None:
    """Return four digits of a figure."""
    return None if value is None else round(float(value), 4)
