"""What the agent leaves in `run/` for whoever watches the site: when it last heard the hub, when the disk failed it.

Both must work on a full disk, which is when they are needed: a file's time can be set, and bytes that are there can
be written over, without any room. Neither says more than a count and a time.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

from schemas.processes import run_folder

__all__ = ["StorageRefusals", "last_heard", "note_heard", "note_storage_refusal", "prepare_notes", "storage_refusals"]

_HEARD = "hub-heard"
_REFUSALS = "storage-refusals.txt"
_LINE = "{:012d} {:017.6f}\n"


@dataclass(frozen=True)
class StorageRefusals:
    """Answers that were refused because the disk did not take or give what it must.

    Attributes:
        count: Since the folder was made.
        last: Of the last one, seconds since 1970; 0 before the first.
    """

    count: int = 0
    last: float = 0.0


def prepare_notes(home: Path) -> None:
    """Make the file that counts storage refusals while there is room for it; without room, a later call may."""
    path = run_folder(home) / _REFUSALS
    with contextlib.suppress(OSError):
        if not path.exists() or path.stat().st_size != len(_LINE.format(0, 0.0)):
            path.write_text(_LINE.format(0, 0.0), "ascii")


def note_heard(home: Path, now: float | None = None) -> None:
    """Remember that the hub answered this site just now."""
    path = home / "run" / _HEARD
    moment = time.time() if now is None else now
    with contextlib.suppress(OSError):
        if not path.exists():
            path.touch(mode=0o600)
        os.utime(path, (moment, moment))


def last_heard(home: Path) -> float | None:
    """Return when the hub last answered this site, in seconds since 1970; None where it never has."""
    try:
        return (home / "run" / _HEARD).stat().st_mtime
    except OSError:
        return None


def note_storage_refusal(home: Path, now: float | None = None) -> None:
    """Count an answer that was refused for want of a working disk; written over in place, which needs no room."""
    prepare_notes(home)
    known = storage_refusals(home)
    line = _LINE.format(known.count + 1, time.time() if now is None else now)
    with contextlib.suppress(OSError):
        descriptor = os.open(home / "run" / _REFUSALS, os.O_WRONLY)
        try:
            os.pwrite(descriptor, line.encode("ascii"), 0)
        finally:
            os.close(descriptor)


def storage_refusals(home: Path) -> StorageRefusals:
    """Return what `note_storage_refusal` counted."""
    try:
        count, last = (home / "run" / _REFUSALS).read_text("ascii").split()
        return StorageRefusals(int(count), float(last))
    except (OSError, ValueError):
        return StorageRefusals()
