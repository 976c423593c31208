"""Which plans this site has approved, and with which sites: a small state machine, and the files that remember it.

A plan arrives with the hub's set-up message or as a file (`client.received`); it is kept as pending when it is what
this installation itself compiles from the study in it, and not below the site's floors. A person approves its hash,
with an optional last day; approval can be withdrawn, and all releases paused, also while a run is going: the guard
asks before it admits and again before it releases.

A plan under the secure sum is run with one roster, and that is approved with it: the person compares fingerprints
with the other sites outside the hub, and the site signs plan, roster, terms and last day with its own key. The hub
passes the signed approvals on; every site verifies them itself (`privacy.approval`).

The state machine (`Approvals`, `verify_plan`) is pure. What fails to be read counts as not approved.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from client.decisions import Approval, Approvals, RosterDecision, SignedApproval, load_approvals, update_approvals
from client.noising import budget_verdict, honest_verdict
from client.peers import load_identity, load_peers, pin_peers, roster_verdict
from client.received import (
    ApprovalError,
    find_plan,
    find_roster,
    list_rosters,
    load_plan,
    plan_files,
    receive_plan,
    receive_roster,
)
from client.settings import SiteSettings, load_settings
from client.state import SitePaths
from models.compile import CODE_VERSION, compile_plan
from privacy.approval import sign_approval
from privacy.differencing import MIN_SITES, plan_fault
from privacy.gate import Floors
from privacy.ledger import Event, Ledger
from privacy.storage import storage_error, sync_folder
from schemas.codes import SENTENCES, Code
from schemas.plan import Plan
from schemas.roster import Roster
from schemas.study import study_faults

__all__ = [
    "Approval", "ApprovalError", "Approvals", "PlanStatus", "RosterDecision", "RosterStatus", "SignedApproval",
    "approve", "current_verdict", "find_plan", "gate_floors", "is_paused", "list_plans", "load_approvals",
    "load_plan", "pause", "resume", "verify_plan", "verify_sites", "withdraw",
]  # fmt: skip

DAYS = 365
"""How long a signed approval holds where neither the person nor the study says so."""


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
    if plan_fault(plan, MIN_SITES) is not None:  # how many there are, the set-up says (`verify_sites`)
        return Code.PLAN_BELOW_FLOOR
    try:
        if study_faults(plan.study, plan.dictionary):  # `archipel study check` refuses such a study; a hub need not
            return Code.PLAN_NOT_OURS
        ours = compile_plan(plan.study, plan.dictionary, adds_noise=True)  # `client.guard` does
    except Exception:  # whatever the hub put into a study that no compiler accepts
        return Code.PLAN_NOT_OURS
    return None if ours.hash == plan.hash else Code.PLAN_NOT_OURS


def verify_sites(plan: Plan, sites: Sequence[str]) -> Code | None:
    """Judge whom the hub invites: the difference of two sums of the plan must cover three sites.

    Returns:
        Why a run over these sites is refused, or None.
    """
    return Code.SITES_TOO_FEW if plan_fault(plan, len(set(sites))) == "sites" else None


def gate_floors(settings: SiteSettings) -> Floors:
    """Return the site's floors as the gate knows them."""
    return Floors(settings.floors.min_patients, settings.floors.min_events_per_interval)


# ---------------------------------------------------------------- what the guard asks
def current_verdict(
    paths: SitePaths, plan: Plan, today: datetime.date, roster_hash: str | None = None
) -> Code | None:
    """Return why the site does not answer this plan (with this roster) at this moment, read anew from the disk.

    Raises:
        StorageError: When the decisions cannot be read, which is no approval.
    """
    if is_paused(paths.home):
        return Code.SITE_PAUSED
    return load_approvals(paths).verdict(plan, today, roster_hash)


# ---------------------------------------------------------------- what a person does
@dataclass(frozen=True)
class PlanStatus:
    """One received plan, as `archipel site plans` lists it.

    Attributes:
        plan: All of it; `schemas.card.data_use_card` puts it into words.
        state: ``approved``, ``pending``, or why the site does not answer it.
        approval: The last decision, or None.
        rosters: That came with it, the newest first.
    """

    plan: Plan
    state: State
    approval: Approval | None
    rosters: tuple[RosterStatus, ...] = ()


@dataclass(frozen=True)
class RosterStatus:
    """One received roster.

    Attributes:
        roster: All of it.
        state: As the plan's; an approved roster of a withdrawn plan is withdrawn with it.
    """

    roster: Roster
    state: State


State = Literal["pending", "approved", "withdrawn", "expired"]
_STATES: dict[Code | None, State] = {
    None: "approved",
    Code.ROSTER_NOT_APPROVED: "pending",
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
    decisions = load_approvals(paths)
    found = sorted(plan_files(paths), key=lambda path: (-path.stat().st_mtime_ns, path.name))
    plans = [plan for path in found if (plan := load_plan(paths, path.stem)) is not None]
    return [_status(paths, plan, decisions, now().date()) for plan in plans]


def approve(
    home: Path,
    which: str | Path,
    *,
    approver: str,
    roster: Roster | str | None = None,
    expires: datetime.date | None = None,
    now: Clock = _utc_now,
) -> PlanStatus:
    """Approve a plan, and under the secure sum its roster with it: from now on the site answers it.

    Args:
        home: The site's folder.
        which: A received plan's hash, its first six characters or more, or a plan's file.
        approver: The person who decides; stands in the ledger.
        roster: With which sites, for a plan under the secure sum: the roster, its hash or file. None: the one that
            came last; where none has come yet, the plan alone, and its roster has to be approved when it comes.
        expires: Last day on which the site answers.
        now: The clock.

    Raises:
        ApprovalError: When there is no such plan or roster, or this site cannot approve it.
        StorageError: When the decision cannot be written; it then does not hold.
    """
    paths = SitePaths(home)
    settings = load_settings(home)
    plan = find_plan(home, which)
    code = verify_plan(plan, gate_floors(settings))
    code = code or budget_verdict(paths, settings, plan)
    if code is not None:
        raise ApprovalError(f"Plan {plan.hash[:12]} cannot be approved. {SENTENCES[code]}")
    today = now().date()
    if any(day is not None and day < today for day in (expires, plan.study.expires)):
        raise ApprovalError(f"Plan {plan.hash[:12]} cannot be approved: its last day has passed.")
    try:
        approval = Approval(approver=approver, approved_at=now(), expires=expires)
    except ValidationError:
        raise ApprovalError("The approver must be named, in one line of at most 200 characters.") from None
    known = load_approvals(paths)
    rule = f"until {expires}" if expires else ""
    chosen = _chosen_roster(paths, plan, roster)
    if chosen is not None:
        decision = RosterDecision(
            approver=approver,
            approved_at=approval.approved_at,
            signed=_sign(paths, settings, plan, chosen, expires, today),
        )
        approval = approval.model_copy(update={"rosters": {chosen.hash: decision}})
        rule = f"with roster {chosen.hash}, until {decision.signed.expires}"
    receive_plan(paths, plan, known.by_hash)
    _write_ledger(paths, "approval", plan, who=approver, rule=rule)
    if chosen is not None:
        receive_roster(paths, plan.hash, chosen)
        pin_peers(paths, chosen, settings.name)
    decisions = update_approvals(
        paths, lambda known: known.approve(plan.hash, _with_earlier(approval, known, plan, today))
    )
    return _status(paths, plan, decisions, today)


def _chosen_roster(paths: SitePaths, plan: Plan, roster: Roster | str | None) -> Roster | None:
    if not plan.study.privacy.secure_sum:
        if roster is not None:
            raise ApprovalError("This plan's sums are not masked, so it is not approved with a list of sites.")
        return None
    return roster if isinstance(roster, Roster) else find_roster(paths, plan.hash, roster)


def _sign(
    paths: SitePaths,
    settings: SiteSettings,
    plan: Plan,
    roster: Roster,
    expires: datetime.date | None,
    today: datetime.date,
) -> SignedApproval:
    identity = load_identity(paths)
    own_key = identity.public_key().public_bytes_raw()
    code = roster_verdict(roster, roster.names, settings.name, own_key, load_peers(paths))
    code = code or honest_verdict(plan, roster)
    if code is not None:
        raise ApprovalError(f"The list of sites {roster.hash[:12]} cannot be approved. {SENTENCES[code]}")
    last_days = [day for day in (expires, plan.study.expires) if day is not None]
    until = min(last_days, default=today + datetime.timedelta(days=DAYS))
    return sign_approval(identity, settings.name, plan.hash, roster, plan.terms_hash, until)


def _with_earlier(approval: Approval, known: Approvals, plan: Plan, today: datetime.date) -> Approval:
    """Return a decision that keeps the rosters approved before, unless the plan had been withdrawn or had expired."""
    former = known.by_hash.get(plan.hash)
    if former is None or known.verdict(plan, today) is not None:
        return approval
    return approval.model_copy(update={"rosters": {**former.rosters, **approval.rosters}})


def withdraw(home: Path, which: str, *, who: str, now: Clock = _utc_now) -> PlanStatus:
    """Take an approval back; it holds at once, also in a run that is going.

    Raises:
        ApprovalError: When the plan is unknown or was not approved.
        StorageError: When that cannot be written. An error of the ledger alone leaves the withdrawal in force.
    """
    paths = SitePaths(home)
    plan = find_plan(home, which)
    decisions = update_approvals(paths, lambda known: known.withdraw(plan.hash, now()))
    _write_ledger(paths, "withdrawal", plan, who=who)
    return _status(paths, plan, decisions, now().date())


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
def _status(paths: SitePaths, plan: Plan, decisions: Approvals, today: datetime.date) -> PlanStatus:
    rosters = tuple(
        RosterStatus(roster, _STATES[decisions.verdict(plan, today, roster.hash)])
        for roster in list_rosters(paths, plan.hash)
    )
    return PlanStatus(plan, _STATES[decisions.verdict(plan, today)], decisions.by_hash.get(plan.hash), rosters)


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
