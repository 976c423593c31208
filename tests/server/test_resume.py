"""Runs that were stopped or whose hub was killed: they go on and end at the same bits."""

import sqlite3
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from schemas.plan import Plan
from server.conduct import DATABASE, conduct
from server.runs import list_rounds, standing
from server.store import Store
from tests.server.conducting import RUN, assert_asked_the_same, expected, found, go, launch, record, told
from tests.simulated_federation import (
    SITES,
    Behaviour,
    HubKilledError,
    federation,
    late,
    offline,
    real_plan,
)


# ---------------------------------------------------------------- stop
def test_a_stop_is_heeded_between_questions_and_the_run_resumes(tmp_path: Path) -> None:
    plan = launch(tmp_path)
    sites = federation()

    def stop(call: int) -> None:
        if call == 3:
            with Store(tmp_path / DATABASE) as store:
                assert store.request_stop(RUN)

    sites.on_ask = stop
    run = go(tmp_path, sites)
    assert (run.status, sites.calls) == ("stopped", 4)
    with Store(tmp_path / DATABASE) as store:
        store.reopen(RUN)
    assert go(tmp_path, sites).status == "done"
    assert found(tmp_path) == expected(plan, sites.sites)
    assert_asked_the_same(sites)


def test_a_stop_is_heeded_while_the_run_is_paused(tmp_path: Path) -> None:
    launch(tmp_path)
    sites = federation(offline("caen", step="grid"))
    slept = sites.clock.sleep

    def sleep(seconds: float) -> None:
        slept(seconds)
        if sites.clock.now > 1500:
            with Store(tmp_path / DATABASE) as store:
                store.request_stop(RUN)

    pacing = replace(sites.clock.pacing(), sleep=sleep)
    conduct(RUN, tmp_path, sites, pacing=pacing)
    assert record(tmp_path).status == "stopped"
    assert sites.clock.now < 1510


def test_a_stop_does_not_wait_for_a_silent_site(tmp_path: Path) -> None:
    """The exchange is blocked for good; the hub notices the request within its own time."""
    launch(tmp_path)
    sites = federation()
    release = threading.Event()

    def block(call: int) -> None:
        if call == 2:
            with Store(tmp_path / DATABASE) as store:
                store.request_stop(RUN)
            release.wait(30)

    sites.on_ask = block
    conduct(RUN, tmp_path, sites, pacing=replace(sites.clock.pacing(), heed_s=0.05))
    assert record(tmp_path).status == "stopped"
    release.set()


def test_a_stop_before_the_start_asks_nobody(tmp_path: Path) -> None:
    launch(tmp_path)
    with Store(tmp_path / DATABASE) as store:
        store.request_stop(RUN)
    sites = federation()
    assert go(tmp_path, sites).status == "stopped"
    assert sites.calls == 0


def test_a_second_conductor_takes_over_and_the_first_ends_quietly(tmp_path: Path) -> None:
    plan = launch(tmp_path)
    sites = federation()

    def take_over(call: int) -> None:
        if call == 4:
            sites.on_ask = lambda _call: None
            assert go(tmp_path, sites).status == "done"

    sites.on_ask = take_over
    run = go(tmp_path, sites)
    assert run.status == "done"
    assert found(tmp_path) == expected(plan, sites.sites)


# ---------------------------------------------------------------- kill and resume
def n_asks(plan: Plan, tmp_path: Path, *behaviours: Behaviour) -> int:
    (tmp_path / "whole").mkdir()
    launch(tmp_path / "whole", plan)
    sites = federation(*behaviours)
    assert go(tmp_path / "whole", sites).status == "done"
    return sites.calls


@pytest.mark.parametrize("before", [True, False], ids=["before the sites heard", "after the sites answered"])
def test_killed_at_any_ask_it_resumes_to_the_same_bits(tmp_path: Path, before: bool) -> None:
    plan = real_plan()
    for call in range(n_asks(plan, tmp_path)):
        home = tmp_path / str(call)
        home.mkdir()
        launch(home, plan)
        sites = federation(kill_at=call, kill_before_sites=before)
        with pytest.raises(HubKilledError):
            go(home, sites)
        assert record(home).status in ("setting-up", "running")
        assert go(home, sites).status == "done"
        assert found(home) == expected(plan, sites.sites)
        assert_asked_the_same(sites)


def test_killed_while_paused_nobody_who_answered_is_asked_again(tmp_path: Path) -> None:
    plan = launch(tmp_path)
    sites = federation(late("caen", step="fit", number=1, times=3))
    sites.kill_at = 6  # set-up, moments, grid, fit 0, fit 1, fit 1 of caen, fit 1 of caen
    with pytest.raises(HubKilledError):
        go(tmp_path, sites)
    assert record(tmp_path).status == "paused"
    with Store(tmp_path / DATABASE) as store:
        now = standing(store, RUN)
    assert (now.step, now.number, now.heard) == ("fit", 1, tuple(site for site in SITES if site != "caen"))
    assert go(tmp_path, sites).status == "done"
    assert {site: sites.rounds_asked(site).count(("fit", 1)) for site in SITES if site != "caen"} == dict.fromkeys(
        (site for site in SITES if site != "caen"), 1
    )
    assert found(tmp_path) == expected(plan, sites.sites)


def test_killed_at_any_ask_around_a_dropout_it_resumes_to_the_same_bits(tmp_path: Path) -> None:
    plan = real_plan(on_dropout="continue")

    def gone() -> Behaviour:
        return late("caen", step="fit", number=1)

    calls = n_asks(plan, tmp_path, gone())
    whole = found(tmp_path / "whole")
    for call in range(calls):
        home = tmp_path / str(call)
        home.mkdir()
        launch(home, plan)
        sites = federation(gone(), kill_at=call)
        with pytest.raises(HubKilledError):
            go(home, sites)
        run = go(home, sites)
        assert (run.status, list(run.dropped)) == ("done", ["caen"])
        assert found(home) == whole
        assert_asked_the_same(sites)


def test_a_damaged_last_checkpoint_costs_one_round(tmp_path: Path) -> None:
    plan = launch(tmp_path)
    sites = federation(kill_at=5)
    with pytest.raises(HubKilledError):
        go(tmp_path, sites)
    database = sqlite3.connect(tmp_path / DATABASE)
    database.execute("UPDATE checkpoints SET progress = x'00' WHERE seq = (SELECT max(seq) FROM checkpoints)")
    database.commit()
    database.close()
    assert go(tmp_path, sites).status == "done"
    assert found(tmp_path) == expected(plan, sites.sites)
    with Store(tmp_path / DATABASE) as store:
        questions = [(done.step, done.number) for done in list_rounds(store, RUN)]
    assert len(set(questions)) == len(questions)


def test_without_a_readable_checkpoint_it_says_so_and_asks_nobody(tmp_path: Path) -> None:
    launch(tmp_path)
    sites = federation(kill_at=5)
    with pytest.raises(HubKilledError):
        go(tmp_path, sites)
    database = sqlite3.connect(tmp_path / DATABASE)
    database.execute("UPDATE checkpoints SET progress = x'00'")
    database.commit()
    database.close()
    run = go(tmp_path, sites)
    assert (run.status, run.message) == ("failed", "No checkpoint of this run can be read: launch the study again.")
    assert sites.calls == 6


def test_a_conductor_that_fails_after_it_was_replaced_says_nothing_about_the_run(tmp_path: Path) -> None:
    launch(tmp_path)
    sites = federation()

    def be_replaced(call: int) -> None:
        if call == 2:
            with Store(tmp_path / DATABASE) as store:
                store.claim(RUN)
            raise ValueError

    sites.on_ask = be_replaced
    assert go(tmp_path, sites).status == "running"
    assert "ValueError" not in told(tmp_path)
