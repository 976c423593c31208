"""Copies of files that other processes write meanwhile: what a backup of a site and of a hub have in common."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from archipel.backup_file import BackupError
from privacy.storage import storage_error, sync_folder

__all__ = ["copy_file", "copy_sqlite", "empty_home", "move_in", "staged", "verify_sqlite"]

_BUSY_S = 10.0
_STAGING = ".restoring"


@contextlib.contextmanager
def staged(out: Path) -> Iterator[Path]:
    """Yield an empty folder beside `out` that only this user can read, and remove it with all that is in it.

    Raises:
        BackupError: When `out` is there already, or its folder is not.
    """
    if out.exists():
        raise BackupError(f"{out} is there already: name another file.")
    if not out.parent.is_dir():
        raise BackupError(f"The folder {out.parent} is not there: make it, or name another.")
    folder = out.with_name(f".{out.name}.{os.getpid()}.staging")
    try:
        folder.mkdir(mode=0o700)
    except OSError as error:
        raise storage_error(folder, error) from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def copy_file(source: Path, target: Path) -> bool:
    """Copy a file that is replaced in one piece, never written into; False where there is none.

    Raises:
        StorageError: When it cannot be read or written.
    """
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with source.open("rb") as file, target.open("xb") as sink:
            shutil.copyfileobj(file, sink, 1 << 20)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise storage_error(source, error) from None
    return True


def copy_sqlite(source: Path, target: Path) -> bool:
    """Copy an SQLite database as it is at one moment, whoever writes to it; False where there is none.

    Raises:
        BackupError: When it is damaged.
    """
    if not source.exists():
        return False
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        reader = sqlite3.connect(f"{source.resolve().as_uri()}?mode=ro", uri=True, timeout=_BUSY_S)
        with contextlib.closing(reader), contextlib.closing(sqlite3.connect(target)) as copy:
            reader.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.Error as error:
        raise BackupError(
            f"{source.name} cannot be copied ({_name(error)}): it is damaged, or the disk is full."
        ) from None
    verify_sqlite(target)
    return True


def verify_sqlite(path: Path) -> None:
    """Look at every page of a database.

    Raises:
        BackupError: When it is damaged.
    """
    try:
        with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as db:
            found = db.execute("PRAGMA integrity_check(1)").fetchall()
    except sqlite3.Error as error:
        raise BackupError(f"{path.name} is damaged ({_name(error)}).") from None
    if found != [("ok",)]:
        raise BackupError(f"{path.name} is damaged.")


def _name(error: sqlite3.Error) -> str:
    return str(getattr(error, "sqlite_errorname", type(error).__name__))


@contextlib.contextmanager
def empty_home(home: Path) -> Iterator[Path]:
    """Yield a folder within an empty home in which it is made ready; it is gone again where that fails.

    Raises:
        BackupError: When the home holds anything.
    """
    is_new = not home.exists()
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(entry.name != "lost+found" for entry in home.iterdir()):
            raise BackupError(f"{home} is not empty: restore into a folder of its own, so that nothing is lost.")
        staging = home / _STAGING
        staging.mkdir(mode=0o700)
    except OSError as error:
        raise storage_error(home, error) from None
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if is_new and not any(home.iterdir()):
            home.rmdir()


def move_in(staging: Path, home: Path, last: str) -> None:
    """Move what was made ready into its home; `last` is what makes the folder a home, so half of one is none.

    Raises:
        StorageError: When that fails half-way; the home then has to be emptied, and restored again.
    """
    try:
        for entry in sorted(staging.iterdir(), key=lambda path: (path.name == last, path.name)):
            entry.rename(home / entry.name)
        sync_folder(home)
    except OSError as error:
        raise storage_error(home, error) from None
