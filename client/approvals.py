"""Which plans this site has approved: a small state machine, and the files that remember it.

A plan arrives with the hub's set-up message or as a file; it is kept as pending when it is what this installation
itself compiles from the study in it, and not below the site's floors. A person approves its hash, with an optional
last day; approval can be withdrawn, and all releases paused, also while a run is going: the guard asks before it
admits and again before it releases.

The state machine (`Approvals`, `verify_plan`) is pure. What fails to be read counts as not approved.
"""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from client.settings import SiteSettings, load_settings
from client.state import SitePaths
from models.compile import CODE_VERSION, compile_plan
from privacy.gate import Floors
from privacy.ledger import Event, Ledger
from privacy.storage import StorageError, locked, storage_error, sync_folder, write_durably
from schemas.canonical import canonical_json
from schemas.codes import SENTENCES, Code
from schemas.errors import ArchipelError, MessageError
from schemas.plan import Plan, read_plan
from schemas.study import study_faults

__all__ = [
    "Approval", "ApprovalError", "Approvals", "PlanStatus", "approve", "current_verdict", "find_plan", "gate_floors",
    "is_paused", "list_plans", "load_plan", "pause", "receive_plan", "resume", "verify_plan", "withdraw",
]  # fmt: skip

MAX_PENDING = 100
MAX_PLAN_BYTES = 32 << 20
_SHORTEST_PREFIX = 6
_HASH_START = re.compile(r"[0-9a-f]{6,64}")
_STRICT = ConfigDict(extra="forbid", frozen=True)
Person = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f]+$")]


class ApprovalError(ArchipelError):
    """An approval that cannot be given, or a plan that is not there."""


class Approval(BaseModel):
    """What one person decided about one plan.

    Attributes:
        approver: Who.
        approved_at: When.
        expires: Last day on which the site answers; none: as long as the study says.
        withdrawn_at: When it was withdrawn, if it was.
    """

    model_config = _STRICT

    approver: Person
    approved_at: datetime.datetime
    expires: datetime.date | None = None
    withdrawn_at: datetime.datetime | None = None


class Approvals(BaseModel):
    """All decisions of a site, by plan hash."""

    model_config = _STRICT

    kind: Literal["approvals"] = "approvals"
    version: Literal[1] = 1
    by_hash: dict[str, Approval] = Field(default_factory=dict)

    def approve(self, plan_hash: str, approval: Approval) -> Approvals:
        """Return the decisions with one more; it replaces an earlier one about the same plan."""
        return self.model_copy(update={"by_hash": {**self.by_hash, plan_hash: approval}})

    def withdraw(self, plan_hash: str, now: datetime.datetime) -> Approvals:
        """Return the decisions with one taken back.

        Raises:
            ApprovalError: When the plan was not approved.
        """
        approval = self.by_hash.get(plan_hash)
        if approval is None or approval.withdrawn_at is not None:
            raise ApprovalError(
                f"Plan {plan_hash[:12]} is not approved at this site, so there is nothing to withdraw."
            )
        return self.approve(plan_hash, approval.model_copy(update={"withdrawn_at": now}))

    def verdict(self, plan: Plan, today: datetime.date) -> Code | None:
        """Return why the site does not answer this plan today, or None where it does."""
        approval = self.by_hash.get(plan.hash)
        if approval is None:
            return Code.PLAN_NOT_APPROVED
        if approval.withdrawn_at is not None:
            return Code.APPROVAL_WITHDRAWN
        last_days = [day for day in (approval.expires, plan.study.expires) if day is not None]
        return Code.APPROVAL_EXPIRED if last_days and today > min(last_days) else None


def verify_plan(plan: Plan, floors: Floors) -> Code | None:
    """Judge a plan before a person is asked: it must be what this installation compiles, and above the floors.

    The hub writes plans too; recompiling means that it can ask for nothing but what the study says.

    Returns:
        Why it is refused, or None.
    """
    if plan.code_version != CODE_VERSION:
        return Code.OTHER_VERSION
    terms = plan.study.privacy
    if (
        min(terms.min_patients, *(step.min_patients for step in plan.steps)) < floors.min_patients
        or terms.min_events_per_interval < floors.min_events_per_interval
    ):
        return Code.PLAN_BELOW_FLOOR
    try:
        if study_faults(plan.study, plan.dictionary):  # `archipel study check` refuses such a study; a hub need not
            return Code.PLAN_NOT_OURS
        ours = compile_plan(plan.study, plan.dictionary)
    except Exception:  # whatever the hub put into a study that no compiler accepts
        return Code.PLAN_NOT_OURS
    return None if ours.hash == plan.hash else Code.PLAN_NOT_OURS


def gate_floors(settings: SiteSettings) -> Floors:
    """Return the site's floors as the gate knows them."""
    return Floors(settings.floors.min_patients, settings.floors.min_events_per_interval)


# ---------------------------------------------------------------- what the guard asks
def current_verdict(paths: SitePaths, plan: Plan, today: datetime.date) -> Code | None:
    """Return why the site does not answer this plan at this moment, read anew from the disk.

    Raises:
        StorageError: When the decisions cannot be read, which is no approval.
    """
    if is_paused(paths.home):
        return Code.SITE_PAUSED
    return _load(paths).verdict(plan, today)


def receive_plan(paths: SitePaths, plan: Plan) -> None:
    """Keep a verified plan as pending, so that a person can read it.

    Raises:
        StorageError: When it cannot be written, or too many wait already.
    """
    path = paths.plan(plan.hash)
    if path.exists():
        return
    decided = _load(paths).by_hash
    if sum(found.stem not in decided for found in _plan_files(paths)) >= MAX_PENDING:
        raise StorageError(f"{MAX_PENDING} plans wait for a decision: remove those of no use from {paths.plans.name}")
    write_durably(path, plan.content)


def load_plan(paths: SitePaths, plan_hash: str) -> Plan | None:
    """Return a received plan; None where there is none, or what is there is not that plan."""
    try:
        plan = read_plan(paths.plan(plan_hash).read_bytes())
    except FileNotFoundError:
        return None
    except MessageError:
        return None
    except OSError as error:
        raise storage_error(paths.plan(plan_hash), error) from None
    return plan if plan.hash == plan_hash else None


# ---------------------------------------------------------------- what a person does
@dataclass(frozen=True)
class PlanStatus:
    """One received plan, as `archipel site plans` lists it.

    Attributes:
        plan: All of it; `schemas.card.data_use_card` puts it into words.
        state: ``approved``, ``pending``, or why the site does not answer it.
        approval: The last decision, or None.
    """

    plan: Plan
    state: Literal["pending", "approved", "withdrawn", "expired"]
    approval: Approval | None


_STATES: dict[Code | None, Literal["pending", "approved", "withdrawn", "expired"]] = {
    None: "approved",
    Code.PLAN_NOT_APPROVED: "pending",
    Code.APPROVAL_WITHDRAWN: "withdrawn",
    Code.APPROVAL_EXPIRED: "expired",
}
Clock = Callable[[], datetime.datetime]


def _utc_now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def is_paused(home: Path) -> bool:
    """Return whether the site releases nothing at the moment."""
    return os.path.lexists(SitePaths(home).paused)


def list_plans(home: Path, *, now: Clock = _utc_now) -> list[PlanStatus]:
    """Return the received plans, the newest first.

    Raises:
        StorageError: When they cannot be read.
    """
    paths = SitePaths(home)
    decisions = _load(paths)
    found = sorted(_plan_files(paths), key=lambda path: (-path.stat().st_mtime_ns, path.name))
    plans = [plan for path in found if (plan := load_plan(paths, path.stem)) is not None]
    return [_status(plan, decisions, now().date()) for plan in plans]


def find_plan(home: Path, which: str | Path) -> Plan:
    """Return the plan that a person means: by its hash, six or more of its first characters, or its file.

    Raises:
        ApprovalError: When there is no such plan, or more than one.
        StorageError: When it cannot be read.
    """
    return _find(SitePaths(home), which)


def approve(
    home: Path, which: str | Path, *, approver: str, expires: datetime.date | None = None, now: Clock = _utc_now
) -> PlanStatus:
    """Approve a plan: from now on the site answers it.

    Args:
        home: The site's folder.
        which: A received plan's hash, its first six characters or more, or a plan's file.
        approver: The person who decides; stands in the ledger.
        expires: Last day on which the site answers.
        now: The clock.

    Raises:
        ApprovalError: When there is no such plan, or this site cannot approve it.
        StorageError: When the decision cannot be written; it then does not hold.
    """
    paths = SitePaths(home)
    plan = _find(paths, which)
    code = verify_plan(plan, gate_floors(load_settings(home)))
    if code is not None:
        raise ApprovalError(f"Plan {plan.hash[:12]} cannot be approved. {SENTENCES[code]}")
    today = now().date()
    if any(day is not None and day < today for day in (expires, plan.study.expires)):
        raise ApprovalError(f"Plan {plan.hash[:12]} cannot be approved: its last day has passed.")
    try:
        approval = Approval(approver=approver, approved_at=now(), expires=expires)
    except ValidationError:
        raise ApprovalError("The approver must be named, in one line of at most 200 characters.") from None
    receive_plan(paths, plan)
    _write_ledger(paths, "approval", plan, who=approver, rule=f"until {expires}" if expires else "")
    decisions = _update(paths, lambda known: known.approve(plan.hash, approval))
    return _status(plan, decisions, today)


def withdraw(home: Path, which: str, *, who: str, now: Clock = _utc_now) -> PlanStatus:
    """Take an approval back; it holds at once, also in a run that is going.

    Raises:
        ApprovalError: When the plan is unknown or was not approved.
        StorageError: When that cannot be written. An error of the ledger alone leaves the withdrawal in force.
    """
    paths = SitePaths(home)
    plan = _find(paths, which)
    decisions = _update(paths, lambda known: known.withdraw(plan.hash, now()))
    _write_ledger(paths, "withdrawal", plan, who=who)
    return _status(plan, decisions, now().date())


def pause(home: Path, *, who: str) -> None:
    """Let nothing leave the site until `resume`; it holds at once, even when the disk is full.

    Raises:
        StorageError: When that cannot be written. An error of the ledger alone leaves the pause in force.
    """
    paths = SitePaths(home)
    try:
        paths.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        paths.paused.touch(mode=0o600)
        sync_folder(paths.state)
    except OSError as error:
        raise storage_error(paths.paused, error) from None
    _write_ledger(paths, "pause", None, who=who)


def resume(home: Path, *, who: str) -> None:
    """End a pause.

    Raises:
        StorageError: When that cannot be written; the pause then goes on.
    """
    paths = SitePaths(home)
    _write_ledger(paths, "resume", None, who=who)
    try:
        paths.paused.unlink(missing_ok=True)
        sync_folder(paths.state)
    except OSError as error:
        raise storage_error(paths.paused, error) from None


# ---------------------------------------------------------------- files
def _find(paths: SitePaths, which: str | Path) -> Plan:
    if isinstance(which, str) and _HASH_START.fullmatch(which):
        found = [path.stem for path in _plan_files(paths) if path.stem.startswith(which)]
        plan = load_plan(paths, found[0]) if len(found) == 1 else None
        if plan is not None:
            return plan
        if found:
            raise ApprovalError(
                f"{len(found)} plans begin with {which}, or its file is damaged: give more of the hash."
            )
    path = Path(which)
    try:
        if path.is_file() and path.stat().st_size <= MAX_PLAN_BYTES:
            return read_plan(path.read_bytes())
    except MessageError as error:
        raise ApprovalError(
            f"{path.name} is not a plan as `archipel study plan STUDY --out FILE` writes it ({error}): ask again."
        ) from None
    except OSError as error:
        raise storage_error(path, error) from None
    raise ApprovalError(
        f"No plan {which} at this site: `archipel site plans` lists them; give its hash (at least "
        f"{_SHORTEST_PREFIX} characters) or a plan's file."
    )


def _plan_files(paths: SitePaths) -> list[Path]:
    return sorted(paths.plans.glob("*.json"))


def _status(plan: Plan, decisions: Approvals, today: datetime.date) -> PlanStatus:
    return PlanStatus(plan, _STATES[decisions.verdict(plan, today)], decisions.by_hash.get(plan.hash))


def _load(paths: SitePaths) -> Approvals:
    try:
        return Approvals.model_validate_json(paths.approvals.read_bytes())
    except FileNotFoundError:
        return Approvals()
    except OSError as error:
        raise storage_error(paths.approvals, error) from None
    except ValidationError:
        raise StorageError(
            f"{paths.approvals.name} is damaged, so no plan counts as approved: move it away and approve again"
        ) from None


def _update(paths: SitePaths, change: Callable[[Approvals], Approvals]) -> Approvals:
    with locked(paths.approvals.with_suffix(".lock"), exclusive=True):
        decisions = change(_load(paths))
        write_durably(paths.approvals, canonical_json(decisions.model_dump(mode="json")))
        return decisions


def _write_ledger(
    paths: SitePaths,
    kind: Literal["approval", "withdrawal", "pause", "resume"],
    plan: Plan | None,
    *,
    who: str,
    rule: str = "",
) -> None:
    study, plan_hash = ("", "") if plan is None else (plan.study.name, plan.hash)
    event = Event(kind, study=study, plan_hash=plan_hash, who=who, rule=rule, code_version=CODE_VERSION)
    Ledger(paths.ledger).append(event)
