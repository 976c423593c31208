"""What people ask of the hub's runs: names for new ones, lists, where a run stands, what left each site.

Reading only; `server.conduct` writes. Cheap enough to be asked every second while it writes.
"""

from __future__ import annotations

import datetime
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, fields

import sqlalchemy as sa

from schemas.plan import read_plan
from server import database as db
from server.records import ACTIVE, Event, Round, RunRecord
from server.store import Store

__all__ = [
    "PartReleased",
    "Standing",
    "is_abandoned",
    "list_events",
    "list_released",
    "list_rounds",
    "new_run_id",
    "standing",
]

_ABANDONED_AFTER_S = 60.0


def new_run_id(study_name: str, today: datetime.date | None = None) -> str:
    """Return an id for a new run: study, day and six random digits, as ``cgd-infection-20261120-3f9a2c``."""
    day = today or datetime.datetime.now(datetime.UTC).date()
    return f"{study_name}-{day:%Y%m%d}-{secrets.token_hex(3)}"


@dataclass(frozen=True)
class Standing:
    """Where a run stands.

    Attributes:
        rounds_done: Complete rounds.
        rounds_at_most: That the plan allows; most runs need fewer.
        step: Being asked now; empty before set-up is over and when the run is done.
        number: Of the question within the step.
        heard: Sites whose answer to the current question is there already.
        seconds_a_round: Mean of the last ten rounds; None before the first.
    """

    record: RunRecord
    rounds_done: int
    rounds_at_most: int
    step: str
    number: int
    heard: tuple[str, ...]
    seconds_a_round: float | None


@dataclass(frozen=True)
class PartReleased:
    """What left the sites for one part of a step.

    Attributes:
        times: Rounds that asked it.
        bytes_by_site: Of all answers; every site that ever answered is there.
        silent: Sites that answered and never had anything to add.
    """

    step: str
    part: str
    times: int
    bytes_by_site: dict[str, int]
    silent: tuple[str, ...]


def standing(store: Store, run_id: str) -> Standing:
    """Return where a run stands.

    Raises:
        UnknownRunError: When the store has no such run.
    """
    record = store.run(run_id)
    rounds = list_rounds(store, run_id)
    checkpoint = store.checkpoint(run_id)
    recent = [done.seconds for done in rounds[-10:]]
    step, number = (checkpoint.step, checkpoint.number) if checkpoint is not None else ("", 0)
    with store.reader.begin() as connection:
        table = db.replies
        query = sa.select(table.c.site).where(
            table.c.run_id == run_id, table.c.step == step, table.c.number == number, table.c.body.is_not(None)
        )
        heard = tuple(sorted(set(connection.execute(query).scalars())))
    return Standing(
        record=record,
        rounds_done=len(rounds),
        rounds_at_most=read_plan(record.plan).max_rounds,
        step=step,
        number=number,
        heard=heard,
        seconds_a_round=sum(recent) / len(recent) if recent else None,
    )


def is_abandoned(record: RunRecord, now: datetime.datetime | None = None) -> bool:
    """Whether a run says that it goes on and nobody has conducted it for a minute: it can be resumed."""
    if record.status not in ACTIVE or record.alive_at is None:
        return False
    moment = now or datetime.datetime.now(datetime.UTC)
    return (moment - record.alive_at).total_seconds() > _ABANDONED_AFTER_S


def list_events(store: Store, run_id: str, after: int = 0) -> list[Event]:
    """Return what happened in a run since the event of id `after`, the oldest first."""
    table = db.events
    columns = [table.c[item.name] for item in fields(Event)]
    query = sa.select(*columns).where(table.c.run_id == run_id, table.c.id > after).order_by(table.c.id)
    with store.reader.begin() as connection:
        return [Event(*row) for row in connection.execute(query)]


def list_rounds(store: Store, run_id: str, after: int = 0) -> list[Round]:
    """Return the complete rounds of a run after the one of index `after`, in order."""
    table = db.rounds
    columns = [table.c[item.name] for item in fields(Round)]
    query = sa.select(*columns).where(table.c.run_id == run_id, table.c.index > after).order_by(table.c.index)
    with store.reader.begin() as connection:
        return [_round(row) for row in connection.execute(query)]


def list_released(store: Store, run_id: str) -> list[PartReleased]:
    """Return what left the sites in a run, part by part, in the order in which the parts were first asked."""
    table = db.replies
    columns = (table.c.step, table.c.part, table.c.site, table.c.status, table.c.n_bytes)
    query = sa.select(*columns).where(table.c.run_id == run_id)
    with store.reader.begin() as connection:
        answers = [tuple(row) for row in connection.execute(query)]
    asked = list_rounds(store, run_id)
    parts = list(dict.fromkeys((done.step, done.part) for done in asked))
    return [_released(step, part, asked, answers) for step, part in parts]


def _released(
    step: str, part: str, asked: Sequence[Round], answers: Sequence[tuple[str, str, str, str, int]]
) -> PartReleased:
    mine = [(site, status, n_bytes) for s, p, site, status, n_bytes in answers if (s, p) == (step, part)]
    sites = sorted({site for site, _, _ in mine})
    speaking = {site for site, status, _ in mine if status == "ok"}
    return PartReleased(
        step=step,
        part=part,
        times=sum((done.step, done.part) == (step, part) for done in asked),
        bytes_by_site={site: sum(n_bytes for name, _, n_bytes in mine if name == site) for site in sites},
        silent=tuple(site for site in sites if site not in speaking),
    )


def _round(row: sa.Row[*tuple[object, ...]]) -> Round:
    values = dict(row._mapping)
    for name in ("heard", "silent", "missing"):
        values[name] = tuple(values[name])
    return Round(**values)
