"""What the hub remembers of its runs: the source of truth from which a run resumes after any crash.

Rules: whatever belongs together is written in one transaction (a complete round, its digests and the next
checkpoint); a write on behalf of a run needs the hold of whoever conducts it, so that a conductor that was
replaced can write nothing more (`Store.claim`). A site's answer is kept only until its round is complete; its
digest stays. Reading for people (lists, watching) is in `server.runs`.
"""

from __future__ import annotations

import datetime
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.engine import Connection

from schemas.canonical import sha256_hex
from schemas.errors import ArchipelError
from schemas.plan import Plan
from server import database as db
from server.records import (
    ACTIVE,
    Checkpoint,
    Cost,
    Hold,
    KeptReply,
    Level,
    Round,
    RunExistsError,
    RunRecord,
    Status,
    TakenOverError,
    UnknownRunError,
)

__all__ = ["Store"]

_Row = sa.Row[*tuple[Any, ...]]
_CHECKPOINTS_KEPT = 2


class Store:
    """The hub's database.

    Args:
        target: A file for SQLite, or any SQLAlchemy URL.

    Raises:
        IncompatibleVersionError: When a newer Archipel has made it.
    """

    def __init__(self, target: Path | str) -> None:
        self.reader, self.writer = db.open_database(target)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection."""
        self.reader.dispose()

    # ------------------------------------------------------------ runs
    def create_run(
        self, run_id: str, plan: Plan, sites: Sequence[str], *, roster: str = "", seed: int | None = None
    ) -> None:
        """Record a run that somebody will conduct.

        Args:
            run_id: See `server.runs.new_run_id`.
            plan: What to run.
            sites: The invited sites, by the names under which they are enrolled.
            roster: Canonical text of the roster of exactly these sites, where the plan asks for the secure sum.
            seed: Of the run's random numbers, where it draws any.

        Raises:
            RunExistsError: When the id is taken.
        """
        values: dict[str, Any] = {
            "run_id": run_id, "study": plan.study.name, "plan_hash": plan.hash, "plan": plan.content,
            "roster": roster, "code_version": plan.code_version, "seed": seed, "invited": sorted(set(sites)),
            "sites": None, "left_out": {}, "dropped": {}, "status": "created",
            "message": "Nobody conducts this run yet.",
            "conductor": "", "created_at": _now(), "wall_s": 0.0, "bytes_up": 0, "bytes_down": 0,
        }  # fmt: skip
        try:
            with self.writer.begin() as connection:
                connection.execute(db.runs.insert().values(values))
        except sa.exc.IntegrityError:
            raise RunExistsError(f"a run {run_id} is there already: choose another id") from None

    def run(self, run_id: str) -> RunRecord:
        """Return one run.

        Raises:
            UnknownRunError: When there is none of this id.
        """
        with self.reader.begin() as connection:
            return _run_record(_run_row(connection, run_id))

    def runs(self) -> list[RunRecord]:
        """Return every run, the newest first."""
        query = sa.select(db.runs).order_by(db.runs.c.created_at.desc(), db.runs.c.run_id)
        with self.reader.begin() as connection:
            return [_run_record(row) for row in connection.execute(query)]

    def claim(self, run_id: str) -> Hold:
        """Become the one who conducts a run.

        Whoever conducted it before finds its hold refused (`TakenOverError`): two conductors could decide
        differently about a missing site, and the difference of their sums would be that site.

        Raises:
            UnknownRunError: When there is no such run.
        """
        hold = Hold(run_id, secrets.token_hex(8))
        with self.writer.begin() as connection:
            started = _run_row(connection, run_id).started_at or _now()
            _update(connection, run_id, conductor=hold.token, started_at=started, alive_at=_now(), finished_at=None)
        return hold

    def set_status(self, hold: Hold, status: Status, message: str) -> None:
        """Change a run's status; while a stop is asked for, an active run stays ``stopping``."""
        finished = None if status in ACTIVE else _now()
        with self._held(hold) as (connection, row):
            shown = "stopping" if row.stop_requested_at is not None and status in ACTIVE else status
            _update(connection, hold.run_id, status=shown, message=message, finished_at=finished)

    def sign_of_life(self, hold: Hold) -> None:
        """Record that a run is being conducted."""
        with self._held(hold):
            pass

    def request_stop(self, run_id: str) -> bool:
        """Ask whoever conducts a run to stop; False where the run is over already.

        Raises:
            UnknownRunError: When there is no such run.
        """
        with self.writer.begin() as connection:
            if _run_row(connection, run_id).status not in ACTIVE:
                return False
            _update(connection, run_id, stop_requested_at=_now(), status="stopping", message="Stops shortly.")
        return True

    def stop_requested(self, hold: Hold) -> bool:
        """Whether somebody asked the run to stop.

        Raises:
            TakenOverError: When another process conducts the run now.
        """
        with self.reader.begin() as connection:
            return _verify_hold(connection, hold).stop_requested_at is not None

    def reopen(self, run_id: str) -> None:
        """Let a run that was stopped, failed or left behind by a killed process be conducted again.

        Raises:
            UnknownRunError: When there is no such run.
            RunExistsError: When the run is done, so that nothing is left to resume, or was begun before this hub was
                restored from a backup.
        """
        message = "To be resumed from its last complete round."
        with self.writer.begin() as connection:
            row = _run_row(connection, run_id)
            if row.status == "done":
                raise RunExistsError(f"The run {run_id} is done: launch the study again for another run.")
            restored = connection.execute(sa.select(sa.func.max(db.restorations.c.at))).scalar_one()
            if restored is not None and row.created_at <= restored:
                raise RunExistsError(
                    f"The hub was restored from a backup after the run {run_id} had begun. Its sites may have "
                    "answered more of it than the backup knows, so it is not resumed: launch the study again."
                )
            _update(connection, run_id, stop_requested_at=None, finished_at=None, status="created", message=message)

    # ------------------------------------------------------------ rounds
    def settle(
        self,
        hold: Hold,
        sites: Sequence[str],
        left_out: Mapping[str, str],
        checkpoint: Checkpoint,
        kept: Sequence[KeptReply] = (),
    ) -> None:
        """Fix the run's list of sites, and with it the state in which the first question is asked.

        Args:
            hold: Of the run.
            sites: That take part.
            left_out: That do not, with the reason.
            checkpoint: Of the first question.
            kept: Answers of the set-up that a resumed run needs.
        """
        with self._held(hold) as (connection, _):
            _put_replies(connection, hold.run_id, kept)
            _update(connection, hold.run_id, sites=sorted(sites), left_out=dict(left_out))
            _put_checkpoint(connection, hold.run_id, checkpoint)

    def checkpoint(self, run_id: str) -> Checkpoint | None:
        """Return the newest checkpoint that reads as it was written, or None before the first."""
        table = db.checkpoints
        query = sa.select(table).where(table.c.run_id == run_id).order_by(table.c.seq.desc())
        with self.reader.begin() as connection:
            for row in connection.execute(query):
                if sha256_hex(row.progress) == row.sha256:
                    return Checkpoint(row.seq, row.step, row.number, row.progress)
        return None

    def count_rounds(self, run_id: str) -> int:
        """Return how many rounds of a run are complete."""
        query = sa.select(sa.func.count()).select_from(db.rounds).where(db.rounds.c.run_id == run_id)
        with self.reader.begin() as connection:
            return connection.execute(query).scalar_one()

    def record(self, hold: Hold, cost: Cost, replies: Sequence[KeptReply] = ()) -> None:
        """Add to what a run has cost, and keep answers of a round that is not complete.

        With them kept, a restart of the hub asks nobody for what it has heard already.
        """
        with self._held(hold) as (connection, _):
            _put_replies(connection, hold.run_id, replies)
            _add_cost(connection, hold.run_id, cost)

    def kept_replies(self, run_id: str, step: str, part: str, number: int) -> list[KeptReply]:
        """Return the answers to one question whose bytes are still there."""
        question = _is_question(run_id, step, part, number)
        query = sa.select(db.replies).where(question, db.replies.c.body.is_not(None)).order_by(db.replies.c.site)
        with self.reader.begin() as connection:
            return [_kept_reply(row) for row in connection.execute(query)]

    def complete_round(
        self, hold: Hold, round_: Round, replies: Sequence[KeptReply], checkpoint: Checkpoint, cost: Cost
    ) -> None:
        """Record a complete round and the state after it; from here on the answers' bytes are gone."""
        with self._held(hold) as (connection, _):
            _put_replies(connection, hold.run_id, [replace(reply, body=None) for reply in replies])
            question = _is_question(hold.run_id, round_.step, round_.part, round_.number)
            kept = sa.and_(question, db.replies.c.body.is_not(None))
            connection.execute(db.replies.update().where(kept).values(body=None))
            _put_round(connection, hold.run_id, round_)
            _put_checkpoint(connection, hold.run_id, checkpoint)
            _add_cost(connection, hold.run_id, cost)

    def drop_sites(self, hold: Hold, reasons: Mapping[str, str], checkpoint: Checkpoint) -> None:
        """Record which sites have left the run for good, and the state from which the rest goes on."""
        with self._held(hold) as (connection, row):
            _update(connection, hold.run_id, dropped={**row.dropped, **reasons})
            # An older state would compare sums over different sites, so nothing may fall back to it.
            connection.execute(db.checkpoints.delete().where(db.checkpoints.c.run_id == hold.run_id))
            _put_checkpoint(connection, hold.run_id, checkpoint)

    # ------------------------------------------------------------ results and events
    def finish(
        self, hold: Hold, arrays: Mapping[str, NDArray[np.float64]], skipped: Mapping[str, str], message: str
    ) -> None:
        """Store what a run found and close it."""
        content = safetensors.numpy.save({name: np.asarray(arrays[name], order="C") for name in sorted(arrays)})
        values = {"arrays": content, "skipped": dict(skipped), "sha256": sha256_hex(content), "created_at": _now()}
        with self._held(hold) as (connection, _):
            connection.execute(db.results.delete().where(db.results.c.run_id == hold.run_id))
            connection.execute(db.results.insert().values(run_id=hold.run_id, **values))
            # What was kept for a resumption: a run that is done has none.
            mine = sa.and_(db.replies.c.run_id == hold.run_id, db.replies.c.body.is_not(None))
            connection.execute(db.replies.update().where(mine).values(body=None))
            _update(connection, hold.run_id, status="done", message=message, finished_at=_now())

    def final_arrays(self, run_id: str) -> dict[str, NDArray[np.float64]]:
        """Return ``step.array`` of every finished step of a run that is done.

        Raises:
            UnknownRunError: When there is no such run, or it is not done.
            ArchipelError: When the stored bytes are damaged.
        """
        row = self._result(run_id)
        if sha256_hex(row.arrays) != row.sha256:
            raise ArchipelError(f"the stored result of run {run_id} is damaged: restore the hub's database")
        return dict(safetensors.numpy.load(row.arrays))

    def skipped_steps(self, run_id: str) -> dict[str, str]:
        """Return the optional steps of a run that came to nothing, with the reason.

        Raises:
            UnknownRunError: When there is no such run, or it is not done.
        """
        return dict(self._result(run_id).skipped)

    def log_event(self, run_id: str, level: Level, text: str) -> None:
        """Add a sentence to what `watch` shows; never with a site's numbers."""
        with self.writer.begin() as connection:
            connection.execute(db.events.insert().values(run_id=run_id, at=_now(), level=level, text=text))

    def _result(self, run_id: str) -> _Row:
        with self.reader.begin() as connection:
            status = _run_row(connection, run_id).status
            row = connection.execute(sa.select(db.results).where(db.results.c.run_id == run_id)).one_or_none()
        if row is None:
            raise UnknownRunError(
                f"The run {run_id} has no result, it is {status}: `archipel runs show {run_id}` says why."
            )
        return row

    @contextmanager
    def _held(self, hold: Hold) -> Iterator[tuple[Connection, _Row]]:
        """One write transaction on behalf of a run; also its sign of life."""
        with self.writer.begin() as connection:
            row = _verify_hold(connection, hold)
            _update(connection, hold.run_id, alive_at=_now())
            yield connection, row


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _run_row(connection: Connection, run_id: str) -> _Row:
    row = connection.execute(sa.select(db.runs).where(db.runs.c.run_id == run_id)).one_or_none()
    if row is None:
        raise UnknownRunError(f"This hub has no run {run_id}: `archipel runs list` shows those it has.")
    return row


def _verify_hold(connection: Connection, hold: Hold) -> _Row:
    row = _run_row(connection, hold.run_id)
    if row.conductor != hold.token:
        raise TakenOverError(f"another process conducts run {hold.run_id} now")
    return row


def _update(connection: Connection, run_id: str, **values: Any) -> None:
    connection.execute(db.runs.update().where(db.runs.c.run_id == run_id).values(**values))


def _add_cost(connection: Connection, run_id: str, cost: Cost) -> None:
    _update(
        connection,
        run_id,
        wall_s=db.runs.c.wall_s + cost.seconds,
        bytes_up=db.runs.c.bytes_up + cost.bytes_up,
        bytes_down=db.runs.c.bytes_down + cost.bytes_down,
    )


def _put_round(connection: Connection, run_id: str, round_: Round) -> None:
    table = db.rounds
    mine = table.c.run_id == run_id
    # There already only where a resumed run had to fall back to the checkpoint before the last.
    again = sa.and_(table.c.step == round_.step, table.c.part == round_.part, table.c.number == round_.number)
    connection.execute(table.delete().where(mine, again))
    last = connection.execute(sa.select(sa.func.max(table.c.index)).where(mine)).scalar_one() or 0
    connection.execute(table.insert().values(run_id=run_id, **{**vars(round_), "index": last + 1}))


def _put_checkpoint(connection: Connection, run_id: str, checkpoint: Checkpoint) -> None:
    table = db.checkpoints
    # A checkpoint from before a restart that fell back to an older one is overtaken by this one.
    connection.execute(table.delete().where(table.c.run_id == run_id, table.c.seq >= checkpoint.seq))
    digest = sha256_hex(checkpoint.progress)
    connection.execute(table.insert().values(run_id=run_id, **vars(checkpoint), sha256=digest, created_at=_now()))
    oldest_kept = checkpoint.seq - _CHECKPOINTS_KEPT + 1
    connection.execute(table.delete().where(table.c.run_id == run_id, table.c.seq < oldest_kept))


def _put_replies(connection: Connection, run_id: str, replies: Sequence[KeptReply]) -> None:
    for reply in replies:
        message = sa.and_(
            _is_question(run_id, reply.step, reply.part, reply.number),
            db.replies.c.phase == reply.phase,
            db.replies.c.site == reply.site,
        )
        connection.execute(db.replies.delete().where(message))
        connection.execute(db.replies.insert().values(run_id=run_id, **vars(reply), received_at=_now()))


def _is_question(run_id: str, step: str, part: str, number: int) -> sa.ColumnElement[bool]:
    table = db.replies
    return sa.and_(table.c.run_id == run_id, table.c.step == step, table.c.part == part, table.c.number == number)


def _kept_reply(row: _Row) -> KeptReply:
    return KeptReply(**{item.name: row._mapping[item.name] for item in fields(KeptReply)})


def _run_record(row: _Row) -> RunRecord:
    values = {item.name: row._mapping[item.name] for item in fields(RunRecord)}
    values["invited"] = tuple(row.invited)
    values["sites"] = None if row.sites is None else tuple(row.sites)
    return RunRecord(**values)
