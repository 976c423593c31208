"""The folds of a simulated evaluation, and the models that are fitted inside them.

Every model is fitted by the same steps as in a real federation: transforms, components, penalties, coefficients and
baseline, on the training patients alone. A model of one site alone, or of one pooled table, is a federation of one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from archipel.local_run import run_plan
from models.baseline import cumulative_hazard_at, survival
from models.compile import compile_plan, prepared_arrays, step_context
from models.folds import column_folds, deal, with_inner_folds
from models.predictor import Predictor
from models.step import DivergedError, Floats
from schemas.cohort import Cohort
from schemas.design import design_columns
from schemas.dictionary import CLINICAL, Dictionary
from schemas.study import MIN_EVENTS_FLOOR, FoldColumn, Study

MIN_PATIENTS_SITE_ONLY = 8


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
        study: Whose model it is.
        settings: Of the step that puts a baseline under it.
        model: What `models.predictor.Predictor` takes: what makes x, and the coefficients.
        edges: (n_intervals,) of the grid.
        cumulative_hazard: (n_intervals,) at the edges, for a patient at the means.
        exact: Whether the edges are the exact event times.
        penalties: (p,) that cross-validation chose; None where the study fixed them.
    """

    study: Study
    dictionary: Dictionary
    settings: Mapping[str, Any]
    model: Mapping[str, Floats]
    edges: Floats
    cumulative_hazard: Floats
    exact: bool
    penalties: Floats | None = None

    def log_hazard(self, cohort: Cohort) -> Floats:
        """Return the (n_patients,) log hazard relative to a patient at the means."""
        return Predictor(step_context(self.study, self.dictionary, self.settings)).log_hazard(cohort, self.model)

    def survival(self, log_hazard: Floats, times: Floats) -> Floats:
        """Return the (n_patients, n_times) probability of no event until each time."""
        at_times = cumulative_hazard_at(times, self.edges, len(self.edges), self.cumulative_hazard, exact=self.exact)
        return survival(log_hazard, at_times)

    def survival_each(self, log_hazard: Floats, times: Floats) -> Floats:
        """Return the (n_patients,) probability of no event until each patient's own time."""
        at_times = cumulative_hazard_at(times, self.edges, len(self.edges), self.cumulative_hazard, exact=self.exact)
        return np.exp(-np.exp(log_hazard) * at_times)


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


def with_dealt_inner_folds(study: Study, cohorts: Mapping[str, Cohort]) -> dict[str, Cohort]:
    """Return the cohorts with the folds in which penalties are chosen, where the study wants that."""
    if not study.model.tunes_penalty:
        return dict(cohorts)
    return {site: with_inner_folds(cohort, _fold_key(study, site)) for site, cohort in cohorts.items()}


def fit(
    study: Study,
    dictionary: Dictionary,
    cohorts: Mapping[str, Cohort],
    *,
    masked: bool = False,
    penalty_events: int = MIN_EVENTS_FLOOR,
) -> Fitted:
    """Return the study's model of these patients, by the same steps as in a real federation.

    Args:
        study: To be fitted.
        dictionary: Of its columns.
        cohorts: Site -> its training patients, with their inner folds where the study tunes its penalties.
        masked: Whether the sums are formed under masks.
        penalty_events: As of `models.compile.compile_plan`.

    Raises:
        DivergedError: When there is no estimate.
    """
    times = event_times(cohorts) if study.privacy.exact_times else None
    plan = compile_plan(
        study,
        dictionary,
        exact_times=times,
        evaluation=False,
        figures=False,
        adds_noise=True,
        penalty_events=penalty_events,
    )
    arrays = run_plan(plan, cohorts, masked=masked).progress.arrays
    n, baseline = int(arrays["grid.n_intervals"]), plan.by_name["baseline"]
    return Fitted(
        study=study,
        dictionary=dictionary,
        settings=baseline.settings,
        model={**prepared_arrays(plan, arrays), "beta": np.asarray(arrays[baseline.inputs["beta"]])},
        edges=arrays["grid.edges"][:n],
        cumulative_hazard=arrays["baseline.cumulative_hazard"][:n],
        exact=study.privacy.exact_times,
        penalties=arrays.get("penalties.penalties"),
    )


def fit_alone(study: Study, dictionary: Dictionary, cohort: Cohort) -> Fitted | None:
    """Return what a site learns from its own patients alone, or None where that is nothing.

    Components and penalties are its own. The model is Cox's at the site's own exact times, whatever the study's
    method: alone, a site shares no grid with anybody, and has too few events for one of its own. A model of all
    features of a layer stays the study's, since Cox's would need their information matrix.
    """
    if cohort.n_patients < MIN_PATIENTS_SITE_ONLY or not cohort.n_events:
        return None
    takes_all = bool(study.model.wide_layers) and not study.model.components
    floors = {"min_patients": 1, "differential": None}
    own = study.model_copy(
        update={
            "model": study.model.model_copy(update={"method": "hazard" if takes_all else "cox"}),
            "privacy": study.privacy.model_copy(
                update=floors if takes_all else {**floors, "min_events_per_interval": 1}
            ),
        }
    )
    try:
        return fit(own, dictionary, {cohort.site: cohort}, penalty_events=min(MIN_EVENTS_FLOOR, cohort.n_events))
    except DivergedError:
        return None


def clinical_only(study: Study, dictionary: Dictionary) -> Study | None:
    """Return the same study of its clinical covariates alone; None where that is the same, or nothing."""
    clinical = {column.name for column in dictionary.columns if column.layer == CLINICAL}
    kept = tuple(name for name in study.model.covariates if name in clinical)
    if not kept or all(column.layer == CLINICAL for column in design_columns(study, dictionary)):
        return None
    update: dict[str, Any] = {"layers": (CLINICAL,), "covariates": kept}
    update["treatment"] = study.model.treatment if study.model.treatment in kept else None
    update["interactions"] = tuple(
        name for name in study.model.interactions if name in kept and update["treatment"] is not None
    )
    if study.model.method == "hazard-network":
        update["method"] = "hazard"
    return study.model_copy(update={"model": study.model.model_copy(update=update)})


def without_noise(study: Study) -> Study:
    """Return the study without differential privacy: one table hides nobody, and shows what the noise costs."""
    return study.model_copy(update={"privacy": study.privacy.model_copy(update={"differential": None})})


def event_times(cohorts: Mapping[str, Cohort]) -> list[float]:
    """Return the distinct times at which an event, of any kind, was observed at any site, ascending."""
    observed = [c.event if c.outcome is None else c.outcome > 0 for c in cohorts.values()]
    times = [c.time[mask] for c, mask in zip(cohorts.values(), observed, strict=True)]
    return [float(t) for t in np.unique(np.concatenate(times))]


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
