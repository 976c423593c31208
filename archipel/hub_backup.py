"""A hub's state in one file, taken while the hub runs, and a hub made from it to which its sites come back unasked.

Unlike a site's, this file holds every secret of the hub: its authority, its identity, the keys for models and heads.
A restored hub without them would be another hub, and every site would have to enrol anew. Keep the file as these keys
are kept.

A restored hub has gone back in time. What it would ask in a run that went on after the backup, its sites have
answered already, perhaps to another question, and they refuse that; so every run that was not done ends here. Its
sites' ledgers are ahead of the heads it knows, which is how ledgers grow. The list of models gets a number that no
site has seen; what was released or withdrawn after the backup has to be released or withdrawn again.
"""

from __future__ import annotations

import datetime
from pathlib import Path

import sqlalchemy as sa

from archipel.backup_file import BackupError, Manifest, extract_backup, member_of, verify_backup, write_backup
from archipel.copying import copy_file, copy_sqlite, empty_home, move_in, staged, verify_sqlite
from archipel.enrol import public_text
from archipel.homes import list_sites, model_key
from archipel.identities import IDENTITY, load_key
from models.compile import CODE_VERSION
from privacy.model_signature import sign_list
from schemas.errors import Fault, FaultsError
from schemas.model_list import read_model_list
from server import database as db
from server.database import DATABASE
from server.hub_home import load_hub_settings
from server.store import Store

__all__ = ["RESTORED_MESSAGE", "backup_hub", "restore_hub"]

_SETTINGS = "hub.toml"
_FILES = (
    _SETTINGS, "sites.json", "keys/hub-ca.key", "keys/hub-ca.crt", "keys/server.key", "keys/server.crt",
    "keys/identity.key", "keys/models.key", "keys/heads.key", "keys/superexec.secret", "keys/control.token",
)  # fmt: skip
_NEEDED = frozenset(_FILES) - {"sites.json", "keys/models.key", "keys/heads.key"}
_MOST_LISTS = 1000
"""More lists of models than a hub signs between two backups."""

RESTORED_MESSAGE = (
    "Ended: the hub was restored from a backup, and this run may have gone on after it. Launch it again."
)


def backup_hub(home: Path, out: Path, now: datetime.datetime, passphrase: str | None = None) -> Manifest:
    """Write a hub's state, its keys included, into one file, while the hub runs or not.

    Args:
        home: The hub's folder.
        out: The file, which must not be there yet.
        now: The clock.
        passphrase: Under which the file is encrypted; None: it is not.

    Raises:
        BackupError: When the database is damaged, or something that a hub needs is missing.
        FaultsError, StorageError: When something cannot be read or written.
    """
    settings = load_hub_settings(home)
    with staged(out) as folder:
        # The list of sites before the database, as enrolment writes them in the other order.
        names = [name for name in _FILES if copy_file(home / name, folder / name)]
        missing = sorted(_NEEDED - set(names))
        if missing:
            remedy = "restore them, or run `archipel hub init`"
            raise FaultsError(str(home), [Fault(name, "is missing", remedy) for name in missing])
        names += [DATABASE] if copy_sqlite(home / DATABASE, folder / DATABASE) else []
        manifest = Manifest(
            kind="hub-backup",
            name=settings.host,
            created=now,
            code_version=CODE_VERSION,
            identity=public_text(load_key(home, IDENTITY).public_key()),
            members=tuple(member_of(name, folder / name) for name in names),
        )
        write_backup(out, manifest, folder, passphrase)
    return manifest


def restore_hub(
    path: Path, home: Path, now: datetime.datetime, passphrase: str | None = None
) -> tuple[Manifest, int]:
    """Make a hub from a backup: the same keys and sites, and every run that was not done ended.

    Args:
        path: The backup; hostile until read.
        home: A folder that is empty or not there.
        now: The clock.
        passphrase: Under which the backup was written, if under one.

    Returns:
        What the backup says, and how many runs it ended.

    Raises:
        BackupError: When the file is not a whole backup of a hub, or the folder is not empty; nothing is made then.
        ArchipelError: When a file in it is not what a hub writes; likewise.
    """
    manifest = verify_backup(path, "hub-backup", passphrase)
    if not _NEEDED <= set(manifest.names) <= {*_FILES, DATABASE}:
        raise BackupError("The backup holds files that are no part of a hub's state, or lacks some that are.")
    with empty_home(home) as staging:
        extract_backup(path, staging, passphrase)
        load_hub_settings(staging)
        list_sites(staging)
        if public_text(load_key(staging, IDENTITY).public_key()) != manifest.identity:
            raise BackupError("The identity in the backup is not the one that its manifest names.")
        if (staging / DATABASE).exists():
            verify_sqlite(staging / DATABASE)
        with Store(staging / DATABASE) as store:
            n_ended = _end_runs(store, manifest.created, now)
            _renumber_models(store, staging, now)
        move_in(staging, home, _SETTINGS)
    return manifest, n_ended


def _end_runs(store: Store, backup_of: datetime.datetime, now: datetime.datetime) -> int:
    """End every run that is not done, for good (`server.store.Store.reopen`)."""
    table = db.runs
    ended = table.update().where(table.c.status != "done").values(
        status="failed", message=RESTORED_MESSAGE, finished_at=now, stop_requested_at=None
    )  # fmt: skip
    with store.writer.begin() as connection:
        connection.execute(db.restorations.insert().values(at=now, backup_of=backup_of))
        return int(connection.execute(ended).rowcount)


def _renumber_models(store: Store, home: Path, now: datetime.datetime) -> None:
    """Sign the newest list of models once more under a number that no site has seen, or sites would refuse it."""
    table = db.model_lists
    newest = sa.select(table.c.content).order_by(table.c.number.desc()).limit(1)
    with store.writer.begin() as connection:
        content = connection.execute(newest).scalar_one_or_none()
        if content is None:
            return
        last = read_model_list(bytes(content))
        key = model_key(home)
        bare = last.model_copy(
            update={"number": last.number + _MOST_LISTS, "issued_at": now, "signed_by": public_text(key.public_key())}
        )
        signed = sign_list(bare, key)
        connection.execute(table.insert().values(number=signed.number, content=signed.content))
