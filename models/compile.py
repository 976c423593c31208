"""Compiles a study to its plan: which steps, in which order, with exactly which arrays.

The same study and dictionary compile to the same bytes at the hub and at every site; a site compiles what it is
asked to approve itself, and refuses a plan whose hash differs, so that the hub cannot slip an array in.

A real federation gets the model on all patients, then, where the study asks for an evaluation, a cross-validation
whose folds travel together (`models.folded`). Parts of a fold may be smaller than a site's floor, so folds need the
secure sum; a study without it gets one held-out part at each site that is large enough instead.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.network import load_torch
from models.plan_code import code_of, step_context
from models.plan_limits import name_faults, size_faults
from models.plan_steps import Compiler
from models.preparation import Preparation
from models.private_plan import private_faults
from models.step import Arrays, Floats, Step
from schemas.dictionary import Dictionary
from schemas.errors import Fault, FaultsError
from schemas.plan import Plan
from schemas.study import MIN_EVENTS_FLOOR, FoldColumn, Study

__all__ = ["CODE_VERSION", "build_step", "compile_plan", "prepared_arrays", "step_context"]

CODE_VERSION = "0.1.0"


def compile_plan(
    study: Study,
    dictionary: Dictionary,
    *,
    exact_times: Sequence[float] | None = None,
    evaluation: bool = True,
    figures: bool = True,
    adds_noise: bool = False,
    penalty_events: int = MIN_EVENTS_FLOOR,
) -> Plan:
    """Return the plan of a study.

    Args:
        study: Checked against `dictionary` (see `schemas.study.load_study`).
        dictionary: The one that the study names.
        exact_times: The distinct event times, where the study asks for exact times; `simulate` alone knows them.
        evaluation: Whether to append the held-out evaluation that the study asks for.
        figures: Whether to add the steps behind the report's figures; a fold of a cross-validation needs none.
        adds_noise: Whether whoever runs the plan adds the noise that its parts state (`privacy.noise`). Who does not
            gets a fault for a study under differential privacy, rather than a plan to run in clear.
        penalty_events: Events in each interval of the grid on which penalties are chosen, where the fit itself takes
            exact times: fewer than the default for a site alone that has no more.

    Raises:
        FaultsError: When the study cannot become a plan of a real federation.
    """
    if study.privacy.exact_times and exact_times is None:
        raise FaultsError(study.name, [_EXACT])
    if evaluation and isinstance(study.evaluation.folds, FoldColumn):
        raise FaultsError(study.name, [_FOLD_COLUMN])
    if study.privacy.differential is not None:
        if not adds_noise:
            raise FaultsError(study.name, [_NO_NOISE])
        return _private_plan(study, dictionary, exact_times, evaluation=evaluation)
    if study.model.tunes_penalty and not study.privacy.secure_sum:
        raise FaultsError(study.name, [_CLEAR_FOLDS])
    if taken := name_faults(study):
        raise FaultsError(study.name, taken)
    compiler = Compiler(study, dictionary, exact_times, penalty_events)
    steps = compiler.fit("", "all") + (compiler.figures() if figures else [])
    if evaluation and study.evaluation.folds:
        steps += compiler.cross_validation() if study.privacy.secure_sum else compiler.held_out_part()
    if too_large := size_faults(study, steps):
        raise FaultsError(study.name, too_large)
    return Plan(code_version=CODE_VERSION, study=study, dictionary=dictionary, steps=tuple(steps))


def _private_plan(
    study: Study, dictionary: Dictionary, exact_times: Sequence[float] | None, *, evaluation: bool
) -> Plan:
    """Return the plan of a study under differential privacy: the fit alone, every release with its noise."""
    faults = private_faults(study, dictionary, evaluation=evaluation)
    if study.privacy.exact_times:
        faults.append(_EXACT)
    if faults:
        raise FaultsError(study.name, faults)
    steps = Compiler(study, dictionary, exact_times).private()
    return Plan(code_version=CODE_VERSION, study=study, dictionary=dictionary, steps=tuple(steps))


def build_step(plan: Plan, name: str) -> Step:
    """Return the code of one step of a plan.

    Raises:
        KeyError: When the plan has no such step, or no such method is installed.
    """
    step = plan.by_name[name]
    return code_of(step.method, step_context(plan.study, plan.dictionary, step.settings))


def preload(plan: Plan) -> None:
    """Import what the plan's steps import only when they work, so that processes forked later find it in memory."""
    if any(step.method == "hazard_network" for step in plan.steps):
        load_torch()


def prepared_arrays(plan: Plan, arrays: Arrays, fit: str = "fit") -> dict[str, Floats]:
    """Return what makes the model's matrix (`models.preparation.Preparation.specs`), of a finished run.

    Args:
        plan: That ran.
        arrays: ``step.array`` of the run.
        fit: The step whose matrix it is.
    """
    step = plan.by_name[fit]
    names = Preparation(step_context(plan.study, plan.dictionary, step.settings)).names
    return {name: np.asarray(arrays[step.inputs[name]]) for name in names}


_EXACT = Fault(
    "[privacy] min_events_per_interval",
    "exact event times (1) would give away most patients' rows",
    "write 5 or more; `archipel simulate` alone accepts 1",
)
_NO_NOISE = Fault(
    "[privacy.differential]",
    "what runs this study here adds no noise, and without it the study would promise what it does not keep",
    "take the section out, or run it with what adds the noise (`archipel launch`, `trial` and `simulate` do)",
)
_CLEAR_FOLDS = Fault(
    '[model] penalty = "cv"',
    "the folds that choose the penalties are small parts of each site, and without the secure sum the hub would see "
    "their sums",
    "switch `secure_sum` on (three sites and more), or write the penalties",
)
_FOLD_COLUMN = Fault(
    "[evaluation] folds",
    "folds dealt by a column exist in `archipel simulate` alone",
    "write a number of folds, or 0 for no evaluation",
)
