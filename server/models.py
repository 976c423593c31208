"""The hub's models: released to the sites, withdrawn from them, and who has heard of it.

Truth is the signed list (`schemas.model_list`): each release and each withdrawal makes its next number in one
transaction with the entry of the log. The log is append-only and hash-chained; nothing here deletes. The key that
signs is not kept here and never reaches the processes that answer sites: they hand out bytes that were signed before.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from schemas.canonical import canonical_json, sha256_hex
from schemas.errors import ArchipelError
from schemas.model_list import ListedModel, ModelList, read_model_list
from server import database as db
from server.store import Store

__all__ = ["LogEntry", "ModelStore", "ModelStoreError", "SignList"]

GENESIS = "0" * 64
SignList = Callable[[ModelList], ModelList]
What = Literal["release", "withdrawal"]


class ModelStoreError(ArchipelError):
    """A release or withdrawal that cannot be, with what to do."""


@dataclass(frozen=True)
class LogEntry:
    """One line of the log of models.

    Attributes:
        model: Hash.
        who: The person.
        text: In a sentence.
        previous: Hash of the entry before; zeros for the first.
        hash: SHA-256 of all of the above in canonical form.
    """

    index: int
    at: datetime.datetime
    what: What
    model: str
    who: str
    text: str
    previous: str
    hash: str

    @property
    def expected_hash(self) -> str:
        """What `hash` has to be."""
        content = [self.index, self.at.isoformat(), self.what, self.model, self.who, self.text, self.previous]
        return sha256_hex(canonical_json(content))


class ModelStore:
    """The models in a hub's store.

    Args:
        store: Of the hub.
    """

    def __init__(self, store: Store) -> None:
        self._reader, self._writer = store.reader, store.writer

    # ------------------------------------------------------------ what people do
    def release(
        self,
        listed: ListedModel,
        artefact: bytes,
        card: bytes,
        *,
        signed_by: str,
        sign: SignList,
        who: str,
        text: str,
    ) -> ModelList:
        """Store a model with its card and put it on the list.

        Args:
            listed: Its entry.
            artefact: The signed file, whose hash the entry names.
            card: JSON, likewise.
            signed_by: The hub's public model key.
            sign: Signs the list with it.
            who: The person.
            text: For the log.

        Raises:
            ModelStoreError: When this model was released before.
        """
        with self._writer.begin() as connection:
            last = _newest(connection)
            models = () if last is None else last.models
            if any(one.hash == listed.hash for one in models):
                raise ModelStoreError(f"The model {listed.hash[:12]} was released before.")
            connection.execute(
                db.models.insert().values(hash=listed.hash, run_id=listed.run_id, artefact=artefact, card=card)
            )
            _log(connection, "release", listed.hash, who, text)
            return _put_list(connection, last, (listed, *models), signed_by, sign)

    def withdraw(self, model: str, reason: str, *, signed_by: str, sign: SignList, who: str) -> ModelList:
        """Take a model back, for good.

        Raises:
            ModelStoreError: When there is no such model, or it is withdrawn already.
        """
        with self._writer.begin() as connection:
            last = _newest(connection)
            found = None if last is None else last.find(model)
            if last is None or found is None:
                raise ModelStoreError(
                    f"This hub has released no model {model[:12]}: `archipel models list` shows them."
                )
            if found.withdrawn_at is not None:
                raise ModelStoreError(f"The model {model[:12]} was withdrawn on {found.withdrawn_at:%Y-%m-%d}.")
            gone = ListedModel(**{**dict(found), "withdrawn_at": _now(), "reason": reason})
            models = tuple(gone if one.hash == model else one for one in last.models)
            _log(connection, "withdrawal", model, who, reason)
            return _put_list(connection, last, models, signed_by, sign)

    # ------------------------------------------------------------ what is there
    def newest_list(self) -> ModelList | None:
        """Return the list as it is now; None before the first release."""
        with self._reader.begin() as connection:
            return _newest(connection)

    def artefact(self, model: str) -> bytes | None:
        """Return the file of a model, withdrawn or not."""
        return self._blob(model, db.models.c.artefact)

    def card(self, model: str) -> bytes | None:
        """Return the card of a model as JSON."""
        return self._blob(model, db.models.c.card)

    def log(self) -> list[LogEntry]:
        """Return the log, the oldest entry first.

        Raises:
            ModelStoreError: When it is not what this hub wrote.
        """
        with self._reader.begin() as connection:
            rows = connection.execute(sa.select(db.model_log).order_by(db.model_log.c.index)).all()
        entries = [LogEntry(**row._mapping) for row in rows]
        previous = GENESIS
        for number, entry in enumerate(entries, 1):
            if (entry.index, entry.previous, entry.hash) != (number, previous, entry.expected_hash):
                raise ModelStoreError(f"The log of models was changed at entry {number}: restore the hub's database.")
            previous = entry.hash
        return entries

    def holders(self, model: str) -> dict[str, datetime.datetime]:
        """Return the sites to which the file of a model was sent, and when."""
        table = db.model_copies
        with self._reader.begin() as connection:
            return {
                row.site: row.sent_at for row in connection.execute(sa.select(table).where(table.c.hash == model))
            }

    def contacts(self) -> dict[str, tuple[int, datetime.datetime]]:
        """Return, by site, the number of the list that it was sent last, and when."""
        with self._reader.begin() as connection:
            rows = connection.execute(sa.select(db.model_contacts))
            return {row.site: (row.number, row.sent_at) for row in rows}

    # ------------------------------------------------------------ what a site asks
    def send_list(self, site: str) -> bytes | None:
        """Return the newest list's bytes for a site, and remember that it was sent; None before the first."""
        with self._writer.begin() as connection:
            row = _newest_row(connection)
            if row is None:
                return None
            mine = db.model_contacts.c.site == site
            connection.execute(db.model_contacts.delete().where(mine))
            connection.execute(db.model_contacts.insert().values(site=site, number=row.number, sent_at=_now()))
            return bytes(row.content)

    def send(self, model: str, site: str) -> bytes | None:
        """Return the file of a released model for a site, and remember that it was sent; None for any other."""
        with self._writer.begin() as connection:
            last = _newest(connection)
            listed = None if last is None else last.find(model)
            if listed is None or listed.withdrawn_at is not None:
                return None
            mine = sa.and_(db.model_copies.c.hash == model, db.model_copies.c.site == site)
            connection.execute(db.model_copies.delete().where(mine))
            connection.execute(db.model_copies.insert().values(hash=model, site=site, sent_at=_now()))
        return self.artefact(model)

    def _blob(self, model: str, column: sa.Column[bytes]) -> bytes | None:
        query = sa.select(column).where(db.models.c.hash == model)
        with self._reader.begin() as connection:
            found = connection.execute(query).scalar_one_or_none()
        return None if found is None else bytes(found)


def model_states(models: ModelList | None) -> Mapping[str, str]:
    """Return ``released`` or ``withdrawn`` by hash."""
    listed = () if models is None else models.models
    return {one.hash: "released" if one.withdrawn_at is None else "withdrawn" for one in listed}


def _newest_row(connection: Connection) -> Any:
    query = sa.select(db.model_lists).order_by(db.model_lists.c.number.desc()).limit(1)
    return connection.execute(query).one_or_none()


def _newest(connection: Connection) -> ModelList | None:
    row = _newest_row(connection)
    return None if row is None else read_model_list(bytes(row.content))


def _put_list(
    connection: Connection, last: ModelList | None, models: tuple[ListedModel, ...], signed_by: str, sign: SignList
) -> ModelList:
    number = 1 if last is None else last.number + 1
    signed = sign(ModelList(number=number, issued_at=_now(), models=models, signed_by=signed_by))
    connection.execute(db.model_lists.insert().values(number=number, content=signed.content))
    return signed


def _log(connection: Connection, what: What, model: str, who: str, text: str) -> None:
    table = db.model_log
    last = connection.execute(sa.select(table).order_by(table.c.index.desc()).limit(1)).one_or_none()
    index, previous = (1, GENESIS) if last is None else (last._mapping["index"] + 1, last.hash)
    entry = LogEntry(index, _now(), what, model, who, text, previous, "")
    connection.execute(table.insert().values(**{**vars(entry), "hash": entry.expected_hash}))


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
