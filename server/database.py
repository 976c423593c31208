"""The hub's tables in SQL, and opening them so that readers never wait and a kill never damages anything.

SQLite in one file is the default: write-ahead log (readers and the one writer do not block each other), every
commit flushed to disk, and a write transaction that takes its lock at the start, so that two processes wait for
each other instead of failing half-way. What the rows mean is the business of `server.store`.
"""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Dialect, Engine

from schemas.errors import IncompatibleVersionError

__all__ = [
    "DATABASE",
    "SCHEMA_VERSION",
    "checkpoints",
    "events",
    "is_passing",
    "head_alarms",
    "model_contacts",
    "model_copies",
    "model_lists",
    "model_log",
    "models",
    "open_database",
    "replies",
    "restorations",
    "results",
    "rounds",
    "runs",
    "site_heads",
]

DATABASE = "hub.db"
"""In the hub's folder."""

SCHEMA_VERSION = 4
_KIND = "hub-store"
_BUSY_TIMEOUT_MS = 30_000
_PASSING = ("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_CANTOPEN", "SQLITE_BUSY", "SQLITE_READONLY")

metadata = sa.MetaData()


class UtcTime(sa.TypeDecorator[datetime.datetime]):
    """A moment with its time zone, as ISO 8601 text in UTC: sorts as text and reads the same in any tool."""

    impl = sa.String(40)
    cache_ok = True

    def process_bind_param(self, value: datetime.datetime | None, dialect: Dialect) -> str | None:
        """Return the text to store."""
        return None if value is None else value.astimezone(datetime.UTC).isoformat(timespec="microseconds")

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime.datetime | None:
        """Return the moment that was stored."""
        return None if value is None else datetime.datetime.fromisoformat(str(value))


schema_versions = sa.Table(
    "schema_versions",
    metadata,
    sa.Column("kind", sa.String(40), primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
)

runs = sa.Table(
    "runs",
    metadata,
    sa.Column("run_id", sa.String(120), primary_key=True),
    sa.Column("study", sa.String(60), nullable=False),
    sa.Column("plan_hash", sa.String(64), nullable=False),
    sa.Column("plan", sa.LargeBinary, nullable=False),
    sa.Column("roster", sa.Text, nullable=False, server_default=""),  # canonical text; empty where sums are in clear
    sa.Column("code_version", sa.String(60), nullable=False),
    sa.Column("seed", sa.Integer),
    sa.Column("invited", sa.JSON, nullable=False),
    sa.Column("sites", sa.JSON(none_as_null=True)),  # null until set-up has settled the list
    sa.Column("left_out", sa.JSON, nullable=False),
    sa.Column("dropped", sa.JSON, nullable=False),
    sa.Column("status", sa.String(20), nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("stop_requested_at", UtcTime),
    sa.Column("conductor", sa.String(40), nullable=False),  # whoever conducts now; see `Store.claim`
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("started_at", UtcTime),
    sa.Column("alive_at", UtcTime),
    sa.Column("finished_at", UtcTime),
    sa.Column("wall_s", sa.Float, nullable=False),
    sa.Column("bytes_up", sa.Integer, nullable=False),
    sa.Column("bytes_down", sa.Integer, nullable=False),
)

checkpoints = sa.Table(
    "checkpoints",
    metadata,
    sa.Column("run_id", sa.ForeignKey("runs.run_id"), primary_key=True),
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("step", sa.String(60), nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("progress", sa.LargeBinary, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("created_at", UtcTime, nullable=False),
)

rounds = sa.Table(
    "rounds",
    metadata,
    sa.Column("run_id", sa.ForeignKey("runs.run_id"), primary_key=True),
    sa.Column("index", sa.Integer, primary_key=True),  # 1, 2, … within the run
    sa.Column("step", sa.String(60), nullable=False),
    sa.Column("part", sa.String(60), nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("started_at", UtcTime, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("bytes_up", sa.Integer, nullable=False),
    sa.Column("bytes_down", sa.Integer, nullable=False),
    sa.Column("heard", sa.JSON, nullable=False),
    sa.Column("silent", sa.JSON, nullable=False),
    sa.Column("missing", sa.JSON, nullable=False),
    sa.UniqueConstraint("run_id", "step", "part", "number"),
)

replies = sa.Table(
    "replies",
    metadata,
    sa.Column("run_id", sa.ForeignKey("runs.run_id"), primary_key=True),
    sa.Column("step", sa.String(60), primary_key=True),
    sa.Column("part", sa.String(60), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("phase", sa.String(20), primary_key=True),
    sa.Column("site", sa.String(120), primary_key=True),
    sa.Column("status", sa.String(20), nullable=False),
    sa.Column("n_bytes", sa.Integer, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("body", sa.LargeBinary),  # null once the round is complete: the digest stays, the site's term does not
    sa.Column("received_at", UtcTime, nullable=False),
)

results = sa.Table(
    "results",
    metadata,
    sa.Column("run_id", sa.ForeignKey("runs.run_id"), primary_key=True),
    sa.Column("arrays", sa.LargeBinary, nullable=False),
    sa.Column("skipped", sa.JSON, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("created_at", UtcTime, nullable=False),
)

events = sa.Table(
    "events",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("run_id", sa.ForeignKey("runs.run_id"), nullable=False, index=True),
    sa.Column("at", UtcTime, nullable=False),
    sa.Column("level", sa.String(10), nullable=False),
    sa.Column("text", sa.Text, nullable=False),
)

models = sa.Table(
    "models",
    metadata,
    sa.Column("hash", sa.String(64), primary_key=True),  # of the artefact's file: a model's name everywhere
    sa.Column("run_id", sa.ForeignKey("runs.run_id"), nullable=False),
    sa.Column("artefact", sa.LargeBinary, nullable=False),
    sa.Column("card", sa.LargeBinary, nullable=False),
)

# Append-only, like the log: the newest one counts. What a model is and whether it was withdrawn stands in the list.
model_lists = sa.Table(
    "model_lists",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("content", sa.LargeBinary, nullable=False),
)

model_copies = sa.Table(
    "model_copies",
    metadata,
    sa.Column("hash", sa.ForeignKey("models.hash"), primary_key=True),
    sa.Column("site", sa.String(120), primary_key=True),
    sa.Column("sent_at", UtcTime, nullable=False),
)

model_contacts = sa.Table(
    "model_contacts",
    metadata,
    sa.Column("site", sa.String(120), primary_key=True),
    sa.Column("number", sa.Integer, nullable=False),  # of the list that was sent last
    sa.Column("sent_at", UtcTime, nullable=False),
)

model_log = sa.Table(
    "model_log",
    metadata,
    sa.Column("index", sa.Integer, primary_key=True),  # 1, 2, …
    sa.Column("at", UtcTime, nullable=False),
    sa.Column("what", sa.String(20), nullable=False),
    sa.Column("model", sa.String(64), nullable=False),
    sa.Column("who", sa.String(200), nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("previous", sa.String(64), nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),  # of all of the above
)

# The newest countersigned head of each site's ledger; a restored site begins a line of its own (new identity).
site_heads = sa.Table(
    "site_heads",
    metadata,
    sa.Column("site", sa.String(120), primary_key=True),
    sa.Column("identity", sa.String(44), primary_key=True),  # under which the line is continued now
    sa.Column("count", sa.Integer, nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),
    sa.Column("content", sa.LargeBinary, nullable=False),
    sa.Column("at", UtcTime, nullable=False),
)

head_alarms = sa.Table(
    "head_alarms",
    metadata,
    sa.Column("site", sa.String(120), primary_key=True),
    sa.Column("what", sa.String(20), primary_key=True),
    sa.Column("count", sa.Integer, primary_key=True),  # what the site sent
    sa.Column("known", sa.Integer, nullable=False),  # what was countersigned
    sa.Column("times", sa.Integer, nullable=False),
    sa.Column("first_at", UtcTime, nullable=False),
    sa.Column("last_at", UtcTime, nullable=False),
)

# Each time that this database was put back from a backup: what was begun before is not gone on with.
restorations = sa.Table(
    "restorations",
    metadata,
    sa.Column("at", UtcTime, primary_key=True),
    sa.Column("backup_of", UtcTime, nullable=False),
)


def open_database(target: Path | str) -> tuple[Engine, Engine]:
    """Open the hub's database, making it where there is none.

    Args:
        target: A file for SQLite, or any SQLAlchemy URL.

    Returns:
        An engine to read with and one to write with.

    Raises:
        IncompatibleVersionError: When a newer Archipel has made it.
    """
    if isinstance(target, Path):
        _touch_private(target)
        url: URL | str = URL.create("sqlite", database=str(target))
    else:
        url = target
    reader = sa.create_engine(url)
    if reader.dialect.name == "sqlite":
        sa.event.listen(reader, "connect", _configure_sqlite)
        sa.event.listen(reader, "begin", _begin_sqlite)
    writer = reader.execution_options(archipel_writes=True)
    try:
        # Opening for reading must not wait for whoever writes; only making or changing the tables takes the lock.
        with reader.begin() as connection:
            is_current = _version(connection) == SCHEMA_VERSION
        if not is_current:
            with writer.begin() as connection:
                _bring_up(connection)
    except BaseException:
        reader.dispose()
        raise
    return reader, writer


def is_passing(error: BaseException) -> bool:
    """Return whether the database could not be used for want of a disk or a lock: later it may be."""
    name = getattr(getattr(error, "orig", None), "sqlite_errorname", "") or ""
    return isinstance(error, sa.exc.OperationalError) and name.startswith(_PASSING)


def _version(connection: Connection) -> int | None:
    """Return the version of the tables that are there; None before they are made."""
    if not sa.inspect(connection).has_table(schema_versions.name):
        return None
    query = sa.select(schema_versions.c.version).where(schema_versions.c.kind == _KIND)
    return connection.execute(query).scalar_one_or_none() or 0


def _bring_up(connection: Connection) -> None:
    """Make the tables, or add to those of an earlier version what this one needs."""
    found = _version(connection)  # again, under the lock: another process may have been faster
    if found is None:
        metadata.create_all(connection)
        connection.execute(schema_versions.insert().values(kind=_KIND, version=SCHEMA_VERSION))
    elif found in (1, 2, 3):
        if found == 1:
            # Version 2 knows which roster a run was launched with; the runs of version 1 had none.
            connection.exec_driver_sql("ALTER TABLE runs ADD COLUMN roster TEXT NOT NULL DEFAULT ''")
        metadata.create_all(connection)  # version 3 has models, version 4 heads of ledgers and restorations
        changed = schema_versions.update().where(schema_versions.c.kind == _KIND)
        connection.execute(changed.values(version=SCHEMA_VERSION))
    elif found != SCHEMA_VERSION:
        raise IncompatibleVersionError(
            f"the hub's database is of version {found} and this Archipel reads version {SCHEMA_VERSION}: "
            "install the Archipel that wrote it, or a newer one"
        )


def _touch_private(path: Path) -> None:
    # Readable by its owner alone from its first instant; SQLite gives the log beside it the same mode.
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))


def _configure_sqlite(connection: Any, _record: object) -> None:
    # The driver would begin transactions by itself, and late; `_begin_sqlite` says when and how.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("archipel_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
