"""A plan under the secure sum is approved with its roster: signed, pinned, for those sites and no others."""

from __future__ import annotations

import datetime
import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from client import received
from client.approvals import approve, current_verdict, list_plans, load_approvals, withdraw
from client.peers import load_peers
from client.received import ApprovalError, find_roster, list_rosters, load_roster, receive_plan, receive_roster
from client.state import SitePaths
from models.compile import compile_plan
from privacy.approval import sign_approval, verify_approvals
from privacy.ledger import entries
from privacy.storage import StorageError
from schemas.codes import Code
from schemas.roster import Roster
from schemas.study import Privacy
from tests.guards import identity_of, roster_of
from tests.plans import small_dictionary, small_study

DAY = datetime.timedelta(days=1)
NOW = datetime.datetime(2026, 11, 20, 12, 0, tzinfo=datetime.UTC)
TODAY = NOW.date()
PLAN = compile_plan(small_study(), small_dictionary())
ROSTER = roster_of("A", "B", "C")
LONGER = roster_of("A", "B", "C", "D")


@pytest.fixture
def paths(tmp_path: Path) -> SitePaths:
    (tmp_path / "site.toml").write_text(
        'kind = "site"\nversion = 1\nname = "A"\nhub_address = "hub.example:9092"\ntables = "tables"\n'
    )
    found = SitePaths(tmp_path)
    found.identity.parent.mkdir()
    found.identity.touch(0o600)
    found.identity.write_bytes(identity_of("A").private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    receive_plan(found, PLAN, ())
    return found


def verdict(paths: SitePaths, roster_hash: str = ROSTER.hash, day: datetime.date = TODAY) -> Code | None:
    return current_verdict(paths, PLAN, day, roster_hash)


def test_approving_signs_plan_roster_terms_and_last_day_and_pins_the_peers(paths: SitePaths) -> None:
    receive_roster(paths, PLAN.hash, ROSTER)
    assert [known.state for known in list_plans(paths.home)[0].rosters] == ["pending"]
    status = approve(paths.home, PLAN.hash, approver="Dr. Weiß", expires=TODAY + DAY, now=lambda: NOW)
    assert [(known.roster, known.state) for known in status.rosters] == [(ROSTER, "approved")]
    signed = load_approvals(paths).signed(PLAN.hash, ROSTER.hash)
    assert signed is not None
    assert (signed.site, signed.expires) == ("A", TODAY + DAY)
    others = [
        sign_approval(identity_of(name), name, PLAN.hash, ROSTER, PLAN.terms_hash, TODAY) for name in ("B", "C")
    ]
    assert verify_approvals([signed, *others], ROSTER, PLAN.hash, PLAN.terms_hash, TODAY) == ("A", "B", "C")
    assert set(load_peers(paths)) == {"B", "C"}
    (event,) = (entry.event for entry in entries(paths.ledger))
    assert (event.kind, event.rule) == ("approval", f"with roster {ROSTER.hash}, until {TODAY + DAY}")
    assert verdict(paths) is None
    assert verdict(paths, day=TODAY + 2 * DAY) is Code.APPROVAL_EXPIRED


def test_a_plan_without_its_roster_starts_no_masked_run(paths: SitePaths) -> None:
    status = approve(paths.home, PLAN.hash, approver="Dr. Weiß", now=lambda: NOW)
    assert (status.state, status.rosters) == ("approved", ())
    assert verdict(paths) is Code.ROSTER_NOT_APPROVED
    receive_roster(paths, PLAN.hash, ROSTER)
    assert [known.state for known in list_plans(paths.home)[0].rosters] == ["pending"]
    approve(paths.home, PLAN.hash, approver="Dr. Weiß", now=lambda: NOW)
    assert verdict(paths) is None


def test_without_a_last_day_the_signature_holds_for_a_year(paths: SitePaths) -> None:
    approve(paths.home, PLAN.hash, approver="Dr. Weiß", roster=ROSTER, now=lambda: NOW)
    assert verdict(paths, day=TODAY + 365 * DAY) is None
    assert verdict(paths, day=TODAY + 366 * DAY) is Code.APPROVAL_EXPIRED


def test_the_studys_last_day_bounds_the_signature(paths: SitePaths) -> None:
    plan = compile_plan(small_study(expires=TODAY + DAY), small_dictionary())
    receive_plan(paths, plan, ())
    approve(paths.home, plan.hash, approver="Dr. Weiß", roster=ROSTER, expires=TODAY + 9 * DAY, now=lambda: NOW)
    signed = load_approvals(paths).signed(plan.hash, ROSTER.hash)
    assert signed is not None
    assert signed.expires == TODAY + DAY


def test_another_roster_is_another_decision_and_the_earlier_one_stays(paths: SitePaths) -> None:
    approve(paths.home, PLAN.hash, approver="Dr. Weiß", roster=ROSTER, now=lambda: NOW)
    assert verdict(paths, LONGER.hash) is Code.ROSTER_NOT_APPROVED
    approve(paths.home, PLAN.hash, approver="Dr. Weiß", roster=LONGER, now=lambda: NOW)
    assert verdict(paths) is verdict(paths, LONGER.hash) is None


def test_a_withdrawal_takes_every_roster_back_and_approving_one_gives_back_that_one(paths: SitePaths) -> None:
    for roster in (ROSTER, LONGER):
        approve(paths.home, PLAN.hash, approver="Dr. Weiß", roster=roster, now=lambda: NOW)
    withdraw(paths.home, PLAN.hash, who="Dr. Noir", now=lambda: NOW)
    assert verdict(paths) is verdict(paths, LONGER.hash) is Code.APPROVAL_WITHDRAWN
    approve(paths.home, PLAN.hash, approver="Dr. Weiß", roster=LONGER, now=lambda: NOW)
    assert (verdict(paths), verdict(paths, LONGER.hash)) == (Code.ROSTER_NOT_APPROVED, None)


@pytest.mark.parametrize("roster", [roster_of("B", "C", "D"), roster_of("B", "C", A=identity_of("the hub's own"))])
def test_a_roster_without_this_site_or_its_key_cannot_be_approved(paths: SitePaths, roster: Roster) -> None:
    with pytest.raises(ApprovalError, match="does not fit this site"):
        approve(paths.home, PLAN.hash, approver="Dr. Weiß", roster=roster, now=lambda: NOW)
    assert current_verdict(paths, PLAN, TODAY) is Code.PLAN_NOT_APPROVED
    assert load_peers(paths) == {}


def test_a_changed_key_cannot_be_approved_before_the_old_one_is_forgotten(paths: SitePaths) -> None:
    approve(paths.home, PLAN.hash, approver="Dr. Weiß", roster=ROSTER, now=lambda: NOW)
    changed = roster_of("A", "C", B=identity_of("B's new key"))
    with pytest.raises(ApprovalError, match="archipel site peers forget"):
        approve(paths.home, PLAN.hash, approver="Dr. Weiß", roster=changed, now=lambda: NOW)
    assert verdict(paths, changed.hash) is Code.ROSTER_NOT_APPROVED


def test_a_plain_plan_is_approved_without_a_roster(paths: SitePaths) -> None:
    plan = compile_plan(small_study(privacy=Privacy(secure_sum=False)), small_dictionary())
    receive_plan(paths, plan, ())
    with pytest.raises(ApprovalError, match="sums are not masked"):
        approve(paths.home, plan.hash, approver="Dr. Weiß", roster=ROSTER, now=lambda: NOW)
    assert approve(paths.home, plan.hash, approver="Dr. Weiß", now=lambda: NOW).state == "approved"


# ---------------------------------------------------------------- received rosters
def test_a_roster_is_found_by_hash_by_file_or_as_the_newest(paths: SitePaths, tmp_path: Path) -> None:
    assert find_roster(paths, PLAN.hash, None) is None
    for age, roster in enumerate((ROSTER, LONGER)):
        receive_roster(paths, PLAN.hash, roster)
        os.utime(paths.roster(PLAN.hash, roster.hash), ns=(age, age))
    assert list_rosters(paths, PLAN.hash) == [LONGER, ROSTER]
    assert find_roster(paths, PLAN.hash, None) == LONGER
    assert find_roster(paths, PLAN.hash, ROSTER.hash[:8]) == ROSTER
    file = tmp_path / "mailed.json"
    file.write_bytes(ROSTER.content)
    assert find_roster(paths, PLAN.hash, str(file)) == ROSTER
    file.write_bytes(b"{}")
    with pytest.raises(ApprovalError, match=r"mailed\.json is not a list of sites"):
        find_roster(paths, PLAN.hash, str(file))
    with pytest.raises(ApprovalError, match="archipel site plans"):
        find_roster(paths, PLAN.hash, "0" * 64)


def test_a_changed_roster_file_is_no_roster(paths: SitePaths) -> None:
    receive_roster(paths, PLAN.hash, ROSTER)
    path = paths.roster(PLAN.hash, ROSTER.hash)
    for content in (LONGER.content, b"{", ROSTER.content + b"\n"):
        path.write_bytes(content)
        assert load_roster(paths, PLAN.hash, ROSTER.hash) is None
    assert list_rosters(paths, PLAN.hash) == []


def test_a_hub_cannot_fill_the_disk_with_rosters(paths: SitePaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(received, "MAX_ROSTERS", 1)
    receive_roster(paths, PLAN.hash, ROSTER)
    receive_roster(paths, PLAN.hash, ROSTER)
    with pytest.raises(StorageError, match="have come with one plan"):
        receive_roster(paths, PLAN.hash, LONGER)
