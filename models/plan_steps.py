"""The steps of a plan: in which order, over which patients, with which settings and inputs (`models.compile`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from models.endpoint_plan import (
    StepDraft,
    competing_steps,
    grid_settings,
    outcome_fit,
    outcome_judging,
    treatment_steps,
)
from models.judging_plan import censoring_steps, judging_across_folds, masked_judging
from models.plan_code import code_of, step_context
from models.population import counted_settings
from models.preparation import covariates_of
from models.private_plan import private_steps
from models.step import Context
from schemas.design import DesignColumn, LayerDesign, design_columns, layer_designs
from schemas.dictionary import Column, Dictionary
from schemas.errors import Fault, FaultsError
from schemas.plan import CohortPart, PlanStep
from schemas.study import MIN_EVENTS_FLOOR, Network, Study

_LONGEST_PURPOSE = 300
_FIT_METHODS = {
    "hazard": "hazard",
    "cox": "cox",
    "cox-stratified": "cox_stratified",
    "hazard-network": "hazard_network",
}
# Of models that take all features of a layer (components = 0).
_ALL_FEATURES = {"hazard": "hazard_lbfgs", "hazard-network": "hazard_network"}

_WHO: dict[CohortPart, str] = {
    "all": "all patients",
    "training": "the patients that are not held out",
    "folds": "the patients outside each fold",
}
_COMPONENTS = Fault(
    "[model] components",
    "with 0 the model has a coefficient for every feature, and this method would release what it knows of every pair",
    'write a number of components, or method = "hazard"',
)
_NO_RANGE = Fault(
    "[endpoint] time",
    "the dictionary gives this column no `max`, and the common time grid is fixed before anybody's times are known",
    "add `max` to it in the dictionary",
)


class Compiler:
    """Builds the steps; every one of them knows the grid's size and takes its shapes from the method itself."""

    def __init__(
        self,
        study: Study,
        dictionary: Dictionary,
        exact_times: Sequence[float] | None,
        penalty_events: int = MIN_EVENTS_FLOOR,
    ) -> None:
        self.study = study
        self.penalty_events = penalty_events
        self.dictionary = dictionary
        self.design = design_columns(study, dictionary)
        self.layers = layer_designs(study, dictionary)
        self.exact = exact_times is not None
        self.network = _network_of(study)
        self.bin_edges = [1.0]  # an outcome without a time has no grid
        if study.endpoint.has_time:
            self.bin_edges = (
                [float(t) for t in exact_times] if exact_times is not None else _uniform_bins(study, dictionary)
            )

    def fit(self, prefix: str, cohort: CohortPart, settings: Mapping[str, Any] | None = None) -> list[PlanStep]:
        """Moments, grid, fit and baseline on one part of the patients."""
        model = self.study.model
        folds = settings or {}
        who = _WHO[cohort]
        optional = cohort != "all"
        prepared = [
            self._step(
                f"{prefix}moments", "moments", cohort, f"Means and standard deviations of the covariates over {who}.",
                {"centres": [_centre(column, self.dictionary) for column in self._covariates()],
                 "standardise": model.standardise, **self._layer_floor(), **folds},
                optional=optional,
            ),
            *([] if model.screening else self._components(prefix, cohort, folds)),
        ]  # fmt: skip
        if not self.study.endpoint.has_time:
            inputs = self._inputs(prefix, fitted=False)
            draft = outcome_fit(self.study, self.dictionary, prefix, who, self._fixed_penalties(), inputs)
            return [*prepared, *self._drafted([draft], cohort, folds, optional=optional)]
        steps = [
            *prepared,
            self._step(
                f"{prefix}grid", "event_grid", cohort,
                f"Events in fixed bins of time over {who}, from which the common time grid is made.",
                {"bin_edges": self.bin_edges, "min_events": self.study.privacy.min_events_per_interval,
                 **({"count_censored": True} if self.study.privacy.count_censored else {}),
                 **grid_settings(self.study), **folds},
                optional=optional,
            ),
            *self._screening(prefix, cohort, folds),
            *self._penalty_search(prefix, cohort, folds),
            self._step(
                f"{prefix}fit", self._fit_method(), cohort, f"The model's coefficients from {who}.",
                {"ties": model.ties, **self._fixed_penalties(), **folds},
                inputs=self._inputs(prefix, fitted=False), optional=optional,
            ),
        ]  # fmt: skip
        steps.append(
            self._step(
                f"{prefix}baseline", "baseline", cohort, f"The baseline hazard behind predictions, from {who}.",
                # The model that is released tells how sure its curves are; those that are only judged need not.
                {**folds, **({"with_covariates": True} if model.method == "cox" and not prefix else {})},
                inputs=self._inputs(prefix, baseline=False), optional=optional,
            )
        )  # fmt: skip
        return steps

    def _components(self, prefix: str, cohort: CohortPart, folds: Mapping[str, Any]) -> list[PlanStep]:
        """Return the step of the wide layers' principal components, where the model takes any."""
        named = [layer for layer in self.layers if layer.n_components]
        if not named:
            return []
        what = ", ".join(f"{one.n_components} components of {one.n_features:,} {one.name} features" for one in named)
        inputs = self._layer_units(prefix, named)
        purpose = _short(f"Principal components over {_WHO[cohort]}: {what}.")
        return [
            self._step(
                f"{prefix}components", "components", cohort, purpose,
                {**self._layer_floor(), **folds}, inputs=inputs, optional=cohort != "all",
            )
        ]  # fmt: skip

    def _screening(self, prefix: str, cohort: CohortPart, folds: Mapping[str, Any]) -> list[PlanStep]:
        """Return the step that leaves most features out and the components of the others, if the study wants it."""
        keep = self.study.model.screening
        if not keep or not self.layers:
            return []
        moments = self._layer_units(prefix, self.layers, unit="moments")
        grid = {name: f"{prefix}grid.{name}" for name in ("edges", "n_intervals")}
        screening = self._step(
            f"{prefix}screening", "screening", cohort,
            f"A score test of every feature over {_WHO[cohort]}; the {keep} of each layer that tell most are kept.",
            {"keep": keep, **self._layer_floor(), **folds}, inputs={**moments, **grid}, optional=cohort != "all",
        )  # fmt: skip
        return [screening, *self._components(prefix, cohort, folds)]

    def _layer_units(self, prefix: str, layers: Sequence[LayerDesign], unit: str | None = None) -> dict[str, str]:
        """Return the inputs that standardise these layers; `unit` is the step whose scale it is."""
        unit = unit or ("screening" if self.study.model.screening else "moments")
        means = {f"{layer.name}_mean": f"{prefix}moments.{layer.name}_mean" for layer in layers}
        return means | {f"{layer.name}_scale": f"{prefix}{unit}.{layer.name}_scale" for layer in layers}

    def _penalty_search(self, prefix: str, cohort: CohortPart, folds: Mapping[str, Any]) -> list[PlanStep]:
        """Return the step that chooses the penalties, where the study leaves that to cross-validation.

        It works on merged intervals also where the fit does not: there it gets a grid of its own.
        """
        if not self.study.model.tunes_penalty:
            return []
        grid, own, settings = f"{prefix}grid", [], dict(folds)
        if self.exact:
            bins = _uniform_bins(self.study, self.dictionary)
            settings |= {"exact": False, "n_bins": len(bins)}
            grid = f"{prefix}penalty_grid"
            own = [
                self._step(
                    grid, "event_grid", cohort,
                    f"Events in fixed bins of time over {_WHO[cohort]}, for the choice of the penalties.",
                    {"bin_edges": bins, "min_events": self.penalty_events, **settings}, optional=cohort != "all",
                )
            ]  # fmt: skip
        inputs = {
            **self._inputs(prefix, fitted=False),
            "edges": f"{grid}.edges",
            "n_intervals": f"{grid}.n_intervals",
        }
        del inputs["events"], inputs["penalties"]
        step = self._step(
            f"{prefix}penalties", "penalty_search", cohort,
            f"One penalty for each layer, chosen by cross-validation among {_WHO[cohort]}.",
            settings, inputs=inputs, optional=cohort != "all",
        )  # fmt: skip
        return [*own, step]

    def _fit_method(self) -> str:
        """Return the step that fits; with all features of a layer, one that needs no information matrix.

        Raises:
            FaultsError: Where the method has no such step.
        """
        model = self.study.model
        if all(layer.n_components for layer in self.layers):
            return _FIT_METHODS[model.method]
        if model.method not in _ALL_FEATURES:
            raise FaultsError(self.study.name, [_COMPONENTS])
        return _ALL_FEATURES[model.method]

    def private(self) -> list[PlanStep]:
        """Moments, grid, fit and baseline under differential privacy, on all patients."""
        penalties = self._fixed_penalties()["penalties"]
        drafts = private_steps(self.study, self.dictionary, self.design, self.bin_edges, penalties)
        return [self._step(d.name, d.method, "all", d.purpose, d.settings, inputs=d.inputs) for d in drafts]

    def figures(self) -> list[PlanStep]:
        """Risk groups and their survival over all patients: what the model looks like on those who trained it."""
        if not self.study.endpoint.has_time:
            return []
        treatment = treatment_steps(self.study, self.dictionary, self._inputs(""))
        return [*self._risk_groups(), *self._drafted(treatment, "all", {}, optional=True), *self._population()]

    def _population(self) -> list[PlanStep]:
        """Return the step that says where the patients lie; a site's own histogram would show single patients."""
        if not self.study.privacy.secure_sum:
            return []
        inputs = {**self._inputs("", baseline=False), "mean_log_hazard": "risk_groups.mean_log_hazard"}
        return [
            self._step(
                "population", "population", "all",
                "Between which values the patients lie, so that predictions for others can be marked as such.",
                counted_settings(self.study, self.dictionary),
                inputs={**inputs, "sd_log_hazard": "risk_groups.sd_log_hazard"}, optional=True,
            )
        ]  # fmt: skip

    def _risk_groups(self) -> list[PlanStep]:
        groups = self._step(
            "risk_groups", "risk_groups", "all", "Where to cut the log hazard into low, middle and high risk.",
            inputs=self._inputs("", baseline=False), optional=True,
        )  # fmt: skip
        if self.study.endpoint.has_competing:
            settings = {"ties": self.study.model.ties, **self._fixed_penalties()}
            method, to_fit = _FIT_METHODS[self.study.model.method], self._inputs("", fitted=False)
            drafts = competing_steps(self.study, method, settings, to_fit, self._inputs(""))
            return [groups, *self._drafted(drafts, "all", {}, optional=True)]
        return [
            groups,
            self._step(
                "kaplan_meier", "kaplan_meier", "all",
                "Observed and predicted survival of the three risk groups (patients who trained the model).",
                inputs={**self._inputs(""), "cutpoints": "risk_groups.cutpoints"}, optional=True,
            ),
        ]  # fmt: skip

    def held_out_part(self) -> list[PlanStep]:
        """The fit without the patients that sites hold out, and how it does on those."""
        return [
            *self.fit("training_", "training"),
            *self._judging("training_", "held_out_", "held_out", "split", {}, {}),
        ]

    def cross_validation(self) -> list[PlanStep]:
        """The fit without each fold's patients, and how it does on those: all folds in the same rounds."""
        folds = {"n_folds": self.study.evaluation.folds}
        training, judged, split = ({**folds, "look_at": part} for part in ("training", "held_out", "split"))
        return [
            *self.fit("cv_", "folds", training),
            *self._drafted(censoring_steps(self.study, "cv_", "cv_grid"), "folds", training, optional=True),
            *self._judging("cv_", "cv_", "folds", "folds", judged, split),
            *self._drafted(judging_across_folds(self.study, self._inputs("cv_")), "folds", {}, optional=True),
        ]

    def _judging(
        self,
        fitted: str,
        prefix: str,
        cohort: CohortPart,
        split: CohortPart,
        judged_settings: Mapping[str, Any],
        split_settings: Mapping[str, Any],
    ) -> list[PlanStep]:
        """How a model does on patients that it has not seen.

        Args:
            fitted: Prefix of the fit that is judged.
            prefix: Of these steps' names.
            cohort: The patients that are judged.
            split: The same with those who trained, for models of one site alone.
            judged_settings: Of steps that look at `cohort`.
            split_settings: Of the step that looks at `split`.
        """
        inputs = self._inputs(fitted)
        if not self.study.endpoint.has_time:
            drafts = outcome_judging(self.study, self.dictionary, prefix, self._fixed_penalties(), inputs)
            return [
                self._drafted([draft], split if draft.is_split else cohort,
                              split_settings if draft.is_split else judged_settings, optional=True)[0]
                for draft in drafts
            ]  # fmt: skip
        local = {
            "method": self.study.model.method,
            "ties": self.study.model.ties,
            "standardise": self.study.model.standardise,
            "penalties": self._fixed_penalties().get("penalties"),
            **({"keep": self.study.model.screening} if self.study.model.screening else {}),
        }
        steps = [
            self._step(
                f"{prefix}concordance", "concordance", cohort,
                "Pairs of unseen patients of one site in the right order.",
                judged_settings, inputs=inputs, optional=True,
            ),
            *self._drafted(
                masked_judging(self.study, prefix, f"{fitted}grid", f"{fitted}censoring", inputs),
                cohort,
                judged_settings,
                optional=True,
            ),
            self._step(
                f"{prefix}site_only", "site_only", split,
                "The same pairs, ordered by a Cox model of the site's own training patients, at their exact times.",
                {**local, **split_settings}, inputs=self._chosen_penalties(fitted), optional=True,
            ),
            self._step(
                f"{prefix}brier", "brier", cohort, "Squared error of the predicted survival of unseen patients.",
                judged_settings, inputs={**inputs, "events": f"{fitted}grid.events"}, optional=True,
            ),
            self._step(
                f"{prefix}slope", "calibration_slope", cohort,
                "Whether predicted differences between unseen patients are too large or too small.",
                judged_settings, inputs=inputs, optional=True,
            ),
        ]  # fmt: skip
        # With competing events the survival of one cause alone is nobody's.
        return [step for step in steps if step.method != "brier" or not self.study.endpoint.has_competing]

    def _inputs(self, prefix: str, *, fitted: bool = True, baseline: bool = True) -> dict[str, str]:
        has_time = self.study.endpoint.has_time
        inputs = {"mean": f"{prefix}moments.mean", "scale": f"{prefix}moments.scale"}
        if has_time:
            inputs |= {"edges": f"{prefix}grid.edges", "n_intervals": f"{prefix}grid.n_intervals"}
        for layer in self.layers:
            inputs |= self._layer_units(prefix, [layer])
            if layer.n_components:
                inputs[f"{layer.name}_loadings"] = f"{prefix}components.{layer.name}_loadings"
        if not fitted:
            return inputs | self._chosen_penalties(prefix) | ({"events": f"{prefix}grid.events"} if has_time else {})
        if not has_time:
            return inputs | {"alpha": f"{prefix}fit.alpha", "beta": f"{prefix}fit.beta"}
        inputs["beta"] = f"{prefix}fit.{'weights' if self.network else 'beta'}"
        if baseline:
            inputs["cumulative_hazard"] = f"{prefix}baseline.cumulative_hazard"
        return inputs

    def _drafted(
        self, drafts: Sequence[StepDraft], cohort: CohortPart, settings: Mapping[str, Any], *, optional: bool
    ) -> list[PlanStep]:
        """Return the steps of other endpoints, with their shapes."""
        return [
            self._step(
                draft.name, draft.method, cohort, draft.purpose, {**draft.settings, **settings},
                inputs=draft.inputs, optional=optional,
            )
            for draft in drafts
        ]  # fmt: skip

    def _fixed_penalties(self) -> dict[str, list[float]]:
        """Return the setting `penalties` of a fit; none where cross-validation chooses them."""
        model = self.study.model
        if model.tunes_penalty:
            return {}
        return {"penalties": [float(model.penalty_of(column.layer)) for column in self.design]}

    def _chosen_penalties(self, prefix: str) -> dict[str, str]:
        """Return the input `penalties` of a fit, where cross-validation chooses them."""
        return {"penalties": f"{prefix}penalties.penalties"} if self.study.model.tunes_penalty else {}

    def _layer_floor(self) -> dict[str, int]:
        """Return the setting `layer_floor`: without masks a site's sums of a layer need patients enough, too."""
        if not self.layers or self.study.privacy.secure_sum:
            return {}
        return {"layer_floor": self.study.privacy.min_patients}

    def _covariates(self) -> tuple[DesignColumn, ...]:
        return covariates_of(Context(self.design, 1, (), {}, self.layers))

    def _step(
        self,
        name: str,
        method: str,
        cohort: CohortPart,
        purpose: str,
        settings: Mapping[str, Any] | None = None,
        *,
        inputs: Mapping[str, str] | None = None,
        optional: bool = False,
    ) -> PlanStep:
        complete = {"exact": self.exact, "n_bins": len(self.bin_edges), **self.network, **(settings or {})}
        parts = code_of(method, step_context(self.study, self.dictionary, complete)).parts()
        return PlanStep(
            name=name,
            method=method,
            settings=complete,
            inputs=dict(inputs or {}),
            cohort=cohort,
            parts=parts,
            min_patients=self.study.privacy.min_patients,
            optional=optional,
            purpose=purpose,
        )


def _short(purpose: str) -> str:
    """Return a purpose of at most the length that a plan allows."""
    return purpose if len(purpose) <= _LONGEST_PURPOSE else purpose[: _LONGEST_PURPOSE - 1] + "…"


def _network_of(study: Study) -> dict[str, Any]:
    """Return the setting `network` of every step that scores with one; none for other methods."""
    if study.model.method != "hazard-network":
        return {}
    return {"network": (study.model.network or Network()).model_dump(mode="json")}


def _uniform_bins(study: Study, dictionary: Dictionary) -> list[float]:
    """Upper edges of equal bins over the dictionary's range of times, in its unit."""
    column = dictionary.column(study.endpoint.time)
    if column is None or column.max is None:
        raise FaultsError(study.name, [_NO_RANGE])
    n_bins = study.privacy.time_bins
    return [float(edge) for edge in column.max * np.arange(1, n_bins + 1) / n_bins]


def _centre(design_column: DesignColumn, dictionary: Dictionary) -> float:
    """Return a constant near a column's mean: sums of squares about it lose fewer digits."""
    column: Column | None = dictionary.column(design_column.column)
    if column is None or column.min is None or column.max is None:
        return 0.0
    return (column.min + column.max) / 2
