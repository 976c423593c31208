"""Sites that are away, refuse, lie or have nothing to say, and what comes out all the same."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.progress import Progress
from models.step import DivergedError
from schemas.codes import SENTENCES, Code
from schemas.messages import Reply
from server.conduct import DATABASE
from server.runs import list_released, list_rounds
from server.store import Store
from tests.server.conducting import RUN, assert_asked_the_same, expected, found, go, launch, record, told
from tests.simulated_federation import (
    SITES,
    HubKilledError,
    empty,
    federation,
    late,
    lies,
    offline,
    pooled_result,
    real_plan,
    refuses,
)


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


def test_a_step_that_cannot_go_on_without_a_site_fails_with_its_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(_progress: Progress) -> Progress:
        raise DivergedError("no more rounds are left")

    monkeypatch.setattr(Progress, "shrink", cannot)
    launch(tmp_path, real_plan(on_dropout="continue"))
    run = go(tmp_path, federation(late("caen", step="fit", number=1)))
    assert (run.status, run.message) == ("failed", "step fit: no more rounds are left")


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
    steps = (*plan.steps[:2], *(step.model_copy(update={"optional": True}) for step in plan.steps[2:]))
    launch(tmp_path, plan.model_copy(update={"steps": steps}))
    run = go(tmp_path, federation(*(empty(site, step="fit") for site in SITES)))
    assert run.status == "done"
    with Store(tmp_path / DATABASE) as store:
        assert store.skipped_steps(RUN) == {
            "fit": "no site has enough patients for it",
            "baseline": "needs fit, which came to nothing",
        }
        assert set(store.final_arrays(RUN)) == {
            name for name in pooled_result(plan, federation().sites) if not name.startswith(("fit.", "baseline."))
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
