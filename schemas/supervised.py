"""Running a home until a signal: its processes, and what is told about them while they run."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from schemas.health import Finding, Health, HealthSocket, Report, Role
from schemas.log_stream import supervised_output
from schemas.operation import Logs
from schemas.processes import Child, ChildState, Supervisor
from schemas.telling import TellingServer

__all__ = ["Operation", "Watch", "run_supervised"]

log = logging.getLogger("archipel.supervisor")


class Operation(Protocol):
    """The settings that hub and site have alike (`schemas.operation`)."""

    @property
    def logs(self) -> Logs:
        """Where processes write."""
        ...

    @property
    def metrics_port(self) -> int:
        """0: nothing is told over HTTP."""
        ...

    @property
    def metrics_listen(self) -> str:
        """Address that the port binds."""
        ...


class Watch(Protocol):
    """What a side knows of its home, asked in threads of the supervisor."""

    def look(self) -> Sequence[Finding]:
        """Returns every finding of now."""
        ...

    def exposition(self, health: Health) -> bytes:
        """Returns its figures in Prometheus's text format."""
        ...


def run_supervised(
    home: Path,
    role: Role,
    children: Sequence[Child],
    settings: Operation,
    watch: Callable[[Callable[[], Sequence[ChildState]]], Watch],
    announce: Callable[[str], None],
) -> int:
    """Blocks until SIGTERM or SIGINT; returns 0.

    Args:
        home: The folder.
        role: Whose.
        children: To keep running.
        settings: Of the home.
        watch: Given how the processes are, knows how the home is.
        announce: Says a sentence to the person who started this; not used where standard output holds the log.
    """
    sentence = f"Starting the {role} in {home}. `archipel {role} health` tells how it is; Ctrl-C ends it."
    if settings.logs == "files":
        announce(f"{sentence} Its logs are in {home / 'logs'}.")
    with supervised_output(settings.logs) as output:
        log.log(logging.INFO if settings.logs == "stdout" else logging.DEBUG, "%s", sentence)
        supervisor = Supervisor(home, children, output=output)
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: supervisor.request_stop())
        with _told(home, role, settings, watch(supervisor.states)):
            code = supervisor.serve()
        log.log(logging.INFO if settings.logs == "stdout" else logging.DEBUG, "stopped")
        return code


@contextlib.contextmanager
def _told(home: Path, role: Role, settings: Operation, watch: Watch) -> Iterator[None]:
    """Answer questions about a home as long as the body runs; what cannot be answered stops nothing."""
    report = Report(role, watch.look)
    with contextlib.ExitStack() as stack:
        try:
            answering = HealthSocket(home, report)
            stack.callback(answering.close)
        except OSError as error:
            log.error("run/health.sock cannot be made (%s): `health` will not be answered", error.strerror)
        if settings.metrics_port:
            try:
                telling = TellingServer(settings.metrics_listen, settings.metrics_port, report, watch.exposition)
                stack.callback(telling.close)
            except OSError as error:
                log.error("port %d for metrics cannot be opened (%s)", settings.metrics_port, error.strerror)
        yield
