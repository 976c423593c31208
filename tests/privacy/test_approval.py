"""A run needs signed approvals of the threshold of sites, each for this plan, roster, terms and day."""

from __future__ import annotations

import datetime

import pytest

from privacy.approval import ApprovalError, sign_approval, verify_approvals
from schemas.roster import Approval, Roster
from tests.privacy.secure_federation import identity, roster_of

TODAY = datetime.date(2026, 11, 21)
PLAN, TERMS = "a" * 64, "c" * 64


def approve(
    site: str, roster: Roster, *, plan: str = PLAN, terms: str = TERMS, expires: datetime.date = TODAY
) -> Approval:
    return sign_approval(identity(site), site, plan, roster, terms, expires)


def verify(approvals: list[Approval], roster: Roster) -> tuple[str, ...]:
    return verify_approvals(approvals, roster, PLAN, TERMS, TODAY)


def test_the_threshold_of_sites_carries_a_run_and_one_fewer_does_not() -> None:
    roster = roster_of(6)
    approvals = [approve(site, roster) for site in roster.names[: roster.threshold]]
    assert verify(approvals[::-1], roster) == roster.names[: roster.threshold]
    with pytest.raises(ApprovalError, match="4 of 6 sites"):
        verify(approvals[1:], roster)


def other_roster() -> Roster:
    return roster_of(7)


ROSTER = roster_of(6)
FAULTS = [
    ("one twice", approve("s00", ROSTER), "twice"),
    ("another plan", approve("s05", ROSTER, plan="b" * 64), "another plan"),
    ("another roster", approve("s05", other_roster()), "another roster"),
    ("other terms", approve("s05", ROSTER, terms="b" * 64), "other terms"),
    ("expired", approve("s05", ROSTER, expires=TODAY - datetime.timedelta(days=1)), "expired"),
    ("an invented hospital", approve("s06", other_roster()), "not in the roster"),
    ("unsigned", approve("s05", ROSTER).model_copy(update={"signature": ""}), "not signed"),
    ("in another's name", approve("s04", ROSTER).model_copy(update={"site": "s05"}), "not signed"),
    (
        "prolonged",
        approve("s05", ROSTER).model_copy(update={"expires": TODAY + datetime.timedelta(days=99)}),
        "not signed",
    ),
]


@pytest.mark.parametrize(("situation", "approval", "reason"), FAULTS, ids=[name for name, _, _ in FAULTS])
def test_every_listed_approval_must_hold_even_beyond_the_threshold(
    situation: str, approval: Approval, reason: str
) -> None:
    enough = [approve(site, ROSTER) for site in ROSTER.names[:5]]
    assert verify(enough, ROSTER)
    with pytest.raises(ApprovalError, match=reason):
        verify([*enough, approval], ROSTER)


def test_a_site_signs_only_where_the_roster_has_its_key() -> None:
    with pytest.raises(ApprovalError):
        sign_approval(identity("s01"), "s00", PLAN, ROSTER, TERMS, TODAY)
    with pytest.raises(ApprovalError):
        sign_approval(identity("s09"), "s09", PLAN, ROSTER, TERMS, TODAY)
