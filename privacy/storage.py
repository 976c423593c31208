"""Writing files that must survive a power cut, and never half: what the ledger and the approvals stand on.

A site that cannot write must not release, so every failure here is a `StorageError`, which the guard answers with
a refusal. Files are readable by their owner alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from schemas.errors import ArchipelError

LOCK_WAIT_S = 10.0


class StorageError(ArchipelError):
    """The site's disk does not take or give what it must: full, read-only, or not ours."""


def storage_error(path: Path, error: OSError) -> StorageError:
    """Return the sentence for a failed file operation; it names the file and never its content."""
    reason = error.strerror or type(error).__name__
    return StorageError(f"{path.name} cannot be read or written ({reason}): check the disk, its space and its owner")


def write_durably(path: Path, content: bytes) -> None:
    """Replace `path` by `content`, all or nothing; on return it is on the disk.

    Raises:
        StorageError: When the disk does not take it; the former content is still there.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            write_all(descriptor, content)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        partial.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise storage_error(path, error) from None


def write_all(descriptor: int, content: bytes) -> None:
    """Write every byte; a nearly full disk takes a part of them first and refuses the rest."""
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def sync_folder(folder: Path) -> None:
    """Make a rename or a new file in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(path: Path, *, exclusive: bool) -> Iterator[int]:
    """Hold the file's lock against other processes of this site; yields its descriptor.

    An exclusive lock creates the file and opens it for appending; a shared one reads.

    Raises:
        StorageError: When the file cannot be opened, or stays locked by another for `LOCK_WAIT_S`.
    """
    try:
        if exclusive:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = os.O_RDWR | os.O_CREAT | os.O_APPEND if exclusive else os.O_RDONLY
        descriptor = os.open(path, mode, 0o600)
    except OSError as error:
        raise storage_error(path, error) from None
    try:
        _acquire(descriptor, path, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
        yield descriptor
    finally:
        os.close(descriptor)  # and with it the lock


def _acquire(descriptor: int, path: Path, operation: int) -> None:
    give_up = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > give_up:
                raise StorageError(f"{path.name} is held by another process of this site: end it first") from None
            time.sleep(0.01)
        except OSError as error:
            raise storage_error(path, error) from None
        else:
            return
