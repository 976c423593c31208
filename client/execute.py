"""What the runner's child does with one admitted request: tables to cohort, cohort to summand, summand to draft.

Only installed code runs here; a request names a step of an approved plan and brings arrays, nothing more. What
comes out is a draft for the gate, never a reply. Whatever goes wrong becomes a code: an exception's text may quote
a cell, so the site's log gets its type and place alone. (Our own faults name rows and columns and no cell; they
are logged in full, because a data manager needs them.)

The parent process keeps the cohorts of recent runs (`warm`), and each forked child finds them in its memory.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from client.answers import RunRecord, read_run, recent_runs
from client.approvals import load_plan
from client.cohort_of import cohort_from_tables, part_of
from client.errors import SiteError, TablesChangedError
from client.members import record_members
from client.optout import load_optout
from client.own_figures import keep_own_figures
from client.settings import SiteSettings, load_settings
from client.state import SitePaths, TablesDigest, fold_key, place_of, source_digest
from models.compile import build_step, preload
from models.folds import deal, held_out_part, with_inner_folds
from privacy.storage import StorageError
from schemas.canonical import sha256_hex
from schemas.codes import Code
from schemas.cohort import Cohort
from schemas.errors import FaultsError, MessageError
from schemas.messages import SETUP, Draft, RoundRequest, SetupRequest, decode, encode
from schemas.plan import Plan, PlanStep

__all__ = ["execute", "warm"]

log = logging.getLogger("archipel.site")

_MOST_COHORTS = 2
"""Cohorts that a runner keeps: the current run's, and one beside it."""


@dataclass(frozen=True)
class _Source:
    """What a cohort depends on: equal sources give equal cohorts."""

    plan_hash: str
    source_digest: str
    optout_digest: str


# Kept between requests on purpose: children forked from the runner inherit it. None: the tables do not make one.
_cohorts: dict[_Source, Cohort | None] = {}
_plans: dict[str, Plan] = {}
_digests = TablesDigest()


def execute(home: Path, request: bytes) -> bytes:
    """Return the draft of one site's answer.

    Args:
        home: The site's folder.
        request: Admitted by the guard, so its run is set up and its plan approved.

    Raises:
        MessageError: When the bytes are no request; the guard lets none pass.
    """
    message = decode(request)
    if isinstance(message, SetupRequest):
        round_ = (SETUP, SETUP, 0)
    elif isinstance(message, RoundRequest):
        round_ = (message.step, message.part, message.number)
    else:
        raise MessageError("expected a request")
    try:
        return encode(_draft(home, message, round_))
    except SiteError as error:
        log.error("%s", error)
        code = error.code
    except FaultsError as error:  # of site.toml or optout.txt: `archipel site check` shows them
        log.error("%s", error)
        code = Code.TABLES_REFUSED
    except StorageError as error:
        log.error("%s", error)
        code = Code.STORAGE_FAILED
    except Exception as error:
        log.error("step %s failed: %s at %s", round_[0], type(error).__name__, place_of(error))
        code = Code.STEP_FAILED
    return encode(Draft(message.run_id, *round_, n_patients=0, n_events=0, code=code))


def warm(home: Path) -> None:
    """Read tables and libraries for the runs that were set up last, so that a forked child finds them in memory.

    Costs a few file times and one query when nothing has changed.

    Raises:
        FaultsError: When `site.toml` has faults.
        StorageError: When the site's state cannot be read.
    """
    paths = SitePaths(home)
    for run in recent_runs(paths.answers, 1):
        plan = _plan_of(paths, run.plan_hash)
        if plan is None:
            continue
        preload(plan)
        settings = load_settings(home)
        source = _source_of(settings, run)
        if source not in _cohorts and source.source_digest == run.source_digest:
            _prepare(paths, settings, plan, run, source)


def _draft(home: Path, request: SetupRequest | RoundRequest, round_: tuple[str, str, int]) -> Draft:
    paths = SitePaths(home)
    run = read_run(paths.answers, request.run_id)
    plan = _plan_of(paths, request.plan_hash)
    if run is None or plan is None:
        raise ValueError("the guard has set up neither run nor plan")
    settings = load_settings(home)
    cohort = _cohort_of(paths, settings, plan, run)
    if isinstance(request, SetupRequest):
        record_members(paths, request.run_id, cohort, plan, request.sites)
        return Draft(request.run_id, *round_, n_patients=cohort.n_patients, n_events=cohort.n_events)
    step = plan.by_name[request.step]
    part = part_of(cohort, step.cohort, _floor(step, settings))
    counted = part.part("held_out") if step.cohort == "split" else part
    draft = Draft(request.run_id, *round_, n_patients=counted.n_patients, n_events=counted.n_events)
    if counted.n_patients == 0:  # the gate makes "empty" of it
        return draft
    if counted.n_patients < _floor(step, settings):  # the gate would refuse it too; nothing need be computed
        return replace(draft, code=Code.TOO_FEW_PATIENTS)
    code = build_step(plan, request.step)
    arrays = code.local(request.part, request.arrays, part)
    keep_own_figures(paths, request.run_id, plan.study.name, code, request.arrays, part)
    return replace(draft, arrays={name: np.asarray(array) for name, array in arrays.items()})


def _plan_of(paths: SitePaths, plan_hash: str) -> Plan | None:
    """Return a plan, parsed once: its hash is its content, so what was read cannot become wrong."""
    if plan_hash not in _plans:
        plan = load_plan(paths, plan_hash)
        if plan is None:
            return None
        _plans.clear()
        _plans[plan_hash] = plan
    return _plans[plan_hash]


def _cohort_of(paths: SitePaths, settings: SiteSettings, plan: Plan, run: RunRecord) -> Cohort:
    """Return the run's cohort; the tables must be the ones that it was set up with, before and after reading.

    Raises:
        SiteError: When they are not, or do not make a cohort.
        FaultsError: When the opt-outs cannot be read.
    """
    source = _source_of(settings, run)
    if source.source_digest != run.source_digest:
        raise TablesChangedError
    cohort = _cohorts.get(source)
    if cohort is None:
        cohort = _read_cohort(paths, settings, plan, run)
        if source_digest(settings, _digests) != run.source_digest:
            raise TablesChangedError
        _remember(source, cohort)
    return cohort


def _prepare(paths: SitePaths, settings: SiteSettings, plan: Plan, run: RunRecord, source: _Source) -> None:
    try:
        _cohort_of(paths, settings, plan, run)
    except (SiteError, FaultsError):  # the child says which when it is asked; here it is only not tried again
        _remember(source, None)


def _read_cohort(paths: SitePaths, settings: SiteSettings, plan: Plan, run: RunRecord) -> Cohort:
    cohort = cohort_from_tables(
        settings.tables,
        plan.dictionary,
        plan.study,
        settings.dialect,
        settings.floors,
        load_optout(run.optout),
        site=settings.name,
    )
    if any(step.method == "penalty_search" for step in plan.steps):
        cohort = with_inner_folds(cohort, fold_key(paths))
    folds = plan.study.evaluation.folds
    if all(step.cohort == "all" for step in plan.steps) or not isinstance(folds, int) or folds == 0:
        return cohort
    if plan.study.privacy.secure_sum:
        fold_of = deal(cohort.event, cohort.group, folds, fold_key(paths), 0, cohort.patient_ids)
        return replace(cohort, fold_of=fold_of)
    smallest = max(_floor(step, settings) for step in plan.steps)
    return replace(cohort, held_out=held_out_part(cohort, fold_key(paths), 1 / folds, smallest))


def _floor(step: PlanStep, settings: SiteSettings) -> int:
    return max(step.min_patients, settings.floors.min_patients)


def _source_of(settings: SiteSettings, run: RunRecord) -> _Source:
    return _Source(run.plan_hash, source_digest(settings, _digests), sha256_hex(run.optout.read_bytes()))


def _remember(source: _Source, cohort: Cohort | None) -> None:
    while len(_cohorts) >= _MOST_COHORTS:
        del _cohorts[next(iter(_cohorts))]
    _cohorts[source] = cohort
