"""Which processes live: asked of /proc by id, never by name."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

__all__ = ["descendants", "end_all", "is_alive", "process_age_s", "running_children"]


def running_children(home: Path) -> dict[str, int]:
    """Return the process ids of a home's supervised processes that run now, by name."""
    found: dict[str, int] = {}
    for path in sorted((home / "run").glob("*.pid")):
        with contextlib.suppress(OSError, ValueError):
            pid = int(path.read_text("ascii"))
            # A stale file may name a process of somebody else by now; ours carries its home on its command line.
            if is_alive(pid) and str(home.resolve()).encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                found[path.stem] = pid
    return found


def is_alive(pid: int) -> bool:
    """Return whether a process runs; one that ended and was not waited for yet does not."""
    stat = _stat(pid)
    return stat is not None and stat[0] not in ("Z", "X")


def descendants(pid: int) -> set[int]:
    """Return the process ids of all descendants of a process."""
    children: dict[int, list[int]] = {}
    for child, parent in _parents():
        children.setdefault(parent, []).append(child)
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        for child in children.get(waiting.pop(), []):
            if child not in found:
                found.add(child)
                waiting.append(child)
    return found


def end_all(pids: set[int], patience_s: float = 5.0) -> set[int]:
    """End processes, first asking, then not, and return those that are still there."""
    left = {pid for pid in pids if is_alive(pid)}
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline = time.monotonic() + patience_s
        while left and time.monotonic() < deadline:
            time.sleep(0.05)
            left = {pid for pid in left if is_alive(pid)}
    return left


def _parents() -> Iterator[tuple[int, int]]:
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            stat = _stat(int(entry))
            if stat is not None:
                yield int(entry), int(stat[1])


def _stat(pid: int) -> Sequence[str] | None:
    """Return state, parent and the rest of a process, or None where there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("ascii", errors="replace")
    except OSError:
        return None
    # The name in brackets may hold anything, also spaces and brackets.
    return text[text.rindex(")") + 2 :].split()


def process_age_s() -> float:
    """Return how long this process has lived, in seconds; 0 where the system does not tell."""
    stat = _stat(os.getpid())
    if stat is None:
        return 0.0
    # Field 22 of proc(5), counted from the state as the first here: start after boot, in clock ticks.
    born_s = int(stat[19]) / os.sysconf("SC_CLK_TCK")
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - born_s)
