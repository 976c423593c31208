"""The process of a site that reads tables and computes, one child per request.

Run as `python -m client.runner --home DIR`; `client.site_process` keeps it up.

A warm parent has everything imported and the site's tables at hand; each request
is worked on in a child forked from it, which costs milliseconds and leaves nothing
behind. The parent knows neither statistics nor Flower. It has no network: the
kernel leaves it the agent's Unix socket as its only way out, and a draft that it
hands over still has to pass the gate there. The child has nothing but the tables
that it was given and its pipe (`client.confinement`).

A child that raises or dies yields "failed" and nothing more: exception text may
hold a patient's value and is neither sent nor logged.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import logging
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

from client.confinement import confine_runner, confine_step, supported
from client.link import LinkError, RunnerEnd
from client.task import Outcome, Task
from schemas.logs import configure_logging
from schemas.processes import die_with_parent, end_with_parent

__all__ = ["Worker", "main"]

log = logging.getLogger("archipel.site")

_WARM = ("numpy", "pyarrow", "scipy.linalg", "models", "client.execute")


class Worker:
    """Turns requests into drafts, each in a child of its own."""

    def __init__(self, home: Path, prepare: Callable[[Path, bytes], Task]) -> None:
        """Keep how requests become tasks.

        Args:
            home: The site's folder.
            prepare: `client.execute.prepare`; called in this process, with what the agent has read already.
        """
        self._home = home.resolve()
        self._prepare = prepare
        self._child: int | None = None

    def draft(self, request: bytes, give_up: int) -> bytes | None:
        """Returns the draft that a child made, or None where it raised or died.

        Args:
            request: The bytes that the hub sent.
            give_up: Descriptor that becomes readable when nobody waits any more.

        Raises:
            LinkError: Nobody waits any more; the child is ended.
        """
        try:
            task = self._prepare(self._home, request)
        except Exception as error:
            log.error("a request failed: %s at %s", type(error).__name__, _place(error))
            return None
        outcome = self._outcome(task, give_up)
        return None if outcome is None else task.keep(outcome)

    def _outcome(self, task: Task, give_up: int) -> Outcome | None:
        reading, writing = os.pipe()
        parent = os.getpid()
        child = os.fork()
        if child == 0:
            os.close(reading)
            self._work(parent, task, writing)
        os.close(writing)
        self._child = child
        try:
            content = _read_all(reading, give_up)
        except LinkError:
            os.kill(child, signal.SIGKILL)
            raise
        finally:
            os.close(reading)
            _, status = os.waitpid(child, 0)
            self._child = None
        if status != 0:
            log.error("a request failed (child ended with %s)", os.waitstatus_to_exitcode(status))
            return None
        return Outcome.decode(content)

    def end_child(self) -> None:
        """Ends the child at work, if there is one."""
        if self._child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._child, signal.SIGKILL)

    def _work(self, parent: int, task: Task, writing: int) -> None:
        """Runs in the child and never returns."""
        code = 1
        try:
            end_with_parent(parent)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            confine_step(self._home, task.reads, writing)
            outcome = task.work()
            with os.fdopen(writing, "wb") as file:
                file.write(outcome.encode())
            code = 0
        except BaseException as error:
            log.error("a request failed: %s at %s", type(error).__name__, _place(error))
        finally:
            logging.shutdown()
            # Not sys.exit: the parent's exit handlers, sockets and buffers are not this child's to close.
            os._exit(code)


def _read_all(reading: int, give_up: int) -> bytes:
    content = bytearray()
    while True:
        ready = select.select([reading, give_up], [], [])[0]
        if reading in ready:
            chunk = os.read(reading, 1 << 20)
            if not chunk:
                return bytes(content)
            content += chunk
        elif give_up in ready:
            raise LinkError


def _place(error: BaseException) -> str:
    """Returns file and line of an error, without its text."""
    frames = traceback.extract_tb(error.__traceback__)
    return " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames[-3:]))


def serve(home: Path, worker: Worker, warm: Callable[[Path], object]) -> None:
    """Answers the agent's requests, for ever; waits for the agent whenever it is away."""
    while True:
        link = RunnerEnd.connect(home)
        log.info("connected to the agent")
        try:
            while True:
                link.reply(worker.draft(link.receive(), link.fileno()))
                _warm(home, warm)
        except (LinkError, OSError):
            log.info("the agent is away")
        finally:
            link.close()


def _warm(home: Path, warm: Callable[[Path], object]) -> None:
    try:
        warm(home)
    except Exception as error:
        # Warmth is a convenience: the child will meet the same problem and it is reported there.
        log.warning("preparing failed: %s at %s", type(error).__name__, _place(error))


def main(arguments: Sequence[str] | None = None, *, module: ModuleType | None = None) -> int:
    """Serves the agent until a signal."""
    parser = argparse.ArgumentParser(prog="client.runner", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--home", type=Path, required=True)
    home = parser.parse_args(arguments).home.resolve()
    configure_logging()
    die_with_parent()
    confine_runner(home)
    for sentence in supported().lacking:
        log.warning("%s", sentence)
    if module is None:
        for name in _WARM:
            importlib.import_module(name)
        module = importlib.import_module("client.execute")
    worker = Worker(home, module.prepare)

    def stop(number: int, frame: object) -> None:
        worker.end_child()
        sys.exit(0)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    warm = getattr(module, "warm", lambda home: None)
    _warm(home, warm)
    # What is imported stays for good: children then share these pages instead of copying them.
    gc.collect()
    gc.freeze()
    serve(home, worker, warm)
    return 0


if __name__ == "__main__":
    sys.exit(main())
