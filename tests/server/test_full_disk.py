"""A hub whose disk is full waits, and goes on by itself from its last complete round when there is room."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from server.conduct import conduct
from server.database import DATABASE, is_passing, open_database
from server.store import Store
from tests.server.conducting import RUN, assert_asked_the_same, expected, found, go, launch, record
from tests.simulated_federation import federation


def full() -> sa.exc.OperationalError:
    """What SQLAlchemy raises where SQLite finds no room."""
    cause = sqlite3.OperationalError("database or disk is full")
    cause.sqlite_errorname = "SQLITE_FULL"
    return sa.exc.OperationalError("INSERT", {}, cause)


def fails_at(monkeypatch: pytest.MonkeyPatch, name: str, calls: set[int]) -> None:
    real = getattr(Store, name)
    count = [0]

    def write(self: Store, *arguments: Any, **others: Any) -> Any:
        count[0] += 1
        if count[0] in calls:
            raise full()
        return real(self, *arguments, **others)

    monkeypatch.setattr(Store, name, write)


@pytest.mark.parametrize(
    ("name", "calls"),
    [
        ("claim", {1, 2}),
        ("settle", {1}),
        ("complete_round", {1, 2, 4, 5, 6}),
        ("set_status", {1, 3}),
        ("finish", {1, 2}),
    ],
)
def test_a_run_waits_for_room_and_ends_at_the_same_bits(
    tmp_path: Path, name: str, calls: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = launch(tmp_path)
    sites = federation()
    fails_at(monkeypatch, name, calls)
    assert go(tmp_path, sites).status == "done"
    assert found(tmp_path) == expected(plan, sites.sites)
    assert_asked_the_same(sites)


def test_a_run_that_somebody_else_took_over_meanwhile_is_left_to_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch(tmp_path)
    sites = federation()
    fails_at(monkeypatch, "complete_round", {1})

    def taken_over(seconds: float) -> None:
        with Store(tmp_path / DATABASE) as store:
            store.claim(RUN)

    conduct(RUN, tmp_path, sites, pacing=replace(sites.clock.pacing(), sleep=taken_over))
    assert sites.asked
    assert record(tmp_path).status != "done"


def test_a_full_file_system_is_told_from_a_damaged_database(tmp_path: Path) -> None:
    assert is_passing(full())
    assert not is_passing(OSError())
    path = tmp_path / "hub.db"
    reader, writer = open_database(path)
    with pytest.raises(sa.exc.OperationalError) as missing, reader.begin() as connection:
        connection.exec_driver_sql("SELECT * FROM nothing")
    assert not is_passing(missing.value)
    with writer.begin() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1")
        with pytest.raises(sa.exc.OperationalError) as no_room:
            connection.exec_driver_sql("CREATE TABLE big AS SELECT zeroblob(10000000)")
    assert is_passing(no_room.value)
    reader.dispose()
