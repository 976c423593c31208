"""A run conducted over simulated sites: what they may do to it, and what must come out all the same."""

import logging
import random
import sqlite3
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.progress import Progress, Question
from models.step import Arrays
from schemas.codes import SENTENCES, Code
from schemas.messages import Reply, RoundRequest, SetupRequest, encode
from schemas.plan import ArraySpec, PartSpec, Plan
from server.conduct import DATABASE, conduct
from server.exchange import Failure
from server.records import RunRecord, UnknownRunError
from server.rounds import PLAIN_SUM, PlainSum
from server.runs import list_events, list_released, list_rounds, standing
from server.store import Store
from tests.simulated_federation import (
    SITES,
    Behaviour,
    HubKilledError,
    SimulatedFederation,
    SimulatedSite,
    cohort,
    empty,
    federation,
    late,
    lies,
    offline,
    pooled_result,
    real_plan,
    refuses,
)

RUN = "small-study-20261120-3f9a2c"


def launch(home: Path, plan: Plan | None = None, sites: tuple[str, ...] = SITES) -> Plan:
    plan = plan or real_plan()
    with Store(home / DATABASE) as store:
        store.create_run(RUN, plan, sites)
    return plan


def go(home: Path, sites: SimulatedFederation, **settings: Any) -> RunRecord:
    conduct(RUN, home, sites, pacing=sites.clock.pacing(), **settings)
    return record(home)


def record(home: Path) -> RunRecord:
    with Store(home / DATABASE) as store:
        return store.run(RUN)


def found(home: Path) -> dict[str, bytes]:
    with Store(home / DATABASE) as store:
        return {name: array.tobytes() for name, array in store.final_arrays(RUN).items()}


def expected(plan: Plan, sites: Mapping[str, SimulatedSite]) -> dict[str, bytes]:
    return {name: np.asarray(array).tobytes() for name, array in pooled_result(plan, sites).items()}


def told(home: Path) -> str:
    with Store(home / DATABASE) as store:
        return "\n".join(f"{event.level}: {event.text}" for event in list_events(store, RUN))


def assert_asked_the_same(sites: SimulatedFederation) -> None:
    """The same question of the same run was the same bytes, for every site and every time."""
    bodies: dict[tuple[str, int, str], set[bytes]] = {}
    for _, request, body in sites.asked:
        if isinstance(request, RoundRequest):
            bodies.setdefault((request.step, request.number, request.phase), set()).add(body)
    assert bodies, "nothing was asked"
    assert {question: len(different) for question, different in bodies.items() if len(different) != 1} == {}


# ---------------------------------------------------------------- the way of all runs
def test_a_run_finds_what_the_sum_over_all_sites_gives(tmp_path: Path) -> None:
    plan = launch(tmp_path)
    sites = federation()
    run = go(tmp_path, sites)
    assert (run.status, run.sites, run.left_out, run.dropped) == ("done", SITES, {}, {})
    assert found(tmp_path) == expected(plan, sites.sites)
    assert_asked_the_same(sites)
    with Store(tmp_path / DATABASE) as store:
        rounds = list_rounds(store, RUN)
        released = list_released(store, RUN)
        assert standing(store, RUN).rounds_done == len(rounds) == sites.calls - 1
    assert [done.index for done in rounds] == list(range(1, len(rounds) + 1))
    assert all(done.heard == SITES and not done.silent and not done.missing for done in rounds)
    assert [(part.step, part.part) for part in released] == list(
        dict.fromkeys((done.step, done.part) for done in rounds)
    )
    setup_down = sum(len(body) for _, request, body in sites.asked if isinstance(request, SetupRequest))
    assert run.bytes_down == setup_down + sum(done.bytes_down for done in rounds)
    assert run.bytes_up > sum(done.bytes_up for done in rounds)
    assert sum(sum(part.bytes_by_site.values()) for part in released) == sum(done.bytes_up for done in rounds)
    assert run.wall_s == pytest.approx(0.25 * sites.calls)


def test_a_done_run_is_left_alone(tmp_path: Path) -> None:
    launch(tmp_path)
    sites = federation()
    before = go(tmp_path, sites)
    calls = sites.calls
    assert go(tmp_path, sites) == before
    assert sites.calls == calls


def test_an_unknown_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UnknownRunError):
        go(tmp_path, federation())


def test_another_version_of_the_code_does_not_resume(tmp_path: Path) -> None:
    launch(tmp_path, real_plan().model_copy(update={"code_version": "0.0.9"}))
    sites = federation()
    run = go(tmp_path, sites)
    assert run.status == "failed"
    assert "0.0.9" in run.message
    assert sites.calls == 0


@settings(max_examples=15)
@given(data=st.data())
def test_order_and_lateness_never_change_a_bit(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    home = tmp_path_factory.mktemp("hub")
    kinds = st.sampled_from([late, offline])
    slow = st.builds(
        lambda kind, site, step, number, times: kind(site, step=step, number=number, times=times),
        kinds, st.sampled_from(SITES), st.sampled_from(["setup", "moments", "grid", "fit"]), st.integers(0, 2),
        st.integers(1, 3),
    )  # fmt: skip
    sites = federation(*data.draw(st.lists(slow, max_size=6)))
    shuffle = random.Random(data.draw(st.integers(0, 2**32)))
    sites.order = lambda names: shuffle.sample(names, len(names))
    plan = launch(home)
    assert go(home, sites).status == "done"
    assert found(home) == expected(plan, sites.sites)
    assert_asked_the_same(sites)


# ---------------------------------------------------------------- set-up
@pytest.mark.parametrize("code", [Code.TOO_FEW_PATIENTS, Code.TABLES_REFUSED])
def test_a_site_that_cannot_take_part_is_left_out_before_any_sum(tmp_path: Path, code: Code) -> None:
    plan = launch(tmp_path)
    sites = federation(refuses("brest", code, step="setup"))
    run = go(tmp_path, sites)
    rest = {name: site for name, site in sites.sites.items() if name != "brest"}
    assert run.status == "done"
    assert run.sites == tuple(rest)
    assert run.left_out == {"brest": f"brest refused: {SENTENCES[code]}"}
    assert found(tmp_path) == expected(plan, rest)
    assert sites.rounds_asked("brest") == []
    assert {r.sites for _, r, _ in sites.asked if isinstance(r, RoundRequest)} == {tuple(rest)}


def test_a_run_with_one_site_left_fails_and_says_why(tmp_path: Path) -> None:
    launch(tmp_path, sites=("amiens", "brest"))
    run = go(tmp_path, federation(refuses("brest", Code.TOO_FEW_PATIENTS), sites=("amiens", "brest")))
    assert run.status == "failed"
    assert run.message.startswith("Only one site can take part. brest refused: ")


def test_set_up_waits_for_an_approval_and_says_what_to_do(tmp_path: Path) -> None:
    plan = launch(tmp_path)
    sites = federation(refuses("caen", Code.PLAN_NOT_APPROVED, step="setup", times=4))
    assert go(tmp_path, sites).status == "done"
    assert found(tmp_path) == expected(plan, sites.sites)
    assert told(tmp_path).count("caen refused: The site has not approved this plan") == 1
    assert sites.clock.now == pytest.approx(1000.0 + 4 * 3.0 + 0.25 * sites.calls)
    setups = [site for site, request, _ in sites.asked if isinstance(request, SetupRequest)]
    assert {site: setups.count(site) for site in SITES} == {**dict.fromkeys(SITES, 1), "caen": 5}


def test_set_up_with_continue_waits_as_well(tmp_path: Path) -> None:
    plan = launch(tmp_path, real_plan(on_dropout="continue"))
    sites = federation(late("caen", step="setup", times=2))
    run = go(tmp_path, sites)
    assert (run.status, run.left_out, run.dropped) == ("done", {}, {})
    assert found(tmp_path) == expected(plan, sites.sites)


# ---------------------------------------------------------------- missing sites
def test_pause_and_return_loses_nothing(tmp_path: Path) -> None:
    plan = launch(tmp_path)
    sites = federation(late("caen", step="fit", number=1, times=3))
    states: list[tuple[str, str]] = []
    sites.on_ask = lambda _call: states.append((record(tmp_path).status, record(tmp_path).message))
    run = go(tmp_path, sites)
    assert run.status == "done"
    assert found(tmp_path) == expected(plan, sites.sites)
    assert_asked_the_same(sites)
    assert [status for status, _ in states].count("paused") == 3
    assert all("caen did not answer" in message for status, message in states if status == "paused")
    asked = {site: sites.rounds_asked(site).count(("fit", 1)) for site in SITES}
    assert asked == {**dict.fromkeys(SITES, 1), "caen": 4}, "only the missing site is asked again"
    assert told(tmp_path).count("caen did not answer") == 1
    with Store(tmp_path / DATABASE) as store:
        assert [(done.step, done.number) for done in list_rounds(store, RUN) if done.missing] == [("fit", 1)]


def test_a_site_back_before_the_deadline_is_nobodys_business(tmp_path: Path) -> None:
    launch(tmp_path, real_plan(on_dropout="continue", deadline_s=60.0))
    sites = federation(offline("caen", step="fit", number=1, times=3))
    run = go(tmp_path, sites)
    assert (run.status, run.dropped) == ("done", {})
    assert "caen is offline" not in told(tmp_path)


def test_continue_goes_on_over_the_rest_and_never_asks_the_other_again(tmp_path: Path) -> None:
    plan = launch(tmp_path, real_plan(on_dropout="continue"))
    sites = federation(late("caen", step="moments"), late("caen", step="fit"))
    run = go(tmp_path, sites)
    rest = {name: site for name, site in sites.sites.items() if name != "caen"}
    assert (run.status, run.sites) == ("done", SITES)
    assert run.dropped == {"caen": "caen did not answer before the deadline."}
    assert run.remaining == tuple(rest)
    assert found(tmp_path) == expected(plan, rest)
    assert sites.rounds_asked("caen") == [("moments", 0)]
    assert_asked_the_same(sites)
    assert "Going on without caen for the rest of the run." in told(tmp_path)


def test_a_dropout_within_a_fit_ends_at_the_estimate_of_the_rest(tmp_path: Path) -> None:
    launch(tmp_path, real_plan(on_dropout="continue"))
    sites = federation(offline("caen", step="fit", number=2))
    run = go(tmp_path, sites)
    assert run.status == "done"
    with Store(tmp_path / DATABASE) as store:
        arrays = store.final_arrays(RUN)
        rounds = list_rounds(store, RUN)
    after = [done.heard for done in rounds if done.step == "fit" and done.number >= 2]
    assert set(after) == {tuple(site for site in SITES if site != "caen")}
    assert arrays["moments.n_patients"] == sum(site.cohort.n_patients for site in sites.sites.values())
    assert np.isfinite(arrays["fit.beta"]).all()


def test_a_question_that_a_dropout_changes_is_asked_anew_of_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step may go back to its last good point; then the answers to the abandoned question serve nothing."""
    monkeypatch.setattr(Progress, "shrink", lambda progress: progress._count(progress.number + 1))
    launch(tmp_path, real_plan(on_dropout="continue"))
    sites = federation(late("caen", step="fit", number=1), kill_at=6)  # in the question after the dropout
    with pytest.raises(HubKilledError):
        go(tmp_path, sites)
    assert go(tmp_path, sites).status == "done"
    with Store(tmp_path / DATABASE) as store:
        numbers = [done.number for done in list_rounds(store, RUN) if done.step == "fit"]
        assert numbers == [number for number in range(numbers[-1] + 1) if number != 1]
    assert ("fit", 1) in sites.rounds_asked("brest")
    assert_asked_the_same(sites)


def test_a_second_dropout_pauses(tmp_path: Path) -> None:
    launch(tmp_path, real_plan(on_dropout="continue"))
    sites = federation(late("caen", step="moments"), late("dijon", step="fit", number=1, times=2))
    paused: list[str] = []
    sites.on_ask = lambda _call: paused.append(record(tmp_path).status)
    run = go(tmp_path, sites)
    assert (run.status, list(run.dropped)) == ("done", ["caen"])
    assert paused.count("paused") == 2


def test_never_below_three_sites(tmp_path: Path) -> None:
    names = ("amiens", "brest", "caen")
    plan = launch(tmp_path, real_plan(on_dropout="continue"), sites=names)
    sites = federation(late("caen", step="moments", times=2), sites=names)
    run = go(tmp_path, sites)
    assert (run.status, run.dropped) == ("done", {})
    assert found(tmp_path) == expected(plan, sites.sites)


@pytest.mark.parametrize("code", [Code.SITE_PAUSED, Code.STORAGE_FAILED, Code.STEP_FAILED, Code.APPROVAL_WITHDRAWN])
def test_a_refusal_that_heals_pauses_at_once_and_goes_on(tmp_path: Path, code: Code) -> None:
    plan = launch(tmp_path)
    sites = federation(refuses("dijon", code, step="grid", times=2))
    assert go(tmp_path, sites).status == "done"
    assert found(tmp_path) == expected(plan, sites.sites)
    assert f"warning: dijon refused: {SENTENCES[code]}" in told(tmp_path)
    assert sites.clock.now < 1000.0 + real_plan().study.deadline_s, "it waited for the deadline"


@pytest.mark.parametrize("step", ["setup", "grid"])
@pytest.mark.parametrize("code", [Code.PLAN_NOT_OURS, Code.OTHER_VERSION, Code.RUN_CHANGED, Code.REQUEST_NOT_IN_PLAN])
def test_a_refusal_that_cannot_heal_fails_with_the_name(tmp_path: Path, code: Code, step: str) -> None:
    launch(tmp_path)
    run = go(tmp_path, federation(refuses("dijon", code, step=step)))
    assert (run.status, run.message) == ("failed", f"dijon refused: {SENTENCES[code]}")
    assert run.finished_at is not None


# ---------------------------------------------------------------- lying, empty and failing sites
def nan_of(reply: Reply) -> Reply:
    return replace(reply, arrays={name: np.full_like(array, np.nan) for name, array in reply.arrays.items()})


LIES: list[tuple[str, Callable[[Reply], Reply | bytes]]] = [
    ("NaN", nan_of),
    ("huge", lambda reply: replace(reply, arrays={name: array + 1e300 for name, array in reply.arrays.items()})),
    ("extra array", lambda reply: replace(reply, arrays={**reply.arrays, "patients": np.zeros(3)})),
    ("wrong shape", lambda reply: replace(reply, arrays={name: np.zeros(9) for name in reply.arrays})),
    ("other run", lambda reply: replace(reply, run_id="another")),
    ("stale round", lambda reply: replace(reply, number=reply.number + 1)),
    ("garbage", lambda _reply: b"Traceback: ValueError: Jean Dupont, 2004-02-11"),
    ("nothing", lambda _reply: b""),
]


@pytest.mark.parametrize("lie", [lie for _, lie in LIES], ids=[name for name, _ in LIES])
def test_a_lying_site_is_named_and_nothing_of_it_is_used(
    tmp_path: Path, lie: Callable[[Reply], Reply | bytes]
) -> None:
    plan = launch(tmp_path)
    sites = federation(lies("evry", lie, step="moments", times=50))
    run = go(tmp_path, sites)
    assert run.status == "done"
    assert found(tmp_path) == expected(plan, sites.sites)
    assert told(tmp_path).count("evry sent") == 1
    assert "Dupont" not in told(tmp_path)


def test_an_empty_site_adds_nothing_to_its_step_and_is_named(tmp_path: Path) -> None:
    launch(tmp_path)
    sites = federation(empty("amiens", step="grid"), refuses("brest", Code.TOO_FEW_PATIENTS, step="grid"))
    assert go(tmp_path, sites).status == "done"
    with Store(tmp_path / DATABASE) as store:
        grid = next(done for done in list_rounds(store, RUN) if done.step == "grid")
        parts = {part.step: part.silent for part in list_released(store, RUN)}
        events = store.final_arrays(RUN)["grid.events"]
    assert (grid.heard, grid.silent) == (SITES[2:], SITES[:2])
    assert {step: silent for step, silent in parts.items() if silent} == {"grid": SITES[:2]}
    assert events.sum() == sum(sites.sites[name].cohort.n_events for name in SITES[2:])


def test_only_empty_sites_fail_the_run_with_a_sentence(tmp_path: Path) -> None:
    launch(tmp_path)
    run = go(tmp_path, federation(*(empty(site, step="grid") for site in SITES)))
    assert (run.status, run.message) == ("failed", "step grid: no site has enough patients for it")


def test_an_optional_step_that_nobody_can_answer_is_left_out(tmp_path: Path) -> None:
    plan = real_plan()
    steps = (*plan.steps[:2], plan.steps[2].model_copy(update={"optional": True}))
    launch(tmp_path, plan.model_copy(update={"steps": steps}))
    run = go(tmp_path, federation(*(empty(site, step="fit") for site in SITES)))
    assert run.status == "done"
    with Store(tmp_path / DATABASE) as store:
        assert store.skipped_steps(RUN) == {"fit": "no site has enough patients for it"}
        assert set(store.final_arrays(RUN)) == set(pooled_result(plan, federation().sites)) - {
            name for name in pooled_result(plan, federation().sites) if name.startswith("fit.")
        }


def test_a_fit_without_events_fails_with_a_sentence_and_can_be_looked_at(tmp_path: Path) -> None:
    launch(tmp_path)
    sites = federation()
    for site in sites.sites.values():
        site.cohort = replace(site.cohort, event=np.zeros(site.cohort.n_patients, dtype=np.bool_))
    run = go(tmp_path, sites)
    assert run.status == "failed"
    assert "\n" not in run.message
    assert f"error: {run.message}" in told(tmp_path)


def test_the_text_of_an_unforeseen_error_reaches_neither_store_nor_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    launch(tmp_path)
    sites = federation()

    value = 1 / 8.1  # not in the source, which the log may show

    def fail(call: int) -> None:
        if call == 2:
            raise ValueError(f"beta of amiens is {value}")

    sites.on_ask = fail
    with caplog.at_level(logging.DEBUG):
        run = go(tmp_path, sites)
    assert run.status == "failed"
    assert "ValueError" in run.message
    assert "0.1234" not in run.message + told(tmp_path) + caplog.text
    assert "in ask" in caplog.text, "the log shows the place"
    sites.on_ask = lambda _call: None
    assert go(tmp_path, sites).status == "done", "it resumes"


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


# ---------------------------------------------------------------- sums formed in two messages
@dataclass(frozen=True)
class TwoMessages(PlainSum):
    """Stands for a secure sum: two messages of set-up, and a second message in each round, made of the first."""

    setup_phases: tuple[str, ...] = ("keys", "value")
    phases: tuple[str, ...] = ("value", "shares")

    def setup_arrays(self, phase: str, site: str, heard: Mapping[str, Mapping[str, Reply]]) -> Arrays:
        return {} if phase == "keys" else {"n_sites": np.array(float(len(heard["keys"])))}

    def request_arrays(
        self, phase: str, site: str, question: Question, heard: Mapping[str, Mapping[str, Reply]]
    ) -> Arrays:
        if phase == "value":
            return question.arrays
        return {
            "mine": np.array(float(sorted(heard["value"]).index(site))),
            "n": np.array(float(len(heard["value"]))),
        }

    def releases(self, phase: str, part: PartSpec) -> tuple[ArraySpec, ...]:
        return part.releases if phase == "value" else (ArraySpec(name="share", shape=(), meaning="a share"),)


class SharingSite(SimulatedSite):
    """Answers the second message with what it was sent."""

    def _compute(self, request: RoundRequest, plan: Plan) -> bytes:
        if request.phase != "shares":
            return super()._compute(request, plan)
        where = (request.run_id, request.step, request.part, request.number)
        return encode(Reply(*where, "ok", "shares", arrays={"share": request.arrays["mine"]}))


def sharing_federation(*behaviours: Behaviour) -> SimulatedFederation:
    sites = federation(*behaviours)
    sites.sites = {name: SharingSite(site.cohort) for name, site in sites.sites.items()}
    return sites


def test_set_up_and_rounds_of_two_messages_reach_every_site_in_order(tmp_path: Path) -> None:
    plan = launch(tmp_path)
    sites = sharing_federation()
    assert go(tmp_path, sites, protocol=TwoMessages()).status == "done"
    assert found(tmp_path) == expected(plan, sites.sites)
    of_brest = [request for site, request, _ in sites.asked if site == "brest"]
    assert [request.phase for request in of_brest][:6] == ["keys", "value", "value", "shares", "value", "shares"]
    assert of_brest[1].arrays["n_sites"] == 5
    assert all(request.arrays["mine"] == 1 for request in of_brest[3:] if request.phase == "shares")


def test_killed_between_two_messages_the_first_is_not_asked_again(tmp_path: Path) -> None:
    plan = launch(tmp_path)
    sites = sharing_federation()
    sites.kill_at, sites.kill_before_sites = 5, True  # keys, value; moments: value, shares; grid: value, shares
    with pytest.raises(HubKilledError):
        go(tmp_path, sites, protocol=TwoMessages())
    asked = len(sites.asked)
    assert go(tmp_path, sites, protocol=TwoMessages()).status == "done"
    assert sites.asked[asked][1].phase == "shares"
    assert found(tmp_path) == expected(plan, sites.sites)


def test_the_plain_sum_is_the_protocol_by_default() -> None:
    assert (PLAIN_SUM.setup_phases, PLAIN_SUM.phases) == (("value",), ("value",))


def test_an_exchange_that_forgets_a_site_has_it_called_late(tmp_path: Path) -> None:
    plan = launch(tmp_path)
    sites = federation()
    whole = sites.ask

    class Forgetful:
        def ask(self, bodies: Mapping[str, bytes], deadline_s: float) -> dict[str, bytes | Failure]:
            answers = whole(bodies, deadline_s)
            if sites.calls == 3:
                del answers["evry"]
            return answers

    conduct(RUN, tmp_path, Forgetful(), pacing=sites.clock.pacing())
    assert record(tmp_path).status == "done"
    assert "evry did not answer before the deadline." in told(tmp_path)
    assert found(tmp_path) == expected(plan, sites.sites)


def test_one_site_alone_can_be_asked(tmp_path: Path) -> None:
    plan = launch(tmp_path, sites=("amiens",))
    sites = SimulatedFederation({"amiens": SimulatedSite(cohort("amiens", 60, seed=1))})
    assert go(tmp_path, sites).status == "done"
    assert found(tmp_path) == expected(plan, sites.sites)


def test_a_run_without_sites_fails(tmp_path: Path) -> None:
    launch(tmp_path, sites=())
    assert go(tmp_path, federation()).message == "No site was invited to this run."
