"""How many sites are connected, as the process that knows it leaves it for the supervisor: a number, no name."""

from __future__ import annotations

import contextlib
from pathlib import Path

__all__ = ["note_online", "read_online"]

_FILE = "sites-online.txt"


def note_online(home: Path, count: int) -> None:
    """Leave the number; on a full disk the former one stays."""
    with contextlib.suppress(OSError):
        partial = home / "run" / f".{_FILE}.partial"
        partial.write_text(f"{count}\n", "ascii")
        partial.replace(home / "run" / _FILE)


def read_online(home: Path) -> int:
    """Return the number; 0 before anybody left one."""
    try:
        return int((home / "run" / _FILE).read_text("ascii"))
    except (OSError, ValueError):
        return 0
