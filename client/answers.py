"""What this site has answered, kept so that one question gets one answer, byte for byte, for ever.

A round is (run, step, number). Were it answered twice to different questions, or once before and once after a
change of the tables, the difference of two sums would be a few patients; so an identical request gets the bytes
that were sent, and anything else under that name is refused.

Order of a release, so that a crash at any point leaves neither an unrecorded release nor a second entry: the bytes
are stored here, the ledger is appended, the row is marked, the bytes leave. The first and last of these are here.

What else an answer changes is stored in one transaction with its bytes, so that after a crash both hold or neither:
the state of the secure sum (`client.secure`), whose secrets of past rounds are overwritten, and what later questions
are held to (`privacy.inbound`). Put this file back with `archipel site restore` alone, which refuses every run in it;
by hand, a round would be answered twice.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from privacy.inbound import Seen
from privacy.storage import storage_error
from schemas.codes import Code
from schemas.messages import SETUP, RoundRequest
from schemas.plan import Plan

__all__ = ["Answers", "Change", "Kept", "RunRecord", "order_verdict", "read_run", "recent_runs"]

_BUSY_S = 10.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
    run_id TEXT PRIMARY KEY,
    plan_hash TEXT NOT NULL,
    sites TEXT NOT NULL,
    source_digest TEXT NOT NULL,
    optout TEXT NOT NULL,
    started TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS answers (
    run_id TEXT NOT NULL REFERENCES runs (run_id),
    step TEXT NOT NULL,
    number INTEGER NOT NULL,
    phase TEXT NOT NULL,
    part TEXT NOT NULL,
    request_digest TEXT NOT NULL,
    n_patients INTEGER NOT NULL,
    reply BLOB NOT NULL,
    ledgered INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (run_id, step, number, phase)
) STRICT;
CREATE TABLE IF NOT EXISTS secure (
    run_id TEXT PRIMARY KEY REFERENCES runs (run_id),
    roster_hash TEXT NOT NULL,
    state BLOB NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS seen (
    run_id TEXT PRIMARY KEY REFERENCES runs (run_id),
    content BLOB NOT NULL
) STRICT;
PRAGMA user_version = 1;
"""


@dataclass(frozen=True)
class RunRecord:
    """What was fixed when a run was set up.

    Attributes:
        run_id: Of the run.
        plan_hash: Its plan.
        sites: Its sites, in the hub's order.
        source_digest: Of tables, how they are read, and floors (`client.state.source_digest`).
        optout: File of the frozen opt-outs.
        started: UTC, ISO 8601.
    """

    run_id: str
    plan_hash: str
    sites: tuple[str, ...]
    source_digest: str
    optout: Path
    started: str


@dataclass(frozen=True)
class Kept:
    """One answered round.

    Attributes:
        run_id: Of the run.
        step: Of the plan; ``setup`` for the set-up.
        number: Of the round.
        phase: Of the round.
        part: Of the step.
        request_digest: SHA-256 of the request in canonical form.
        n_patients: Rounded, for the ledger (`privacy.ledger.rounded_count`).
        reply: The bytes that leave.
        ledgered: Whether the ledger is known to hold them.
    """

    run_id: str
    step: str
    number: int
    phase: str
    part: str
    request_digest: str
    n_patients: int
    reply: bytes
    ledgered: bool = False


@dataclass(frozen=True)
class Change:
    """What an answer changes besides being kept; None: nothing.

    Attributes:
        roster_hash: Of the run's roster, with `secure`.
        secure: The state of the secure sum (`privacy.secure_state`).
        seen: What later questions are held to (`privacy.inbound.Seen`).
    """

    roster_hash: str = ""
    secure: bytes | None = None
    seen: bytes | None = None


class Answers:
    """The store; every change is on the disk when its method returns."""

    def __init__(self, path: Path) -> None:
        """Open the store, made on first use.

        Raises:
            StorageError: When it cannot be opened.
        """
        self._path = path
        with _stored(path):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # SQLite's own files take this mode
            self._db = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("PRAGMA secure_delete = ON")  # keys of past rounds are gone from the file too
            self._db.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def run(self, run_id: str) -> RunRecord | None:
        """Return what was fixed for a run, or None."""
        with _stored(self._path):
            return _find_run(self._db, run_id)

    def begin(self, run: RunRecord) -> None:
        """Fix a run's sites, tables and opt-outs; an earlier set-up of it counts no more.

        That is harmless until the first summand has left, and afterwards nothing is changed: the hub sets a run up
        again over a shorter list when a site takes no part.
        """
        row = (
            run.run_id, run.plan_hash, json.dumps(run.sites), run.source_digest, str(run.optout), run.started,
        )  # fmt: skip
        with _stored(self._path), self._transaction():
            if self._has_summand(run.run_id):
                return
            self._db.execute("DELETE FROM answers WHERE run_id = ?", (run.run_id,))
            self._db.execute("INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?, ?, ?)", row)

    def has_summand(self, run_id: str) -> bool:
        """Return whether a round of the run, the set-up left out, was answered."""
        with _stored(self._path):
            return self._has_summand(run_id)

    def released_runs(self) -> list[str]:
        """Return the runs in which a round was answered."""
        with _stored(self._path):
            found = self._db.execute("SELECT DISTINCT run_id FROM answers WHERE step != ?", (SETUP,)).fetchall()
        return [run_id for (run_id,) in found]

    def find(self, run_id: str, step: str, number: int, phase: str) -> Kept | None:
        """Return the answer to a round, or None."""
        with _stored(self._path):
            row = self._db.execute(
                "SELECT run_id, step, number, phase, part, request_digest, n_patients, reply, ledgered FROM answers "
                "WHERE run_id = ? AND step = ? AND number = ? AND phase = ?",
                (run_id, step, number, phase),
            ).fetchone()
        if row is None:
            return None
        kept = Kept(*row)
        return replace(kept, ledgered=bool(kept.ledgered))

    def answered(self, run_id: str) -> list[tuple[str, str, int]]:
        """Return (step, part, number) of every answered round of a run, the set-up left out."""
        with _stored(self._path):
            return self._db.execute(
                "SELECT DISTINCT step, part, number FROM answers WHERE run_id = ? AND step != ?", (run_id, SETUP)
            ).fetchall()

    def secure(self, run_id: str) -> tuple[str, bytes] | None:
        """Return roster hash and state of a run's secure sum, or None."""
        row = self._row("SELECT roster_hash, state FROM secure WHERE run_id = ?", run_id)
        return (row[0], row[1]) if row is not None else None

    def roster_hash(self, run_id: str) -> str | None:
        """Return the roster hash of a run's secure sum, or None where none was begun."""
        row = self._row("SELECT roster_hash FROM secure WHERE run_id = ?", run_id)
        return str(row[0]) if row is not None else None

    def seen_in(self, run_id: str, plan_hash: str, roster_hash: str | None) -> Seen:
        """Return what the questions of a run are held to.

        Coefficients count over all runs of a plan over the same sites: an honest second run asks at the same ones.
        """
        query = (
            "SELECT run_id, content FROM seen JOIN runs USING (run_id) LEFT JOIN secure USING (run_id) "
            "WHERE plan_hash = ? AND coalesce(roster_hash, '') = ?"
        )
        with _stored(self._path):
            rows = self._db.execute(query, (plan_hash, roster_hash or "")).fetchall()
        found = {of_run: Seen.decode(content) for of_run, content in rows}
        points: dict[str, frozenset[str]] = {}
        for seen in found.values():
            for fit, digests in seen.points.items():
                points[fit] = points.get(fit, frozenset()) | digests
        return replace(found.get(run_id, Seen()), points=points)

    def keep(self, kept: Kept, change: Change | None = None) -> None:
        """Store an answer before it leaves, with what it changes; a second one under the same name is an error."""
        change = change or Change()
        row = (
            kept.run_id, kept.step, kept.number, kept.phase, kept.part, kept.request_digest, kept.n_patients,
            kept.reply,
        )  # fmt: skip
        with _stored(self._path), self._transaction():
            self._db.execute("INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0)", row)
            if change.secure is not None:
                state = (kept.run_id, change.roster_hash, change.secure)
                self._db.execute("INSERT OR REPLACE INTO secure VALUES (?, ?, ?)", state)
            if change.seen is not None:
                self._db.execute("INSERT OR REPLACE INTO seen VALUES (?, ?)", (kept.run_id, change.seen))

    def forget_past(self) -> None:
        """Take what was overwritten out of SQLite's log too, as far as no reader holds it."""
        with _stored(self._path):
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def mark_ledgered(self, kept: Kept) -> None:
        """Remember that the ledger holds an answer."""
        with _stored(self._path):
            self._db.execute(
                "UPDATE answers SET ledgered = 1 WHERE run_id = ? AND step = ? AND number = ? AND phase = ?",
                (kept.run_id, kept.step, kept.number, kept.phase),
            )

    def _has_summand(self, run_id: str) -> bool:
        query = "SELECT 1 FROM answers WHERE run_id = ? AND step != ? LIMIT 1"
        return self._db.execute(query, (run_id, SETUP)).fetchone() is not None

    def _row(self, query: str, run_id: str) -> Any:
        with _stored(self._path):
            return self._db.execute(query, (run_id,)).fetchone()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")


def order_verdict(
    request: RoundRequest, plan: Plan, answered: Sequence[tuple[str, str, int]], max_rounds: int | None = None
) -> Code | None:
    """Judge a round that was not answered yet against those that were.

    Args:
        request: Admitted by the gate, so its step and part exist.
        plan: Of the run.
        answered: (step, part, number) of the answered rounds.
        max_rounds: What the site answers at most in one run.

    Returns:
        ``ROUND_STALE`` for a round before the last answered one, ``ROUNDS_EXHAUSTED`` when the plan's (or the
        site's) number of rounds is used up, else None.
    """
    order = {step.name: position for position, step in enumerate(plan.steps)}
    last = max(((order[step], number) for step, _, number in answered), default=(-1, -1))
    if (order[request.step], request.number) < last:
        return Code.ROUND_STALE
    times = plan.by_name[request.step].part(request.part).times
    n_asked = sum((step, part) == (request.step, request.part) for step, part, _ in answered)
    if n_asked >= times or (max_rounds is not None and len(answered) >= max_rounds):
        return Code.ROUNDS_EXHAUSTED
    return None


def read_run(path: Path, run_id: str) -> RunRecord | None:
    """Return what was fixed for a run, for a process that only reads.

    Raises:
        StorageError: When the store cannot be read.
    """
    with _stored(path), contextlib.closing(_open_to_read(path)) as db:
        return _find_run(db, run_id)


def recent_runs(path: Path, n: int) -> list[RunRecord]:
    """Return the `n` runs that were set up last, the newest first; none where there is no store yet.

    Raises:
        StorageError: When the store cannot be read.
    """
    if not path.exists():
        return []
    with _stored(path), contextlib.closing(_open_to_read(path)) as db:
        rows = db.execute("SELECT run_id FROM runs ORDER BY started DESC, rowid DESC LIMIT ?", (n,)).fetchall()
        return [run for (run_id,) in rows if (run := _find_run(db, run_id)) is not None]


def _find_run(db: sqlite3.Connection, run_id: str) -> RunRecord | None:
    row = db.execute(
        "SELECT run_id, plan_hash, sites, source_digest, optout, started FROM runs WHERE run_id = ?", (run_id,)
    ).fetchone()
    if row is None:
        return None
    return RunRecord(row[0], row[1], tuple(json.loads(row[2])), row[3], Path(row[4]), row[5])


def _open_to_read(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=_BUSY_S, isolation_level=None)


@contextlib.contextmanager
def _stored(path: Path) -> Iterator[None]:
    """Turn what SQLite and the disk say into the one error that the guard knows."""
    try:
        yield
    except sqlite3.Error as error:
        raise storage_error(
            path, OSError(0, f"SQLite: {getattr(error, 'sqlite_errorname', type(error).__name__)}")
        ) from None
    except OSError as error:
        raise storage_error(path, error) from None
