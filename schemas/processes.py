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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, Protocol

__all__ = [
    "PARENT_VARIABLE",
    "Child",
    "ChildState",
    "FileOutput",
    "Output",
    "Restarts",
    "Supervisor",
    "die_with_parent",
    "end_with_parent",
    "run_and_end",
    "run_folder",
    "socket_address",
]

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


@dataclass(frozen=True)
class ChildState:
    """How one supervised process is.

    Attributes:
        name: Of the child.
        pid: Process id; None while it does not run.
        failures: Deaths in a row after a life that was too short to count.
        restarts: Starts after the first, since the supervisor started.
        last_exit: Exit status of the last life, negative for a signal; None before the first death.
        is_settled: Whether it has lived long enough to forget earlier failures.
        trouble: Why it could not be started at all; empty where it could.
    """

    name: str
    pid: int | None
    failures: int
    restarts: int
    last_exit: int | None
    is_settled: bool
    trouble: str = ""


@dataclass
class _Life:
    """What the supervisor knows of one child; changed by its own thread alone."""

    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    due: float = 0.0
    starts: int = 0
    last_exit: int | None = None
    trouble: str = ""
    rule: Restarts = field(default_factory=Restarts)
    is_noted: bool = False  # whether its pid file is written


class Output(Protocol):
    """Where the children of a home write."""

    def environment(self, child: Child) -> Mapping[str, str]:
        """Returns what tells a child how to log."""
        ...

    def open(self, home: Path, child: Child) -> contextlib.AbstractContextManager[int]:
        """Yields the descriptor that a child writes to, and closes it in this process afterwards."""
        ...


class FileOutput:
    """A file for each child, `logs/NAME.log`."""

    def environment(self, child: Child) -> Mapping[str, str]:
        """Returns nothing: text is what a child writes by itself."""
        return {}

    @contextlib.contextmanager
    def open(self, home: Path, child: Child) -> Iterator[int]:
        """Yields the file, or nowhere where the disk has no room even for its name."""
        path = home / "logs" / f"{child.name}.log"
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if path.exists() and path.stat().st_size > _LOG_LIMIT_BYTES:
                path.replace(path.with_suffix(".log.1"))
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as error:
            log.error("%s cannot be written (%s); what %s says is lost", path.name, error.strerror, child.name)
            descriptor = os.open(os.devnull, os.O_WRONLY)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


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


def run_and_end(main: Callable[[], int]) -> NoReturn:
    """Runs a process's main function and ends the process with its code, at once.

    The interpreter's own way out frees object after object and waits for idle threads. In a hub with a run that took
    fifteen seconds on a busy machine, and a container's stop waits ten. What has to be closed, `main` has closed.
    """
    code: object = 1
    try:
        code = main()
    except SystemExit as ended:  # as Flower ends a node
        code = ended.code
        if isinstance(code, str):
            sys.stderr.write(f"{code}\n")
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))


def run_folder(home: Path) -> Path:
    """Returns the home's folder for pid files and sockets, closed to other users."""
    folder = home / "run"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def socket_address(home: Path, name: str) -> Iterator[str]:
    """Gives the path by which to bind or reach a Unix socket in the home's folder for sockets.

    A socket's path may have 107 bytes only, and homes lie deep; through the folder's descriptor it is short.
    """
    folder = os.open(run_folder(home), os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{name}"
    finally:
        os.close(folder)


class Supervisor:
    """Starts the children of one home, restarts the dead, stops all on request.

    A full disk does not end it: logs and pid files that cannot be written are left out and tried again.
    """

    PATIENCE_S = 7.0
    """How long children may take to end after SIGTERM."""

    def __init__(self, home: Path, children: Sequence[Child], *, output: Output | None = None) -> None:
        """Keep what to run.

        Args:
            home: The folder.
            children: In the order in which they are started.
            output: Where a child's output goes; by default to a file of its own in `logs/`.
        """
        self._home = home
        self._children = list(children)
        self._lives = {child.name: _Life() for child in children}
        self._output = output or FileOutput()
        self._stop = threading.Event()

    def request_stop(self) -> None:
        """Ends `serve` soon; safe from a signal handler or another thread."""
        self._stop.set()

    def states(self) -> tuple[ChildState, ...]:
        """Returns how every child is; safe from another thread."""
        return tuple(self._state(child.name, self._lives[child.name]) for child in self._children)

    def _state(self, name: str, life: _Life) -> ChildState:
        process = life.process
        is_running = process is not None and process.poll() is None
        lived_s = time.monotonic() - life.started
        return ChildState(
            name=name,
            pid=process.pid if process is not None and is_running else None,
            failures=life.rule.failures,
            restarts=max(0, life.starts - 1),
            last_exit=life.last_exit if process is None or is_running else process.returncode,
            is_settled=is_running and lived_s >= life.rule.settled_s,
            trouble=life.trouble,
        )

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
        life = self._lives[child.name]
        now = time.monotonic()
        if life.process is not None:
            if life.process.poll() is None:
                self._note(child, life)
                return
            self._bury(child, life, now)
        if now < life.due:
            return
        try:
            life.process = self._start(child)
        except OSError as error:  # no memory, no descriptor, no room: it may pass
            if life.trouble != (error.strerror or ""):
                log.error("%s cannot be started (%s)", child.name, error.strerror)
            life.trouble, life.due = error.strerror or type(error).__name__, now + life.rule.most_s
            return
        life.started, life.starts, life.trouble, life.is_noted = now, life.starts + 1, "", False
        self._note(child, life)
        if on_start is not None:
            on_start(child.name, life.process.pid)

    def _bury(self, child: Child, life: _Life, now: float) -> None:
        assert life.process is not None
        life.last_exit = life.process.returncode
        life.process = None
        life.rule = life.rule.after_death(now - life.started)
        life.due = now + life.rule.wait_s
        log.warning("%s ended (%s), starts again in %.1f s", child.name, life.last_exit, life.rule.wait_s)

    def _start(self, child: Child) -> subprocess.Popen[bytes]:
        with self._output.open(self._home, child) as sink:
            return subprocess.Popen(
                list(child.arguments),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                # Its own session: Ctrl-C in a terminal reaches the supervisor, which then ends them in order.
                start_new_session=True,
                env={
                    **os.environ,
                    **_QUIET,
                    **child.environment,
                    **self._output.environment(child),
                    PARENT_VARIABLE: str(os.getpid()),
                },
            )

    def _note(self, child: Child, life: _Life) -> None:
        """Write the pid file, unless it is there; a full disk takes it later."""
        if life.is_noted or life.process is None:
            return
        path = run_folder(self._home) / f"{child.name}.pid"
        try:
            path.write_text(f"{life.process.pid}\n")
            life.is_noted = True
        except OSError as error:
            log.debug("%s cannot be written (%s)", path.name, error.strerror)

    def _end_all(self) -> None:
        # Last started, first ended: a launcher before the hub it talks to.
        processes = [life.process for life in reversed(self._lives.values()) if life.process is not None]
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
            with contextlib.suppress(OSError):
                (self._home / "run" / f"{child.name}.pid").unlink(missing_ok=True)


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
