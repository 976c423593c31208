"""The store of answers: kept for good, one for each round, and the rules of their order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.answers import Answers, Change, Kept, RunRecord, order_verdict, read_run, recent_runs
from privacy.inbound import Seen
from privacy.storage import StorageError
from schemas.codes import Code
from schemas.messages import RoundRequest
from tests.plans import small_plan

PLAN = small_plan()
RUN = RunRecord("run-1", PLAN.hash, ("A", "B"), "d" * 64, Path("optout.txt"), "2026-11-20T12:00:00+00:00")
KEPT = Kept("run-1", "fit", 0, "value", "gradient", "q" * 64, 40, b"reply")
SETUP = replace(KEPT, step="setup", part="setup", reply=b"yes")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "answers.sqlite"


@pytest.fixture
def answers(path: Path) -> Answers:
    store = Answers(path)
    store.begin(RUN)
    return store


def test_what_is_kept_is_found_after_a_restart(path: Path, answers: Answers) -> None:
    answers.keep(KEPT)
    answers.close()
    again = Answers(path)
    assert again.find("run-1", "fit", 0, "value") == KEPT
    assert again.run("run-1") == RUN == read_run(path, "run-1")


def test_nothing_is_found_under_another_name(answers: Answers) -> None:
    answers.keep(KEPT)
    for other in (("run-2", "fit", 0), ("run-1", "moments", 0), ("run-1", "fit", 1)):
        assert answers.find(*other, "value") is None
    assert answers.find("run-1", "fit", 0, "keys") is None
    assert answers.run("run-2") is None


def test_a_second_answer_to_a_round_is_an_error(answers: Answers) -> None:
    answers.keep(KEPT)
    with pytest.raises(StorageError, match="CONSTRAINT"):
        answers.keep(replace(KEPT, reply=b"another"))
    found = answers.find("run-1", "fit", 0, "value")
    assert found is not None
    assert found.reply == b"reply"


def test_an_answer_is_marked_once_it_is_in_the_ledger(answers: Answers) -> None:
    answers.keep(KEPT)
    answers.keep(replace(KEPT, number=1))
    answers.mark_ledgered(KEPT)
    assert answers.find("run-1", "fit", 0, "value") == replace(KEPT, ledgered=True)
    assert answers.find("run-1", "fit", 1, "value") == replace(KEPT, number=1)


def test_the_setup_is_no_round(answers: Answers) -> None:
    answers.keep(SETUP)
    assert answers.answered("run-1") == []
    assert not answers.has_summand("run-1")
    answers.keep(KEPT)
    assert answers.answered("run-1") == [("fit", "gradient", 0)]
    assert answers.has_summand("run-1")


def test_a_run_begins_anew_until_its_first_summand(answers: Answers) -> None:
    answers.keep(SETUP)
    again = replace(RUN, sites=("A",), source_digest="e" * 64)
    answers.begin(again)
    assert answers.run("run-1") == again
    assert answers.find("run-1", "setup", 0, "value") is None
    answers.keep(KEPT)
    answers.begin(RUN)
    assert answers.run("run-1") == again
    assert answers.find("run-1", "fit", 0, "value") == KEPT


def test_the_newest_runs_come_first(path: Path, answers: Answers) -> None:
    answers.begin(replace(RUN, run_id="run-2", started="2026-11-21T00:00:00+00:00"))
    assert [run.run_id for run in recent_runs(path, 5)] == ["run-2", "run-1"]
    assert [run.run_id for run in recent_runs(path, 1)] == ["run-2"]


def test_no_store_has_no_runs(path: Path) -> None:
    assert recent_runs(path, 3) == []
    with pytest.raises(StorageError):
        read_run(path, "run-1")


def test_only_the_owner_reads_it(path: Path, answers: Answers) -> None:
    answers.keep(KEPT)
    assert {file.stat().st_mode & 0o077 for file in path.parent.iterdir()} == {0}


def test_a_damaged_store_is_a_storage_error(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(StorageError, match="NOTADB"):
        Answers(path)


def ask(step: str = "fit", part: str = "gradient", number: int = 0) -> RoundRequest:
    return RoundRequest("run-1", PLAN.hash, ("A", "B"), step, part, number, arrays={"beta": np.zeros(2)})


@pytest.mark.parametrize(
    ("answered", "request_", "code"),
    [
        ([], ask(), None),
        ([("moments", "sums", 0)], ask(), None),
        ([("fit", "gradient", 0)], ask(number=1), None),
        ([("fit", "gradient", 0)], ask(part="objective", number=1), None),
        ([("fit", "gradient", 1)], ask(number=0), Code.ROUND_STALE),
        ([("fit", "gradient", 1)], ask(part="objective", number=0), Code.ROUND_STALE),
        ([("fit", "gradient", 0)], ask("moments", "sums", 0), Code.ROUND_STALE),
        ([("fit", "gradient", n) for n in range(3)], ask(number=3), Code.ROUNDS_EXHAUSTED),
        ([("fit", "gradient", n) for n in range(3)], ask(part="objective", number=3), None),
        ([("moments", "sums", 0)], ask("moments", "sums", 1), Code.ROUNDS_EXHAUSTED),
    ],
)
def test_rounds_come_in_order_and_as_often_as_the_plan_says(
    answered: list[tuple[str, str, int]], request_: RoundRequest, code: Code | None
) -> None:
    assert order_verdict(request_, PLAN, answered) is code


@pytest.mark.parametrize(("most", "code"), [(2, Code.ROUNDS_EXHAUSTED), (3, None), (None, None)])
def test_a_site_counts_all_rounds_of_a_run(most: int | None, code: Code | None) -> None:
    answered = [("moments", "sums", 0), ("fit", "gradient", 0)]
    assert order_verdict(ask(number=1), PLAN, answered, most) is code


# ---------------------------------------------------------------- what an answer changes
def seen_at(**points: str) -> bytes:
    return Seen(points={fit: frozenset(digest) for fit, digest in points.items()}).encode()


def test_state_and_bytes_are_kept_together_or_not_at_all(answers: Answers) -> None:
    answers.keep(KEPT, Change("r" * 64, b"state", seen_at(fit="a")))
    assert answers.secure("run-1") == ("r" * 64, b"state")
    assert answers.roster_hash("run-1") == "r" * 64
    with pytest.raises(StorageError):
        answers.keep(KEPT, Change("r" * 64, b"another state", seen_at(fit="b")))
    assert answers.secure("run-1") == ("r" * 64, b"state")
    assert answers.seen_in("run-1", PLAN.hash, "r" * 64).points == {"fit": frozenset("a")}


def test_a_run_in_clear_has_no_state(answers: Answers) -> None:
    answers.keep(KEPT)
    assert (answers.secure("run-1"), answers.roster_hash("run-1")) == (None, None)
    assert answers.seen_in("run-1", PLAN.hash, None) == Seen()


def test_points_count_over_the_runs_of_one_plan_over_the_same_sites(answers: Answers) -> None:
    def run(run_id: str, plan_hash: str, roster: str, digest: str) -> None:
        answers.begin(replace(RUN, run_id=run_id, plan_hash=plan_hash))
        state = b"state" if roster else None
        answers.keep(replace(KEPT, run_id=run_id), Change(roster, state, seen_at(fit=digest)))

    run("run-1", PLAN.hash, "r", "a")
    run("run-2", PLAN.hash, "r", "b")
    run("run-3", PLAN.hash, "other sites", "c")
    run("run-4", "another plan", "r", "d")
    run("run-5", PLAN.hash, "", "e")
    assert answers.seen_in("run-1", PLAN.hash, "r").points == {"fit": frozenset("ab")}
    assert answers.seen_in("run-9", PLAN.hash, "r").points == {"fit": frozenset("ab")}
    assert answers.seen_in("run-5", PLAN.hash, None).points == {"fit": frozenset("e")}


def test_what_was_overwritten_is_in_no_file(path: Path, answers: Answers) -> None:
    old, new = b"OLDSECRET" * 5000, b"NEWSECRET" * 5000
    answers.keep(KEPT, Change("r", old))
    answers.keep(replace(KEPT, number=1), Change("r", new))
    assert any(old[:900] in file.read_bytes() for file in path.parent.iterdir())
    answers.forget_past()
    assert not any(b"OLDSECRET" in file.read_bytes() for file in path.parent.iterdir())
    assert answers.secure("run-1") == ("r", new)


def test_released_runs_are_those_with_a_summand(answers: Answers) -> None:
    answers.keep(SETUP)
    assert answers.released_runs() == []
    answers.keep(KEPT)
    assert answers.released_runs() == ["run-1"]
