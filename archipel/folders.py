"""Folders that a person names, for results or for a home: made, or refused before any work is done."""

from __future__ import annotations

import os
from pathlib import Path

from schemas.errors import ArchipelError

__all__ = ["FolderError", "make_folder", "make_parent", "verify_folder"]


class FolderError(ArchipelError):
    """A place where nothing can be written."""


def verify_folder(path: Path) -> None:
    """Find out whether `make_folder` will do, and make nothing: asked before long work whose result goes there.

    Raises:
        FolderError: When `path` is a file or lies inside one, or this user may not write there.
    """
    nearest = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not nearest.is_dir():
        raise FolderError(f"{path} is a file or lies inside one: name a folder, one that need not be there yet.")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise FolderError(f"This user may not write into {nearest}: name another folder, or change its permissions.")


def make_folder(path: Path, mode: int = 0o777) -> Path:
    """Return `path` as a folder that can be written to, made with its parents where it is not there.

    Raises:
        FolderError: When it is a file, or this user may not write there.
    """
    verify_folder(path)
    try:
        path.mkdir(mode=mode, parents=True, exist_ok=True)
    except OSError as error:
        raise FolderError(f"The folder {path} cannot be made ({error.strerror}): name another.") from None
    return path


def make_parent(path: Path) -> Path:
    """Return `path` as a file that can be written, its folder made where it is not there.

    Raises:
        FolderError: When it is a folder, or its own folder cannot be used.
    """
    make_folder(path.parent)
    if path.is_dir():
        raise FolderError(f"{path} is a folder: name a file in it.")
    return path
