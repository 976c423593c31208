"""How much of a run is left, and what a watcher is told."""

import datetime
import io
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from archipel import runs
from archipel.demo import CONFIGS
from archipel.homes import init_hub
from archipel.runs import LaunchError, choose_sites
from archipel.terminal import RunProgress
from archipel.watching import estimate, follow, tell_news
from models.compile import compile_plan
from schemas.study import load_study
from server.records import Round
from server.store import Store

PLAN = compile_plan(*load_study(CONFIGS / "cgd" / "study.toml"))
START = datetime.datetime(2026, 11, 20, tzinfo=datetime.UTC)


def _rounds(*steps, seconds=0.5):
    return [
        Round(
            index=i,
            step=step,
            part="value",
            number=i,
            started_at=START,
            seconds=seconds,
            bytes_up=0,
            bytes_down=0,
            heard=("a",),
            silent=(),
        )
        for i, step in enumerate(steps, start=1)
    ]


def test_before_the_first_round_no_time_is_promised():
    assert estimate(PLAN, []).seconds_left is None
    assert estimate(PLAN, []).rounds_left > len(PLAN.steps)


def test_nothing_is_left_of_a_run_that_is_over():
    assert estimate(PLAN, _rounds("moments"), over=True).rounds_left == 0


def test_second_fit_is_expected_to_take_as_long_as_the_first():
    before = _rounds("moments", "grid", *["fit"] * 12, "risk_groups", "kaplan_meier")
    short = _rounds("moments", "grid", *["fit"] * 4, "risk_groups", "kaplan_meier")
    assert estimate(PLAN, before).rounds_left - estimate(PLAN, short).rounds_left == 8


def test_one_round_that_waited_for_a_site_does_not_move_the_estimate():
    calm = _rounds("moments", "grid", "fit", "fit", "fit")
    waited = [*calm[:-1], *_rounds("fit", seconds=600)]
    assert estimate(PLAN, waited).seconds_left == estimate(PLAN, calm).seconds_left


@given(st.lists(st.sampled_from([step.name for step in PLAN.steps]), max_size=60))
def test_a_running_run_always_has_something_left(steps):
    ordered = sorted(steps, key=[step.name for step in PLAN.steps].index)
    left = estimate(PLAN, _rounds(*ordered))
    assert left.rounds_left >= 1
    assert (left.seconds_left is None) == (not ordered)


def test_follow_tells_each_change_once_and_ends_with_the_run(tmp_path):
    init_hub(tmp_path)
    with Store(tmp_path / "hub.db") as store:
        store.create_run("run-1", PLAN, ["a", "b"])
        hold = store.claim("run-1")
        script = iter(
            [
                lambda: store.log_event("run-1", "warning", "a is missing"),
                lambda: None,
                lambda: store.set_status(hold, "paused", "Waiting for a."),
                lambda: store.set_status(hold, "failed", "It cannot go on."),
            ]
        )
        views = list(follow(store, "run-1", sleep=lambda _: next(script)()))
    assert [view.run.status for view in views] == ["created", "created", "paused", "failed"]
    assert [event.text for view in views for event in view.news][:1] == ["a is missing"]
    assert views[-1].is_over
    assert views[-1].estimate.rounds_left == 0


def test_log_tells_rounds_and_events_in_the_order_in_which_they_happened(tmp_path):
    init_hub(tmp_path)
    text = io.StringIO()
    with Store(tmp_path / "hub.db") as store:
        store.create_run("run-1", PLAN, ["a", "b"])
        store.log_event("run-1", "warning", "A sentence that is longer than forty characters.")
        store.set_status(store.claim("run-1"), "failed", "It cannot go on.")
        (view,) = follow(store, "run-1")
    news = [replace(view.news[0], at=START + datetime.timedelta(seconds=seconds)) for seconds in (1, 9)]
    rounds = [replace(done, started_at=START + datetime.timedelta(seconds=4)) for done in _rounds("moments")]
    view = replace(view, news=tuple(news), new_rounds=tuple(rounds))
    with RunProgress(Console(file=text, width=40)) as progress:
        tell_news(progress, view, lines=True)
    lines = text.getvalue().splitlines()
    assert [line.startswith("Round 1 of") for line in lines] == [False, True, False]
    assert all(lines), "no empty line, and none broken in two"


# ---------------------------------------------------------------- who is invited
@pytest.mark.parametrize(
    ("enrolled", "wanted", "sentence"),
    [
        ([], None, "at least 2 enrolled sites.*Enrolled: none"),
        (["a"], None, "at least 2"),
        (["a", "b", "c"], ["a"], "at least 2.*Enrolled: a, b, c"),
        (["a", "b"], ["a", "z", "y"], "Not enrolled: y, z. Enrolled: a, b"),
        (["a", "b"], ["a", "a"], "at least 2"),
    ],
)
def test_refused_lists_of_sites(enrolled, wanted, sentence):
    with pytest.raises(LaunchError, match=sentence):
        choose_sites(enrolled, wanted)


def test_order_of_sites_does_not_matter():
    assert choose_sites(["c", "a", "b"], None) == choose_sites(["a", "b", "c"], ["b", "c", "a"]) == ("a", "b", "c")


# ---------------------------------------------------------------- finding runs
def test_run_is_found_by_its_beginning_where_that_is_unique(tmp_path):
    init_hub(tmp_path)
    with runs.open_store(tmp_path) as store:
        for run_id in ("cgd-1", "cgd-12", "acc-1"):
            store.create_run(run_id, PLAN, ["a", "b"])
        assert runs.find_run(store, "acc") == "acc-1"
        assert runs.find_run(store, "cgd-1") == "cgd-1"
        with pytest.raises(LaunchError, match="2 runs begin with cgd"):
            runs.find_run(store, "cgd")


def test_stop_says_what_will_happen(tmp_path):
    init_hub(tmp_path)
    with runs.open_store(tmp_path) as store:
        store.create_run("cgd-1", PLAN, ["a", "b"])
        hold = store.claim("cgd-1")
    assert "stops shortly" in runs.stop(tmp_path, "cgd-1")
    with runs.open_store(tmp_path) as store:
        store.set_status(hold, "stopped", "Stopped.")
    assert "is over already (stopped)" in runs.stop(tmp_path, "cgd-1")
