"""Makes the artefact of a finished run from its arrays, its result and its plan. Signing it is the hub's business."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from archipel.private_events import private_horizon_events
from models.baseline_spread import BaselineSpread, spread_of_breslow, spread_of_hazard
from models.compile import prepared_arrays, step_context
from models.contributions import layer_importance
from models.population import counted_columns, layer_parts_of
from models.step import Floats
from schemas.artefact import (
    Artefact,
    ArtefactCause,
    ArtefactColumn,
    ArtefactLayer,
    ArtefactNetwork,
    HorizonEvents,
    LogHazardQuantile,
    Manifest,
    PopulationRange,
    write_artefact,
)
from schemas.design import design_columns, layer_designs, treatment_column
from schemas.plan import Plan
from schemas.result import Result
from schemas.shown import HIDDEN, at_least, shown_count
from schemas.study import Network

__all__ = ["NOT_FOR", "artefact_bytes", "has_artefact", "make_artefact"]

NOT_FOR = (
    "Decisions about the care of a patient: this is a model for research, not a medical device.",
    "Patients outside the ranges of the cohort that trained it, or another disease, endpoint or time origin.",
    "Saying what would happen if a covariate were changed: the model describes associations, not effects.",
)


def has_artefact(plan: Plan, arrays: Mapping[str, Floats]) -> bool:
    """Whether a finished run ends with a model file.

    An outcome without a time has no curve, and where events compete, the curve of one kind alone would promise too
    much of it: without a model of every kind there is none. Such models stand in the result alone.
    """
    endpoint = plan.study.endpoint
    others = range(2, len(endpoint.causes) + 1)
    return endpoint.has_time and all(f"cause_{cause}_baseline.cumulative_hazard" in arrays for cause in others)


def artefact_bytes(arrays: Mapping[str, Floats], result: Result, plan: Plan) -> bytes:
    """Return the content of ``model.safetensors``, unsigned; see `make_artefact`."""
    return write_artefact(make_artefact(arrays, result, plan))


def make_artefact(arrays: Mapping[str, Floats], result: Result, plan: Plan) -> Artefact:
    """Return the artefact of a finished run.

    Args:
        arrays: ``step.array`` of the run.
        result: Of the same run.
        plan: That ran.
    """
    study, dictionary = plan.study, plan.dictionary
    manifest = Manifest(
        study=study.name,
        title=study.title,
        run_id=result.run_id,
        mode=result.mode,
        method=result.method,
        code_version=result.code_version,
        created_at=result.created_at,
        plan_hash=result.plan_hash,
        dictionary=dictionary.name,
        dictionary_version=dictionary.version,
        dictionary_hash=dictionary.hash,
        endpoint=study.endpoint.label,
        time_unit=result.study.time_unit,
        time_origin=_time_origin(plan),
        horizons=study.endpoint.horizons_days,
        exact_times=result.exact_times,
        columns=_columns(plan),
        layers=_layers(plan),
        network=_network(plan),
        treatment=treatment_column(study, dictionary).name if study.model.treatment is not None else None,
        n_patients=shown_count(result.n),
        n_events=HIDDEN if result.events is None else shown_count(result.events),
        events_by_horizon=(
            private_horizon_events(arrays, plan, len(result.sites))
            if study.privacy.differential is not None
            else _events_by_horizon(arrays, plan)
        ),
        causes=_causes(arrays, plan),
        population=_population(arrays, plan),
        log_hazards=_log_hazards(arrays),
        importance=_importance(arrays, plan),
        epsilon=result.differential.epsilon if result.differential is not None else None,
        delta=result.differential.delta if result.differential is not None else None,
        expires=None,
        intended_use=study.purpose,
        not_for=NOT_FOR,
        contact=study.contact,
        arrays={},
    )
    return Artefact(manifest, _arrays(arrays, plan))


def with_validity(artefact: Artefact, **changes: object) -> Artefact:
    """Return the artefact with other words in its manifest (`expires`, `intended_use`, `card_hash`), unsigned."""
    content = {**dict(artefact.manifest), **changes, "arrays": {}, "signed_by": None, "signature": None}
    return replace(artefact, manifest=Manifest(**content))


def _time_origin(plan: Plan) -> str:
    """Return what the dictionary says of the time."""
    time = plan.dictionary.column(plan.study.endpoint.time)
    return "" if time is None else time.description


def _network(plan: Plan) -> ArtefactNetwork | None:
    if plan.study.model.method != "hazard-network":
        return None
    shape = plan.study.model.network or Network()
    return ArtefactNetwork(hidden=shape.hidden, fusion=shape.fusion)


def _columns(plan: Plan) -> tuple[ArtefactColumn, ...]:
    found = []
    for column in design_columns(plan.study, plan.dictionary):
        described = plan.dictionary.column(column.column)
        wide = plan.dictionary.wide_layer(column.layer)
        kept = described if wide is None else wide.feature
        found.append(
            ArtefactColumn(
                name=column.name,
                column=column.column,
                layer=column.layer,
                code=column.code,
                component=column.component,
                treatment=column.treatment,
                type=kept.type if kept is not None else "number",
                codes=kept.codes if kept is not None else None,
                unit=kept.unit if kept is not None else None,
                min=kept.min if kept is not None else None,
                max=kept.max if kept is not None else None,
                required=kept.required if kept is not None else False,
                description=kept.description if kept is not None else "",
            )
        )
    return tuple(found)


def _layers(plan: Plan) -> tuple[ArtefactLayer, ...]:
    found = []
    for design in layer_designs(plan.study, plan.dictionary):
        layer = plan.dictionary.wide_layer(design.name)
        if layer is not None:
            found.append(
                ArtefactLayer(
                    name=design.name,
                    type=layer.type,
                    transform=design.transform,
                    min_prevalence=design.min_prevalence,
                    unit=layer.unit,
                    limit_of_detection=layer.limit_of_detection,
                    genome_build=layer.genome_build,
                    features=design.features,
                    n_components=design.n_components,
                    **({"adjust": design.adjust} if design.adjust else {}),
                )
            )
    return tuple(found)


def _arrays(arrays: Mapping[str, Floats], plan: Plan) -> dict[str, Floats]:
    n = int(arrays["grid.n_intervals"])
    kept = {**prepared_arrays(plan, arrays), "edges": arrays["grid.edges"][:n]}
    own = [_of_cause(arrays, plan, start) for start in ("", *_other_causes(plan))]
    # Of all kinds of event or of none: an interval needs them all.
    shared = set.intersection(*(set(one) for one in own))
    for start, one in zip(("", *_other_causes(plan)), own, strict=True):
        kept |= {start + name: array for name, array in one.items() if name in shared}
    return kept


def _other_causes(plan: Plan) -> tuple[str, ...]:
    """Return how the steps and arrays of each competing event begin."""
    return tuple(f"cause_{number}_" for number in range(2, len(plan.study.endpoint.causes) + 1))


def _of_cause(arrays: Mapping[str, Floats], plan: Plan, start: str) -> dict[str, Floats]:
    """Return coefficients and baseline of one kind of event, and how sure they are."""
    n = int(arrays["grid.n_intervals"])
    kept = {
        "beta": arrays["fit.weights" if plan.study.model.method == "hazard-network" else f"{start}fit.beta"],
        "cumulative_hazard": arrays[f"{start}baseline.cumulative_hazard"][:n],
    }
    covariance = arrays.get(f"{start}fit.covariance")
    # Under differential privacy, and where a fit gives none, zeros stand for "not known".
    if covariance is None or not covariance.any():
        return kept
    kept["covariance"] = covariance
    spread = _spread(arrays, n, start)
    if spread is not None:
        kept |= {"hazard_variance": spread.variance, "hazard_slope": spread.slope}
    return kept


def _spread(arrays: Mapping[str, Floats], n: int, start: str) -> BaselineSpread | None:
    """Return how sure the baseline is; None for a model whose run does not tell."""
    baseline = f"{start}baseline."
    if f"{baseline}mean_covariates" in arrays:
        of = {name: arrays[baseline + name][:n] for name in ("events", "hazard_observed", "mean_covariates")}
        return spread_of_breslow(of["events"], of["hazard_observed"], of["mean_covariates"])
    full = arrays.get(f"{start}fit.covariance_full")
    if full is None:
        return None
    k = arrays[f"{start}fit.alpha"].size
    kept = np.concatenate((np.arange(n), np.arange(k, full.shape[0])))
    hazard = np.diff(arrays[f"{baseline}cumulative_hazard"][:n], prepend=0.0)
    return spread_of_hazard(full[np.ix_(kept, kept)], hazard)


def _causes(arrays: Mapping[str, Floats], plan: Plan) -> tuple[ArtefactCause, ...]:
    """Return all kinds of event with their counts, that of interest first."""
    found = []
    for number, code in enumerate(plan.study.endpoint.causes, start=1):
        counted = _counted(arrays, plan, number)
        n_events = "" if counted is None else shown_count(round(float(counted.sum())))
        by_horizon = _events_by_horizon(arrays, plan, number)
        found.append(ArtefactCause(code=str(code), n_events=n_events, events_by_horizon=by_horizon))
    return tuple(found)


def _counted(arrays: Mapping[str, Floats], plan: Plan, cause: int) -> Floats | None:
    """Return the events of one kind in each interval of the grid; None where the run does not tell.

    Where events compete the grid counts those of any kind, and the curves by risk group each kind.
    """
    if plan.study.privacy.differential is not None:  # then of pieces, with noise
        return None
    n = int(arrays["grid.n_intervals"])
    if not plan.study.endpoint.has_competing:
        return arrays["grid.events"][:n] if "grid.events" in arrays else None
    events = arrays.get("incidence.events")
    return None if events is None else events.sum(axis=0)[cause - 1, :n]


def _events_by_horizon(arrays: Mapping[str, Floats], plan: Plan, cause: int = 1) -> tuple[HorizonEvents, ...]:
    """Return the events in whole intervals up to each horizon: what the grid counted, never more than there were."""
    events = _counted(arrays, plan, cause)
    if events is None:
        return ()
    edges = arrays["grid.edges"][: events.size]
    found = []
    for horizon in plan.study.endpoint.horizons_days:
        count = round(float(events[edges <= horizon * (1 + 1e-12)].sum()))
        found.append(HorizonEvents(horizon=horizon, events=shown_count(count), at_least=at_least(count)))
    return tuple(found)


def _population(arrays: Mapping[str, Floats], plan: Plan) -> tuple[PopulationRange, ...]:
    found = []
    for j, column in enumerate(counted_columns(plan.study, plan.dictionary)):
        known = "population.known" in arrays and arrays["population.known"][j] > 0
        edges = (float(arrays[f"population.{end}"][j]) if known else None for end in ("low", "high"))
        found.append(PopulationRange(column=column.name, low=next(edges), high=next(edges)))
    return tuple(found)


def _log_hazards(arrays: Mapping[str, Floats]) -> tuple[LogHazardQuantile, ...]:
    if "population.share" not in arrays:
        return ()
    pairs = zip(arrays["population.share"], arrays["population.log_hazard"], strict=True)
    # Rounded: an exact share would tell how many patients there are.
    rounded = ((round(float(share), 2), float(edge)) for share, edge in pairs)
    return tuple(LogHazardQuantile(share=share, log_hazard=edge) for share, edge in rounded if 0 < share < 1)


def _importance(arrays: Mapping[str, Floats], plan: Plan) -> dict[str, float]:
    if "population.layer_covariance" not in arrays:
        return {}
    names = layer_parts_of(step_context(plan.study, plan.dictionary, plan.by_name["population"].settings))
    if len(names) == 1 and names[0] not in plan.study.model.layers:
        return {}  # early fusion: one encoder for all layers
    return dict(zip(names, map(float, layer_importance(arrays["population.layer_covariance"])), strict=True))
