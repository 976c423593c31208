"""What tests of a live federation ask of its runs, wait for, and do to its processes."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from archipel import runs
from archipel.alive import running_children
from archipel.local_federation import LocalFederation
from server.records import RunRecord
from server.runs import list_rounds

_EVERY_S = 0.02  # some moments that a test waits for are over soon


def record_of(federation: LocalFederation, run_id: str) -> RunRecord:
    with runs.open_store(federation.hub) as store:
        return store.run(run_id)


def count_rounds(federation: LocalFederation, run_id: str) -> int:
    with runs.open_store(federation.hub) as store:
        return len(list_rounds(store, run_id))


def finish(federation: LocalFederation, run_id: str, within_s: float = 120) -> None:
    def is_over() -> bool:
        record = record_of(federation, run_id)
        assert record.status not in ("failed", "stopped"), record.message
        return record.status == "done"

    wait_until(is_over, f"{run_id} to be done", within_s)


def wait_until(condition: Callable[[], bool], what: str, within_s: float = 60) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {within_s} s in vain for {what}"
        time.sleep(_EVERY_S)


def child_of(home: Path, name: str) -> int:
    return running_children(home)[name]


@contextlib.contextmanager
def held_still(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
