"""Processes killed with -9, one after another: who is missing is named, and the next question is answered."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from server.launcher import status
from tests.doubles.federation import Federation, until

ALL = ("paris", "lyon", "nantes")


def _is_at_work(pid: int) -> bool:
    """Whether a process still does anything: one that has ended, but that nobody has collected yet, does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def test_a_killed_agent_is_named_and_comes_back(federation: Federation) -> None:
    lyon = federation.sites["lyon"]
    with lyon.held():
        lyon.kill("agent")
        outcome = federation.ask(dict.fromkeys(ALL, b"now"), 5.0)
    assert outcome["paris"] == outcome["nantes"] == b"echo:now"
    assert outcome["lyon"]["site"] == "lyon"
    assert outcome["lyon"]["reason"] in ("offline", "late")
    start = time.monotonic()
    assert federation.ask(dict.fromkeys(ALL, b"next"), 60) == dict.fromkeys(ALL, b"echo:next")
    assert time.monotonic() - start < 30  # Flower alone refuses the key for a minute


@pytest.mark.parametrize("role", ["agent", "runner"])
def test_a_site_killed_at_work_answers_in_the_same_round(federation: Federation, role: str) -> None:
    killer = threading.Timer(1.0, federation.sites["lyon"].kill, [role])
    killer.start()
    assert federation.ask(dict.fromkeys(ALL, b"sleep:2"), 60) == dict.fromkeys(ALL, b"echo:sleep:2")
    killer.join()


def test_half_a_reply_is_never_waited_for(federation: Federation) -> None:
    start = time.monotonic()
    assert federation.ask({"nantes": b"half", "paris": b"whole"}, 60) == {
        "nantes": b"echo:half",
        "paris": b"echo:whole",
    }
    assert (federation.sites["nantes"].home / "died").exists()
    assert time.monotonic() - start < 45  # Flower alone waits for the other half for two hours


def test_a_slow_site_is_late_and_its_answer_is_not_taken_for_the_next(federation: Federation) -> None:
    run_id, _ = federation.submit(
        ({"lyon": b"sleep:40", "paris": b"quick"}, 5.0),
        ({"lyon": b"second", "paris": b"second"}, 60.0),
    )
    first, second = federation.rounds(run_id, 2)
    assert bytes.fromhex(first["outcomes"]["paris"]["body"]) == b"echo:quick"
    assert first["outcomes"]["lyon"] == {"site": "lyon", "reason": "late", "code": ""}
    assert first["seconds"] < 20.0
    assert bytes.fromhex(second["outcomes"]["lyon"]["body"]) == b"echo:second"


def test_a_killed_server_app_is_known_at_once(federation: Federation) -> None:
    home = federation.settings.home
    _, flower_run, server_app = federation.submit_and_await(({"paris": b"sleep:30"}, 60.0))
    os.kill(server_app, signal.SIGKILL)
    until(lambda: status(home, flower_run) != "running", "the end of the run", 30)  # Flower alone notices after 51 s
    assert status(home, flower_run) == "failed"
    assert federation.ask({"lyon": b"next"}) == {"lyon": b"echo:next"}


def test_a_killed_launcher_takes_its_run_along_and_comes_back(federation: Federation) -> None:
    home = federation.settings.home
    _, flower_run, child = federation.submit_and_await(({"nantes": b"sleep:30"}, 60.0))
    federation.hub.kill("launcher")
    assert federation.ask({"lyon": b"next"}) == {"lyon": b"echo:next"}
    assert status(home, flower_run) == "failed"
    # Who collects a child whose parent was killed decides when its number is free again.
    until(lambda: not _is_at_work(child), "the end of the run's process")


def test_a_killed_superlink_comes_back_with_its_sites(federation: Federation) -> None:
    federation.hub.kill("superlink")
    deadline = time.monotonic() + 60
    while True:
        try:
            outcome = federation.ask(dict.fromkeys(ALL, b"back"), 60)
            break
        except Exception:
            assert time.monotonic() < deadline
            time.sleep(0.3)
    assert outcome == dict.fromkeys(ALL, b"echo:back")
