"""Podman by its command line: containers, networks and volumes of one test session, gone when it ends.

Every name begins with `axp` and the process id of the session that made it. `sweep` removes what sessions left behind
that were killed; what others made is never touched.
"""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_NAME = "axp"
_KINDS = (("container", ("rm", "--force", "--time", "0")), ("network", ("rm",)), ("volume", ("rm", "--force")))


def prefix() -> str:
    """Return how every name of this session begins."""
    return f"{_NAME}{os.getpid()}"


class CommandError(AssertionError):
    """A command failed; says which, and what it said."""


@dataclass(frozen=True)
class Done:
    """What a command came to."""

    code: int
    out: str
    err: str


def attempt(*words: str, within_s: float = 300.0, stdin: bytes | None = None) -> Done:
    """Run a command to its end, whatever that is."""
    done = subprocess.run(words, input=stdin, capture_output=True, timeout=within_s, check=False)
    return Done(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))


def run(*words: str, within_s: float = 300.0, stdin: bytes | None = None) -> str:
    """Run a command that has to succeed, and return what it printed."""
    done = attempt(*words, within_s=within_s, stdin=stdin)
    if done.code != 0:
        raise CommandError(f"{' '.join(words)} ended with {done.code}:\n{done.out[-3000:]}\n{done.err[-3000:]}")
    return done.out


def podman(*words: str, within_s: float = 300.0, stdin: bytes | None = None) -> str:
    """Run podman."""
    return run("podman", *words, within_s=within_s, stdin=stdin)


def until(condition: Callable[[], bool], what: str, within_s: float, every_s: float = 0.2) -> float:
    """Wait, and return how many seconds it took."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < within_s, f"waited {within_s} s in vain for {what}"
        time.sleep(every_s)
    return time.monotonic() - start


@dataclass(frozen=True)
class Container:
    """One container by its name."""

    name: str

    def inspect(self) -> dict[str, Any]:
        """Return everything that podman knows."""
        return dict(json.loads(podman("container", "inspect", self.name))[0])

    @property
    def pid(self) -> int:
        """Process id of the container's first process, on this machine."""
        return int(self.inspect()["State"]["Pid"])

    def addresses(self) -> dict[str, str]:
        """Return the container's address in each of its networks."""
        return {name: net["IPAddress"] for name, net in self.inspect()["NetworkSettings"]["Networks"].items()}

    def attempt(self, *words: str, within_s: float = 300.0, stdin: bytes | None = None) -> Done:
        """Run a command in the container, as its own user, to whatever end."""
        interactive = ("--interactive",) if stdin is not None else ()
        return attempt("podman", "exec", *interactive, self.name, *words, within_s=within_s, stdin=stdin)

    def run(self, *words: str, within_s: float = 300.0, stdin: bytes | None = None) -> str:
        """Run a command in the container that has to succeed."""
        done = self.attempt(*words, within_s=within_s, stdin=stdin)
        if done.code != 0:
            raise CommandError(f"{self.name}: {' '.join(words)} ended with {done.code}:\n{done.out}\n{done.err}")
        return done.out

    def python(self, script: str, *arguments: str, within_s: float = 300.0) -> Any:
        """Run a script with the container's Python; it prints one JSON value."""
        return json.loads(self.run("python", "-c", script, *arguments, within_s=within_s))

    def start(self) -> None:
        podman("start", self.name)

    def kill(self) -> None:
        """End every process of the container at once, as a power cut would."""
        podman("kill", "--signal", "KILL", self.name)
        until(lambda: self.inspect()["State"]["Status"] == "exited", f"the end of {self.name}", 60)

    def stop(self) -> tuple[float, int]:
        """Stop as an administrator does; return seconds and exit code."""
        start = time.monotonic()
        podman("stop", self.name)
        return time.monotonic() - start, int(self.inspect()["State"]["ExitCode"])

    def logs(self, last: int = 60) -> str:
        done = attempt("podman", "logs", "--tail", str(last), self.name)
        return done.out + done.err


def create_network(name: str) -> None:
    """Make a network without a way out."""
    podman("network", "create", "--internal", name)


def create_volume(name: str, *options: str) -> Path:
    """Make a volume and return where it lies on this machine."""
    podman("volume", "create", *(word for option in options for word in ("--opt", option)), name)
    if options:  # a file system of its own, there from now on and not only while a container runs
        podman("volume", "mount", name)
    return volume(name)


@functools.cache
def volume(name: str) -> Path:
    """Return where a volume lies on this machine."""
    return Path(podman("volume", "inspect", "--format", "{{.Mountpoint}}", name).strip())


def remove_all(beginning: str) -> None:
    """Remove every container, network and volume whose name begins so, in this order."""
    for kind, remove in _KINDS:
        for name in _names(kind):
            if name.startswith(beginning):
                if kind == "volume":
                    attempt("podman", "volume", "unmount", name)
                podman(kind, *remove, name)


def sweep() -> None:
    """Remove what sessions made that are no longer there."""
    for kind, _ in _KINDS:
        for name in _names(kind):
            found = re.match(rf"{_NAME}(\d+)[-_]", name)
            if found and not Path(f"/proc/{found[1]}").exists():
                remove_all(found[0])


def _names(kind: str) -> list[str]:
    column = "{{.Names}}" if kind == "container" else "{{.Name}}"
    return podman(kind, "ls", *(("--all",) if kind == "container" else ()), "--format", column).split()
