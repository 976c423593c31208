"""A site put back from a backup: what it keeps, what it refuses for good, and what it has left to spend."""

from __future__ import annotations

import contextlib
import datetime
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from archipel import backup_file, site_backup
from archipel.backup_file import BackupError, verify_backup
from archipel.enrol import EnrolmentError
from archipel.homes import enrol_site, join_site
from archipel.site_backup import backup_site, restore_site
from client.approvals import list_plans
from client.decisions import load_approvals
from client.guard import SiteGuard
from client.heads import verify_held
from client.noising import accounts
from client.peers import load_identity
from client.restored import LossError, accept_loss, load_restored, restored_line
from client.secure import SecureSite
from client.settings import load_settings
from client.state import SitePaths, fold_key
from privacy.budget import Budget, Charge, Limit
from privacy.gate import Floors
from privacy.head_signature import sign_head
from privacy.ledger import LedgerBrokenError, entries, verify_ledger
from schemas.codes import Code
from schemas.errors import ArchipelError
from schemas.ledger_head import CountersignedHead
from server.heads import HeadStore
from tests.guards import GuardedSite
from tests.ledger_heads import NOW, HeadsHub, append
from tests.private_guards import private_plan

LIMIT = Limit(3.0, 1e-5)


class Hospital(GuardedSite):
    """A guarded site in an enrolled folder: its guard is the real one, its keys are those in the folder."""

    def open(self) -> SiteGuard:
        self.guard = SiteGuard(
            self.paths,
            site=SecureSite(self.name, lambda: load_identity(self.paths)),
            floors=Floors(),
            source=lambda: self.tables,
            now=lambda: self.now,
            judge_plan=lambda plan, floors: None,
            budget=load_settings(self.home).budget,
        )
        return self.guard


@pytest.fixture
def hub(tmp_path: Path) -> HeadsHub:
    return HeadsHub(tmp_path / "hub")


@pytest.fixture
def site(hub: HeadsHub, tmp_path: Path) -> Hospital:
    home = hub.site(tmp_path / "brest")
    with (home / "site.toml").open("a") as file:
        file.write('\n[budget]\ndataset = "registry"\nepsilon = 3.0\n')
    (home / "tables").mkdir()
    (home / "tables" / "clinical.csv").write_text("id,age\nP-4711,40\n")
    (home / "optout.txt").write_text("P-12\n")
    fold_key(SitePaths(home))
    found = Hospital(home, name="brest")
    assert found.set_up().status == "ok"
    assert found.answer(found.ask(), found.draft()).status == "ok"
    return found


def backup(site: Hospital, tmp_path: Path) -> Path:
    path = tmp_path / "brest.tar"
    backup_site(site.home, path, NOW)
    return path


def restored(path: Path, tmp_path: Path) -> Hospital:
    restore_site(path, tmp_path / "new", NOW, who="Dr. Weiß")
    return Hospital(tmp_path / "new", name="brest")


def join(hub: HeadsHub, site: Hospital) -> None:
    hub.enrol(site.home, (site.home / "request.json").read_bytes(), replace=True)


def pay(site: Hospital, mu_squared: float, number: int = 0, dataset: str = "registry") -> None:
    budget = Budget(site.paths.budget)
    verdict = budget.debit(Charge(dataset, "run-9", "fit", number, mu_squared, "s", "h"), Limit(100.0, 1e-5))
    budget.close()
    assert verdict.kind == "debit"


def spent(site: Hospital, dataset: str = "registry") -> float:
    budget = Budget(site.paths.budget)
    try:
        return budget.spent(dataset)[0]
    finally:
        budget.close()


def code(site: Hospital, body: bytes) -> str:
    reply = site.answer(body, site.draft())
    assert reply.status == "refused"
    return str(reply.code)


# ---------------------------------------------------------------- what is in the file
def test_tables_and_private_keys_and_answers_are_in_no_backup(site: Hospital, tmp_path: Path) -> None:
    path = backup(site, tmp_path)
    names = verify_backup(path, "site-backup").names
    assert not [name for name in names if name.endswith((".csv", ".parquet"))]
    assert {name for name in names if name.startswith("keys/")} == {
        "keys/fold.key",
        "keys/hub.json",
        "keys/hub-ca.crt",
    }
    content = path.read_bytes()
    reply = sqlite3.connect(site.paths.answers).execute("SELECT reply FROM answers WHERE step = 'fit'").fetchone()[0]
    for secret in (b"P-4711", b"PRIVATE KEY", reply):
        assert secret not in content
    assert site.answer(site.ask(), None).status == "ok"  # and the running site still has it


def test_a_backup_taken_while_answers_are_written_holds_all_that_its_ledger_names(
    site: Hospital, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between any two files of the copy the site answers another round; the copy is one that a site could have."""
    asked = 0

    def and_meanwhile(copy: Callable[..., object]) -> Callable[..., object]:
        def both(*arguments: object) -> object:
            nonlocal asked
            done = copy(*arguments)
            if asked < 2:
                asked += 1
                assert site.answer(site.ask(asked), site.draft(asked)).status == "ok"
            return done

        return both

    for name in ("copy_file", "_copy_ledger", "copy_sqlite"):
        monkeypatch.setattr(site_backup, name, and_meanwhile(getattr(site_backup, name)))
    path = backup(site, tmp_path)
    monkeypatch.undo()
    assert asked == 2
    new = restored(path, tmp_path)
    named = {(e.event.run, e.event.step, e.event.number) for e in new.ledger() if e.event.kind == "release"}
    with contextlib.closing(sqlite3.connect(new.paths.answers)) as db:
        known = set(db.execute("SELECT run_id, step, number FROM answers").fetchall())
    assert named <= known
    assert (verify_held(new.home).head.count, new.ledger()[-1].event.kind) == (len(new.ledger()), "restore")


# ---------------------------------------------------------------- restoring
def test_the_ledger_goes_on_unbroken(site: Hospital, tmp_path: Path) -> None:
    before = [entry.hash for entry in site.ledger()]
    new = restored(backup(site, tmp_path), tmp_path)
    found = new.ledger()
    assert [entry.hash for entry in found[: len(before)]] == before
    assert (found[len(before)].event.kind, found[len(before)].event.who) == ("restore", "Dr. Weiß")
    assert found[len(before)].previous == before[-1]
    append(new.home)
    assert verify_ledger(new.paths.ledger).head.count == len(before) + 2


def test_keys_are_new_and_those_of_the_fingerprints_stay(site: Hospital, tmp_path: Path) -> None:
    new = restored(backup(site, tmp_path), tmp_path)
    for name in ("node.key", "identity.key"):
        assert (new.home / "keys" / name).read_bytes() != (site.home / "keys" / name).read_bytes()
        assert (new.home / "keys" / name).stat().st_mode & 0o777 == 0o600
    assert fold_key(new.paths) == fold_key(site.paths)
    assert (new.home / "optout.txt").read_text() == "P-12\n"
    assert not (new.home / "tables").exists()


def test_every_run_from_before_is_refused_for_ever(hub: HeadsHub, site: Hospital, tmp_path: Path) -> None:
    site.answer(site.setup(run_id="run-2"), None)  # set up alone, and answered nothing in it
    new = restored(backup(site, tmp_path), tmp_path)
    join(hub, new)
    new.decide()
    accepted_by_nobody = load_restored(new.paths)
    assert accepted_by_nobody is not None
    for run_id in ("run-1", "run-2"):
        for body in (new.setup(run_id=run_id), new.ask(run_id=run_id), new.ask(1, run_id=run_id)):
            assert code(new, body) == Code.RUN_BEFORE_RESTORE
    backup_site(new.home, tmp_path / "second.tar", NOW)  # and after another restoration still
    restore_site(tmp_path / "second.tar", tmp_path / "newer", NOW, who="A")
    assert {"run-1", "run-2"} <= set(load_restored(SitePaths(tmp_path / "newer")).runs)  # type: ignore[union-attr]


def test_no_plan_counts_as_approved_and_a_new_run_of_it_is_answered_once_it_is_again(
    hub: HeadsHub, site: Hospital, tmp_path: Path
) -> None:
    hub.countersign(site.home)
    new = restored(backup(site, tmp_path), tmp_path)
    join(hub, new)
    assert load_approvals(new.paths).by_hash[new.plan.hash].withdrawn_at is not None
    assert code(new, new.setup(run_id="run-3")) == Code.APPROVAL_WITHDRAWN
    new.decide()
    assert [status.state for status in list_plans(new.home, now=lambda: new.now)] == ["approved"]
    reply = new.answer(new.setup(run_id="run-3"), new.draft(run_id="run-3", step="setup", part="setup", arrays={}))
    assert reply.status == "ok"


def test_a_folder_that_is_not_empty_is_left_alone(site: Hospital, tmp_path: Path) -> None:
    path = backup(site, tmp_path)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "notes.txt").write_text("mine")
    with pytest.raises(BackupError, match="is not empty"):
        restore_site(path, tmp_path / "new", NOW, who="A")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["notes.txt"]


def test_a_damaged_backup_makes_nothing(site: Hospital, tmp_path: Path) -> None:
    path = backup(site, tmp_path)
    content = bytearray(path.read_bytes())
    at = content.index(b'"kind":"ledger-entry"')
    content[at + 10] ^= 1
    path.write_bytes(content)
    with pytest.raises(BackupError, match=r"state/ledger\.jsonl is not what was written"):
        restore_site(path, tmp_path / "new", NOW, who="A")
    assert not (tmp_path / "new").exists()


def _drop_line(folder: Path) -> None:
    ledger = folder / "state" / "ledger.jsonl"
    ledger.write_bytes(b"".join(ledger.read_bytes().splitlines(keepends=True)[:-1]))


def _spoil_answers(folder: Path) -> None:
    path = folder / "state" / "answers.sqlite"
    path.write_bytes(path.read_bytes()[:5000])


def _spoil_approvals(folder: Path) -> None:
    (folder / "state" / "approvals.json").write_text("{}x")


@pytest.mark.parametrize("spoil", [_drop_line, _spoil_answers, _spoil_approvals])
def test_a_whole_file_of_a_spoiled_state_makes_nothing(
    site: Hospital, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Path], None]
) -> None:
    member = backup_file.member_of

    def spoiled(name: str, path: Path) -> object:
        if name == "state/ledger.jsonl":  # the first: all the others are copied by now
            spoil(path.parents[1])
        return member(name, path)

    monkeypatch.setattr(site_backup, "member_of", spoiled)
    path = backup(site, tmp_path)
    with pytest.raises(ArchipelError):
        restore_site(path, tmp_path / "new", NOW, who="A")
    assert not (tmp_path / "new").exists()


def test_a_broken_ledger_is_not_backed_up(site: Hospital, tmp_path: Path) -> None:
    content = site.paths.ledger.read_bytes().replace(b"run-1", b"run-7", 1)
    site.paths.ledger.write_bytes(content)
    with pytest.raises(LedgerBrokenError):
        backup(site, tmp_path)
    assert [p.name for p in tmp_path.iterdir() if "brest.tar" in p.name] == []


# ---------------------------------------------------------------- what was lost, and the budget
def test_a_head_that_the_backup_holds_leaves_the_budget_as_it_was(
    hub: HeadsHub, site: Hospital, tmp_path: Path
) -> None:
    pay(site, 0.1)
    hub.countersign(site.home)
    append(site.home, 2)  # not countersigned yet when the backup is made
    new = restored(backup(site, tmp_path), tmp_path)
    join(hub, new)
    found = load_restored(new.paths)
    assert found is not None
    assert (found.history, found.lost) == ("whole", 0)
    assert spent(new) == pytest.approx(0.1)
    assert "nothing was lost" in restored_line(found)
    new.decide()
    assert new.answer(new.setup(run_id="run-5"), None).code != Code.HISTORY_LOST


def test_a_head_that_is_ahead_gives_the_budget_and_lets_no_exact_sum_leave(
    hub: HeadsHub, site: Hospital, tmp_path: Path
) -> None:
    pay(site, 0.1)
    path = backup(site, tmp_path)
    pay(site, 0.2, 1)
    append(site.home, 4)
    hub.countersign(site.home)
    new = restored(path, tmp_path)
    join(hub, new)
    found = load_restored(new.paths)
    assert found is not None
    assert (found.history, found.lost) == ("lost", 4)
    assert spent(new) == pytest.approx(0.3)
    assert [e.event.mu_squared for e in new.ledger() if e.event.dataset] == [pytest.approx(0.2)]
    new.decide()
    assert code(new, new.setup(run_id="run-5")) == Code.HISTORY_LOST
    accept_loss(new.home, who="Dr. Weiß", now=NOW)
    assert new.ledger()[-1].event.who == "Dr. Weiß"
    assert new.answer(new.setup(run_id="run-5"), None).code != Code.HISTORY_LOST
    with pytest.raises(LossError, match="Weiß has accepted it already"):
        accept_loss(new.home, who="B", now=NOW)
    (new.paths.budget).unlink()  # and a budget that is lost is filled from the ledger again
    new.open()
    assert spent(new) == pytest.approx(0.2)


def test_without_a_head_all_of_the_budget_is_spent(hub: HeadsHub, site: Hospital, tmp_path: Path) -> None:
    pay(site, 0.1)
    pay(site, 0.4, dataset="former")
    new = restored(backup(site, tmp_path), tmp_path)
    join(hub, new)
    found = load_restored(new.paths)
    assert found is not None
    assert found.history == "unknown"
    assert spent(new) == pytest.approx(LIMIT.mu_squared)
    assert spent(new, "former") > Limit(99.0, 1e-5).mu_squared
    current = accounts(new.paths, load_settings(new.home))[0]
    assert current.left.left_epsilon < 0.001
    private = Hospital(new.home, private_plan(secure_sum=False, epsilon=1.0), "brest")
    private.decide()
    assert code(private, private.setup(run_id="run-6")) == Code.BUDGET_EXCEEDED


def test_before_it_joins_all_of_the_budget_counts_as_spent(site: Hospital, tmp_path: Path) -> None:
    path = backup(site, tmp_path)
    restore_site(path, tmp_path / "new", NOW, who="A")
    new = Hospital(tmp_path / "new", private_plan(secure_sum=False, epsilon=1.0), "brest")
    new.decide()
    assert code(new, new.setup(run_id="run-6")) == Code.BUDGET_EXCEEDED
    with pytest.raises(LossError, match="Join the hub first"):
        accept_loss(new.home, who="A", now=NOW)


def _by_a_stranger(head: CountersignedHead) -> CountersignedHead:
    """Return what a hub can make alone: its own signature is good, the site's is not."""
    stranger = Ed25519PrivateKey.generate()
    forged = head.head.model_copy(update={"spent": ()})
    return head.model_copy(update={"head": sign_head(forged, stranger)})


def _of_less_spent(head: CountersignedHead) -> CountersignedHead:
    return head.model_copy(update={"head": head.head.model_copy(update={"spent": ()})})


def _unsigned_by_the_hub(head: CountersignedHead) -> CountersignedHead:
    return head.model_copy(update={"signature": ""})


@pytest.mark.parametrize("forge", [_by_a_stranger, _of_less_spent, _unsigned_by_the_hub])
def test_a_forged_head_counts_as_none(
    hub: HeadsHub,
    site: Hospital,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    forge: Callable[[CountersignedHead], CountersignedHead],
) -> None:
    from archipel.homes import heads_key
    from privacy.head_signature import countersign

    pay(site, 0.1)
    path = backup(site, tmp_path)
    append(site.home)
    true = hub.countersign(site.home)
    assert true is not None
    forged = forge(true)
    if forged.signature:
        forged = countersign(forged.head, heads_key(hub.home), NOW)
    monkeypatch.setattr(HeadStore, "newest", lambda self, name: forged)
    new = restored(path, tmp_path)
    join(hub, new)
    found = load_restored(new.paths)
    assert found is not None
    assert found.history == "unknown"
    assert spent(new) == pytest.approx(LIMIT.mu_squared)


def test_a_head_of_another_ledger_counts_as_none(hub: HeadsHub, site: Hospital, tmp_path: Path) -> None:
    shutil.copytree(site.home, tmp_path / "fork")
    append(tmp_path / "fork", 1)
    hub.countersign(tmp_path / "fork")
    append(site.home, 1)
    site.now += datetime.timedelta(seconds=1)
    append(site.home, 1)
    new = restored(backup(site, tmp_path), tmp_path)
    join(hub, new)
    found = load_restored(new.paths)
    assert found is not None
    assert found.history == "unknown"


def test_what_was_lost_is_settled_once(hub: HeadsHub, site: Hospital, tmp_path: Path) -> None:
    pay(site, 0.1)
    hub.countersign(site.home)
    new = restored(backup(site, tmp_path), tmp_path)
    join(hub, new)
    n = len(new.ledger())
    hub.enrol(new.home, (new.home / "request.json").read_bytes())  # its kit expired, say
    assert len(new.ledger()) == n
    assert spent(new) == pytest.approx(0.1)


def test_the_hub_wants_a_persons_word_and_then_begins_a_line_of_its_own(
    hub: HeadsHub, site: Hospital, tmp_path: Path
) -> None:
    path = backup(site, tmp_path)
    append(site.home, 5)
    hub.countersign(site.home)
    new = restored(path, tmp_path)
    request = (new.home / "request.json").read_bytes()
    with pytest.raises(EnrolmentError, match="enrol it with `--replace`"):
        enrol_site(hub.home, request, NOW)
    kit = enrol_site(hub.home, request, NOW, replace=True)
    assert kit.ledger_head is not None
    join_site(new.home, kit.to_json().encode(), NOW)
    signed = hub.countersign(new.home)
    assert signed is not None
    assert signed.head.count == len(list(entries(new.paths.ledger)))
    assert hub.alarms() == []
