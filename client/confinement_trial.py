"""Whether a step's process is confined here and now: one is made, and it tries."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

from client.confinement import ConfinementError, confine_step

__all__ = ["reached_by_a_step"]

_LIMIT_S = 5


def reached_by_a_step(home: Path) -> list[str]:
    """Return what a confined process could do that it should not; empty where all is as it should be.

    Args:
        home: A site's folder, or one that is to become one.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _try_and_end(home, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        words = file.read().decode("ascii", "replace")
    os.waitpid(child, 0)
    if not words.endswith("done\n"):
        return ["not be confined"]
    return words.splitlines()[:-1]


def _try_and_end(home: Path, pipe: int) -> None:
    """Runs in the child and never returns."""
    try:
        signal.alarm(_LIMIT_S)
        keys = [home / "keys" / name for name in ("identity.key", "node.key", "fold.key")]
        there = [path for path in keys if path.exists()]
        confine_step(home, (), pipe)
        words = ["read a key"] if any(_opens(path) for path in there) else []
        words += ["make a connection"] if _connects() else []
        os.write(pipe, "".join(f"{word}\n" for word in (*words, "done")).encode("ascii"))
    except (ConfinementError, OSError):
        pass  # without the last word, which the other side misses
    finally:
        os._exit(0)


def _opens(path: Path) -> bool:
    try:
        path.open("rb").close()
    except OSError:
        return False
    return True


def _connects() -> bool:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM).close()
    except OSError:
        return False
    return True
