"""Makes the result of a run from what its steps found: the same for a simulation and for a real federation.

Everything here reads arrays that are sums over sites. Who computed them, and what the evaluation was, comes in
as `RunFacts`; what the report says about them is decided in `schemas.result` and `archipel.report`.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from archipel.curves import calibration_points, risk_group_curves
from archipel.endpoint_result import by_outcome, competing_events, outcome_facts, treatment_response
from models.baseline import cumulative_hazard_at
from models.compile import step_context
from models.contributions import layer_importance
from models.moments import original_scale
from models.population import layer_parts_of
from models.progress import Progress
from models.step import Floats
from privacy.accountant import plan_delta
from schemas.design import DesignColumn, design_columns, layer_designs
from schemas.plan import Plan
from schemas.result import (
    Baseline,
    Calibration,
    CovariateFacts,
    DictionaryFacts,
    Difference,
    DifferentialFacts,
    KaplanMeier,
    Release,
    ReleasedArray,
    Result,
    RoundFacts,
    ScoredModel,
    Scores,
    SiteFacts,
    StudyFacts,
    SurvivalAt,
)
from schemas.shown import HIDDEN, rounded, rounded_total

_PACKAGES = ("flwr", "numpy", "scipy", "pandas", "pydantic")
_GROUPING = "thirds of the predicted log hazard (cut at its mean ± 0.43 standard deviations)"
_IN_SAMPLE = (
    "The curves by risk group and the calibration are drawn on the patients on whom the model was trained, "
    "so they look better than they will on new patients."
)
_CURVES_IN_SAMPLE = (
    "The curves by risk group are drawn on the patients on whom the model was trained, so they look better than they "
    "will on new patients; calibration and scores are of patients that it had not seen."
)
_WITH_NOISE = (
    "Every number of the run carries noise that hides each patient (differential privacy), patients and events too: "
    "the same study run again gives other numbers, and hazard ratios come without intervals."
)
_NO_SPREAD = "the column does not vary over the sites, or its layer is switched off"
_ALL_FEATURES = "with a coefficient for every feature, standard errors would describe the penalty"
_NO_ERRORS = "noise and clipping leave no standard error that would be honest"
_NOT_RELEASED = "differential privacy: the run spends its budget on the model, and releases nothing else"
NOT_MASKED = (
    "The study switched the secure sum off, so the sums were not masked: whoever administers the hub could read each "
    "site's summands (for example its events in each interval of time)."
)


@dataclass(frozen=True)
class RunFacts:
    """What is known about a run besides its arrays.

    Attributes:
        plan_hash: What the sites approved (in `simulate`: what they would approve, where the study allows it).
        out_of_fold: Curves and calibration of patients that did not train the model that judged them.
        held_out_calibration: Calibration of such patients, where the curves are of those who trained the model.
    """

    run_id: str
    mode: Literal["simulate", "federation"]
    plan_hash: str
    seed: int | None
    sites: tuple[SiteFacts, ...]
    round_log: tuple[RoundFacts, ...]
    bytes_up: int
    bytes_down: int
    wall_s: float
    evaluation_kind: str
    evaluation: Mapping[ScoredModel, Scores]
    differences: tuple[Difference, ...] = ()
    out_of_fold: tuple[KaplanMeier, Calibration | None] | None = None
    held_out_calibration: Calibration | None = None
    warnings: Sequence[str] = ()
    silent: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def make_result(progress: Progress, facts: RunFacts) -> Result:
    """Return the result of a finished run.

    Args:
        progress: Done; its plan is the one that ran.
        facts: About the run.
    """
    plan, arrays = progress.plan, progress.arrays
    study = plan.study
    covariates, coefficients, errors = _coefficients(plan, arrays)
    names = [covariate.name for covariate in covariates]
    baseline = _baseline(plan, arrays)
    kaplan_meier, calibration = facts.out_of_fold or _in_sample(plan, arrays)
    calibration = facts.held_out_calibration or calibration
    exact = study.privacy.exact_times
    masked = study.privacy.secure_sum
    warnings = [NOT_MASKED] if facts.mode == "federation" and not masked else []
    if study.privacy.differential is not None:
        warnings.append(_WITH_NOISE)
    if facts.out_of_fold is None and kaplan_meier is not None:
        warnings.append(_IN_SAMPLE if facts.held_out_calibration is None else _CURVES_IN_SAMPLE)
    warnings += [f"{_spoken(step)}: {reason}." for step, reason in progress.skipped.items()]
    return Result(
        mode=facts.mode,
        run_id=facts.run_id,
        code_version=plan.code_version,
        created_at=datetime.datetime.now(datetime.UTC),
        study=_study_facts(plan),
        dictionary=dictionary_facts(plan),
        plan_hash=facts.plan_hash,
        seed=facts.seed,
        method=study.model.method,
        ties=study.model.ties if study.model.method in ("cox", "cox-stratified") else None,
        penalty=_penalty(plan, arrays),
        standardise=study.model.standardise,
        exact_times=exact,
        grid_intervals=None if exact or not study.endpoint.has_time else int(arrays["grid.n_intervals"]),
        min_events_per_interval=study.privacy.min_events_per_interval,
        on_dropout=study.on_dropout,
        sums_masked=masked,
        differential=_differential(plan),
        n=_n_shown(int(arrays["fit.n_patients"]), facts.sites, kaplan_meier),
        events=rounded(int(arrays["fit.n_events"])),
        sites=facts.sites,
        covariates=covariates,
        coefficients={name: float(b) for name, b in zip(names, coefficients, strict=True)},
        standard_errors={name: float(se) if se > 0 else None for name, se in zip(names, errors, strict=True)},
        layer_importance=_layer_importance(plan, arrays),
        log_likelihood=float(arrays["fit.log_likelihood"]) if "fit.log_likelihood" in arrays else None,
        baseline=baseline,
        kaplan_meier=kaplan_meier,
        calibration=calibration,
        outcome=outcome_facts(plan, arrays),
        treatment_response=treatment_response(plan, arrays),
        competing=competing_events(plan, arrays),
        evaluation_kind=facts.evaluation_kind,
        evaluation=dict(facts.evaluation),
        differences=facts.differences,
        rounds=len(facts.round_log),
        bytes_up=facts.bytes_up,
        bytes_down=facts.bytes_down,
        wall_s=facts.wall_s,
        round_log=facts.round_log,
        releases=_releases(plan, facts),
        software=_software(),
        warnings=(*warnings, *facts.warnings),
        reasons=_reasons(plan, names, errors, baseline, kaplan_meier, calibration),
    )


def _penalty(plan: Plan, arrays: Mapping[str, Floats]) -> float | dict[str, float]:
    """Return the penalties of the fit: the study's, or one for each layer as cross-validation chose them."""
    penalty = plan.study.model.penalty
    if not isinstance(penalty, str):
        return penalty
    layers = dict.fromkeys(column.layer for column in design_columns(plan.study, plan.dictionary))
    return dict(zip(layers, arrays["penalties.layer_penalties"].tolist(), strict=True))


def _coefficients(plan: Plan, arrays: Mapping[str, Floats]) -> tuple[tuple[CovariateFacts, ...], Floats, Floats]:
    """Return the columns of the model with their coefficients and standard errors per unit; none of a network."""
    if "fit.beta" not in arrays:
        return (), np.zeros(0), np.zeros(0)
    design, beta = design_columns(plan.study, plan.dictionary), arrays["fit.beta"]
    # An outcome of several values has the covariates once for each of them.
    scale = np.tile(arrays["moments.scale"], beta.size // len(design))
    covariance = arrays.get("fit.covariance")
    errors = np.zeros_like(beta) if covariance is None else original_scale(beta, covariance, scale)[1]
    facts = [_covariate(column, j, plan, arrays) for j, column in enumerate(design)]
    return tuple(by_outcome(facts, plan)), beta / scale, errors


def _layer_importance(plan: Plan, arrays: Mapping[str, Floats]) -> dict[str, float]:
    """Return the share of each layer in the variance of the log hazard; empty where layers cannot be told apart."""
    covariance = arrays.get("population.layer_covariance")
    if covariance is None:
        return {}
    names = layer_parts_of(step_context(plan.study, plan.dictionary, plan.by_name["population"].settings))
    if len(names) < 2:  # one layer, or one encoder for all
        return {}
    return dict(zip(names, map(float, layer_importance(covariance)), strict=True))


def _n_shown(n: int, sites: Sequence[SiteFacts], kaplan_meier: KaplanMeier | None) -> int | None:
    """Return the number of patients, rounded; None where it would tell the one site or risk group that is hidden."""
    of_sites = [None if site.patients == HIDDEN else 0 for site in sites if site.status == "took part"]
    of_groups = [curve.n_at_risk[0] for curve in kaplan_meier.curves] if kaplan_meier is not None else []
    totals = [rounded_total(n, cells) for cells in (of_sites, of_groups)]
    return None if None in totals else totals[0]


def dictionary_facts(plan: Plan) -> DictionaryFacts:
    """Return which dictionary the plan binds."""
    return DictionaryFacts(name=plan.dictionary.name, version=plan.dictionary.version, hash=plan.dictionary.hash)


def _study_facts(plan: Plan) -> StudyFacts:
    study = plan.study
    time = plan.dictionary.column(study.endpoint.time)
    return StudyFacts(
        name=study.name,
        title=study.title,
        question=study.question,
        endpoint=study.endpoint.label,
        time_unit=(time.unit if time is not None else None) or "day",
        horizons=study.endpoint.horizons_days,
        purpose=study.purpose,
        ethics_reference=study.ethics_reference,
        contact=study.contact,
    )


def _covariate(column: DesignColumn, j: int, plan: Plan, arrays: Mapping[str, Floats]) -> CovariateFacts:
    is_wide = plan.dictionary.wide_layer(column.layer) is not None
    described = None if is_wide else plan.dictionary.column(column.column)
    codes = (described.codes if described is not None else None) or ()
    return CovariateFacts(
        name=column.name,
        column=column.column,
        type=described.type if described is not None else "number",
        code=column.code,
        reference=codes[0] if column.code is not None and codes else None,
        layer=column.layer,
        unit=described.unit if described is not None else None,
        description=described.description if described is not None else "",
        interaction_with=column.treatment,
        mean=float(arrays["moments.mean"][j]),
        standard_deviation=float(arrays["moments.standard_deviation"][j]),
    )


def _baseline(plan: Plan, arrays: Mapping[str, Floats]) -> Baseline | None:
    cumulative = arrays.get("baseline.cumulative_hazard")
    if cumulative is None:
        return None
    n = int(arrays["grid.n_intervals"])
    edges = arrays["grid.edges"]
    horizons = np.asarray(plan.study.endpoint.horizons_days, dtype=np.float64)
    at_horizons = cumulative_hazard_at(horizons, edges, n, cumulative, exact=plan.study.privacy.exact_times)
    survival = tuple(
        SurvivalAt(time=float(t), survival=float(np.exp(-h))) for t, h in zip(horizons, at_horizons, strict=True)
    )
    return Baseline(
        edges=(0.0, *map(float, edges[:n])),
        cumulative_hazard=tuple(map(float, cumulative[:n])),
        # Among competing events, that of one alone would be nobody's survival.
        survival=() if plan.study.endpoint.has_competing else survival,
    )


def _in_sample(plan: Plan, arrays: Mapping[str, Floats]) -> tuple[KaplanMeier | None, Calibration | None]:
    """Return the figures that the plan's own steps made, on the patients who trained the model."""
    found = {
        name.removeprefix("kaplan_meier."): array
        for name, array in arrays.items()
        if name.startswith("kaplan_meier.")
    }
    if not found:
        return None, None
    n = int(arrays["grid.n_intervals"])
    curves = risk_group_curves(found, arrays["grid.edges"][:n])
    points = calibration_points(found, plan.study.endpoint.horizons_days)
    return (
        KaplanMeier(basis="in-sample", grouping=_GROUPING, curves=curves),
        Calibration(basis="in-sample", points=points) if points else None,
    )


def _releases(plan: Plan, facts: RunFacts) -> tuple[Release, ...]:
    """Return what left each site, part by part, as the plan listed it and as it happened."""
    releases: list[Release] = []
    for step in plan.steps:
        for part in step.parts:
            rounds = [r for r in facts.round_log if (r.step, r.part) == (step.name, part.name)]
            answers = sum(r.sites for r in rounds)
            releases.append(
                Release(
                    step=step.name,
                    part=part.name,
                    purpose=step.purpose,
                    arrays=tuple(
                        ReleasedArray(name=spec.name, shape=spec.shape, meaning=spec.meaning)
                        for spec in part.releases
                    ),
                    times=len(rounds),
                    times_allowed=part.times,
                    bytes_per_site=round(sum(r.bytes_up for r in rounds) / answers * len(rounds)) if answers else 0,
                    sites_silent=facts.silent.get(step.name, ()),
                )
            )
    return tuple(releases)


def _differential(plan: Plan) -> DifferentialFacts | None:
    asked = plan.study.privacy.differential
    if asked is None:
        return None
    return DifferentialFacts(
        epsilon=asked.epsilon, delta=plan_delta(plan), clip=asked.clip, honest_sites=asked.honest_sites
    )


def _reasons(
    plan: Plan,
    names: Sequence[str],
    errors: Floats,
    baseline: Baseline | None,
    kaplan_meier: KaplanMeier | None,
    calibration: Calibration | None,
) -> dict[str, str]:
    private = plan.study.privacy.differential is not None
    no_error = _NO_ERRORS if private else _ALL_FEATURES if _takes_all(plan) else _NO_SPREAD
    reasons = {
        f"standard_errors.{name}": no_error for name, error in zip(names, errors, strict=True) if not error > 0
    }
    if private:
        reasons["log_likelihood"] = _NOT_RELEASED
    if not names:
        reasons["coefficients"] = "a network has weights, which mean nothing one by one"
    other = _no_survival(plan)
    if baseline is None:
        reasons["baseline"] = other or "the run has no baseline step"
    if kaplan_meier is None:
        few = "no site had enough patients to draw survival by risk group"
        reasons["kaplan_meier"] = _NOT_RELEASED if private else other or few
    if calibration is None:
        few = "the study names no horizons, or no site had enough patients"
        reasons["calibration"] = _NOT_RELEASED if private else other or few
    return reasons


def _takes_all(plan: Plan) -> bool:
    """Whether every feature of a wide layer has a coefficient."""
    return any(not layer.n_components for layer in layer_designs(plan.study, plan.dictionary))


def _no_survival(plan: Plan) -> str:
    """Return why a study has no figures of survival; empty where it could."""
    if not plan.study.endpoint.has_time:
        return "the outcome has no time"
    return "events compete: see `competing`" if plan.study.endpoint.has_competing else ""


def _software() -> dict[str, str]:
    # Nothing that reads tables is installed at a hub.
    here = {found.name for found in importlib.metadata.distributions()}
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES if name in here}
    return {"python": platform.python_version()} | versions


def _spoken(step: str) -> str:
    return step.replace("_", " ").capitalize()
