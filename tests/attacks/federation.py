"""A study over sites in memory: its compiled plan, and the questions that the hub and an attacker ask of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from models.compile import build_step, compile_plan
from models.step import Arrays, Floats, combine
from privacy.gate import Floors, admit, release
from schemas.codes import Code
from schemas.cohort import Cohort, concatenate
from schemas.dictionary import Column, Dictionary
from schemas.messages import Draft, Reply, RoundRequest
from schemas.plan import Plan
from schemas.study import Differential, Endpoint, Evaluation, Model, Privacy, Study

MIN_EVENTS = 5


def plan_over(
    sites: Sequence[Cohort],
    columns: Sequence[str],
    method: str = "hazard",
    *,
    penalty: float = 0.0,
    min_events: int = MIN_EVENTS,
    differential: Differential | None = None,
    count_censored: bool = False,
    **model: Any,
) -> Plan:
    """Compile a study of all `columns` over these sites; the dictionary's ranges are those of the data.

    Args:
        min_events: In an interval of the common grid; 1 means the exact event times.
        differential: Noise that hides every patient.
        count_censored: Whether the grid counts them too.
        model: More of the study's `[model]`.
    """
    pooled = concatenate(list(sites))
    dictionary = Dictionary(
        kind="dictionary",
        version=1,
        name="attacked",
        columns=(
            Column(name="patient_id", type="identifier"),
            Column(name="time", type="number", unit="day", min=0, max=float(pooled.time.max())),
            Column(name="event", type="boolean"),
            *(_column(name, pooled.matrix([name])) for name in columns),
        ),
    )
    study = Study(
        kind="study",
        version=1,
        name="attacked",
        dictionary="dictionary.toml",
        endpoint=Endpoint(time="time", event="event"),
        model=Model(method=method, covariates=tuple(columns), penalty=penalty, **model),
        evaluation=Evaluation(folds=0),
        privacy=Privacy(min_events_per_interval=min_events, differential=differential, count_censored=count_censored),
    )
    exact = np.unique(pooled.time[pooled.event]).tolist() if min_events == 1 else None
    return compile_plan(study, dictionary, exact_times=exact, figures=False, adds_noise=differential is not None)


def _column(name: str, values: Floats) -> Column:
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    return Column(name=name, type="number", min=low, max=high if high > low else low + 1.0)


def given(plan: Plan, sites: Sequence[Cohort]) -> dict[str, Floats]:
    """Return what the plan's first steps find over these sites: `mean`, `scale`, `edges`, `n_intervals`."""
    found: dict[str, Floats] = {}
    for name in ("moments", "grid"):
        code, spec = build_step(plan, name), plan.by_name[name]
        turn = code.begin({})
        total = combine([code.local(spec.parts[0].name, {}, site) for site in sites])
        found |= code.finish(spec.parts[0].name, turn.state, {}, total).state
    return {name: found[name] for name in ("mean", "scale", "edges", "n_intervals")}


def answer(plan: Plan, part: str, sent: Arrays, sites: Sequence[Cohort]) -> dict[str, Floats]:
    """Return what the hub learns from a question of the fit: the sum, as an ideal secure sum gives it."""
    code = build_step(plan, "fit")
    return combine([code.local(part, sent, site) for site in sites])


def request_of(plan: Plan, part: str, sent: Mapping[str, Floats], step: str = "fit", number: int = 0) -> RoundRequest:
    """Return a question as the hub's message; only the arrays that the part lists are sent."""
    names = [spec.name for spec in plan.by_name[step].part(part).sends]
    arrays = {name: np.asarray(sent[name], dtype=np.float64) for name in names}
    return RoundRequest("run", plan.hash, ("a", "b", "c"), step, part, number, arrays=arrays)


def through_gate(plan: Plan, request: RoundRequest, site: Cohort) -> Reply | Code:
    """Return what leaves one site through its gate."""
    refused = admit(request, plan)
    if refused is not None:
        return refused
    arrays = build_step(plan, request.step).local(request.part, request.arrays, site)
    summand = {name: np.asarray(array, dtype=np.float64) for name, array in arrays.items()}
    draft = Draft(
        request.run_id, request.step, request.part, request.number, site.n_patients, site.n_events, arrays=summand
    )
    return release(draft, request, plan, Floors())


def rows_of(site: Cohort, found: Arrays, columns: Sequence[str]) -> Floats:
    """Return the (n, p) rows of a site in the model's units, missing cells at the mean."""
    x = (site.matrix(columns) - found["mean"]) / found["scale"]
    return np.where(np.isnan(x), 0.0, x)
