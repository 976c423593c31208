"""Which runs a hub goes on with by itself after its processes died, and how often."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from server.database import DATABASE
from server.left_behind import MOST_TRIES, LeftBehind, forget_runs, note_run, run_of, take_run
from server.runs import list_events
from server.store import Store
from tests.simulated_federation import SITES, real_plan

ENDED = ("done", "failed", "stopped")
GOING = ("created", "setting-up", "waiting", "running", "paused", "stopping")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    with Store(tmp_path / DATABASE) as store:
        for status in (*GOING, *ENDED):
            store.create_run(status, real_plan(), SITES)
            store.set_status(store.claim(status), status, "as the test says")  # type: ignore[arg-type]
    return tmp_path


def test_what_was_going_is_submitted_again_and_what_had_ended_is_not(home: Path) -> None:
    submitted: list[str] = []
    LeftBehind(home, submitted.append).resume(conducted=())
    assert set(submitted) == set(GOING)
    assert len(submitted) == len(GOING)
    with Store(home / DATABASE) as store:
        assert ["again" in event.text for event in list_events(store, "paused")] == [True]
        assert list_events(store, "done") == []


def test_what_a_living_process_conducts_is_left_to_it(home: Path) -> None:
    submitted: list[str] = []
    LeftBehind(home, submitted.append).resume(conducted={"running", "paused", ""})
    assert set(submitted) == set(GOING) - {"running", "paused"}


def test_a_run_whose_conductor_always_dies_is_left_to_people(home: Path) -> None:
    submitted: list[str] = []
    left_behind = LeftBehind(home, submitted.append)
    for _ in range(MOST_TRIES + 3):
        left_behind.resume(conducted=set(GOING) - {"running"})
    assert submitted == ["running"] * MOST_TRIES
    left_behind.forget("running")  # a conductor of it has ended of itself
    left_behind.resume(conducted=set(GOING) - {"running"})
    assert submitted == ["running"] * (MOST_TRIES + 1)


def test_what_could_not_be_submitted_counts_as_no_try_and_the_error_is_the_callers(home: Path) -> None:
    def refuse(_run_id: str) -> None:
        raise ConnectionError

    left_behind = LeftBehind(home, refuse)
    for _ in range(MOST_TRIES + 1):
        with pytest.raises(ConnectionError):
            left_behind.resume(conducted=())


def test_a_home_without_a_store_has_nothing_to_go_on_with(tmp_path: Path) -> None:
    LeftBehind(tmp_path, lambda run_id: pytest.fail(f"submitted {run_id}")).resume(conducted=())
    assert list(tmp_path.iterdir()) == []


def test_a_conductor_says_which_run_is_its_own(home: Path) -> None:
    assert run_of(home, os.getpid()) == ""
    note_run(home, "running")
    assert run_of(home, os.getpid()) == "running"
    assert take_run(home, os.getpid()) == "running"
    assert run_of(home, os.getpid()) == ""
    note_run(home, "paused")
    forget_runs(home)
    assert take_run(home, os.getpid()) == ""
