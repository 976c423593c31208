"""The line between a site's agent and its runner: one request, one draft, nothing else.

The agent listens on a Unix socket in the site's `run` folder (0700), the runner
connects. A frame is one byte of kind, eight bytes of length and the body. The
agent reads exactly one frame for each that it sent; a byte more, another kind or a
length beyond the limit ends the connection. So there is no place in which a runner
could hand over anything but the bytes of its draft, and it needs no network at all
(docs/adr/0003 compares this with Flower's runtime API).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import select
import socket
import struct
import time
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path

from schemas.errors import ArchipelError
from schemas.processes import run_folder, socket_address

__all__ = ["AgentEnd", "Kind", "LateError", "LinkError", "RunnerEnd", "lock_instance"]

log = logging.getLogger("archipel.site")

MAX_BYTES = 512 << 20
_HEAD = struct.Struct(">BQ")
_SOCKET = "runner.sock"
_STILL_WANTED_S = 2.0


class Kind(IntEnum):
    """What a frame is."""

    REQUEST = 1
    DRAFT = 2
    FAILED = 3


class LinkError(ConnectionError):
    """The other end is gone or does not keep to the frames."""


class LateError(Exception):
    """The runner did not answer in the time that the request had."""


class AgentEnd:
    """The agent's end: asks whichever runner connected last."""

    def __init__(self, home: Path, *, patience_s: float = 30.0) -> None:
        """Starts to listen.

        Args:
            home: The site's folder.
            patience_s: How long a request waits for a runner that is (re)starting.
        """
        self._patience_s = patience_s
        self._connection: socket.socket | None = None
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with socket_address(home, _SOCKET) as address:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(address)
            self._listener.bind(address)
            os.chmod(address, 0o600)
        self._listener.listen(4)

    def ask(self, request: bytes, time_s: float, is_wanted: Callable[[], bool] = lambda: True) -> bytes | None:
        """Returns the runner's draft, or None where the runner failed.

        A runner that dies is asked once more after its restart: drafting has no
        effect outside the runner, so asking twice is safe.

        Args:
            request: What the hub asks.
            time_s: How long the hub waits for the answer.
            is_wanted: Called every two seconds; False ends the work early.

        Raises:
            LateError: Nobody waits for the draft any more; the runner's child is ended.
        """
        deadline = time.monotonic() + time_s
        for _ in range(2):
            connection = self._connect(min(deadline, time.monotonic() + self._patience_s))
            if connection is None:
                break
            try:
                send_frame(connection, Kind.REQUEST, request)
                _await_news(connection, deadline, is_wanted)
                kind, body = receive_frame(connection, deadline)
            except TimeoutError:
                self._drop()
                raise LateError from None
            except (LinkError, OSError):
                self._drop()
                continue
            if kind is Kind.DRAFT:
                return body
            if kind is not Kind.FAILED:
                self._drop()
            return None
        log.error("the runner does not answer; see logs/runner.log")
        return None

    def close(self) -> None:
        """Stops listening."""
        self._drop()
        self._listener.close()

    def _connect(self, deadline: float) -> socket.socket | None:
        if self._connection is not None and _has_news(self._connection):
            # Nothing was asked: it is gone, or it says something unasked. Either way its next word is not an answer.
            self._drop()
        while self._connection is None or _has_news(self._listener):
            wait_s = max(0.0, deadline - time.monotonic())
            if not select.select([self._listener], [], [], wait_s)[0]:
                return None
            newer, _ = self._listener.accept()
            self._drop()
            if _has_news(newer):
                newer.close()  # it died again while it waited in the queue
            else:
                self._connection = newer
        return self._connection

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def lock_instance(home: Path) -> str:
    """Makes this the only agent of a home, and returns a digest of the home and its machine.

    The lock is held until the process ends, however it ends. Whoever holds it may
    tell the hub that an earlier agent with the same digest is dead.

    Raises:
        ArchipelError: Another agent of this home is running.
    """
    folder = os.open(run_folder(home), os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(folder)
        raise ArchipelError(f"another agent of {home} is running; a site has one") from None
    place = os.fstat(folder)
    # A copied folder on this machine has another inode, on another machine another boot.
    boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii")
    words = (boot, socket.gethostname(), str(place.st_dev), str(place.st_ino))
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:32]


class RunnerEnd:
    """The runner's end."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    @classmethod
    def connect(cls, home: Path, *, every_s: float = 0.2) -> RunnerEnd:
        """Waits for the agent and connects to it."""
        while True:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                with socket_address(home, _SOCKET) as address:
                    connection.connect(address)
            except OSError:
                connection.close()
                time.sleep(every_s)
                continue
            return cls(connection)

    def fileno(self) -> int:
        """The socket, to be watched while a child works: news then means that the agent gave up."""
        return self._connection.fileno()

    def receive(self) -> bytes:
        """Waits for the next request.

        Raises:
            LinkError: The agent is gone.
        """
        kind, body = receive_frame(self._connection, None)
        if kind is not Kind.REQUEST:
            raise LinkError
        return body

    def reply(self, draft: bytes | None) -> None:
        """Sends a draft, or that there is none."""
        send_frame(self._connection, Kind.FAILED if draft is None else Kind.DRAFT, draft or b"")

    def close(self) -> None:
        """Ends the connection."""
        self._connection.close()


def send_frame(connection: socket.socket, kind: Kind, body: bytes) -> None:
    """Sends one frame."""
    connection.settimeout(None)
    connection.sendall(_HEAD.pack(kind, len(body)))
    connection.sendall(body)


def receive_frame(connection: socket.socket, deadline: float | None) -> tuple[Kind, bytes]:
    """Reads exactly one frame.

    Args:
        connection: The other end.
        deadline: Value of the monotonic clock after which TimeoutError is raised; None waits for ever.

    Raises:
        LinkError: The other end is gone, names an unknown kind, or announces too much.
    """
    number, length = _HEAD.unpack(_receive_exactly(connection, _HEAD.size, deadline))
    if length > MAX_BYTES or number not in Kind.__members__.values():
        raise LinkError
    return Kind(number), bytes(_receive_exactly(connection, length, deadline))


def _receive_exactly(connection: socket.socket, length: int, deadline: float | None) -> bytearray:
    # Grows with what arrives, not with what was announced.
    content = bytearray()
    while len(content) < length:
        if deadline is not None:
            connection.settimeout(max(0.001, deadline - time.monotonic()))
        else:
            connection.settimeout(None)
        chunk = connection.recv(min(1 << 20, length - len(content)))
        if not chunk:
            raise LinkError
        content += chunk
    return content


def _await_news(connection: socket.socket, deadline: float, is_wanted: Callable[[], bool]) -> None:
    while True:
        wait_s = min(_STILL_WANTED_S, deadline - time.monotonic())
        if wait_s <= 0:
            raise TimeoutError
        if select.select([connection], [], [], wait_s)[0]:
            return
        if not is_wanted():
            raise TimeoutError


def _has_news(connection: socket.socket) -> bool:
    return bool(select.select([connection], [], [], 0)[0])
