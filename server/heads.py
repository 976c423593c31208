"""The newest countersigned head of every site's ledger, and the alarms about heads that went back or aside.

A head is taken when it goes on from the newest one of its line; the key that countersigns is the caller's. A line is
one site under one identity. A rotation carries the line on under the new key; a site that was restored from a backup
begins another, since its ledger honestly ends before its old head, and people at the hub have enrolled it anew.
"""

from __future__ import annotations

import datetime
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Literal

import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from sqlalchemy.engine import Connection

from privacy.head_signature import HeadSignatureError, countersign, judge_step, verify_head
from schemas.errors import MessageError
from schemas.ledger_head import HEAD_PATH, CountersignedHead, LedgerHead, read_countersigned, read_head
from server import database as db
from server.database import DATABASE
from server.hub_home import HubSettings
from server.site_caller import CallAnswer, SiteCaller
from server.store import Store

__all__ = ["HEADS_KEY", "Alarm", "HeadCalls", "HeadStore", "Refused"]

log = logging.getLogger("archipel.superlink")

HEADS_KEY = "heads.key"
"""In the hub's folder of keys."""

_MOST_ALARMS = 100
Countersign = Callable[[LedgerHead], CountersignedHead]


@dataclass(frozen=True)
class Refused:
    """A head that is not countersigned.

    Attributes:
        why: It went ``back``, or has the same count and another hash (``fork``).
        known: The newest one of the line, which shows it.
    """

    why: Literal["back", "fork"]
    known: CountersignedHead


@dataclass(frozen=True)
class Alarm:
    """Heads of a site that were refused.

    Attributes:
        what: ``back`` or ``fork``.
        count: Entries that the site stated.
        known: Entries that had been countersigned.
        times: How often it came.
    """

    site: str
    what: str
    count: int
    known: int
    times: int
    first_at: datetime.datetime
    last_at: datetime.datetime


class HeadStore:
    """The heads in a hub's store.

    Args:
        store: Of the hub.
    """

    def __init__(self, store: Store) -> None:
        self._reader, self._writer = store.reader, store.writer

    def take(self, head: LedgerHead, sign: Countersign) -> CountersignedHead | Refused:
        """Countersign and keep a head that goes on from the newest of its line, or record an alarm.

        Args:
            head: Whose signature was verified.
            sign: Puts the hub's signature under it.
        """
        with self._writer.begin() as connection:
            known = _newest(connection, head.site, head.signed_by)
            step = judge_step(None if known is None else known.head, head)
            if known is not None and step != "on":
                _alarm(connection, head, known.head.count, step)
                return Refused(step, known)
            signed = sign(head)
            _put(connection, head.signed_by, signed)
        return signed

    def newest(self, site: str) -> CountersignedHead | None:
        """Return the head of a site that was countersigned last, whatever its line."""
        table = db.site_heads
        query = sa.select(table.c.content).where(table.c.site == site).order_by(table.c.at.desc()).limit(1)
        with self._reader.begin() as connection:
            content = connection.execute(query).scalar_one_or_none()
        return None if content is None else read_countersigned(bytes(content))

    def all_newest(self) -> dict[str, CountersignedHead]:
        """Return the head of every site that was countersigned last, by its name."""
        table = db.site_heads
        with self._reader.begin() as connection:
            rows = connection.execute(sa.select(table.c.site, table.c.content).order_by(table.c.at)).all()
        return {row.site: read_countersigned(bytes(row.content)) for row in rows}

    def carry_on(self, site: str, old: str, new: str) -> None:
        """Let a line go on under a new identity, after a rotation that the old one has signed."""
        with self._writer.begin() as connection:
            known = _newest(connection, site, old)
            if known is not None and _newest(connection, site, new) is None:
                _put(connection, new, known)

    def alarms(self) -> list[Alarm]:
        """Return every alarm, the newest first."""
        table = db.head_alarms
        with self._reader.begin() as connection:
            rows = connection.execute(sa.select(table).order_by(table.c.last_at.desc())).all()
        return [Alarm(**row._mapping) for row in rows]


class HeadCalls:
    """Answers the call of `schemas.ledger_head`.

    Args:
        settings: Of the hub.
        clock: Seconds since 1970.
    """

    def __init__(self, settings: HubSettings, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._clock = clock
        self._caller = SiteCaller(settings, clock)

    def answer(self, path: str, headers: Mapping[str, str], body: bytes) -> CallAnswer:
        """Return the answer to one call: the countersigned head, or the newest one where the sent one is refused."""
        if path != HEAD_PATH:
            return CallAnswer(HTTPStatus.NOT_FOUND)
        site, reason = self._caller.of(path, headers, body)
        if site is None:
            return CallAnswer(HTTPStatus.UNAUTHORIZED, reason=reason)
        key = _load_key(self._settings)
        if key is None:  # a hub from before there were heads, until it enrols the next site
            return CallAnswer(HTTPStatus.NOT_FOUND)
        try:
            head = read_head(body)
            verify_head(head, _identity_of(self._settings, site))
        except MessageError:
            return CallAnswer(HTTPStatus.BAD_REQUEST, reason="malformed")
        except HeadSignatureError:
            return CallAnswer(HTTPStatus.BAD_REQUEST, reason="head-not-signed")
        if head.site != site:
            return CallAnswer(HTTPStatus.BAD_REQUEST, reason="head-not-signed")
        now = datetime.datetime.fromtimestamp(self._clock(), datetime.UTC)
        with Store(self._settings.home / DATABASE) as store:
            found = HeadStore(store).take(head, lambda one: countersign(one, key, now))
        if isinstance(found, Refused):
            log.error("the ledger of %s %s: it states %d entries", site, _WORDS[found.why], head.count)
            return CallAnswer(HTTPStatus.CONFLICT, found.known.content, f"head-{found.why}")
        return CallAnswer(HTTPStatus.OK, found.content)


_WORDS = {"back": "went back behind its countersigned head", "fork": "was replaced at its countersigned head"}


def _load_key(settings: HubSettings) -> Ed25519PrivateKey | None:
    try:
        key = load_pem_private_key((settings.home / "keys" / HEADS_KEY).read_bytes(), None)
    except (OSError, ValueError):
        return None
    return key if isinstance(key, Ed25519PrivateKey) else None


def _identity_of(settings: HubSettings, site: str) -> str:
    entries = json.loads(settings.sites_file.read_text("utf-8"))
    return next((str(entry.get("identity_public_key", "")) for entry in entries if entry["name"] == site), "")


def _newest(connection: Connection, site: str, identity: str) -> CountersignedHead | None:
    table = db.site_heads
    query = sa.select(table.c.content).where(table.c.site == site, table.c.identity == identity)
    content = connection.execute(query).scalar_one_or_none()
    return None if content is None else read_countersigned(bytes(content))


def _put(connection: Connection, identity: str, signed: CountersignedHead) -> None:
    table, head = db.site_heads, signed.head
    connection.execute(table.delete().where(table.c.site == head.site, table.c.identity == identity))
    row = {"site": head.site, "identity": identity, "count": head.count, "hash": head.hash}
    connection.execute(table.insert().values(**row, content=signed.content, at=signed.at))


def _alarm(connection: Connection, head: LedgerHead, known: int, what: str) -> None:
    table, now = db.head_alarms, datetime.datetime.now(datetime.UTC)
    mine = sa.and_(table.c.site == head.site, table.c.what == what, table.c.count == head.count)
    again = table.update().where(mine).values(times=table.c.times + 1, last_at=now, known=known)
    if connection.execute(again).rowcount:
        return
    n = connection.execute(
        sa.select(sa.func.count()).select_from(table).where(table.c.site == head.site)
    ).scalar_one()
    if n < _MOST_ALARMS:  # what a hostile site can fill
        values = {"site": head.site, "what": what, "count": head.count, "known": known}
        connection.execute(table.insert().values(**values, times=1, first_at=now, last_at=now))
