"""A running site tells how it is: red with the reason while it must not release, green again by itself."""

from __future__ import annotations

import datetime
import errno
import os
import time
from pathlib import Path

import pytest

from client import run_notes
from client.approvals import pause, resume
from client.hub_check import note_trouble
from client.run_notes import note_heard, note_storage_refusal, prepare_notes, storage_refusals
from client.site_health import SiteHealth
from client.state import SitePaths
from privacy import storage
from privacy.budget import Budget
from privacy.ledger import LedgerBrokenError
from privacy.ledger_reader import LedgerReader
from schemas.codes import Code
from schemas.health import Finding
from schemas.processes import ChildState
from tests.guards import GuardedSite

RUNS = ChildState("agent", 1, 0, 0, None, True)
SETTINGS = 'kind = "site"\nversion = 1\nname = "a"\nhub_address = "hub:1"\ntables = "t"\n'
BUDGET = '[budget]\ndataset = "registry"\nepsilon = 1\n'


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "site.toml").write_text(SETTINGS)
    (tmp_path / "state").mkdir()
    (tmp_path / "run").mkdir()
    return tmp_path


def look(home: Path, *states: ChildState) -> dict[str, Finding]:
    return {one.check: one for one in SiteHealth(home, lambda: states or (RUNS,)).look()}


def refuse_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, content: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)


# ---------------------------------------------------------------- a full disk
def test_on_a_full_disk_nothing_is_released_health_is_red_and_with_room_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = GuardedSite(tmp_path)
    assert site.set_up().status == "ok"
    (tmp_path / "site.toml").write_text(SETTINGS)
    prepare_notes(tmp_path)
    assert look(tmp_path)["disk"].level != "error"
    with monkeypatch.context() as full:
        refuse_writes(full)
        assert site.answer(site.ask(), site.draft()).code == Code.STORAGE_FAILED
        red = look(tmp_path)["disk"]
        assert red.level == "error"
        assert "No space left" in red.text
    assert storage_refusals(tmp_path).count >= 1
    still = look(tmp_path)["disk"]
    assert still.level == "error", "the refusal was a moment ago"
    assert "an answer was refused at" in still.text
    with monkeypatch.context() as later:
        moment = time.time() + 61
        later.setattr(time, "time", lambda: moment)
        assert look(tmp_path)["disk"].level != "error", "nobody asked meanwhile, and the disk takes writes again"
    site.now = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=1)
    assert site.answer(site.ask(), site.draft()).status == "ok"
    green = look(tmp_path)["disk"]
    assert green.level != "error", "an answer has left since"
    assert "the last answer was refused" in green.text
    assert [event for event, *_ in site.events()].count("release") == 1


def test_a_refusal_is_counted_where_the_disk_takes_no_new_byte(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare_notes(home)
    size = (home / "run" / "storage-refusals.txt").stat().st_size

    def refuse(path: Path, *_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", refuse)
    for moment in (5.5, 7.25):
        note_storage_refusal(home, moment)
    assert storage_refusals(home) == run_notes.StorageRefusals(2, 7.25)
    assert (home / "run" / "storage-refusals.txt").stat().st_size == size


def test_a_damaged_count_begins_anew(home: Path) -> None:
    (home / "run" / "storage-refusals.txt").write_text("x")
    assert storage_refusals(home).count == 0
    note_storage_refusal(home, 1.0)
    assert storage_refusals(home).count == 1


# ---------------------------------------------------------------- the ledger
def test_a_changed_ledger_is_red_and_a_restored_one_green(home: Path) -> None:
    health = SiteHealth(home, lambda: (RUNS,))

    def ledger() -> Finding:
        return next(one for one in health.look() if one.check == "ledger")

    assert ledger().text == "0 entries, sound"
    pause(home, who="Dr A")
    resume(home, who="Dr A")
    assert ledger().text == "2 entries, sound"
    path = SitePaths(home).ledger
    whole = path.read_bytes()
    path.write_bytes(whole.splitlines(keepends=True)[0])
    assert ledger().level == "error"
    assert "cut off" in ledger().text
    path.write_bytes(whole.replace(b"Dr A", b"Dr B"))
    assert "line 1 is not what this site wrote" in ledger().text
    path.write_bytes(whole)
    assert ledger().text == "2 entries, sound"
    path.unlink()
    assert ledger().level == "error"


def test_a_ledger_is_read_once_and_then_only_what_is_new(home: Path) -> None:
    path = SitePaths(home).ledger
    reader = LedgerReader(path)
    assert reader.read() == ((), True)
    pause(home, who="Dr A")
    (first,), is_first = reader.read()
    assert (first.event.kind, is_first) == ("pause", True)
    resume(home, who="Dr A")
    (second,), is_first = reader.read()
    assert (second.event.kind, second.index, is_first) == ("resume", 1, False)
    assert reader.read() == ((), False)
    with path.open("ab") as file:
        file.write(b'{"torn')  # a crash while writing, which the next append repairs
    assert reader.read() == ((), False)
    pause(home, who="Dr A")
    assert [entry.index for entry in reader.read()[0]] == [2]
    content = path.read_bytes()
    put_back = path.with_name("copy")
    put_back.write_bytes(content)
    put_back.replace(path)  # another file under this name
    entries, is_first = reader.read()
    assert ([entry.index for entry in entries], is_first) == ([0, 1, 2], True)
    path.write_bytes(content[:-10])
    with pytest.raises(LedgerBrokenError):
        reader.read()


# ---------------------------------------------------------------- processes, hub, settings, budget
def test_an_agent_that_the_hub_refuses_is_the_hubs_trouble(home: Path) -> None:
    dead = ChildState("agent", None, 4, 4, 1, False)
    assert look(home, dead)["process agent"].level == "error"
    note_trouble(home, "The hub does not know this site's key.")
    found = look(home, dead, ChildState("runner", None, 1, 0, -9, False))
    assert (found["process agent"].level, found["process runner"].level) == ("warning", "error")
    assert found["hub"] == Finding("hub", "warning", "The hub does not know this site's key.")


def test_a_hub_that_is_not_heard_is_a_warning(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    health = SiteHealth(home, lambda: (RUNS,))

    def hub() -> Finding:
        return next(one for one in health.look() if one.check == "hub")

    assert hub() == Finding("hub", "ok", "not heard yet")
    note_heard(home)
    assert hub() == Finding("hub", "ok", "heard")
    later = time.time() + 90
    monkeypatch.setattr(time, "time", lambda: later)
    assert hub().level == "warning"
    assert "not heard for 90 s" in hub().text


def test_settings_spoilt_while_it_runs_and_missing_keys_are_red(home: Path) -> None:
    found = look(home)
    assert found["keys"].level == "error"
    assert "node.key" in found["keys"].text or "hub-ca.crt" in found["keys"].text
    assert found["certificate of the hub's authority"].level == "error"
    (home / "site.toml").write_text(SETTINGS + "colour = 1\n")
    assert "colour" in look(home)["settings"].text


def test_a_damaged_privacy_budget_is_red(home: Path) -> None:
    (home / "site.toml").write_text(SETTINGS + BUDGET)
    path = SitePaths(home).budget
    assert "privacy budget" not in look(home), "looking makes no account"
    assert not path.exists()
    Budget(path).close()
    assert look(home)["privacy budget"].level == "ok"
    path.write_bytes(b"no database" * 100)
    assert look(home)["privacy budget"].level == "error"


def test_a_ledger_that_cannot_be_read_is_red(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pause(home, who="Dr A")

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(storage.fcntl, "flock", fail)
    assert look(home)["ledger"].level == "error"
