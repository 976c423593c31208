"""Approvals: what a person decides holds at once, and nothing that this site would not compile can be approved."""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import Any

import pytest

from client import received
from client.approvals import (
    Approval,
    ApprovalError,
    Approvals,
    approve,
    current_verdict,
    find_plan,
    is_paused,
    list_plans,
    load_plan,
    pause,
    resume,
    verify_plan,
    verify_sites,
    withdraw,
)
from client.received import receive_plan
from client.state import SitePaths
from models.compile import compile_plan
from privacy.gate import Floors
from privacy.ledger import LedgerBrokenError, entries
from privacy.storage import StorageError
from schemas.codes import Code
from schemas.plan import ArraySpec, Plan
from schemas.study import Evaluation, Model, Privacy
from tests.plans import small_dictionary, small_study

DAY = datetime.timedelta(days=1)
NOW = datetime.datetime(2026, 11, 20, 12, 0, tzinfo=datetime.UTC)
TODAY = NOW.date()


def our_plan(**changed: Any) -> Plan:
    changed.setdefault("privacy", Privacy(secure_sum=False))
    return compile_plan(small_study(**changed), small_dictionary())


OURS = our_plan()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "site.toml").write_text(
        'kind = "site"\nversion = 1\nname = "A"\nhub_address = "hub.example:9092"\ntables = "tables"\n'
    )
    return tmp_path


@pytest.fixture
def paths(home: Path) -> SitePaths:
    found = SitePaths(home)
    receive_plan(found, OURS, ())
    return found


# ---------------------------------------------------------------- the state machine
def approval(**changed: Any) -> Approval:
    return Approval.model_validate({"approver": "Dr. Weiß", "approved_at": NOW, **changed})


@pytest.mark.parametrize(
    ("situation", "expires", "study_expires", "withdrawn", "code"),
    [
        ("for good", None, None, None, None),
        ("until today", TODAY, None, None, None),
        ("until yesterday", TODAY - DAY, None, None, Code.APPROVAL_EXPIRED),
        ("the study ends today", None, TODAY, None, None),
        ("the study ended", None, TODAY - DAY, None, Code.APPROVAL_EXPIRED),
        ("the study ended before the approval", TODAY + DAY, TODAY - DAY, None, Code.APPROVAL_EXPIRED),
        ("withdrawn", None, None, NOW, Code.APPROVAL_WITHDRAWN),
        ("withdrawn and expired", TODAY - DAY, None, NOW, Code.APPROVAL_WITHDRAWN),
    ],
)
def test_an_approval_holds_until_its_last_day_or_a_withdrawal(
    situation: str,
    expires: datetime.date | None,
    study_expires: datetime.date | None,
    withdrawn: datetime.datetime | None,
    code: Code | None,
) -> None:
    plan = our_plan(expires=study_expires)
    decided = Approvals().approve(plan.hash, approval(expires=expires, withdrawn_at=withdrawn))
    assert decided.verdict(plan, TODAY) is code, situation


def test_no_decision_is_no_approval() -> None:
    assert Approvals().verdict(OURS, TODAY) is Code.PLAN_NOT_APPROVED
    assert (
        Approvals().approve(our_plan(title="other").hash, approval()).verdict(OURS, TODAY) is Code.PLAN_NOT_APPROVED
    )


def test_a_withdrawn_plan_can_be_approved_again() -> None:
    decided = Approvals().approve(OURS.hash, approval()).withdraw(OURS.hash, NOW)
    assert decided.verdict(OURS, TODAY) is Code.APPROVAL_WITHDRAWN
    assert decided.approve(OURS.hash, approval()).verdict(OURS, TODAY) is None


def test_only_an_approval_can_be_withdrawn() -> None:
    with pytest.raises(ApprovalError, match="nothing to withdraw"):
        Approvals().withdraw(OURS.hash, NOW)
    with pytest.raises(ApprovalError):
        Approvals().approve(OURS.hash, approval()).withdraw(OURS.hash, NOW).withdraw(OURS.hash, NOW)


# ---------------------------------------------------------------- plans
def with_a_step_changed(plan: Plan, **changed: Any) -> Plan:
    first = plan.steps[0].model_copy(update=changed)
    return Plan.model_validate_json(plan.model_copy(update={"steps": (first, *plan.steps[1:])}).model_dump_json())


def _with_one_more_array(plan: Plan) -> Plan:
    part = plan.steps[0].parts[0]
    rows = ArraySpec(name="rows", shape=(40, 2), meaning="sums")
    return with_a_step_changed(plan, parts=(part.model_copy(update={"releases": (*part.releases, rows)}),))


def _asked_more_often(plan: Plan) -> Plan:
    part = plan.steps[0].parts[0]
    return with_a_step_changed(plan, parts=(part.model_copy(update={"times": part.times + 1}),))


def test_what_this_installation_compiles_is_ours() -> None:
    assert verify_plan(OURS, Floors()) is None
    assert verify_plan(our_plan(evaluation=Evaluation(folds=5)), Floors()) is None


def test_a_plan_with_held_out_patients_is_not_run_over_two_sites() -> None:
    with_evaluation = our_plan(evaluation=Evaluation(folds=5))
    assert verify_sites(with_evaluation, ("A", "B")) is Code.SITES_TOO_FEW
    assert verify_sites(with_evaluation, ("A", "B", "B")) is Code.SITES_TOO_FEW
    assert verify_sites(with_evaluation, ("A", "B", "C")) is None
    assert verify_sites(our_plan(evaluation=Evaluation(folds=0)), ("A", "B")) is None


@pytest.mark.parametrize(
    ("situation", "plan", "floors", "code"),
    [
        ("one array more", _with_one_more_array(OURS), Floors(), Code.PLAN_NOT_OURS),
        ("asked once more", _asked_more_often(OURS), Floors(), Code.PLAN_NOT_OURS),
        ("a step left out", OURS.model_copy(update={"steps": OURS.steps[:-1]}), Floors(), Code.PLAN_NOT_OURS),
        ("a gentler purpose", with_a_step_changed(OURS, purpose="Nothing."), Floors(), Code.PLAN_NOT_OURS),
        ("the endpoint among the covariates",
         our_plan(model=Model(covariates=("age_years", "time_days"))), Floors(), Code.PLAN_NOT_OURS),
        ("an identifier among the covariates",
         our_plan(model=Model(covariates=("age_years", "patient_id"))), Floors(), Code.PLAN_NOT_OURS),
        ("a column that is not described",
         OURS.model_copy(update={"dictionary": small_dictionary().model_copy(update={"columns": ()})}), Floors(),
         Code.PLAN_NOT_OURS),
        ("another version", OURS.model_copy(update={"code_version": "9.9.9"}), Floors(), Code.OTHER_VERSION),
        ("nine patients", our_plan(privacy=Privacy(min_patients=9)), Floors(), Code.PLAN_BELOW_FLOOR),
        ("nine patients in one step", with_a_step_changed(OURS, min_patients=9), Floors(), Code.PLAN_BELOW_FLOOR),
        ("four events", our_plan(privacy=Privacy(min_events_per_interval=4)), Floors(), Code.PLAN_BELOW_FLOOR),
        ("below the site's patients", OURS, Floors(min_patients=20), Code.PLAN_BELOW_FLOOR),
        ("below the site's events", OURS, Floors(min_events_per_interval=10), Code.PLAN_BELOW_FLOOR),
        ("exact times", compile_plan(small_study(privacy=Privacy(min_events_per_interval=1)), small_dictionary(),
                                     exact_times=[1.0, 2.0]), Floors(), Code.PLAN_BELOW_FLOOR),
    ],
)  # fmt: skip
def test_a_plan_that_asks_for_more_is_not_ours(situation: str, plan: Plan, floors: Floors, code: Code) -> None:
    assert verify_plan(plan, floors) is code, situation


# ---------------------------------------------------------------- a person decides
def test_a_received_plan_is_pending_until_it_is_approved(paths: SitePaths) -> None:
    assert [(status.plan, status.state) for status in list_plans(paths.home)] == [(OURS, "pending")]
    assert current_verdict(paths, OURS, TODAY) is Code.PLAN_NOT_APPROVED
    status = approve(paths.home, OURS.hash[:8], approver="Dr. Weiß", expires=TODAY + DAY, now=lambda: NOW)
    assert (status.state, status.approval) == ("approved", approval(expires=TODAY + DAY))
    assert current_verdict(paths, OURS, TODAY) is None
    assert current_verdict(paths, OURS, TODAY + 2 * DAY) is Code.APPROVAL_EXPIRED
    assert [s.state for s in list_plans(paths.home, now=lambda: NOW + 2 * DAY)] == ["expired"]


@pytest.mark.parametrize("as_text", [True, False])
def test_a_plan_can_be_approved_from_its_file(home: Path, tmp_path: Path, as_text: bool) -> None:
    file = tmp_path / "mailed.json"
    file.write_bytes(OURS.content)
    approve(home, str(file) if as_text else file, approver="Dr. Weiß")
    assert load_plan(SitePaths(home), OURS.hash) == OURS
    assert current_verdict(SitePaths(home), OURS, TODAY) is None


def test_a_withdrawal_holds_at_once(paths: SitePaths) -> None:
    approve(paths.home, OURS.hash, approver="Dr. Weiß")
    assert withdraw(paths.home, OURS.hash[:6], who="Dr. Noir").state == "withdrawn"
    assert current_verdict(paths, OURS, TODAY) is Code.APPROVAL_WITHDRAWN


def test_a_pause_holds_for_every_plan_until_it_ends(paths: SitePaths) -> None:
    approve(paths.home, OURS.hash, approver="Dr. Weiß")
    pause(paths.home, who="Dr. Noir")
    pause(paths.home, who="Dr. Noir")
    assert is_paused(paths.home)
    assert current_verdict(paths, OURS, TODAY) is Code.SITE_PAUSED
    resume(paths.home, who="Dr. Weiß")
    assert not is_paused(paths.home)
    assert current_verdict(paths, OURS, TODAY) is None


def test_every_decision_stands_in_the_ledger_with_its_person(paths: SitePaths) -> None:
    approve(paths.home, OURS.hash, approver="Dr. Weiß", expires=TODAY + DAY, now=lambda: NOW)
    pause(paths.home, who="Dr. Noir")
    resume(paths.home, who="Dr. Weiß")
    withdraw(paths.home, OURS.hash, who="Dr. Noir")
    found = [entry.event for entry in entries(paths.ledger)]
    assert [(event.kind, event.who, event.plan_hash) for event in found] == [
        ("approval", "Dr. Weiß", OURS.hash), ("pause", "Dr. Noir", ""), ("resume", "Dr. Weiß", ""),
        ("withdrawal", "Dr. Noir", OURS.hash),
    ]  # fmt: skip
    assert (found[0].study, found[0].rule) == ("small-study", "until 2026-11-21")


@pytest.mark.parametrize("which", ["", "abc", "f" * 64, OURS.hash[:5], OURS.hash.upper(), "nowhere.json"])
def test_a_plan_that_is_not_there_is_named(paths: SitePaths, which: str) -> None:
    with pytest.raises(ApprovalError, match="archipel site plans"):
        find_plan(paths.home, which)


def test_a_prefix_of_two_plans_means_neither(paths: SitePaths, monkeypatch: pytest.MonkeyPatch) -> None:
    (paths.plans / (OURS.hash[:10] + "0" * 54 + ".json")).write_bytes(OURS.content)
    with pytest.raises(ApprovalError, match="more of the hash"):
        find_plan(paths.home, OURS.hash[:6])
    assert find_plan(paths.home, OURS.hash) == OURS


def test_a_file_that_is_no_plan_is_named(home: Path) -> None:
    (home / "study.toml").write_text('kind = "study"')
    with pytest.raises(ApprovalError, match=r"study\.toml is not a plan"):
        approve(home, home / "study.toml", approver="Dr. Weiß")


def test_a_plan_below_the_sites_floor_cannot_be_approved(home: Path) -> None:
    with (home / "site.toml").open("a") as file:
        file.write("[floors]\nmin_patients = 20\n")
    receive_plan(SitePaths(home), OURS, ())
    with pytest.raises(ApprovalError, match="below the site's floors"):
        approve(home, OURS.hash, approver="Dr. Weiß")
    assert not SitePaths(home).approvals.exists()


@pytest.mark.parametrize("expires", [TODAY - DAY])
def test_an_approval_that_has_ended_already_is_not_given(paths: SitePaths, expires: datetime.date) -> None:
    with pytest.raises(ApprovalError, match="last day"):
        approve(paths.home, OURS.hash, approver="Dr. Weiß", expires=expires, now=lambda: NOW)


@pytest.mark.parametrize("approver", ["", "two\nlines", "x" * 201, "\x1b[2J"])
def test_an_approver_has_a_name(paths: SitePaths, approver: str) -> None:
    with pytest.raises(ApprovalError, match="approver"):
        approve(paths.home, OURS.hash, approver=approver)
    assert current_verdict(paths, OURS, TODAY) is Code.PLAN_NOT_APPROVED


# ---------------------------------------------------------------- files
def test_a_changed_plan_file_is_no_plan(paths: SitePaths) -> None:
    file = paths.plan(OURS.hash)
    file.write_bytes(our_plan(title="other").content)
    assert load_plan(paths, OURS.hash) is None
    file.write_bytes(b"{")
    assert load_plan(paths, OURS.hash) is None
    assert list_plans(paths.home) == []


def test_what_is_written_is_the_owners_alone(paths: SitePaths) -> None:
    approve(paths.home, OURS.hash, approver="Dr. Weiß")
    pause(paths.home, who="Dr. Weiß")
    modes = {file.stat().st_mode & 0o077 for file in paths.state.rglob("*")}
    assert modes == {0}


def test_a_hub_cannot_fill_the_disk_with_plans(paths: SitePaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(received, "MAX_PENDING", 2)
    receive_plan(paths, our_plan(title="second"), ())
    with pytest.raises(StorageError, match="wait for a decision"):
        receive_plan(paths, our_plan(title="third"), ())
    receive_plan(paths, OURS, ())
    approve(paths.home, OURS.hash, approver="Dr. Weiß")
    receive_plan(paths, our_plan(title="third"), [OURS.hash])


def test_damaged_decisions_are_no_approval(paths: SitePaths) -> None:
    approve(paths.home, OURS.hash, approver="Dr. Weiß")
    paths.approvals.write_bytes(paths.approvals.read_bytes()[:-10])
    with pytest.raises(StorageError, match="no plan counts as approved"):
        current_verdict(paths, OURS, TODAY)


def test_without_its_ledger_entry_an_approval_is_not_given(paths: SitePaths) -> None:
    paths.ledger.write_text("not ours\n")
    with pytest.raises(LedgerBrokenError):
        approve(paths.home, OURS.hash, approver="Dr. Weiß")
    assert current_verdict(paths, OURS, TODAY) is Code.PLAN_NOT_APPROVED


def test_without_its_ledger_entry_a_no_holds_all_the_same(paths: SitePaths) -> None:
    approve(paths.home, OURS.hash, approver="Dr. Weiß")
    paths.ledger.write_text("not ours\n")
    with pytest.raises(LedgerBrokenError):
        pause(paths.home, who="Dr. Noir")
    assert current_verdict(paths, OURS, TODAY) is Code.SITE_PAUSED
    os.unlink(paths.paused)
    with pytest.raises(LedgerBrokenError):
        withdraw(paths.home, OURS.hash, who="Dr. Noir")
    assert current_verdict(paths, OURS, TODAY) is Code.APPROVAL_WITHDRAWN
