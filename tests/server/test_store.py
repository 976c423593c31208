"""What the hub remembers: whole or not at all, private, and only by the one who conducts."""

import datetime
import sqlite3
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from schemas.canonical import sha256_hex
from schemas.errors import ArchipelError, IncompatibleVersionError
from server.models import ModelStore
from server.records import Checkpoint, Cost, Hold, KeptReply, Round, RunExistsError, TakenOverError, UnknownRunError
from server.runs import is_abandoned, list_events, list_released, list_rounds, new_run_id, standing
from server.store import Store
from tests.plans import small_plan

SITES = ("amiens", "brest", "caen")
NOON = datetime.datetime(2026, 11, 20, 12, tzinfo=datetime.UTC)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "hub.db") as opened:
        opened.create_run("run", small_plan(), SITES)
        yield opened


def reply(site: str, number: int = 0, status: str = "ok", step: str = "moments", part: str = "sums") -> KeptReply:
    body = f"{site} {number}".encode()
    return KeptReply(step, part, number, "value", site, status, len(body), sha256_hex(body), body)


def one_round(index: int, number: int = 0, step: str = "moments", part: str = "sums") -> Round:
    return Round(step, part, number, NOON, 0.5, 30, 20, SITES[:2], SITES[2:], index=index)


def complete(store: Store, hold: Hold, index: int) -> None:
    replies = [reply(site, index) for site in SITES[:2]] + [reply(SITES[2], index, "empty")]
    checkpoint = Checkpoint(index, "moments", index + 1, b"state %d" % index)
    store.complete_round(hold, one_round(index, index), replies, checkpoint, Cost(0.5, 30, 20))


# ---------------------------------------------------------------- runs
def test_a_run_is_read_as_it_was_made(store: Store) -> None:
    run = store.run("run")
    plan = small_plan()
    assert (run.study, run.plan_hash, run.plan) == ("small-study", plan.hash, plan.content)
    assert (run.invited, run.sites, run.status, run.seed) == (SITES, None, "created", None)
    assert run.created_at.tzinfo is not None
    assert run.remaining == ()


def test_an_id_is_given_once_and_an_unknown_one_is_named(store: Store) -> None:
    with pytest.raises(RunExistsError, match="run"):
        store.create_run("run", small_plan(), SITES)
    for ask in (store.run, store.request_stop, store.reopen, store.claim, store.final_arrays):
        with pytest.raises(UnknownRunError, match="no run other"):
            ask("other")
    with pytest.raises(UnknownRunError, match="it is created"):
        store.final_arrays("run")


def test_names_are_data_and_never_sql(store: Store) -> None:
    name = "x'); DROP TABLE runs; --"
    store.create_run(name, small_plan(), [name])
    store.log_event(name, "info", name)
    assert store.run(name).invited == (name,)
    assert [event.text for event in list_events(store, name)] == [name]
    assert {run.run_id for run in store.runs()} == {"run", name}


def test_a_new_id_says_study_and_day_and_is_new() -> None:
    ids = {new_run_id("cgd-infection", datetime.date(2026, 11, 20)) for _ in range(50)}
    assert len(ids) == 50
    assert all(len(run_id) == len("cgd-infection-20261120-3f9a2c") for run_id in ids)
    assert all(run_id.startswith("cgd-infection-20261120-") for run_id in ids)


def test_the_newest_run_comes_first(store: Store) -> None:
    store.create_run("later", small_plan(), SITES)
    assert [run.run_id for run in store.runs()] == ["later", "run"]


# ---------------------------------------------------------------- who conducts
def test_a_conductor_that_was_replaced_can_write_nothing(store: Store) -> None:
    old = store.claim("run")
    new = store.claim("run")
    checkpoint = Checkpoint(1, "moments", 1, b"state")
    writes = [
        lambda: store.set_status(old, "running", "Running."),
        lambda: store.sign_of_life(old),
        lambda: store.stop_requested(old),
        lambda: store.settle(old, SITES, {}, checkpoint),
        lambda: store.record(old, Cost(1.0, 1, 1), [reply("amiens")]),
        lambda: store.drop_sites(old, {"caen": "caen is offline."}, checkpoint),
        lambda: complete(store, old, 1),
        lambda: store.finish(old, {}, {}, "Done."),
    ]
    for write in writes:
        with pytest.raises(TakenOverError):
            write()
    assert store.checkpoint("run") is None
    assert store.run("run").wall_s == 0
    store.set_status(new, "running", "Running.")
    assert store.run("run").status == "running"


def test_a_request_to_stop_outlives_every_other_status(store: Store) -> None:
    hold = store.claim("run")
    assert not store.stop_requested(hold)
    assert store.request_stop("run")
    store.set_status(hold, "paused", "Waiting.")
    assert store.run("run").status == "stopping"
    assert store.stop_requested(hold)
    store.set_status(hold, "stopped", "Stopped.")
    assert store.run("run").finished_at is not None
    assert not store.request_stop("run"), "there is nothing left to stop"


def test_a_stopped_run_can_be_opened_again_and_a_done_one_cannot(store: Store) -> None:
    hold = store.claim("run")
    store.request_stop("run")
    store.set_status(hold, "stopped", "Stopped.")
    store.reopen("run")
    assert store.run("run").status == "created"
    assert not store.stop_requested(store.claim("run"))
    store.finish(store.claim("run"), {"fit.beta": np.zeros(2)}, {}, "Done.")
    with pytest.raises(RunExistsError, match="is done"):
        store.reopen("run")


def test_a_run_that_nobody_conducts_any_more_is_noticed(store: Store) -> None:
    assert not is_abandoned(store.run("run"))
    hold = store.claim("run")
    store.set_status(hold, "running", "Running.")
    run = store.run("run")
    assert run.alive_at is not None
    assert not is_abandoned(run, run.alive_at + datetime.timedelta(seconds=59))
    assert is_abandoned(run, run.alive_at + datetime.timedelta(seconds=61))
    store.set_status(hold, "failed", "Failed.")
    assert not is_abandoned(store.run("run"), run.alive_at + datetime.timedelta(days=1))


# ---------------------------------------------------------------- rounds
def test_a_round_is_written_whole_with_its_checkpoint(store: Store) -> None:
    hold = store.claim("run")
    store.settle(hold, SITES, {"dijon": "dijon refused: too few."}, Checkpoint(0, "moments", 0, b"start"))
    complete(store, hold, 1)
    assert store.checkpoint("run") == Checkpoint(1, "moments", 2, b"state 1")
    assert list_rounds(store, "run") == [one_round(1, 1)]
    run = store.run("run")
    assert (run.sites, run.left_out) == (SITES, {"dijon": "dijon refused: too few."})
    assert (run.wall_s, run.bytes_up, run.bytes_down) == (0.5, 30, 20)
    broken = Checkpoint(2, "moments", 3, None)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        store.complete_round(hold, one_round(2, 2), [], broken, Cost(0.5, 30, 20))
    assert list_rounds(store, "run") == [one_round(1, 1)], "half a round was written"


def test_a_round_that_is_done_again_takes_its_own_place(store: Store) -> None:
    hold = store.claim("run")
    for number in (1, 2, 2):
        complete(store, hold, number)
    assert [done.index for done in list_rounds(store, "run")] == [1, 2]


def test_answers_are_kept_until_their_round_is_complete_and_digests_for_ever(store: Store, tmp_path: Path) -> None:
    hold = store.claim("run")
    store.record(hold, Cost(1.0, 10, 5), [reply("amiens", 1)])
    assert store.kept_replies("run", "moments", "sums", 1) == [reply("amiens", 1)]
    assert standing(store, "run").rounds_done == 0
    complete(store, hold, 1)
    assert store.kept_replies("run", "moments", "sums", 1) == []
    with sqlite3.connect(tmp_path / "hub.db") as database:
        rows = database.execute("SELECT site, sha256, body FROM replies ORDER BY site").fetchall()
    database.close()
    assert rows == [(site, sha256_hex(f"{site} 1".encode()), None) for site in SITES]


def test_what_left_each_site_is_told_part_by_part(store: Store) -> None:
    hold = store.claim("run")
    complete(store, hold, 1)
    complete(store, hold, 2)
    (released,) = list_released(store, "run")
    assert (released.step, released.part, released.times, released.silent) == ("moments", "sums", 2, ("caen",))
    assert released.bytes_by_site == {"amiens": 16, "brest": 14, "caen": 12}


def test_the_last_two_checkpoints_are_kept(store: Store, tmp_path: Path) -> None:
    hold = store.claim("run")
    for index in range(1, 5):
        complete(store, hold, index)
    database = sqlite3.connect(tmp_path / "hub.db")
    assert database.execute("SELECT seq FROM checkpoints ORDER BY seq").fetchall() == [(3,), (4,)]
    database.close()


def test_a_damaged_checkpoint_gives_way_to_the_one_before(store: Store, tmp_path: Path) -> None:
    hold = store.claim("run")
    complete(store, hold, 1)
    complete(store, hold, 2)
    database = sqlite3.connect(tmp_path / "hub.db")
    database.execute("UPDATE checkpoints SET progress = x'00' WHERE seq = 2")
    database.commit()
    assert store.checkpoint("run") == Checkpoint(1, "moments", 2, b"state 1")
    database.execute("UPDATE checkpoints SET progress = x'00'")
    database.commit()
    database.close()
    assert store.checkpoint("run") is None


def test_sites_leave_with_their_reason(store: Store) -> None:
    hold = store.claim("run")
    store.settle(hold, SITES, {}, Checkpoint(0, "moments", 0, b"start"))
    store.drop_sites(hold, {"brest": "brest is offline."}, Checkpoint(1, "moments", 0, b"rest"))
    run = store.run("run")
    assert (run.dropped, run.remaining) == ({"brest": "brest is offline."}, ("amiens", "caen"))
    assert run.sites == SITES


def test_nothing_falls_back_behind_a_dropout(store: Store, tmp_path: Path) -> None:
    hold = store.claim("run")
    complete(store, hold, 1)
    store.drop_sites(hold, {"brest": "brest is offline."}, Checkpoint(2, "moments", 2, b"rest"))
    database = sqlite3.connect(tmp_path / "hub.db")
    database.execute("UPDATE checkpoints SET progress = x'00' WHERE seq = 2")
    database.commit()
    database.close()
    assert store.checkpoint("run") is None


# ---------------------------------------------------------------- results
def test_a_result_is_read_as_it_was_found(store: Store, tmp_path: Path) -> None:
    found = {"fit.beta": np.array([0.1, -0.2]), "fit.n": np.array(3.0), "grid.edges": np.zeros((0,))}
    store.finish(store.claim("run"), found, {"held_out": "no site has enough patients for it"}, "Done.")
    read = store.final_arrays("run")
    assert {name: (array.shape, array.tobytes()) for name, array in read.items()} == {
        name: (array.shape, array.tobytes()) for name, array in found.items()
    }
    assert store.skipped_steps("run") == {"held_out": "no site has enough patients for it"}
    assert (store.run("run").status, store.run("run").message) == ("done", "Done.")
    database = sqlite3.connect(tmp_path / "hub.db")
    database.execute("UPDATE results SET arrays = x'00'")
    database.commit()
    database.close()
    with pytest.raises(ArchipelError, match="damaged"):
        store.final_arrays("run")


# ---------------------------------------------------------------- the file
def test_the_file_is_the_owners_alone(store: Store, tmp_path: Path) -> None:
    store.log_event("run", "info", "so that there is a log beside it")
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path.name


def test_a_newer_database_is_refused_and_left_alone(store: Store, tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "hub.db")
    database.execute("UPDATE schema_versions SET version = 5")
    database.commit()
    database.close()
    with pytest.raises(IncompatibleVersionError, match="version 5"):
        Store(tmp_path / "hub.db")
    assert store.run("run").status == "created"


def test_a_database_of_version_1_gains_the_rosters_and_loses_nothing(store: Store, tmp_path: Path) -> None:
    before = store.run("run")
    store.close()
    database = sqlite3.connect(tmp_path / "hub.db")
    database.execute("ALTER TABLE runs DROP COLUMN roster")
    database.execute("UPDATE schema_versions SET version = 1")
    database.commit()
    database.close()
    with Store(tmp_path / "hub.db") as opened:
        assert opened.run("run") == before
        opened.create_run("next", small_plan(), SITES, roster="a roster")
        assert opened.run("next").roster == "a roster"
    with Store(tmp_path / "hub.db") as again:
        assert again.run("run").roster == ""


@pytest.mark.parametrize("version", [1, 2])
def test_a_database_from_before_there_were_models_gains_them(store: Store, tmp_path: Path, version: int) -> None:
    store.close()
    database = sqlite3.connect(tmp_path / "hub.db")
    for table in ("model_copies", "model_contacts", "model_lists", "model_log", "models"):
        database.execute(f"DROP TABLE {table}")
    if version == 1:
        database.execute("ALTER TABLE runs DROP COLUMN roster")
    database.execute("UPDATE schema_versions SET version = ?", (version,))
    database.commit()
    database.close()
    with Store(tmp_path / "hub.db") as opened:
        assert ModelStore(opened).newest_list() is None
        assert opened.run("run").status == "created"


def test_a_url_opens_the_same_store(store: Store, tmp_path: Path) -> None:
    with Store(f"sqlite:///{tmp_path / 'hub.db'}") as again:
        assert again.run("run") == store.run("run")


def test_many_open_an_absent_database_at_once(tmp_path: Path) -> None:
    failed: list[BaseException] = []

    def open_one() -> None:
        try:
            Store(tmp_path / "new.db").close()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=open_one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def test_readers_never_see_half_a_round(store: Store, tmp_path: Path) -> None:
    hold = store.claim("run")
    done = threading.Event()
    seen: list[tuple[int, int, int]] = []

    def read() -> None:
        with Store(tmp_path / "hub.db") as other:
            while not done.is_set():
                with other.reader.begin() as connection:
                    rows = connection.exec_driver_sql(
                        "SELECT (SELECT count(*) FROM rounds), (SELECT bytes_up FROM runs),"
                        " (SELECT max(seq) FROM checkpoints)"
                    ).one()
                seen.append((rows[0], rows[1], rows[2] or 0))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for index in range(1, 41):
        complete(store, hold, index)
    done.set()
    for reader in readers:
        reader.join()
    assert seen, "nobody read"
    assert {(rounds, up, seq) for rounds, up, seq in seen if not rounds == seq == up / 30} == set()
