"""What hub and site look at alike: their processes, their disk, their certificates."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Sequence
from pathlib import Path

from schemas.health import Finding
from schemas.processes import ChildState

__all__ = ["FEW_BYTES", "FEWEST_BYTES", "certificate_finding", "disk_finding", "process_findings"]

FEWEST_BYTES = 8 << 20
"""Less free room than this is an error: the next answer may not fit."""

FEW_BYTES = 256 << 20
"""Less than this is a warning."""

_PROBE = ".health-probe"
_PROBE_BYTES = 64 << 10
_KEEPS_ENDING = 3
_WARN_DAYS = 30


def process_findings(states: Sequence[ChildState]) -> list[Finding]:
    """Return one finding for each supervised process."""
    return [_process_finding(state) for state in states]


def _process_finding(state: ChildState) -> Finding:
    check = f"process {state.name}"
    log = "its log says why"
    if state.pid is None and state.last_exit is None:
        return Finding(check, "error", f"was not started ({state.trouble or 'not yet'})")
    if state.pid is None:
        return Finding(check, "error", f"ended ({state.last_exit}) and is started again shortly; {log}")
    if state.failures >= _KEEPS_ENDING and not state.is_settled:
        return Finding(check, "error", f"keeps ending: {state.failures} times in a row; {log}")
    again = f", started again {state.restarts} times" if state.restarts else ""
    return Finding(check, "ok", f"runs (process {state.pid}{again})")


def disk_finding(folder: Path) -> Finding:
    """Return whether a file can be written and flushed in `folder`, and how much room is left there.

    What is written is longer than a block, so a full disk shows, and removed at once.
    """
    probe = folder / f"{_PROBE}.{os.getpid()}"
    try:
        try:
            _write(probe)
        finally:
            with contextlib.suppress(FileNotFoundError):
                probe.unlink()
        room = os.statvfs(folder)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        return Finding(
            "disk",
            "error",
            f"{folder} cannot be written ({reason}): nothing is released until it can; free some room",
        )
    free = room.f_bavail * room.f_frsize
    text = f"{free / 1e6:.0f} MB free"
    if free < FEWEST_BYTES:
        return Finding("disk", "error", f"{text} in {folder}: free some room, or answers are refused soon")
    if free < FEW_BYTES:
        return Finding("disk", "warning", f"{text} in {folder}: free some room")
    return Finding("disk", "ok", text)


def _write(path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        left = memoryview(bytes(_PROBE_BYTES))
        while left:
            left = left[os.write(descriptor, left) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def certificate_finding(name: str, path: Path, remedy: str, now: datetime.datetime) -> Finding:
    """Return whether a certificate is still valid.

    Args:
        name: Whose, as people call it.
        path: PEM file.
        remedy: What to do about one that has expired or soon will.
        now: With its time zone.
    """
    from cryptography import x509

    check = f"certificate of {name}"
    try:
        end = x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc
    except (OSError, ValueError):
        return Finding(check, "error", f"keys/{path.name} is missing or no certificate: {remedy}")
    left = (end - now).days
    if end <= now:
        return Finding(check, "error", f"expired on {end:%Y-%m-%d}: {remedy}")
    if left < _WARN_DAYS:
        return Finding(check, "warning", f"expires on {end:%Y-%m-%d}, in {left} days: {remedy}")
    return Finding(check, "ok", f"until {end:%Y-%m-%d}")
