"""A site that was put back from a backup: what it must refuse for good, and what it does not know of itself.

``state/restored.json`` says which runs the site had seen when the backup was made. It answers none of them any more:
it cannot know which rounds it answered later. What else happened between the backup and the end of the old machine,
only the hub's newest countersigned head tells, which comes with the kit of the new enrolment:

    whole    the head is one that the restored ledger holds: nothing left the site that it does not know of
    lost     the head is ahead: what the missing entries were is gone; the budget is taken from the head
    unknown  no head, or one that does not hold: as lost, and all of the privacy budget counts as spent
    waiting  the site has not joined again: as unknown

While the history is not whole a cohort may differ by one patient from one that was released and forgotten
(`privacy.differencing`), so exact sums are refused until a person of the site has said, in the ledger, that they may
go on (`accept_loss`). What leaves under differential privacy needs no history but its budget.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from client.decisions import Person
from client.settings import SiteSettings, load_settings
from client.state import SitePaths
from models.compile import CODE_VERSION
from privacy.accountant import mu_of
from privacy.budget import Budget, Charge, Limit
from privacy.head_signature import HeadSignatureError, verify_countersigned, verify_head
from privacy.ledger import GENESIS, Event, Ledger, entries
from privacy.storage import StorageError, storage_error, write_durably
from schemas.artefact_manifest import Hash, Key32
from schemas.canonical import canonical_json
from schemas.codes import Code
from schemas.errors import ArchipelError
from schemas.ledger_head import CountersignedHead
from schemas.plan import Plan

__all__ = [
    "History", "LossError", "Restored", "accept_loss", "history_of", "judge_history", "load_restored",
    "restored_line", "restored_verdict", "run_verdict", "settle", "write_restored",
]  # fmt: skip

Verdict = Literal["waiting", "whole", "lost", "unknown"]
# No site may set a limit beyond it (`client.settings.DatasetBudget`), so an account filled to it is closed.
_LARGEST = Limit(100.0, 1e-5)


class LossError(ArchipelError):
    """A decision about a lost history that cannot be."""


class Restored(BaseModel):
    """What a restored site must not forget.

    Attributes:
        at: When it was restored.
        backup_of: When the backup was made.
        count: Entries of the ledger in the backup.
        hash: Of the last one of them.
        previous_identity: Public identity of the site at that time; None where it had none.
        runs: Refused for good, those of earlier restorations included.
        history: What is known about the time between.
        lost: Entries that the countersigned head has beyond the backup's.
        accepted_by: The person who lets exact sums leave although the history is not whole.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["restored"] = "restored"
    version: Literal[1] = 1
    at: AwareDatetime
    backup_of: AwareDatetime
    count: Annotated[int, Field(ge=0)]
    hash: Hash
    previous_identity: Key32 | None = None
    runs: tuple[str, ...] = ()
    history: Verdict = "waiting"
    lost: Annotated[int, Field(ge=0)] = 0
    accepted_by: Person | None = None
    accepted_at: AwareDatetime | None = None


@dataclass(frozen=True)
class History:
    """What a kit tells a restored site.

    Attributes:
        verdict: Never ``waiting``.
        lost: Entries that are missing, where that is known.
        sentence: For people.
    """

    verdict: Verdict
    lost: int
    sentence: str


# ---------------------------------------------------------------- decisions
def run_verdict(restored: Restored | None, run_id: str) -> Code | None:
    """Return why a run is never answered again, or None."""
    return Code.RUN_BEFORE_RESTORE if restored is not None and run_id in restored.runs else None


def restored_verdict(restored: Restored | None, plan: Plan) -> Code | None:
    """Return why a plan is not answered while the site's history is not whole, or None."""
    if restored is None or restored.history == "whole":
        return None
    if plan.study.privacy.differential is not None:
        return Code.BUDGET_EXCEEDED if restored.history == "waiting" else None
    return Code.HISTORY_LOST if restored.accepted_by is None else None


def judge_history(
    restored: Restored,
    site: str,
    held: Callable[[int], str | None],
    head: CountersignedHead | None,
    pinned: str | None,
) -> History:
    """Judge what the hub's newest head says about the time between the backup and now.

    Args:
        restored: What the backup says.
        site: This site's name.
        held: Returns the hash of the entry at which the restored ledger has a number of entries.
        head: Of the kit.
        pinned: The hub's key for heads, likewise.
    """
    spent = "so all of the privacy budget counts as spent"
    if head is None or pinned is None:
        return History("unknown", 0, f"The kit names no countersigned head of this site's ledger, {spent}.")
    stated = head.head
    try:
        verify_countersigned(head, pinned)
        verify_head(stated, restored.previous_identity or "")
    except HeadSignatureError:
        return History(
            "unknown", 0, f"The head in the kit is not signed by this site's former identity and by the hub, {spent}."
        )
    if stated.site != site:
        return History("unknown", 0, f"The head in the kit is another site's, {spent}.")
    if stated.count > restored.count:
        lost = stated.count - restored.count
        return History(
            "lost",
            lost,
            f"{lost} entries of the ledger were written after the backup and are lost; what the privacy budget had "
            f"paid by {stated.issued:%Y-%m-%d %H:%M} UTC is taken from the countersigned head.",
        )
    if held(stated.count) != stated.hash:
        return History("unknown", 0, f"The head in the kit is of another ledger than the one in the backup, {spent}.")
    return History("whole", 0, "The backup holds everything that the hub has countersigned: nothing is lost.")


# ---------------------------------------------------------------- what joining does
def history_of(home: Path, head: CountersignedHead | None, pinned: str | None) -> History | None:
    """Return what a kit tells this site, and change nothing; None where it does not wait for one."""
    paths = SitePaths(home)
    restored = load_restored(paths)
    if restored is None or restored.history != "waiting":
        return None
    hashes = {entry.index + 1: entry.hash for entry in entries(paths.ledger)} | {0: GENESIS}
    return judge_history(restored, load_settings(home).name, hashes.get, head, pinned)


def settle(home: Path, head: CountersignedHead | None, pinned: str | None) -> History | None:
    """Take what a kit tells into ledger, budget and state, once; None where this site does not wait for one.

    Raises:
        StorageError, LedgerBrokenError, BudgetBrokenError: When that cannot be written; the site then waits on.
    """
    paths = SitePaths(home)
    history = history_of(home, head, pinned)
    restored = load_restored(paths)
    if history is None or restored is None:
        return None
    settings = load_settings(home)
    charges = _charges(paths, settings, restored, history, head)
    ledger = Ledger(paths.ledger)
    for charge in charges:  # the ledger first: from it an account is filled again, should what follows not happen
        ledger.append(_charged(charge))
    if charges:
        _charge(paths, charges)
    ledger.append(Event("restore", rule=f"history {history.verdict}: {history.sentence}", code_version=CODE_VERSION))
    write_restored(paths, restored.model_copy(update={"history": history.verdict, "lost": history.lost}))
    return history


def _charges(
    paths: SitePaths, settings: SiteSettings, restored: Restored, history: History, head: CountersignedHead | None
) -> list[Charge]:
    """Return what has to be charged so that no account is below what it may have paid."""
    own = _spent(paths)
    due: dict[str, float] = {}
    if history.verdict == "lost" and head is not None:
        due = {one.dataset: one.mu_squared for one in head.head.spent}
    elif history.verdict == "unknown":
        due = dict.fromkeys(own, mu_of(_LARGEST.epsilon, _LARGEST.delta) ** 2)
        if settings.budget is not None:
            due[settings.budget.dataset] = Limit(settings.budget.epsilon, settings.budget.delta).mu_squared
    run = f"restore-{restored.at:%Y%m%dT%H%M%SZ}"
    missing = {name: mu - own.get(name, 0.0) for name, mu in sorted(due.items())}
    return [
        Charge(name, run, "restore", number, mu, "", "")
        for number, (name, mu) in enumerate(missing.items())
        if mu > 1e-12 * max(due[name], 1.0)
    ]


def _spent(paths: SitePaths) -> dict[str, float]:
    if not paths.budget.exists():
        return {}
    budget = Budget(paths.budget)
    try:
        return {name: budget.spent(name)[0] for name in budget.datasets()}
    finally:
        budget.close()


def _charge(paths: SitePaths, charges: Iterable[Charge]) -> None:
    budget = Budget(paths.budget)
    try:
        budget.restore(charges)
    finally:
        budget.close()


def _charged(charge: Charge) -> Event:
    return Event(
        "restore",
        run=charge.run,
        step=charge.step,
        number=charge.number,
        rule="counted as spent after the restoration",
        dataset=charge.dataset,
        mu_squared=charge.mu_squared,
        code_version=CODE_VERSION,
    )


# ---------------------------------------------------------------- what a person does
def accept_loss(home: Path, *, who: str, now: datetime.datetime) -> Restored:
    """Let exact sums leave this site again although its history is not whole; a person answers for it by name.

    Raises:
        LossError: When nothing is to be accepted.
        StorageError, LedgerBrokenError: When the decision cannot be written; it then does not hold.
    """
    paths = SitePaths(home)
    restored = load_restored(paths)
    if restored is None or restored.history == "whole":
        raise LossError("This site's history is whole: there is nothing to accept.")
    if restored.history == "waiting":
        raise LossError("Join the hub first (`archipel site join KIT.json`): its kit says what was lost.")
    if restored.accepted_by is not None:
        raise LossError(f"{restored.accepted_by} has accepted it already.")
    try:
        accepted = Restored(**{**dict(restored), "accepted_by": who, "accepted_at": now})
    except ValidationError:
        raise LossError("Who accepts must be named, in one line of at most 200 characters.") from None
    rule = "exact sums may leave although cohorts released after the backup are not known"
    Ledger(paths.ledger).append(Event("restore", rule=rule, who=who, code_version=CODE_VERSION))
    write_restored(paths, accepted)
    return accepted


def restored_line(restored: Restored) -> str:
    """Return how a restored site stands, for a person."""
    begun = f"Restored on {restored.at:%Y-%m-%d} from a backup of {restored.backup_of:%Y-%m-%d %H:%M} UTC: "
    begun += f"{len(restored.runs)} runs from before are refused; "
    if restored.history == "waiting":
        return begun + "not joined again yet, so all of the privacy budget counts as spent (`archipel site join`)"
    if restored.history == "whole":
        return begun + "nothing was lost"
    lost = f"{restored.lost} entries are lost" if restored.history == "lost" else "what was lost is not known"
    if restored.accepted_by is not None:
        return f"{begun}{lost}; accepted by {restored.accepted_by}"
    return f"{begun}{lost}, so exact sums are refused (`archipel site accept-loss` after reading docs/operations.md)"


# ---------------------------------------------------------------- the file
def load_restored(paths: SitePaths) -> Restored | None:
    """Return what this site must not forget; None at a site that was never restored.

    Raises:
        StorageError: When it cannot be read: then nothing may leave.
    """
    try:
        return Restored.model_validate_json(paths.restored.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise storage_error(paths.restored, error) from None
    except ValidationError:
        where = f"state/{paths.restored.name}"
        raise StorageError(f"{where} is damaged: restore the site from its backup again") from None


def write_restored(paths: SitePaths, restored: Restored) -> None:
    """Keep it.

    Raises:
        StorageError: When the disk does not take it.
    """
    write_durably(paths.restored, canonical_json(restored.model_dump(mode="json")))
