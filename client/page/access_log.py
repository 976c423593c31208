"""Who looked at which patient: one line a view, hash-chained, on the disk before the page is sent.

A line says when, which account or system, what it asked (`Kind`), which model, what it was shown in one word, and
which patient: as an HMAC-SHA256 of the identifier under the site's own secret. So the file alone names no patient,
and the site, which has the secret and the identifiers, can answer "who looked at this patient" (`views_of`). With
`log_patient_ids = true` in site.toml the identifier stands beside it. No clinical value, no horizon, no number.

One fsync a line. The head (count and hash of the last line) stands in a file of its own and is replaced without
waiting for the disk, so after a power cut it may be some lines behind; a log that ends before its head was cut off.
"""

from __future__ import annotations

import datetime
import hmac
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from threading import Lock
from typing import Any, Literal, get_args

from client.page.accounts import utc_now
from client.state import SitePaths, fold_key
from privacy.storage import locked, storage_error, write_all
from schemas.canonical import canonical_json, sha256_hex
from schemas.errors import ArchipelError

__all__ = ["ACCESS_LOG_FILE", "AccessLog", "AccessLogBrokenError", "Kind", "View", "Line", "read_access_log"]

Kind = Literal["sign-in", "sign-in-refused", "sign-out", "search", "view", "print", "form", "api", "account"]
Shown = Literal["", "prognosis", "refused", "not-found", "too-many"]
ACCESS_LOG_FILE = "access.jsonl"
_GENESIS = "0" * 64
_PURPOSE = b"archipel access log of patients"
_ADVICE = "Keep access.jsonl and access.head as they are and tell your data protection officer."


class AccessLogBrokenError(ArchipelError):
    """The access log is not what this site wrote: changed, cut off or replaced."""


@dataclass(frozen=True)
class View:
    """One thing that somebody did.

    Attributes:
        kind: What.
        account: Name of the account, or of the system behind a token.
        patient: Keyed hash of the identifier; empty where no patient of the tables is meant.
        patient_id: The identifier, only where the site's settings ask for it.
        model: Hash of the model.
        shown: In one word.
        note: Of a change of accounts: what changed.
    """

    kind: Kind
    account: str
    patient: str = ""
    patient_id: str = ""
    model: str = ""
    shown: Shown = ""
    note: str = ""


@dataclass(frozen=True)
class Line:
    """One line of the log: its place and time (UTC, ISO 8601), the hash of the line before, and its own."""

    index: int
    time: str
    previous: str
    view: View
    hash: str


class AccessLog:
    """The open access log of a site; several threads and processes may write to it."""

    def __init__(self, home: Path, *, with_ids: bool = False, now: Callable[[], datetime.datetime] = utc_now) -> None:
        """Open the log, which need not exist yet, and verify all of it.

        Args:
            home: The site's folder.
            with_ids: Whether identifiers stand beside their keyed hash.
            now: The clock.

        Raises:
            AccessLogBrokenError: When it is not what this site wrote.
            StorageError: When it cannot be read.
        """
        self._path = SitePaths(home).state / ACCESS_LOG_FILE
        self._key = hmac.digest(fold_key(SitePaths(home)), _PURPOSE, "sha256")
        self._with_ids = with_ids
        self._now = now
        self._lock = Lock()
        self._last: Line | None = None
        self._end = 0
        with self._lock, locked(self._path, exclusive=True) as descriptor:
            self._catch_up(descriptor)

    def write(
        self, kind: Kind, account: str, *, patient_id: str = "", model: str = "", shown: Shown = "", note: str = ""
    ) -> Line:
        """Write one line; on return it is on the disk. A page that cannot be logged is not shown.

        Raises:
            AccessLogBrokenError: When the log is not what this site wrote.
            StorageError: When the disk does not take it.
        """
        view = View(
            kind=kind,
            account=account[:60],
            patient=self.hash_of(patient_id) if patient_id else "",
            patient_id=patient_id if self._with_ids else "",
            model=model,
            shown=shown,
            note=note[:200],
        )
        with self._lock, locked(self._path, exclusive=True) as descriptor:
            self._catch_up(descriptor)
            line = _line(self._last, self._now(), view)
            content = _text(line)
            try:
                write_all(descriptor, content)
                os.fsync(descriptor)
            except OSError as error:
                raise storage_error(self._path, error) from None
            self._last, self._end = line, self._end + len(content)
            _write_head(self._path, line)
            return line

    def hash_of(self, patient_id: str) -> str:
        """Return how the log names a patient."""
        return hmac.digest(self._key, patient_id.encode(), "sha256").hex()

    def views_of(self, patient_id: str) -> tuple[Line, ...]:
        """Return every line about one patient, the oldest first.

        Raises:
            AccessLogBrokenError: When the log is not what this site wrote.
            StorageError: When it cannot be read.
        """
        name = self.hash_of(patient_id)
        return tuple(line for line in read_access_log(self._path) if line.view.patient == name)

    def _catch_up(self, descriptor: int) -> None:
        """Read what others appended, remove a torn last line, and compare with the head."""
        size = os.fstat(descriptor).st_size
        if size < self._end:
            raise AccessLogBrokenError(f"The access log was cut off while the page was running. {_ADVICE}")
        content = os.pread(descriptor, size - self._end, self._end) if size > self._end else b""
        whole = content.rfind(b"\n") + 1
        head = _read_head(self._path) if self._last is None else None
        for line in _chain(content[:whole], self._last):
            self._last = line
            if head is not None and line.index + 1 == head[0] and line.hash != head[1]:
                raise AccessLogBrokenError(f"The access log does not fit its head file. {_ADVICE}")
        if head is not None and head[0] > (0 if self._last is None else self._last.index + 1):
            raise AccessLogBrokenError(f"The access log was cut off: its last lines are missing. {_ADVICE}")
        self._end += whole
        if whole < len(content):  # a power cut while writing; nothing was shown for it
            try:
                os.ftruncate(descriptor, self._end)
            except OSError as error:
                raise storage_error(self._path, error) from None


def read_access_log(path: Path) -> Iterator[Line]:
    """Yield the lines of a log, checking chain and head on the way.

    Raises:
        AccessLogBrokenError: At the first line that is not what the site wrote, or when the end is missing.
        StorageError: When it cannot be read.
    """
    head = _read_head(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        content = b""
    except OSError as error:
        raise storage_error(path, error) from None
    n = 0
    for line in _chain(content[: content.rfind(b"\n") + 1], None):
        n = line.index + 1
        if n == head[0] and line.hash != head[1]:
            raise AccessLogBrokenError(f"The access log does not fit its head file. {_ADVICE}")
        yield line
    if n < head[0]:
        raise AccessLogBrokenError(
            f"The access log was cut off: {head[0] - n} of its last lines are missing. {_ADVICE}"
        )


def _line(last: Line | None, now: datetime.datetime, view: View) -> Line:
    time = now.astimezone(datetime.UTC).isoformat(timespec="milliseconds")
    index, previous = (0, _GENESIS) if last is None else (last.index + 1, last.hash)
    bare = Line(index, time, previous, view, hash="")
    return Line(index, time, previous, view, sha256_hex(canonical_json(_record(bare))))


def _record(line: Line) -> dict[str, Any]:
    return {
        "kind": "access",
        "version": 1,
        "index": line.index,
        "time": line.time,
        "previous": line.previous,
        "view": asdict(line.view),
    }


def _text(line: Line) -> bytes:
    return canonical_json({**_record(line), "hash": line.hash}) + b"\n"


def _parse(text: bytes) -> Line:
    """Read one line, which must be exactly what `_text` writes."""
    record = json.loads(text)
    if set(record["view"]) != {one.name for one in fields(View)}:
        raise ValueError
    line = Line(record["index"], record["time"], record["previous"], View(**record["view"]), record["hash"])
    is_ours = line.view.kind in get_args(Kind) and sha256_hex(canonical_json(_record(line))) == line.hash
    if not is_ours or _text(line) != text:
        raise ValueError
    return line


def _chain(content: bytes, last: Line | None) -> Iterator[Line]:
    for text in content.split(b"\n")[:-1]:
        expected = (0, _GENESIS) if last is None else (last.index + 1, last.hash)
        try:
            line = _parse(text + b"\n")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            line = None
        if line is None or (line.index, line.previous) != expected:
            raise AccessLogBrokenError(f"The access log was changed: line {expected[0] + 1} is not ours. {_ADVICE}")
        yield line
        last = line


def _head_path(path: Path) -> Path:
    return path.with_suffix(".head")


def _read_head(path: Path) -> tuple[int, str]:
    try:
        record = json.loads(_head_path(path).read_bytes())
        return int(record["count"]), str(record["hash"])
    except FileNotFoundError:
        return 0, _GENESIS
    except OSError as error:
        raise storage_error(_head_path(path), error) from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise AccessLogBrokenError(f"The head of the access log was changed. {_ADVICE}") from None


def _write_head(path: Path, line: Line) -> None:
    """Replace the head; all or nothing, but without waiting for the disk."""
    partial = path.with_name(f".{_head_path(path).name}.partial")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            write_all(descriptor, canonical_json({"count": line.index + 1, "hash": line.hash}) + b"\n")
        finally:
            os.close(descriptor)
        partial.replace(_head_path(path))
    except OSError as error:
        raise storage_error(_head_path(path), error) from None
