"""What the runner's child does with one admitted request: tables to cohort, cohort to summand, summand to draft.

Only installed code runs here; a request names a step of an approved plan and brings arrays, nothing more. What
comes out is a draft for the gate, never a reply. Whatever goes wrong becomes a code: an exception's text may quote
a cell, so the site's log gets its type and place alone. (Our own faults name rows and columns and no cell; they
are logged in full, because a data manager needs them.)

The work is in two halves (`client.task`). The runner looks up run, plan and settings, keeps the cohorts of recent
runs (`warm`) and writes down what comes back; a forked child, which may read at most the tables, computes.
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
from client.members import Members, members_of, record_members, salt_of
from client.optout import load_optout
from client.own_figures import OwnFigures, figures_of, keep_own_figures
from client.settings import SiteSettings, load_settings
from client.state import SitePaths, TablesDigest, fold_key, place_of, source_digest, table_files
from client.task import Outcome, Task
from models.compile import build_step, preload
from models.folds import deal, held_out_part, with_inner_folds
from privacy.storage import StorageError
from schemas.canonical import sha256_hex
from schemas.codes import Code
from schemas.cohort import Cohort
from schemas.errors import FaultsError, MessageError
from schemas.messages import SETUP, Draft, RoundRequest, SetupRequest, decode, encode
from schemas.plan import Plan, PlanStep

__all__ = ["execute", "prepare", "warm"]

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


def prepare(home: Path, request: bytes) -> Task:
    """Look up what one request needs, in the runner; the rest is for its child, which reads no state and no key.

    The runner has the cohort of a run that goes on in memory, so a child reads tables at a run's set-up alone, or
    after a restart. Only then, and only in memory, does it have the secret from which patients are dealt.

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

    def refused(error: Exception) -> Outcome:
        code = _code_of(error, round_[0])
        return Outcome(encode(Draft(message.run_id, *round_, n_patients=0, n_events=0, code=code)))

    try:
        known = _look_up(home, message)
    except Exception as error:
        outcome = refused(error)
        return Task(lambda: outcome)

    def work() -> Outcome:
        try:
            return _outcome(known, message, round_)
        except Exception as error:
            return refused(error)

    def keep(outcome: Outcome) -> bytes:
        try:
            _keep(SitePaths(home), known, message, outcome.record)
        except Exception as error:
            return refused(error).draft
        return outcome.draft

    return Task(work, known.reads, keep)


def execute(home: Path, request: bytes) -> bytes:
    """Return the draft of one site's answer, in one process: the runner works on the same task in two.

    Raises:
        MessageError: As `prepare`.
    """
    task = prepare(home, request)
    return task.keep(task.work())


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
            _remember_cohort(paths, settings, plan, run, source)


@dataclass(frozen=True)
class _Known:
    """What the runner looked up for one request.

    Attributes:
        run: As it was set up.
        plan: Of the run.
        settings: Of the site.
        cohort: Of the run where it is in memory; None: the child reads it.
        key: The secret from which patients are dealt, where the child needs it.
        reads: What the child may read.
    """

    run: RunRecord
    plan: Plan
    settings: SiteSettings
    cohort: Cohort | None
    key: bytes | None
    reads: tuple[Path, ...]


def _look_up(home: Path, request: SetupRequest | RoundRequest) -> _Known:
    paths = SitePaths(home)
    run = read_run(paths.answers, request.run_id)
    plan = _plan_of(paths, request.plan_hash)
    if run is None or plan is None:
        raise ValueError("the guard has set up neither run nor plan")
    settings = load_settings(home)
    source = _source_of(settings, run)
    if source.source_digest != run.source_digest:
        raise TablesChangedError
    cohort = _cohorts.get(source)
    reads = (settings.tables, *table_files(settings.tables), run.optout) if cohort is None else ()
    key = fold_key(paths) if cohort is None or isinstance(request, SetupRequest) else None
    return _Known(run, plan, settings, cohort, key, reads)


def _outcome(known: _Known, request: SetupRequest | RoundRequest, round_: tuple[str, str, int]) -> Outcome:
    plan, settings = known.plan, known.settings
    cohort = known.cohort or _cohort_of(settings, plan, known.run, known.key)
    if isinstance(request, SetupRequest):
        members = members_of(cohort, plan, request.sites, salt_of(known.key or b""))
        draft = Draft(request.run_id, *round_, n_patients=cohort.n_patients, n_events=cohort.n_events)
        return Outcome(encode(draft), members.model_dump_json().encode())
    step = plan.by_name[request.step]
    part = part_of(cohort, step.cohort, _floor(step, settings))
    counted = part.part("held_out") if step.cohort == "split" else part
    draft = Draft(request.run_id, *round_, n_patients=counted.n_patients, n_events=counted.n_events)
    if counted.n_patients == 0:  # the gate makes "empty" of it
        return Outcome(encode(draft))
    if counted.n_patients < _floor(step, settings):  # the gate would refuse it too; nothing need be computed
        return Outcome(encode(replace(draft, code=Code.TOO_FEW_PATIENTS)))
    code = build_step(plan, request.step)
    arrays = code.local(request.part, request.arrays, part)
    figures = figures_of(request.run_id, plan.study.name, code, request.arrays, part)
    draft = replace(draft, arrays={name: np.asarray(array) for name, array in arrays.items()})
    return Outcome(encode(draft), b"" if figures is None else figures.model_dump_json().encode())


def _keep(paths: SitePaths, known: _Known, request: SetupRequest | RoundRequest, record: bytes) -> None:
    """Write down what a child handed back, under names that are not the child's to choose.

    Raises:
        ValidationError: When it is not what such a child hands back.
        StorageError: When the fingerprints of a cohort cannot be written.
    """
    if not record:
        return
    if isinstance(request, SetupRequest):
        record_members(paths, request.run_id, Members.model_validate_json(record))
    else:
        figures = OwnFigures.model_validate_json(record)
        named = {"run_id": request.run_id, "study": known.plan.study.name}
        keep_own_figures(paths, figures.model_copy(update=named))


def _code_of(error: Exception, step: str) -> Code:
    """Log an error for the people of the site, and return all of it that the hub is told."""
    if isinstance(error, SiteError):
        log.error("%s", error)
        return error.code
    if isinstance(error, FaultsError):  # of site.toml or optout.txt: `archipel site check` shows them
        log.error("%s", error)
        return Code.TABLES_REFUSED
    if isinstance(error, StorageError):
        log.error("%s", error)
        return Code.STORAGE_FAILED
    log.error("step %s failed: %s at %s", step, type(error).__name__, place_of(error))
    return Code.STEP_FAILED


def _plan_of(paths: SitePaths, plan_hash: str) -> Plan | None:
    """Return a plan, parsed once: its hash is its content, so what was read cannot become wrong."""
    if plan_hash not in _plans:
        plan = load_plan(paths, plan_hash)
        if plan is None:
            return None
        _plans.clear()
        _plans[plan_hash] = plan
    return _plans[plan_hash]


def _cohort_of(settings: SiteSettings, plan: Plan, run: RunRecord, key: bytes | None) -> Cohort:
    """Read the run's cohort; the tables must be the ones that it was set up with, after reading too.

    Raises:
        SiteError: When they are not, or do not make a cohort.
        FaultsError: When the opt-outs cannot be read.
    """
    if key is None:
        raise ValueError("a cohort is dealt with the site's secret")
    cohort = _read_cohort(settings, plan, run, key)
    if source_digest(settings, _digests) != run.source_digest:
        raise TablesChangedError
    return cohort


def _remember_cohort(paths: SitePaths, settings: SiteSettings, plan: Plan, run: RunRecord, source: _Source) -> None:
    try:
        _remember(source, _cohort_of(settings, plan, run, fold_key(paths)))
    except (SiteError, FaultsError):  # the child says which when it is asked; here it is only not tried again
        _remember(source, None)


def _read_cohort(settings: SiteSettings, plan: Plan, run: RunRecord, key: bytes) -> Cohort:
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
        cohort = with_inner_folds(cohort, key)
    folds = plan.study.evaluation.folds
    if all(step.cohort == "all" for step in plan.steps) or not isinstance(folds, int) or folds == 0:
        return cohort
    if plan.study.privacy.secure_sum:
        fold_of = deal(cohort.event, cohort.group, folds, key, 0, cohort.patient_ids)
        return replace(cohort, fold_of=fold_of)
    smallest = max(_floor(step, settings) for step in plan.steps)
    return replace(cohort, held_out=held_out_part(cohort, key, 1 / folds, smallest))


def _floor(step: PlanStep, settings: SiteSettings) -> int:
    return max(step.min_patients, settings.floors.min_patients)


def _source_of(settings: SiteSettings, run: RunRecord) -> _Source:
    return _Source(run.plan_hash, source_digest(settings, _digests), sha256_hex(run.optout.read_bytes()))


def _remember(source: _Source, cohort: Cohort | None) -> None:
    while len(_cohorts) >= _MOST_COHORTS:
        del _cohorts[next(iter(_cohorts))]
    _cohorts[source] = cohort
