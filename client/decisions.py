"""The decisions of a site's people about plans and rosters: a pure state machine, and the file that remembers it.

What fails to be read counts as not approved.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from client.received import ApprovalError
from client.state import SitePaths
from privacy.storage import StorageError, locked, storage_error, write_durably
from schemas.canonical import canonical_json
from schemas.codes import Code
from schemas.plan import Plan
from schemas.roster import Approval as SignedApproval

__all__ = ["Approval", "Approvals", "RosterDecision", "SignedApproval", "load_approvals", "update_approvals"]

_STRICT = ConfigDict(extra="forbid", frozen=True)
Person = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f]+$")]


class RosterDecision(BaseModel):
    """What one person decided about one roster of a plan.

    Attributes:
        approver: Who.
        approved_at: When.
        signed: With the site's key, for the other sites.
    """

    model_config = _STRICT

    approver: Person
    approved_at: datetime.datetime
    signed: SignedApproval


class Approval(BaseModel):
    """What one person decided about one plan.

    Attributes:
        approver: Who.
        approved_at: When.
        expires: Last day on which the site answers; none: as long as the study says.
        withdrawn_at: When it was withdrawn, if it was.
        rosters: By hash: with which sites the plan may be run under the secure sum.
    """

    model_config = _STRICT

    approver: Person
    approved_at: datetime.datetime
    expires: datetime.date | None = None
    withdrawn_at: datetime.datetime | None = None
    rosters: dict[str, RosterDecision] = Field(default_factory=dict)


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

    def withdraw_all(self, now: datetime.datetime) -> Approvals:
        """Return the decisions with every one taken back that holds."""
        held = {key: one for key, one in self.by_hash.items() if one.withdrawn_at is None}
        gone = {key: one.model_copy(update={"withdrawn_at": now}) for key, one in held.items()}
        return self.model_copy(update={"by_hash": {**self.by_hash, **gone}})

    def signed(self, plan_hash: str, roster_hash: str) -> SignedApproval | None:
        """Return the approval that the other sites are shown, or None."""
        approval = self.by_hash.get(plan_hash)
        decision = approval.rosters.get(roster_hash) if approval is not None else None
        return decision.signed if decision is not None else None

    def verdict(self, plan: Plan, today: datetime.date, roster_hash: str | None = None) -> Code | None:
        """Return why the site does not answer this plan today, or None where it does.

        Args:
            plan: Verified.
            today: UTC.
            roster_hash: Of the run's roster; None under a plain sum.
        """
        approval = self.by_hash.get(plan.hash)
        if approval is None:
            return Code.PLAN_NOT_APPROVED
        if approval.withdrawn_at is not None:
            return Code.APPROVAL_WITHDRAWN
        last_days = [day for day in (approval.expires, plan.study.expires) if day is not None]
        if roster_hash is not None:
            signed = self.signed(plan.hash, roster_hash)
            if signed is None:
                return Code.ROSTER_NOT_APPROVED
            last_days.append(signed.expires)
        return Code.APPROVAL_EXPIRED if last_days and today > min(last_days) else None


# ---------------------------------------------------------------- the file
def load_approvals(paths: SitePaths) -> Approvals:
    """Return all decisions of the site.

    Raises:
        StorageError: When they cannot be read, which is no approval.
    """
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


def update_approvals(paths: SitePaths, change: Callable[[Approvals], Approvals]) -> Approvals:
    """Change the decisions, alone among this site's processes.

    Raises:
        StorageError: When they cannot be read or written; the former then hold.
    """
    with locked(paths.approvals.with_suffix(".lock"), exclusive=True):
        decisions = change(load_approvals(paths))
        write_durably(paths.approvals, canonical_json(decisions.model_dump(mode="json")))
        return decisions
