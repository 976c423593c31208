"""Cross-validation where all tables lie in one place: site-only, federated and pooled models on the same folds.

Every fold fits the whole recipe (moments, grid, coefficients, baseline) on its training patients alone and scores
its test patients. C is Harrell's over all pairs of the test fold, pairs across sites included, which only a
simulation can count; the integrated Brier score runs over the 10 to 80 % quantiles of the training event times;
the calibration slope is a Cox fit of the out-of-fold log hazard, one for each repeat.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from archipel.local_run import run_plan
from models.baseline import cumulative_hazard_at, survival
from models.calibration import calibration_slope
from models.censoring import ibs_times, integrated_brier
from models.compile import compile_plan, prepared_arrays, step_context
from models.concordance import c_index, harrell
from models.folds import column_folds, deal
from models.preparation import Preparation
from models.step import DivergedError, Floats
from schemas.cohort import Cohort, concatenate
from schemas.dictionary import Dictionary
from schemas.errors import ArchipelError
from schemas.result import CIndex, ScoredModel, Scores
from schemas.study import FoldColumn, Study

MIN_PATIENTS_SITE_ONLY = 8
OnFold = Callable[[int, int], None]


@dataclass(frozen=True)
class Fold:
    """One split of all patients.

    Attributes:
        test: For each site, (n_patients,) True for the patients that are judged.
    """

    repeat: int
    fold: int
    test: Mapping[str, NDArray[np.bool_]]


@dataclass(frozen=True)
class Fitted:
    """A fitted model, enough to score anybody.

    Attributes:
        prepared: What makes x (`models.preparation.Preparation.specs`).
        beta: (p,).
        cumulative_hazard: (n_intervals,) at the ends `edges`, for a patient at the means.
    """

    prepared: Mapping[str, Floats]
    beta: Floats
    edges: Floats
    cumulative_hazard: Floats
    exact: bool

    def log_hazard(self, cohort: Cohort, study: Study, dictionary: Dictionary) -> Floats:
        """Return the (n_patients,) log hazard relative to a patient at the mean."""
        preparation = Preparation(step_context(study, dictionary, {"n_bins": len(self.edges)}))
        return preparation.log_hazard(cohort, {**self.prepared, "beta": self.beta})

    def survival(self, log_hazard: Floats, times: Floats) -> Floats:
        """Return the (n_patients, n_times) probability of no event until each time."""
        at_times = cumulative_hazard_at(times, self.edges, len(self.edges), self.cumulative_hazard, exact=self.exact)
        return survival(log_hazard, at_times)

    def survival_each(self, log_hazard: Floats, times: Floats) -> Floats:
        """Return the (n_patients,) probability of no event until each patient's own time."""
        at_times = cumulative_hazard_at(times, self.edges, len(self.edges), self.cumulative_hazard, exact=self.exact)
        return np.exp(-np.exp(log_hazard) * at_times)


@dataclass(frozen=True)
class Judged:
    """One model's predictions for the test patients of one fold.

    Attributes:
        name: Whose model: a site, or empty for all sites'.
        weight: Patients that trained it, where several models of one fold are averaged.
        survival: (n_test, n_horizons) at the study's horizons.
        comparable: Pairs behind `c_index`.
        c_index: Over all pairs; None where the fold has no comparable pairs.
        c_index_within: Over pairs inside the sites; None likewise.
        ibs: None where it does not exist (no event among the training patients' quantiles).
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


@dataclass(frozen=True)
class CrossValidation:
    """All folds of all models.

    Attributes:
        federated: The federated model's predictions, one entry a fold.
    """

    federated: tuple[Judged, ...]
    scores: Mapping[ScoredModel, Scores]


def make_folds(study: Study, cohorts: Mapping[str, Cohort]) -> list[Fold]:
    """Deal all patients into folds, at each site by itself, or read them from the study's column."""
    evaluation = study.evaluation
    if isinstance(evaluation.folds, FoldColumn):
        return _folds_of_column(cohorts)
    folds: list[Fold] = []
    for repeat in range(evaluation.repeats):
        dealt = {
            site: deal(
                cohort.event, cohort.group, evaluation.folds, _fold_key(study, site), repeat, cohort.patient_ids
            )
            for site, cohort in cohorts.items()
        }
        folds += [
            Fold(repeat, fold, {site: labels == fold for site, labels in dealt.items()})
            for fold in range(evaluation.folds)
        ]
    return folds


def cross_validate(
    study: Study,
    dictionary: Dictionary,
    cohorts: Mapping[str, Cohort],
    *,
    masked: bool = False,
    on_fold: OnFold | None = None,
) -> CrossValidation:
    """Fit and judge the site-only, the federated and the pooled model on every fold.

    Args:
        study: To be judged.
        dictionary: Of its columns.
        cohorts: Site -> its patients.
        masked: Whether the sums of the federated model are formed under masks.
        on_fold: Told how many folds are done, and of how many.

    Raises:
        DivergedError: When a federated fit finds no estimate; it names the fold.
    """
    folds = make_folds(study, cohorts)
    judged: dict[ScoredModel, list[list[Judged]]] = {"federated": [], "site_only": [], "pooled": []}
    for index, fold in enumerate(folds):
        train = {site: part for site, c in cohorts.items() if (part := c.take(~fold.test[site])).n_patients}
        test = concatenate([cohorts[site].take(mask) for site, mask in fold.test.items()])
        judge = _Judge(study, dictionary, fold, concatenate(list(train.values())), test)
        try:
            judged["federated"].append([judge("", fit(study, dictionary, train, masked=masked))])
            judged["pooled"].append([judge("", fit(_without_noise(study), dictionary, _pooled(study, train)))])
        except DivergedError as error:
            raise DivergedError(f"repeat {fold.repeat}, fold {fold.fold}: {error}") from None
        judged["site_only"].append(
            [
                judge(site, alone, part.n_patients)
                for site, part in train.items()
                if (alone := fit_alone(study, dictionary, part)) is not None
            ]
        )
        if on_fold is not None:
            on_fold(index + 1, len(folds))
    return CrossValidation(
        federated=tuple(models[0] for models in judged["federated"]),
        scores={name: _scores(per_fold) for name, per_fold in judged.items()},
    )


def fit(study: Study, dictionary: Dictionary, cohorts: Mapping[str, Cohort], *, masked: bool = False) -> Fitted:
    """Return the study's model of these patients, by the same steps as in a real federation."""
    times = event_times(cohorts) if study.privacy.exact_times else None
    plan = compile_plan(study, dictionary, exact_times=times, evaluation=False, figures=False, adds_noise=True)
    arrays = run_plan(plan, cohorts, masked=masked).progress.arrays
    n = int(arrays["grid.n_intervals"])
    return Fitted(
        prepared=prepared_arrays(plan, arrays),
        beta=arrays["fit.beta"],
        edges=arrays["grid.edges"][:n],
        cumulative_hazard=arrays["baseline.cumulative_hazard"][:n],
        exact=study.privacy.exact_times,
    )


def fit_alone(study: Study, dictionary: Dictionary, cohort: Cohort) -> Fitted | None:
    """Return what a site learns from its own patients alone, or None where that is nothing.

    A Cox model at the site's own exact times with the study's penalty, whatever the study's method: alone, a site
    shares no grid with anybody, and has too few events for one of its own.
    """
    if cohort.n_patients < MIN_PATIENTS_SITE_ONLY or not cohort.n_events:
        return None
    floors = {"min_events_per_interval": 1, "min_patients": 1, "differential": None}
    own = study.model_copy(
        update={
            "model": study.model.model_copy(update={"method": "cox"}),
            "privacy": study.privacy.model_copy(update=floors),
        }
    )
    try:
        return fit(own, dictionary, {cohort.site: cohort})
    except DivergedError:
        return None


def _without_noise(study: Study) -> Study:
    """Return the study without differential privacy: one table hides nobody, and shows what the noise costs."""
    return study.model_copy(update={"privacy": study.privacy.model_copy(update={"differential": None})})


def event_times(cohorts: Mapping[str, Cohort]) -> list[float]:
    """Return the distinct times at which an event was observed at any site, ascending."""
    return [float(t) for t in np.unique(np.concatenate([c.time[c.event] for c in cohorts.values()]))]


def _pooled(study: Study, cohorts: Mapping[str, Cohort]) -> Mapping[str, Cohort]:
    """Return one table of everybody; the strata of a stratified model stay apart, as they do in a pooled fit."""
    if study.model.method == "cox-stratified":
        return cohorts
    return {"pooled": concatenate(list(cohorts.values()))}


def _fold_key(study: Study, site: str) -> bytes:
    """Return the key of a simulated site's deal: fixed, so that a simulation gives the same folds every time."""
    return f"simulate {study.name} {site}".encode()


def _folds_of_column(cohorts: Mapping[str, Cohort]) -> list[Fold]:
    labels = [c.fold for c in cohorts.values() if c.fold is not None]
    ends = np.cumsum([c.n_patients for c in cohorts.values()])[:-1]
    return [
        Fold(0, index, dict(zip(cohorts, np.split(test, ends), strict=True)))
        for index, (_, test) in enumerate(column_folds(np.concatenate(labels)))
    ]


@dataclass(frozen=True)
class _Judge:
    """Scores models on the test patients of one fold."""

    study: Study
    dictionary: Dictionary
    fold: Fold
    train: Cohort
    test: Cohort

    def __call__(self, name: str, model: Fitted, weight: float = 1.0) -> Judged:
        score = model.log_hazard(self.test, self.study, self.dictionary)
        concordant, tied, comparable = _pairs([(self.test, score)])
        horizons = np.asarray(self.study.endpoint.horizons_days, dtype=np.float64)
        return Judged(
            name=name,
            weight=weight,
            fold=self.fold,
            patients=self.test,
            log_hazard=score,
            survival=model.survival(score, horizons),
            comparable=int(comparable),
            c_index=c_index(concordant, tied, comparable) if comparable else None,
            c_index_within=_c_index(self._by_site(score)),
            ibs=self._ibs(model, score),
        )

    def _by_site(self, score: Floats) -> list[tuple[Cohort, Floats]]:
        """Return the test patients and their scores site by site; the fold took them in that order."""
        ends = np.cumsum([0, *(int(test.sum()) for test in self.fold.test.values())])
        rows = [np.arange(start, end) for start, end in pairwise(ends)]
        return [(self.test.take(own), score[own]) for own in rows]

    def _ibs(self, model: Fitted, score: Floats) -> float | None:
        """Return the integrated Brier score, with the censoring curve of everybody (training and test)."""
        try:
            times = ibs_times(self.train.time, self.train.event)
        except ArchipelError:
            return None
        everybody, test = concatenate([self.train, self.test]), self.test
        late = bool(everybody.entry.any())
        return integrated_brier(
            test.time,
            test.event,
            model.survival(score, times),
            times,
            everybody.time,
            everybody.event,
            test.entry if late else None,
            model.survival_each(score, test.entry) if late else None,
            everybody.entry if late else None,
        )


def _c_index(parts: Sequence[tuple[Cohort, Floats]]) -> float | None:
    """Return C over the pairs inside each part, or None where there is no comparable pair."""
    concordant, tied, comparable = _pairs(parts)
    return c_index(concordant, tied, comparable) if comparable else None


def _pairs(parts: Sequence[tuple[Cohort, Floats]]) -> tuple[float, float, float]:
    """Return concordant, tied and comparable pairs inside the parts."""
    counts = [harrell(test.time, test.event, score, test.entry) for test, score in parts]
    return sum(n[0] for n in counts), sum(n[1] for n in counts), sum(n[2] for n in counts)


def _fold_means(per_fold: Sequence[Sequence[Judged]], value: Callable[[Judged], float | None]) -> CIndex:
    values = [_weighted([(value(model), model.weight) for model in models]) for models in per_fold]
    known = [c for c in values if c is not None]
    return CIndex(
        mean=_mean(values), sd=float(np.std(known, ddof=1)) if len(known) > 1 else None, per_fold=tuple(values)
    )


def _scores(per_fold: Sequence[Sequence[Judged]]) -> Scores:
    """Return the scores of one kind of model over all folds; several models of a fold are averaged by weight."""
    c_all = _fold_means(per_fold, lambda model: model.c_index)
    ibs = _mean([_weighted([(model.ibs, model.weight) for model in models]) for models in per_fold])
    slope = _slope([model for models in per_fold for model in models])
    reasons = {
        "c_index": "no fold had comparable pairs, or no site could train a model alone",
        "ibs": "no fold had events enough to judge survival",
        "calibration_slope": "the predictions do not vary, or no fit of them exists",
    }
    values = {"c_index": c_all.mean, "ibs": ibs, "calibration_slope": slope}
    return Scores(
        c_index=c_all,
        c_index_within=_fold_means(per_fold, lambda model: model.c_index_within),
        comparable_pairs=sum(models[0].comparable for models in per_fold if models),
        ibs=ibs,
        calibration_slope=slope,
        reasons={name: reasons[name] for name, value in values.items() if value is None},
    )


def _slope(models: Sequence[Judged]) -> float | None:
    """Return the mean slope of the out-of-fold log hazard: one for each repeat and model, weighted."""
    slopes: list[tuple[float | None, float]] = []
    for key in sorted({(m.fold.repeat, m.name) for m in models}):
        own = [m for m in models if (m.fold.repeat, m.name) == key]
        slopes.append((_slope_of(own), sum(m.weight for m in own)))
    return _weighted(slopes)


def _slope_of(models: Sequence[Judged]) -> float | None:
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


def _mean(values: Sequence[float | None]) -> float | None:
    return _weighted([(value, 1.0) for value in values])
