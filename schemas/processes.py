"""Keeping a few processes of one home alive: when to start one again, and doing it.

Both sides run the same way: `archipel hub up` and `archipel site up` start two
processes each, and bring back whichever dies. The decision (`Restarts`) is a
value with no clock and no process in it; `Supervisor` is its effect. It lives in
`schemas/` for want of another package that hub and site share
(docs/adr/0003 says what that costs).
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["PARENT_VARIABLE", "Child", "Restarts", "Supervisor", "die_with_parent", "end_with_parent", "run_folder"]

log = logging.getLogger("archipel.supervisor")

PARENT_VARIABLE = "ARCHIPEL_PARENT_PID"
_PR_SET_PDEATHSIG = 1
_LOG_LIMIT_BYTES = 20_000_000


@dataclass(frozen=True)
class Child:
    """One process to keep running.

    Attributes:
        name: Names the log (`logs/NAME.log`) and the pid file (`run/NAME.pid`).
        arguments: Command line. Paths only, never a secret: others can read it.
        environment: Added to the supervisor's own environment.
    """

    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Restarts:
    """How long to wait before the next start of a process that keeps dying.

    Attributes:
        failures: Deaths in a row after a life that was too short to count.
        first_s: Wait after the first death.
        most_s: Longest wait. Short, since Flower refuses a node's key for a
            while after a kill, and the first moment it accepts should be used.
        settled_s: A life this long forgets earlier failures.
    """

    failures: int = 0
    first_s: float = 0.5
    most_s: float = 5.0
    settled_s: float = 20.0

    def after_death(self, lived_s: float) -> Restarts:
        """Returns the rule to follow after a process that lived so long died."""
        failures = 1 if lived_s >= self.settled_s else self.failures + 1
        return Restarts(failures, self.first_s, self.most_s, self.settled_s)

    @property
    def wait_s(self) -> float:
        """Seconds from the death to the next start."""
        return min(self.most_s, self.first_s * 2.0 ** max(0, self.failures - 1))


def die_with_parent() -> None:
    """Asks the kernel to end this process when the one that started it is gone.

    A supervisor killed with -9 can clean up nothing; without this its processes
    would live on, hold the ports and keep answering. Does nothing where no
    supervisor named itself in the environment.
    """
    expected = os.environ.get(PARENT_VARIABLE)
    if expected is None:
        return
    end_with_parent(int(expected), signal.SIGTERM)


def end_with_parent(parent: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Asks the kernel to send this process a signal when its parent is gone.

    Args:
        parent: Process id of the parent, as seen before the fork or start.
        number: SIGTERM for a process that has something to close, else SIGKILL.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:  # it died before the line above
        sys.exit("the parent process is gone")


def run_folder(home: Path) -> Path:
    """Returns the home's folder for pid files and sockets, closed to other users."""
    folder = home / "run"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


class Supervisor:
    """Starts the children of one home, restarts the dead, stops all on request."""

    PATIENCE_S = 8.0
    """How long children may take to end after SIGTERM."""

    def __init__(self, home: Path, children: Sequence[Child]) -> None:
        self._home = home
        self._children = list(children)
        self._running: dict[str, tuple[subprocess.Popen[bytes], float]] = {}
        self._due: dict[str, float] = {child.name: 0.0 for child in children}
        self._restarts = {child.name: Restarts() for child in children}
        self._stop = threading.Event()

    def request_stop(self) -> None:
        """Ends `serve` soon; safe from a signal handler or another thread."""
        self._stop.set()

    def serve(self, *, on_start: Callable[[str, int], None] | None = None) -> int:
        """Blocks until asked to stop, then ends every child; returns 0."""
        try:
            while not self._stop.is_set():
                for child in self._children:
                    self._tend(child, on_start)
                self._stop.wait(0.2)
        finally:
            self._end_all()
        return 0

    def _tend(self, child: Child, on_start: Callable[[str, int], None] | None) -> None:
        running = self._running.get(child.name)
        now = time.monotonic()
        if running is not None:
            process, started = running
            if process.poll() is None:
                return
            del self._running[child.name]
            self._restarts[child.name] = self._restarts[child.name].after_death(now - started)
            wait_s = self._restarts[child.name].wait_s
            self._due[child.name] = now + wait_s
            log.warning(
                "%s ended (%s), starts again in %.1f s; its log is %s",
                child.name, process.returncode, wait_s, self._home / "logs" / f"{child.name}.log",
            )  # fmt: skip
        if now >= self._due[child.name]:
            process = self._start(child)
            self._running[child.name] = (process, now)
            if on_start is not None:
                on_start(child.name, process.pid)

    def _start(self, child: Child) -> subprocess.Popen[bytes]:
        path = self._home / "logs" / f"{child.name}.log"
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size > _LOG_LIMIT_BYTES:
            path.replace(path.with_suffix(".log.1"))
        with path.open("ab") as sink:
            process = subprocess.Popen(
                list(child.arguments),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                # Its own session: Ctrl-C in a terminal reaches the supervisor, which then ends them in order.
                start_new_session=True,
                env={**os.environ, **_QUIET, **child.environment, PARENT_VARIABLE: str(os.getpid())},
            )
        (run_folder(self._home) / f"{child.name}.pid").write_text(f"{process.pid}\n")
        return process

    def _end_all(self) -> None:
        # Last started, first ended: a launcher before the hub it talks to.
        processes = [process for process, _ in reversed(self._running.values())]
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        deadline = time.monotonic() + self.PATIENCE_S
        for process in processes:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for child in self._children:
            (run_folder(self._home) / f"{child.name}.pid").unlink(missing_ok=True)
        self._running.clear()


_QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "PYTHONUNBUFFERED": "1",
    # Bodies of megabytes pass through many threads; with an arena for each, freed memory would stay with the process.
    "MALLOC_ARENA_MAX": "2",
    # Click 9 will drop names that the pinned typer still imports; nothing to see in a hospital's log.
    "PYTHONWARNINGS": "ignore::DeprecationWarning",
}
