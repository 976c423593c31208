"""No two sums may differ by few, over real processes: what a hub asks to get such a difference, each site refuses.

Before every test here the four sites have released a sum over all their patients from 18 years on.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from archipel.alive import is_alive, running_children
from client.optout import OPTOUT_FILE
from schemas.codes import Code
from schemas.messages import Reply, SetupRequest
from schemas.plan import Plan
from tests.hostile_federation import (
    N_OF_18,
    SITES,
    HostileFederation,
    HostileHub,
    assert_nothing_of_one_site,
    assert_refused,
    plan_of,
    roster_of,
    summands,
    until,
)

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module", autouse=True)
def released(federation: HostileFederation, plan: Plan) -> HostileHub:
    """A run whose first sum the hub has opened."""
    run = HostileHub(plan, roster_of(federation), federation=federation)
    run.set_up()
    run.ask_value()
    run.finish_round()
    return run


@pytest.fixture(autouse=True)
def nothing_learned(hub: HostileHub) -> Iterator[None]:
    """Whatever a test asks, of whichever run: no number of one site is in what came."""
    yield
    assert_nothing_of_one_site(hub)


# ---------------------------------------------------------------- other sites
def test_leaving_one_site_out_is_refused_by_all_the_others(federation: HostileFederation, plan: Plan) -> None:
    for left_out in SITES:
        others = tuple(site for site in SITES if site != left_out)
        federation.approve(plan, others, invited=others)  # people were talked into it; the sites are not
        run = HostileHub(plan, roster_of(federation, *others), federation=federation)
        assert_refused(run, run.to_all(run.keys_request()), Code.SITES_TOO_CLOSE)
        assert_refused(run, run.to_all(run.value_request(*run.round, {})), Code.RUN_UNKNOWN)


def test_a_run_begun_again_over_fewer_sites_is_another_run(hub: HostileHub, released: HostileHub) -> None:
    fewer = roster_of(hub.federation, *SITES[:3])
    again = replace(released.keys_request(), roster=fewer.content.decode(), sites=fewer.names)
    assert_refused(released, released.send_all(dict.fromkeys(SITES[:3], again)), Code.RUN_CHANGED)


def test_a_second_list_of_survivors_is_refused_after_every_process_was_killed(hub: HostileHub) -> None:
    hub.set_up()
    hub.ask_value()
    all_alive, without_paris = hub.run.survivors(SITES), hub.run.survivors(SITES[:3])
    given = hub.to_all(hub.list_request(*hub.round, all_alive))
    assert len(kill_all([hub.federation.site(site) for site in SITES])) == 2 * len(SITES)
    second = hub.list_request(*hub.round, without_paris, "consent")
    assert_refused(
        hub, hub.send_all(dict.fromkeys(SITES[:3], second)), Code.SECURE_SUM_REFUSED, "stands by another list"
    )
    assert hub.to_all(hub.list_request(*hub.round, all_alive)) == given, "the same bytes as before"


def test_all_patients_and_then_those_that_train_are_not_for_two_sites(federation: HostileFederation) -> None:
    plan = plan_of("two-in-clear", secure_sum=False, folds=5)
    federation.approve(plan, SITES)
    run = HostileHub(plan, roster_of(federation), federation=federation)
    everybody = SetupRequest(run.run_id, plan.hash, SITES, plan.content.decode())
    two = replace(everybody, run_id=f"{run.run_id}-two", sites=SITES[:2])
    assert_refused(run, run.send_all(dict.fromkeys(SITES[:2], two)), Code.SITES_TOO_FEW)
    assert {reply.status for reply in run.to_all(everybody).values()} == {"ok"}


# ---------------------------------------------------------------- other patients
def test_ages_from_18_and_then_from_19_are_refused_by_all(federation: HostileFederation, hub: HostileHub) -> None:
    older = plan_of("from-19", youngest=19.0)
    first = summands(federation, hub.plan, hub.question)
    second = summands(federation, older, hub.question)
    assert {float(first[site]["n_patients"] - second[site]["n_patients"]) for site in SITES} == {N_OF_18}
    federation.approve(older, SITES, invited=SITES)
    run = HostileHub(older, roster_of(federation), federation=federation)
    assert_refused(run, run.to_all(run.keys_request()), Code.COHORT_TOO_CLOSE)
    assert_refused(run, run.to_all(run.value_request(*run.round, {})), Code.RUN_UNKNOWN)
    assert_nothing_of_one_site(run)


def test_an_opt_out_in_a_run_changes_no_sum_of_it_and_the_next_run_is_refused(
    federation: HostileFederation, plan: Plan, hub: HostileHub
) -> None:
    hub.set_up()
    first = hub.ask_value()
    moments = hub.value_request(*hub.round, {})
    hub.finish_round()
    with opted_out(federation, "brest", 1):
        assert hub.to_all(moments) == first, "no second sum of the same question"
        hub.ask_value()
        everybody = summands(federation, plan, hub.question).values()
        for name, array in hub.finish_round().items():
            np.testing.assert_allclose(array, np.sum([one[name] for one in everybody], axis=0), atol=1e-6)
        replies = begin(federation, plan)
        assert_refused_by(federation, replies, "brest", Code.COHORT_TOO_CLOSE)
    with opted_out(federation, "brest", 9):
        assert_refused_by(federation, begin(federation, plan), "brest", Code.COHORT_TOO_CLOSE)
    with opted_out(federation, "brest", 10):
        assert {reply.status for reply in begin(federation, plan).values()} == {"ok"}


def test_a_patient_taken_out_of_the_tables_in_a_run_ends_it(federation: HostileFederation, hub: HostileHub) -> None:
    hub.set_up()
    with one_row_fewer(federation.sites["lyon"] / "clinical.csv"):
        replies = hub.to_all(hub.value_request(*hub.round, {}))
        assert_refused(hub, {"lyon": replies.pop("lyon")}, Code.TABLES_CHANGED)
        assert {reply.status for reply in replies.values()} == {"ok"}
        assert_refused_by(federation, begin(federation, hub.plan), "lyon", Code.COHORT_TOO_CLOSE)
    assert hub.ask_value().keys() == set(SITES), "with the tables as they were it goes on"


# ---------------------------------------------------------------- doing things to sites
def begin(federation: HostileFederation, plan: Plan) -> dict[str, Reply]:
    """Begin a new run and return what the sites say."""
    run = HostileHub(plan, roster_of(federation), federation=federation)
    return run.to_all(run.keys_request())


def assert_refused_by(federation: HostileFederation, replies: dict[str, Reply], site: str, code: Code) -> None:
    """One site refuses, with an entry; the others, whose patients are the same, do not."""
    assert {name: reply.code for name, reply in replies.items() if reply.status != "ok"} == {site: code}
    (event,) = federation.refusals(site, replies[site].run_id)
    assert (event.rule, event.n_patients, event.digest) == (code, None, "")


@contextlib.contextmanager
def opted_out(federation: HostileFederation, site: str, n: int) -> Iterator[None]:
    file = federation.site(site) / OPTOUT_FILE
    before = file.read_bytes() if file.exists() else b""
    file.write_text("".join(f"P{i}\n" for i in range(N_OF_18, N_OF_18 + n)))
    yield
    file.write_bytes(before)


@contextlib.contextmanager
def one_row_fewer(table: Path) -> Iterator[None]:
    before = table.read_bytes()
    table.write_bytes(before[: before.rstrip().rindex(b"\n") + 1])
    yield
    table.write_bytes(before)


def kill_all(homes: Sequence[Path]) -> set[int]:
    """Kill agent and runner of some sites with -9 and return their ids; supervisors start others."""
    for home in homes:
        until(lambda home=home: len(running_children(home)) == 2, "agent and runner")
    killed = {pid for home in homes for pid in running_children(home).values()}
    for pid in killed:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    until(lambda: not any(is_alive(pid) for pid in killed), "their end")
    return killed
