"""The line between agent and runner: one draft for one request, whatever the other end does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from client.link import AgentEnd, Kind, LateError, LinkError, RunnerEnd, lock_instance, send_frame
from schemas.errors import ArchipelError


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[AgentEnd]:
    end = AgentEnd(tmp_path, patience_s=3.0)
    yield end
    end.close()


def runner(home: Path, answer: Callable[[RunnerEnd, bytes], None], times: int = 1) -> threading.Thread:
    def work() -> None:
        link = RunnerEnd.connect(home)
        try:
            for _ in range(times):
                answer(link, link.receive())
        except LinkError:
            pass
        finally:
            link.close()

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_drafts_come_back_in_turn(tmp_path: Path, agent: AgentEnd) -> None:
    thread = runner(tmp_path, lambda link, request: link.reply(request[::-1]), times=3)
    assert [agent.ask(body, 30.0) for body in (b"ab", b"", b"x" * 3_000_000)] == [b"ba", b"", b"x" * 3_000_000]
    thread.join()


def test_a_failure_is_none(tmp_path: Path, agent: AgentEnd) -> None:
    thread = runner(tmp_path, lambda link, request: link.reply(None))
    assert agent.ask(b"x", 30.0) is None
    thread.join()


def test_a_runner_that_dies_at_work_is_asked_again_after_its_restart(tmp_path: Path, agent: AgentEnd) -> None:
    dying = runner(tmp_path, lambda link, request: link.close())
    waiting = threading.Timer(0.5, lambda: runner(tmp_path, lambda link, request: link.reply(b"second")).join())
    waiting.start()
    assert agent.ask(b"x", 30.0) == b"second"
    dying.join()
    waiting.join()


def test_no_runner_is_none_after_some_patience(agent: AgentEnd) -> None:
    agent._patience_s = 0.1
    assert agent.ask(b"x", 10.0) is None


def test_a_slow_runner_is_late_and_sees_that_nobody_waits(tmp_path: Path, agent: AgentEnd) -> None:
    seen = []

    def slow(link: RunnerEnd, request: bytes) -> None:
        with pytest.raises(LinkError):
            link.receive()
        seen.append(True)

    thread = runner(tmp_path, slow)
    with pytest.raises(LateError):
        agent.ask(b"x", 0.3)
    thread.join(60)
    assert seen == [True]


def test_work_that_is_no_longer_wanted_ends(tmp_path: Path, agent: AgentEnd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.link._STILL_WANTED_S", 0.1)
    thread = runner(tmp_path, lambda link, request: None, times=2)
    start = time.monotonic()
    with pytest.raises(LateError):
        agent.ask(b"x", 60.0, lambda: False)
    assert time.monotonic() - start < 30
    thread.join()


@pytest.mark.parametrize(("kind", "length"), [(9, 3), (2, 1 << 60)])
def test_a_frame_of_unknown_kind_or_without_end_is_refused(
    tmp_path: Path, agent: AgentEnd, kind: int, length: int
) -> None:
    def lie(link: RunnerEnd, request: bytes) -> None:
        link._connection.sendall(bytes([kind]) + length.to_bytes(8, "big") + b"abc")

    agent._patience_s = 1.0
    thread = runner(tmp_path, lie)
    assert agent.ask(b"x", 30.0) is None
    thread.join()


def test_what_was_said_unasked_is_never_taken_for_an_answer(tmp_path: Path, agent: AgentEnd) -> None:
    def twice(link: RunnerEnd, request: bytes) -> None:
        link.reply(b"answer")
        send_frame(link._connection, Kind.DRAFT, b"stowaway")
        time.sleep(0.3)

    first = runner(tmp_path, twice)
    assert agent.ask(b"x", 30.0) == b"answer"
    first.join()
    second = runner(tmp_path, lambda link, request: link.reply(b"clean"))
    assert agent.ask(b"y", 30.0) == b"clean"
    second.join()


def test_the_socket_is_closed_to_other_users(tmp_path: Path, agent: AgentEnd) -> None:
    assert (tmp_path / "run").stat().st_mode & 0o077 == 0
    assert (tmp_path / "run" / "runner.sock").stat().st_mode & 0o077 == 0


def test_a_long_home_is_no_obstacle(tmp_path: Path) -> None:
    home = tmp_path / ("long-" * 30) / ("home-" * 30)
    home.mkdir(parents=True)
    end = AgentEnd(home)
    thread = runner(home, lambda link, request: link.reply(b"here"))
    assert end.ask(b"x", 30.0) == b"here"
    thread.join()
    end.close()


def test_a_home_has_one_agent(tmp_path: Path) -> None:
    lock_instance(tmp_path)
    with pytest.raises(ArchipelError, match="another agent"):
        lock_instance(tmp_path)


def test_a_copied_home_is_another_instance(tmp_path: Path) -> None:
    assert lock_instance(tmp_path / "a") != lock_instance(tmp_path / "b")
