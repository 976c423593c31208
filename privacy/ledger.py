"""The ledger: what left this site, when, under which rule; append-only, hash-chained, on disk before it leaves.

One JSON line an entry. Each carries the hash of the one before and its own, so that a changed byte is found by
anyone who reads the file. A chain cannot show that its end was cut off; for that the count and hash of the last
entry stand in a small file of their own (``ledger.head``). Whoever can write both files can still cut both; so the
hub countersigns the head soon after each append, and both keep that (`privacy.head_signature`, `client.heads`).

Order of an append: the line, fsync, then the head, fsync. After a crash in between the file is one entry ahead of
its head, or ends in a torn line that nothing was released for; the next append repairs either, and neither counts
as damage. What is written here is who, when, which round, digest and shapes: never a value.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from privacy.storage import StorageError, locked, storage_error, write_all, write_durably
from schemas.canonical import canonical_json, sha256_hex
from schemas.errors import ArchipelError
from schemas.shown import rounded

EventKind = Literal[
    "setup", "release", "shares", "refusal", "approval", "withdrawal", "pause", "resume", "peer", "model", "restore",
    "rotation",
]  # fmt: skip
LEDGER_FILE = "ledger.jsonl"
GENESIS = "0" * 64
_WITH_NOISE = frozenset({"dataset", "mu_squared"})
_VERSION = 1
_ADVICE = "Nothing is released. Keep ledger.jsonl and ledger.head as they are and tell your data protection officer."


class LedgerBrokenError(ArchipelError):
    """The ledger is not what this site wrote: changed, cut off or replaced."""


@dataclass(frozen=True)
class Event:
    """What happened, in words and numbers that say nothing about a patient.

    Attributes:
        kind: Of event.
        run: The run's id.
        study: The study's name.
        plan_hash: What the site approved.
        step: Of the plan.
        part: Of the step.
        number: Of the round.
        digest: SHA-256 of the bytes that left; empty where nothing left.
        n_bytes: Their length.
        arrays: Names and shapes of what left.
        n_patients: As `rounded_count` gives it.
        rule: Why (a code, or what was applied).
        who: The person behind an approval, a withdrawal, a pause, a forgotten peer.
        code_version: Of Archipel.
        dataset: Whose privacy budget paid for a release with noise; left out of the line where there is none.
        mu_squared: What it paid (`privacy.accountant`), likewise.
    """

    kind: EventKind
    run: str = ""
    study: str = ""
    plan_hash: str = ""
    step: str = ""
    part: str = ""
    number: int = 0
    digest: str = ""
    n_bytes: int = 0
    arrays: tuple[tuple[str, tuple[int, ...]], ...] = ()
    n_patients: int | None = None
    rule: str = ""
    who: str = ""
    code_version: str = ""
    dataset: str = ""
    mu_squared: float = 0.0


@dataclass(frozen=True)
class Entry:
    """One line of the ledger.

    Attributes:
        index: From 0.
        time: UTC, ISO 8601.
        previous: Hash of the entry before; `GENESIS` for the first.
        event: What happened.
        hash: SHA-256 of all of the above in canonical form.
    """

    index: int
    time: str
    previous: str
    event: Event
    hash: str


@dataclass(frozen=True)
class Head:
    """Where a ledger ends.

    Attributes:
        count: Entries.
        hash: Of the last one.
    """

    count: int = 0
    hash: str = GENESIS


@dataclass(frozen=True)
class Verified:
    """What `verify_ledger` found in a sound ledger.

    Attributes:
        head: Where it ends.
        torn_bytes: Length of a torn last line (power cut while writing); it stands for nothing.
    """

    head: Head
    torn_bytes: int


class Ledger:
    """The open ledger of a site; several processes may each have one."""

    def __init__(self, path: Path, now: Callable[[], datetime.datetime] | None = None) -> None:
        """Open the ledger at `path`, which need not exist yet, and verify all of it.

        Raises:
            LedgerBrokenError: When it is not what this site wrote.
            StorageError: When it cannot be read.
        """
        self._path = path
        self._now = now or (lambda: datetime.datetime.now(datetime.UTC))
        self._last: Entry | None = None
        self._end = 0
        with locked(path, exclusive=True) as descriptor:
            self._catch_up(descriptor)

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    def append(self, event: Event) -> Entry:
        """Write `event`; on return it is on the disk.

        Raises:
            LedgerBrokenError: When the ledger is not what this site wrote.
            StorageError: When the disk does not take it: nothing may be released.
        """
        with locked(self._path, exclusive=True) as descriptor:
            self._catch_up(descriptor)
            entry = _entry(head_of(self._last), self._now(), event)
            line = _line(entry)
            try:
                write_all(descriptor, line)
                os.fsync(descriptor)
            except OSError as error:
                with contextlib.suppress(OSError):  # what stays is a torn line, which the next append removes
                    os.ftruncate(descriptor, self._end)
                raise storage_error(self._path, error) from None
            self._last, self._end = entry, self._end + len(line)
            _write_head(self._path, head_of(entry))
            return entry

    def holds_release(self, digest: str) -> bool:
        """Return whether bytes of this digest have been entered as released (or as a set-up's answer).

        Raises:
            LedgerBrokenError: When the ledger is not what this site wrote.
            StorageError: When it cannot be read.
        """
        return any(entry.event.digest == digest for entry in entries(self._path))

    def _catch_up(self, descriptor: int) -> None:
        """Read what other processes appended, repair what a crash left, and compare with the head file."""
        try:
            content = read_from(descriptor, self._end)
        except OSError as error:
            raise storage_error(self._path, error) from None
        whole, last = _follow(content, self._last)
        kept = read_head(self._path)
        verify_head(kept, last)
        if whole < len(content):
            try:
                os.ftruncate(descriptor, self._end + whole)
                os.fsync(descriptor)
            except OSError as error:
                raise storage_error(self._path, error) from None
        self._last, self._end = last, self._end + whole
        if kept != head_of(last):
            _write_head(self._path, head_of(last))


def verify_ledger(path: Path) -> Verified:
    """Check every line of a ledger, its chain and its head.

    Raises:
        LedgerBrokenError: Naming the first line that is not what the site wrote, or that the end is missing.
        StorageError: When it cannot be read.
    """
    content, kept = _read_shared(path) if path.exists() else (b"", read_head(path))
    whole, last = _follow(content, None)
    verify_head(kept, last)
    return Verified(head_of(last), len(content) - whole)


def entries(path: Path) -> Iterator[Entry]:
    """Yield the entries of a ledger in order, checking the chain on the way.

    Raises:
        LedgerBrokenError: At the first line that is not what the site wrote.
        StorageError: When it cannot be read.
    """
    if path.exists():
        yield from chain(_read_shared(path)[0], None)


def verify_holds(path: Path, head: Head) -> None:
    """Verify that a ledger still holds the entry at which a countersigned head stands.

    Args:
        path: Of the ledger, whose chain is checked on the way.
        head: Under the signatures of site and hub.

    Raises:
        LedgerBrokenError: When its end is missing, or another entry stands there.
        StorageError: When it cannot be read.
    """
    n, found = 0, GENESIS
    for entry in entries(path):
        n = entry.index + 1
        found = entry.hash if n <= head.count else found
    if n < head.count:
        raise LedgerBrokenError(
            f"The ledger was cut off: it holds {n} entries, and the hub has countersigned {head.count} of them. "
            f"{_ADVICE}"
        )
    if found != head.hash:
        raise LedgerBrokenError(
            f"The ledger was replaced: entry {head.count} is not the one that the hub has countersigned. {_ADVICE}"
        )


def head_path(path: Path) -> Path:
    """Return where the head of the ledger at `path` is kept."""
    return path.with_suffix(".head")


def write_head(path: Path) -> Head:
    """Write the head file of a ledger that came without one from a backup, its chain verified; return where it ends.

    Raises:
        LedgerBrokenError: At the first line that is not what the site wrote.
        StorageError: When it cannot be read or written.
    """
    last = None
    for entry in entries(path):
        last = entry
    _write_head(path, head_of(last))
    return head_of(last)


def rounded_count(n_patients: int) -> int:
    """Return a count of patients as it may be kept (`schemas.shown`), 0 for fewer than ten."""
    return rounded(n_patients) or 0


def _entry(head: Head, now: datetime.datetime, event: Event) -> Entry:
    time = now.astimezone(datetime.UTC).isoformat(timespec="milliseconds")
    entry = Entry(head.count, time, head.hash, event, hash="")
    return Entry(head.count, time, head.hash, event, hash=_hash(entry))


def _record(entry: Entry) -> dict[str, Any]:
    return {
        "kind": "ledger-entry",
        "version": _VERSION,
        "index": entry.index,
        "time": entry.time,
        "previous": entry.previous,
        "event": _event_record(entry.event),
    }


def _event_record(event: Event) -> dict[str, Any]:
    """Return the event's words; what only a release with noise has stands in no other line, old lines included."""
    record = asdict(event)
    return record if event.dataset else {name: value for name, value in record.items() if name not in _WITH_NOISE}


def _hash(entry: Entry) -> str:
    return sha256_hex(canonical_json(_record(entry)))


def _line(entry: Entry) -> bytes:
    return canonical_json({**_record(entry), "hash": entry.hash}) + b"\n"


def _parse(line: bytes) -> Entry:
    """Read one line, which must be exactly what `_line` writes: so any changed byte is found."""
    record = json.loads(line)
    event = record["event"]
    if set(event) | _WITH_NOISE != {item.name for item in fields(Event)}:
        raise ValueError
    arrays = tuple((name, tuple(shape)) for name, shape in event["arrays"])
    entry = Entry(
        record["index"], record["time"], record["previous"], Event(**{**event, "arrays": arrays}), record["hash"]
    )
    if _line(entry) != line or _hash(entry) != entry.hash:
        raise ValueError
    return entry


def chain(content: bytes, last: Entry | None) -> Iterator[Entry]:
    """Yield the entries that follow `last`; a torn last line is left out."""
    for text in content.split(b"\n")[:-1]:
        head = head_of(last)
        try:
            entry = _parse(text + b"\n")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            entry = None
        if entry is None or (entry.index, entry.previous) != (head.count, head.hash):
            raise LedgerBrokenError(
                f"The ledger was changed: line {head.count + 1} is not what this site wrote. {_ADVICE}"
            )
        yield entry
        last = entry


def _follow(content: bytes, last: Entry | None) -> tuple[int, Entry | None]:
    """Return the length of the whole lines in `content` and the last entry of the chain."""
    for entry in chain(content, last):
        last = entry
    return content.rfind(b"\n") + 1, last


def head_of(last: Entry | None) -> Head:
    """Return where a ledger ends whose last entry this is."""
    return Head() if last is None else Head(last.index + 1, last.hash)


def verify_head(kept: Head, last: Entry | None) -> None:
    """Compare where the lines end with what the head file says, which may be one entry behind after a crash."""
    found = head_of(last)
    if kept == found or (last is not None and kept == Head(last.index, last.previous)):
        return
    if kept.count > found.count:
        what = f"{kept.count - found.count} of its last entries are missing"
    else:
        what = "its end does not fit its head file"
    raise LedgerBrokenError(f"The ledger was cut off or replaced: {what}. {_ADVICE}")


def read_head(path: Path) -> Head:
    """Return where the ledger at `path` says that it ends, without reading it: cheap, and held to nothing.

    Raises:
        LedgerBrokenError: When the head file is not what this site wrote.
        StorageError: When it cannot be read.
    """
    try:
        content = head_path(path).read_bytes()
    except FileNotFoundError:
        return Head()
    except OSError as error:
        raise storage_error(head_path(path), error) from None
    try:
        record = json.loads(content)
        head = Head(record["count"], record["hash"])
        if _head_content(head) == content:
            return head
    except (ValueError, KeyError, TypeError, RecursionError):
        pass  # the same verdict as for content that parses and is not ours
    raise LedgerBrokenError(f"{head_path(path).name} was changed: it is not what this site wrote. {_ADVICE}")


def _head_content(head: Head) -> bytes:
    record = {"kind": "ledger-head", "version": _VERSION, "count": head.count, "hash": head.hash}
    return canonical_json(record) + b"\n"


def _write_head(path: Path, head: Head) -> None:
    write_durably(head_path(path), _head_content(head))


def _read_shared(path: Path) -> tuple[bytes, Head]:
    """Return lines and head as they were at one moment: another process may append between two reads."""
    with locked(path, exclusive=False) as descriptor:
        try:
            return read_from(descriptor, 0), read_head(path)
        except OSError as error:
            raise storage_error(path, error) from None


def read_from(descriptor: int, start: int) -> bytes:
    """Return an open ledger's bytes from `start` on.

    Raises:
        LedgerBrokenError: When it is shorter than that.
    """
    size = os.fstat(descriptor).st_size
    if size < start:
        raise LedgerBrokenError(f"The ledger was cut off while the site was running. {_ADVICE}")
    content = bytearray()
    while len(content) < size - start:
        chunk = os.pread(descriptor, size - start - len(content), start + len(content))
        if not chunk:
            raise StorageError("the ledger became shorter while it was read")
        content += chunk
    return bytes(content)
