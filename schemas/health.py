"""How a hub or site is: findings, each with what to do, and the Unix socket on which the supervisor tells them.

A home is healthy when no finding is an error. Something that a restart would not help, such as a hub that does not
answer a site, is a warning: whoever restarts unhealthy containers must not restart for it. The values are pure;
`HealthSocket` and `ask_health` are the two ends of `HOME/run/health.sock`.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from schemas.errors import ArchipelError
from schemas.processes import socket_address

__all__ = [
    "Finding",
    "Health",
    "HealthSocket",
    "Level",
    "Report",
    "Role",
    "UnansweredHealthError",
    "ask_health",
    "read_health",
]

Level = Literal["ok", "warning", "error"]
Role = Literal["hub", "site"]

_SOCKET = "health.sock"
_MAX_BYTES = 1 << 20
_FRESH_S = 1.0


class UnansweredHealthError(ArchipelError):
    """Nobody tells how the home is: its supervisor does not run, or hangs."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        check: What was looked at, one word or two: ``disk``, ``ledger``, ``process agent``.
        level: ``error`` makes the home unhealthy, ``warning`` does not.
        text: What was found and, where something is wrong, what to do. No patient's value, no identifier.
    """

    check: str
    level: Level
    text: str


@dataclass(frozen=True)
class Health:
    """All findings of one look.

    Attributes:
        role: Whose.
        time: When, UTC, ISO 8601.
    """

    role: Role
    time: str
    findings: tuple[Finding, ...]

    @property
    def is_healthy(self) -> bool:
        """Whether nothing found is an error."""
        return all(finding.level != "error" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Return it for a program."""
        return {
            "kind": "health",
            "version": 1,
            "role": self.role,
            "healthy": self.is_healthy,
            "time": self.time,
            "findings": [asdict(finding) for finding in self.findings],
        }


def read_health(content: bytes) -> Health:
    """Return what `Health.to_dict` wrote.

    Raises:
        UnansweredHealthError: When it is anything else.
    """
    try:
        record = json.loads(content)
        if (record["kind"], record["version"]) != ("health", 1):
            raise ValueError
        findings = tuple(Finding(one["check"], one["level"], one["text"]) for one in record["findings"])
        return Health(record["role"], record["time"], findings)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UnansweredHealthError("What answers on run/health.sock is no Archipel of this version.") from None


class Report:
    """The newest findings of a home, for whoever asks; looked up at most once a second, by one asker at a time."""

    def __init__(self, role: Role, look: Callable[[], Sequence[Finding]]) -> None:
        """Keep how to look.

        Args:
            role: Whose.
            look: Returns the findings; whatever it raises becomes one.
        """
        self._role = role
        self._look = look
        self._lock = threading.Lock()
        self._last: tuple[float, Health] | None = None

    def health(self) -> Health:
        """Return the findings of now."""
        with self._lock:
            if self._last is None or time.monotonic() - self._last[0] >= _FRESH_S:
                self._last = (time.monotonic(), self._fresh())
            return self._last[1]

    def _fresh(self) -> Health:
        try:
            findings = tuple(self._look())
        except Exception as error:  # a check that fails is itself a finding; its text may be anybody's
            findings = (Finding("health", "error", f"the check itself failed ({type(error).__name__})"),)
        return Health(self._role, datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), findings)


class HealthSocket:
    """Answers every connection to `HOME/run/health.sock` with the findings, in a thread of its own."""

    def __init__(self, home: Path, report: Report) -> None:
        """Start to listen; only this user can connect.

        Raises:
            OSError: When the socket cannot be made.
        """
        self._home = home
        self._report = report
        self._stop = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with socket_address(home, _SOCKET) as address:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(address)
            self._listener.bind(address)
            os.chmod(address, 0o600)
        self._listener.listen(8)
        self._listener.settimeout(0.25)
        self._thread = threading.Thread(target=self._serve, name="health", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering."""
        self._stop.set()
        self._thread.join(2.0)
        self._listener.close()
        with contextlib.suppress(OSError):
            (self._home / "run" / _SOCKET).unlink()

    def _serve(self) -> None:
        while not self._stop.is_set():
            try:
                connection, _ = self._listener.accept()
            except TimeoutError:
                continue
            except OSError:  # no descriptor is left, for instance: the next one who asks may be luckier
                self._stop.wait(0.25)
                continue
            with connection, contextlib.suppress(OSError):
                connection.settimeout(2.0)
                connection.sendall(json.dumps(self._report.health().to_dict()).encode())


def ask_health(home: Path, timeout_s: float = 8.0) -> Health:
    """Ask the supervisor of a home how it is.

    Raises:
        UnansweredHealthError: When nobody answers in time.
    """
    what = "run/health.sock"
    if not (home / "run" / _SOCKET).exists():
        raise UnansweredHealthError(f"Nothing runs in {home.resolve()} that tells how it is ({what} is missing).")
    deadline = time.monotonic() + timeout_s
    content = bytearray()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.settimeout(timeout_s)
            with socket_address(home, _SOCKET) as address:
                connection.connect(address)
            while chunk := connection.recv(1 << 16):
                content += chunk
                if len(content) > _MAX_BYTES:
                    break
                connection.settimeout(max(0.01, deadline - time.monotonic()))
        except TimeoutError:
            raise UnansweredHealthError(
                f"{what} does not answer within {timeout_s:g} s: the disk may hang."
            ) from None
        except OSError as error:
            raise UnansweredHealthError(f"{what} does not answer ({error.strerror}): it does not run.") from None
    return read_health(bytes(content))
