"""Cross-validation of an outcome without a time where all tables lie in one place: site-only, federated and pooled.

As `archipel.cross_validation`, with other figures: the area under the ROC curve over all pairs of the test fold, the
Brier score, the mean log-likelihood, and one calibration slope for each repeat.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from archipel.cross_validation import OnFold
from archipel.fold_fits import Fold, make_folds
from archipel.local_run import run_plan
from models.compile import compile_plan, prepared_arrays, step_context
from models.endpoint_plan import outcome_settings
from models.multinomial import outcome_of
from models.outcome_scores import (
    OutcomeSums,
    fit_outcome_alone,
    mean_area,
    outcome_calibration_slope,
    outcome_sums,
    pooled_pairs,
)
from models.preparation import Preparation
from models.softmax import log_odds_of
from models.step import Arrays, Context, DivergedError, Floats
from schemas.cohort import Cohort, concatenate
from schemas.dictionary import Dictionary
from schemas.result import CIndex, ScoredModel, Scores
from schemas.study import Study

_NO_TIME = "the outcome has no time; see `brier`"
_NO_PAIRS = "no fold has patients with and without the outcome, or no site could train a model alone"
_NO_SLOPE = "the predictions do not vary, or no fit of them exists"


@dataclass(frozen=True)
class JudgedOutcome:
    """One model's predictions for the test patients of one fold.

    Attributes:
        weight: Patients that trained it, where several models of one fold are averaged.
        name: Whose model: a site, or empty for all sites'.
        log_odds: (n_test, m) against the reference.
        sums: Over all test patients.
        within: (3, R) pairs inside the sites.
    """

    name: str
    weight: float
    fold: Fold
    patients: Cohort
    log_odds: Floats
    sums: OutcomeSums
    within: Floats


@dataclass(frozen=True)
class OutcomeValidation:
    """All folds of all models; `federated` holds the federated model's predictions, one entry a fold."""

    federated: tuple[JudgedOutcome, ...]
    scores: Mapping[ScoredModel, Scores]


def cross_validate_outcome(
    study: Study,
    dictionary: Dictionary,
    cohorts: Mapping[str, Cohort],
    *,
    masked: bool = False,
    on_fold: OnFold | None = None,
) -> OutcomeValidation:
    """Fit and judge the site-only, the federated and the pooled model on every fold.

    Args:
        study: With an outcome without a time.
        dictionary: Of its columns.
        cohorts: Site -> its patients.
        masked: Whether the sums of the federated model are formed under masks.
        on_fold: Told how many folds are done, and of how many.

    Raises:
        DivergedError: When a federated fit finds no estimate; it names the fold.
    """
    folds = make_folds(study, cohorts)
    judged: dict[ScoredModel, list[list[JudgedOutcome]]] = {"federated": [], "site_only": [], "pooled": []}
    for index, fold in enumerate(folds):
        train = {site: part for site, c in cohorts.items() if (part := c.take(~fold.test[site])).n_patients}
        test = {site: cohorts[site].take(mask) for site, mask in fold.test.items()}
        judge = _Judge(study, dictionary, fold, test)
        pooled = {"pooled": concatenate(list(train.values()))}
        try:
            judged["federated"].append([judge("", judge.fit(train, masked=masked))])
            judged["pooled"].append([judge("", judge.fit(pooled))])
        except DivergedError as error:
            raise DivergedError(f"repeat {fold.repeat}, fold {fold.fold}: {error}") from None
        judged["site_only"].append(
            [judge(site, model, part.n_patients) for site, part in train.items() if (model := judge.alone(part))]
        )
        if on_fold is not None:
            on_fold(index + 1, len(folds))
    return OutcomeValidation(
        federated=tuple(models[0] for models in judged["federated"]),
        scores={name: _scores(per_fold) for name, per_fold in judged.items()},
    )


def outcome_predictions(validation: OutcomeValidation, codes: Sequence[str]) -> pd.DataFrame:
    """Return the federated model's out-of-fold log odds, one row for each repeat and patient."""
    tables = []
    for judged in validation.federated:
        columns = {f"log_odds {code}": judged.log_odds[:, c] for c, code in enumerate(codes[1:])}
        tables.append(
            pd.DataFrame(
                {
                    "patient_id": judged.patients.patient_ids,
                    "site": [site for site, test in judged.fold.test.items() for _ in range(int(test.sum()))],
                    "repeat": judged.fold.repeat,
                    "fold": judged.fold.fold,
                    "outcome": [codes[int(code)] for code in outcome_of(judged.patients)],
                    **columns,
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


@dataclass(frozen=True)
class _Judge:
    """Fits models, and scores them on the test patients of one fold."""

    study: Study
    dictionary: Dictionary
    fold: Fold
    test: Mapping[str, Cohort]

    def fit(self, cohorts: Mapping[str, Cohort], *, masked: bool = False) -> Arrays:
        """Return the study's model of these patients, by the same steps as in a real federation."""
        plan = compile_plan(self.study, self.dictionary, evaluation=False, figures=False)
        arrays = run_plan(plan, cohorts, masked=masked).progress.arrays
        return {**prepared_arrays(plan, arrays), "alpha": arrays["fit.alpha"], "beta": arrays["fit.beta"]}

    def alone(self, cohort: Cohort) -> Arrays | None:
        """Return what a site learns from its own patients alone, or None where that is nothing."""
        model = fit_outcome_alone(cohort, self._context())
        return model if model["beta"].any() else None

    def __call__(self, name: str, model: Arrays, weight: float = 1.0) -> JudgedOutcome:
        preparation = Preparation(self._context())
        log_odds = [
            log_odds_of(preparation.matrix(part, model), model["alpha"], model["beta"]) for part in self.test.values()
        ]
        of_site = [
            outcome_sums(outcome_of(part), one) for part, one in zip(self.test.values(), log_odds, strict=True)
        ]
        everybody = concatenate(list(self.test.values()))
        together = np.concatenate(log_odds)
        sums = outcome_sums(outcome_of(everybody), together)
        return JudgedOutcome(name, weight, self.fold, everybody, together, sums, pooled_pairs(of_site))

    def _context(self) -> Context:
        model = self.study.model
        layers = [column.layer for column in step_context(self.study, self.dictionary, {"n_bins": 1}).design]
        settings = {
            **outcome_settings(self.study, self.dictionary),
            "n_bins": 1,
            "penalties": [float(model.penalty_of(layer)) for layer in layers],
            "standardise": model.standardise,
        }
        return step_context(self.study, self.dictionary, settings)


def _scores(per_fold: Sequence[Sequence[JudgedOutcome]]) -> Scores:
    """Return the scores of one kind of model over all folds; several models of a fold are averaged by weight."""
    area = _index(per_fold, lambda one: one.sums.auc)
    slope = _slope([one for models in per_fold for one in models])
    missing = {"c_index": area.mean is None, "ibs": True, "calibration_slope": slope is None}
    reasons = {"c_index": _NO_PAIRS, "ibs": _NO_TIME, "calibration_slope": _NO_SLOPE}
    return Scores(
        c_index=area,
        c_index_within=_index(per_fold, lambda one: mean_area(one.within)),
        comparable_pairs=sum(int(models[0].sums.pairs[2].sum()) for models in per_fold if models),
        ibs=None,
        calibration_slope=slope,
        brier=_mean([_of_fold(models, lambda one: one.sums.brier / one.sums.n_patients) for models in per_fold]),
        log_likelihood=_mean(
            [_of_fold(models, lambda one: one.sums.log_likelihood / one.sums.n_patients) for models in per_fold]
        ),
        reasons={name: reasons[name] for name, is_missing in missing.items() if is_missing},
    )


def _slope(models: Sequence[JudgedOutcome]) -> float | None:
    """Return the mean slope of the out-of-fold log odds: one for each repeat and model, weighted."""
    slopes: list[tuple[float | None, float]] = []
    for key in sorted({(one.fold.repeat, one.name) for one in models}):
        own = [one for one in models if (one.fold.repeat, one.name) == key]
        outcome = np.concatenate([outcome_of(one.patients) for one in own])
        try:
            slope = outcome_calibration_slope(outcome, np.concatenate([one.log_odds for one in own]))[0]
        except DivergedError:
            continue
        slopes.append((slope, sum(one.weight for one in own)))
    return _weighted(slopes)


def _index(per_fold: Sequence[Sequence[JudgedOutcome]], value: Callable[[JudgedOutcome], float | None]) -> CIndex:
    values = tuple(_of_fold(models, value) for models in per_fold)
    known = [one for one in values if one is not None]
    sd = float(np.std(known, ddof=1)) if len(known) > 1 else None
    return CIndex(mean=_mean(values), sd=sd, per_fold=values)


def _of_fold(models: Sequence[JudgedOutcome], value: Callable[[JudgedOutcome], float | None]) -> float | None:
    return _weighted([(value(one), one.weight) for one in models])


def _mean(values: Sequence[float | None]) -> float | None:
    return _weighted([(value, 1.0) for value in values])


def _weighted(values: Sequence[tuple[float | None, float]]) -> float | None:
    known = [(value, weight) for value, weight in values if value is not None]
    total = sum(weight for _, weight in known)
    return sum(value * weight for value, weight in known) / total if total else None
