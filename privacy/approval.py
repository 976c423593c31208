"""Approvals of the other sites, signed: what a hub cannot invent and each site checks itself before set-up.

A hub that could start a run alone could fill a roster with hospitals of its own making. So a run needs the signed
approval of at least the roster's threshold of sites, and every site verifies them against the keys that its own
people compared (`schemas.roster`). Pure: values in, a verdict out.
"""

from __future__ import annotations

import base64
import datetime
from collections.abc import Sequence

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from schemas.errors import ArchipelError
from schemas.roster import Approval, Roster

__all__ = ["ApprovalError", "sign_approval", "verify_approvals"]


class ApprovalError(ArchipelError):
    """Approvals that do not carry a run, with the site whose approval is at fault."""


def sign_approval(
    identity: Ed25519PrivateKey, site: str, plan_hash: str, roster: Roster, terms_hash: str, expires: datetime.date
) -> Approval:
    """Return the signed approval of `site`.

    Raises:
        ApprovalError: When the roster does not know the site by this identity.
    """
    if roster.keys.get(site) != identity.public_key().public_bytes_raw():
        raise ApprovalError(f"the roster does not name {site} with this site's key: ask the hub for a corrected one")
    bare = Approval(site=site, plan_hash=plan_hash, roster_hash=roster.hash, terms_hash=terms_hash, expires=expires)
    signature = base64.b64encode(identity.sign(bare.signed_bytes)).decode("ascii")
    return bare.model_copy(update={"signature": signature})


def verify_approvals(
    approvals: Sequence[Approval], roster: Roster, plan_hash: str, terms_hash: str, today: datetime.date
) -> tuple[str, ...]:
    """Verify that enough sites approve; every approval in the list must hold, not only enough of them.

    Args:
        approvals: As the hub relays them.
        roster: As this site approved it.
        plan_hash: Of the plan to be run.
        terms_hash: Of the terms under which.
        today: Of this site's clock (UTC).

    Returns:
        The sites that approve, sorted.

    Raises:
        ApprovalError: Naming the first approval that does not hold, or how many are missing.
    """
    approving: set[str] = set()
    for approval in approvals:
        if approval.site in approving:
            raise ApprovalError(f"the approval of {approval.site} is listed twice")
        _verify(approval, roster, plan_hash, terms_hash, today)
        approving.add(approval.site)
    if len(approving) < roster.threshold:
        raise ApprovalError(
            f"{len(approving)} of {len(roster.sites)} sites have approved; the run needs {roster.threshold}"
        )
    return tuple(sorted(approving))


def _verify(approval: Approval, roster: Roster, plan_hash: str, terms_hash: str, today: datetime.date) -> None:
    who = approval.site
    key = roster.keys.get(who)
    if key is None:
        raise ApprovalError("an approval comes from a site that is not in the roster")
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(approval.signature_bytes, approval.signed_bytes)
    except (InvalidSignature, ValueError):
        raise ApprovalError(f"the approval of {who} is not signed with its key in the roster") from None
    approved = (approval.plan_hash, approval.roster_hash, approval.terms_hash)
    for what, one, other in zip(
        ("another plan", "another roster", "other terms"), approved, (plan_hash, roster.hash, terms_hash), strict=True
    ):
        if one != other:
            raise ApprovalError(f"{who} approved {what} than this run's")
    if approval.expires < today:
        raise ApprovalError(f"the approval of {who} expired on {approval.expires:%Y-%m-%d}")
