"""A hub put back from a backup: the same hub to its sites, with every run ended that may have gone on since."""

from __future__ import annotations

import datetime
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from archipel.backup_file import BackupError, verify_backup
from archipel.homes import list_sites, model_key
from archipel.hub_backup import RESTORED_MESSAGE, backup_hub, restore_hub
from archipel.runs import resume
from client.hub_post import node_key, signed_headers
from client.model_fetch import refresh
from client.models import load_models
from privacy.model_signature import public_text, read_signed_list
from schemas.errors import ArchipelError, FaultsError
from server.database import DATABASE
from server.left_behind import choose
from server.models import ModelStore
from server.records import ACTIVE, RunExistsError
from server.store import Store
from tests.ledger_heads import HeadsHub, append
from tests.model_release import SmallHub
from tests.plans import small_plan

NOW = datetime.datetime.now(datetime.UTC)


@pytest.fixture
def hub(tmp_path: Path) -> SmallHub:
    return SmallHub(tmp_path / "hub")


def _backup(hub: SmallHub, tmp_path: Path) -> Path:
    backup_hub(hub.home, tmp_path / "hub.tar", NOW)
    return tmp_path / "hub.tar"


def test_a_restored_hub_is_the_same_hub_to_its_sites(hub: SmallHub, tmp_path: Path) -> None:
    hub.site(tmp_path / "brest")
    restore_hub(_backup(hub, tmp_path), tmp_path / "new", NOW)
    for path in sorted((hub.home / "keys").iterdir()):
        copy = tmp_path / "new" / "keys" / path.name
        assert copy.read_bytes() == path.read_bytes()
        assert copy.stat().st_mode & 0o777 == 0o600
    assert list_sites(tmp_path / "new") == list_sites(hub.home)
    assert (tmp_path / "new" / "hub.toml").read_bytes() == (hub.home / "hub.toml").read_bytes()


def test_its_keys_are_in_the_backup_and_it_is_its_owners_alone(hub: SmallHub, tmp_path: Path) -> None:
    path = _backup(hub, tmp_path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert {"keys/hub-ca.key", "keys/identity.key", "keys/models.key", "keys/heads.key"} <= set(
        verify_backup(path, "hub-backup").names
    )


def test_every_run_that_was_not_done_is_ended_for_good(hub: SmallHub, tmp_path: Path) -> None:
    for run_id, status in (("active", "running"), ("held", "stopped"), ("over", "done")):
        hub.store.create_run(run_id, small_plan(), ["brest", "nantes", "rennes"])
        hold = hub.store.claim(run_id)
        hub.store.set_status(hold, status, "words")  # type: ignore[arg-type]
    path = _backup(hub, tmp_path)
    _, n_ended = restore_hub(path, tmp_path / "new", NOW + datetime.timedelta(hours=1))
    with Store(tmp_path / "new" / DATABASE) as store:
        found = {run.run_id: run for run in store.runs()}
        assert n_ended == 3  # the one of `SmallHub` too
        assert found["over"].status == "done"
        for run_id in ("active", "held"):
            assert (found[run_id].status, found[run_id].message) == ("failed", RESTORED_MESSAGE)
            with pytest.raises(RunExistsError, match="restored from a backup after the run"):
                store.reopen(run_id)
        assert choose(list(found.values()), (), {}) == []
        assert not [run for run in found.values() if run.status in ACTIVE]
        store.create_run("later", small_plan(), ["brest"])
        database = sqlite3.connect(tmp_path / "new" / DATABASE)
        later = (NOW + datetime.timedelta(hours=2)).isoformat(timespec="microseconds")
        database.execute("UPDATE runs SET created_at = ? WHERE run_id = 'later'", (later,))
        database.commit()
        database.close()
        store.reopen("later")
    with pytest.raises(ArchipelError):
        resume(tmp_path / "new", "active")


def test_sites_take_the_list_of_models_of_a_restored_hub(hub: SmallHub, tmp_path: Path) -> None:
    site = hub.site(tmp_path / "brest")
    hub.release(0)
    path = _backup(hub, tmp_path)
    hub.release(1)
    refresh(site, hub.call(site), now=lambda: NOW)
    before = load_models(site).number
    restore_hub(path, tmp_path / "new", NOW)
    with Store(tmp_path / "new" / DATABASE) as store:
        found = ModelStore(store).newest_list()
    assert found is not None
    assert found.number > before
    read_signed_list(found.content, public_text(model_key(tmp_path / "new")))


def test_it_takes_heads_of_ledgers_that_went_on_since_the_backup(tmp_path: Path) -> None:
    hub = HeadsHub(tmp_path / "hub")
    site = hub.site(tmp_path / "brest")
    append(site, 3)
    hub.countersign(site)
    backup_hub(hub.home, tmp_path / "hub.tar", NOW)
    append(site, 3)
    hub.countersign(site)
    restore_hub(tmp_path / "hub.tar", tmp_path / "new", NOW)
    hub.home = tmp_path / "new"
    signed = hub.countersign(site)
    assert signed is not None
    assert signed.head.count == 6
    assert hub.alarms() == []
    assert signed_headers(node_key(site), "/", b"", 0)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(b"SQLite format 3") + 40] ^= 1
    path.write_bytes(content)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10240])


def _other(path: Path) -> None:
    path.write_bytes(b"PK\x03\x04" + bytes(20_000))


@pytest.mark.parametrize("spoil", [_flip, _cut, _other])
def test_a_damaged_backup_makes_nothing(hub: SmallHub, tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    path = _backup(hub, tmp_path)
    spoil(path)
    with pytest.raises(BackupError):
        restore_hub(path, tmp_path / "new", NOW)
    assert not (tmp_path / "new").exists()


def test_a_hub_without_one_of_its_keys_is_not_backed_up(hub: SmallHub, tmp_path: Path) -> None:
    (hub.home / "keys" / "hub-ca.key").unlink()
    with pytest.raises(FaultsError, match=r"keys/hub-ca\.key"):
        _backup(hub, tmp_path)
    assert not (tmp_path / "hub.tar").exists()


def test_a_backup_is_consistent_while_runs_are_written(hub: SmallHub, tmp_path: Path) -> None:
    """A writer that goes on during the copy: the copy opens, is sound, and holds whole transactions."""
    import threading

    ended = threading.Event()

    def write() -> None:
        with Store(hub.home / DATABASE) as store:
            n = 0
            while not ended.is_set():
                store.create_run(f"run-{n}", small_plan(), ["brest"])
                n += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(5):
            backup_hub(hub.home, tmp_path / f"{number}.tar", NOW)
            restore_hub(tmp_path / f"{number}.tar", tmp_path / f"new-{number}", NOW)
    finally:
        ended.set()
        writer.join()
    with Store(tmp_path / "new-4" / DATABASE) as store:
        assert {run.status for run in store.runs()} == {"failed"}
