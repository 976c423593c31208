"""Runs that nobody conducts any more: which of them go on by themselves, and starting them again.

A run outlives the hub's processes, since its state lies in the store after every complete round. When the hub was
killed or stopped, or the process that conducted a run has died, the run still says that it goes on. The launcher
looks for such runs when the SuperLink answers (again) and when a conductor has died, and submits each once more: the
same run id, from its last complete round. What a person or the engine has ended (stopped, failed, done) is over.
Submitting a run that somebody does conduct is harmless: the older conductor finds its hold refused and ends
(`server.store.Store.claim`).
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from server.database import DATABASE
from server.records import ACTIVE, RunRecord
from server.store import Store

__all__ = ["MOST_TRIES", "LeftBehind", "choose", "forget_runs", "note_run", "run_of", "take_run"]

log = logging.getLogger("archipel.launcher")

MOST_TRIES = 5
"""Deaths in a row after which a run is left to people: what kills it each time would kill it for ever."""


def choose(runs: Sequence[RunRecord], conducted: Collection[str], tries: Mapping[str, int]) -> list[str]:
    """Return which runs go on by themselves, the oldest first.

    Args:
        runs: Of the store, the newest first.
        conducted: That a living process conducts.
        tries: How often each was submitted again without coming to its end.
    """
    return [
        run.run_id
        for run in reversed(runs)
        if run.status in ACTIVE and run.run_id not in conducted and tries.get(run.run_id, 0) < MOST_TRIES
    ]


def note_run(home: Path, run_id: str) -> None:
    """Write down which run this process conducts."""
    _run_file(home, os.getpid()).write_text(run_id, "utf-8")


def run_of(home: Path, process: int) -> str:
    """Return the id of the run that a process conducts; empty where it has not begun yet."""
    try:
        return _run_file(home, process).read_text("utf-8")
    except FileNotFoundError:
        return ""


def take_run(home: Path, process: int) -> str:
    """Return the id of the run that a process conducted, and forget it."""
    run_id = run_of(home, process)
    _run_file(home, process).unlink(missing_ok=True)
    return run_id


def forget_runs(home: Path) -> None:
    """Forget what processes conducted that died with an earlier launcher: their numbers are given out again."""
    for path in (home / "run").glob("task-*.run"):
        path.unlink(missing_ok=True)


def _run_file(home: Path, process: int) -> Path:
    return home / "run" / f"task-{process}.run"


class LeftBehind:
    """Submits again what `choose` names; remembers how often."""

    def __init__(self, home: Path, submit: Callable[[str], object]) -> None:
        """Keep where the store is and how a run is submitted."""
        self._home = home
        self._submit = submit
        self._tries: Counter[str] = Counter()

    def forget(self, run_id: str) -> None:
        """Forget the tries of a run whose conductor has ended of itself."""
        self._tries.pop(run_id, None)

    def resume(self, conducted: Collection[str]) -> None:
        """Submit every run that nobody conducts.

        Args:
            conducted: Ids of the runs that a living process conducts.

        Raises:
            Exception: What `submit` raises; the rest is for the next call.
        """
        if not (self._home / DATABASE).is_file():
            return
        with Store(self._home / DATABASE) as store:
            for run_id in choose(store.runs(), conducted, self._tries):
                self._submit(run_id)
                self._tries[run_id] += 1
                text = "The hub conducts this run again, from its last complete round."
                store.log_event(run_id, "warning", text)
                log.warning("run %s was left behind and is conducted again (try %d)", run_id, self._tries[run_id])
