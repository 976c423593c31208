"""Where a site keeps what it must not forget, and the two things that a run freezes: opt-outs and tables.

Everything lies under the site's home: ``state/`` (plans, approvals, answers, ledger, one folder a run), ``keys/``
and ``optout.txt``. A file that is written here is written durably (`privacy.storage`).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import traceback
from dataclasses import dataclass
from pathlib import Path

from client.settings import SiteSettings
from privacy.ledger import LEDGER_FILE
from privacy.storage import storage_error, sync_folder, write_all, write_durably
from schemas.canonical import canonical_json, sha256_hex

__all__ = [
    "SitePaths", "TablesDigest", "fold_key", "freeze_optout", "ledger_path", "place_of", "source_digest",
    "table_files",
]  # fmt: skip

OPTOUT_FILE = "optout.txt"
_TABLE_SUFFIXES = (".csv", ".parquet")
_KEY_BYTES = 32
_CHUNK = 1 << 20


@dataclass(frozen=True)
class SitePaths:
    """The places of one site's state.

    Attributes:
        home: The site's folder.
    """

    home: Path

    @property
    def state(self) -> Path:
        """Folder of everything below."""
        return self.home / "state"

    @property
    def plans(self) -> Path:
        """Folder of the received plans, one file each, named after its hash."""
        return self.state / "plans"

    @property
    def approvals(self) -> Path:
        """Which plans are approved."""
        return self.state / "approvals.json"

    @property
    def rosters(self) -> Path:
        """Folder of the received rosters, one folder a plan."""
        return self.state / "rosters"

    @property
    def peers(self) -> Path:
        """The keys of other sites whose fingerprints a person has compared."""
        return self.state / "peers.json"

    @property
    def paused(self) -> Path:
        """Exists while the site releases nothing: an empty file can be made even on a full disk."""
        return self.state / "paused"

    @property
    def answers(self) -> Path:
        """The answered rounds, SQLite."""
        return self.state / "answers.sqlite"

    @property
    def budget(self) -> Path:
        """What releases under differential privacy have cost, SQLite."""
        return self.state / "budget.sqlite"

    @property
    def figures(self) -> Path:
        """Folder of the site's own figures, one file a run; they never leave the site."""
        return self.state / "figures"

    @property
    def ledger(self) -> Path:
        """The ledger."""
        return self.state / LEDGER_FILE

    @property
    def countersigned(self) -> Path:
        """The newest head of the ledger under the hub's signature."""
        return self.state / "countersigned.json"

    @property
    def restored(self) -> Path:
        """What a site that was put back from a backup must not forget; there is none at any other."""
        return self.state / "restored.json"

    @property
    def identity(self) -> Path:
        """The site's Ed25519 key, by which rosters know it."""
        return self.home / "keys" / "identity.key"

    @property
    def fold_key(self) -> Path:
        """Secret from which the held-out part is dealt."""
        return self.home / "keys" / "fold.key"

    def plan(self, plan_hash: str) -> Path:
        """Return the file of one plan."""
        return self.plans / f"{plan_hash}.json"

    def roster(self, plan_hash: str, roster_hash: str) -> Path:
        """Return the file of one roster that came with a plan."""
        return self.rosters / plan_hash / f"{roster_hash}.json"

    def members(self, run_id: str) -> Path:
        """Return the fingerprints of a run's cohort. `run_id` is well formed (`privacy.gate`)."""
        return self.state / "runs" / run_id / "members.json"

    def frozen_optout(self, run_id: str) -> Path:
        """Return the opt-outs as they were when a run was set up. `run_id` is well formed (`privacy.gate`)."""
        return self.state / "runs" / run_id / OPTOUT_FILE


def ledger_path(home: Path) -> Path:
    """Return where the site's ledger lies, for `archipel site ledger`."""
    return SitePaths(home).ledger


def place_of(error: BaseException) -> str:
    """Return file and line of an error for the site's log, without its text, which may quote a cell."""
    frames = traceback.extract_tb(error.__traceback__)
    return " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames[-3:]))


def freeze_optout(paths: SitePaths, run_id: str) -> Path:
    """Copy the site's `optout.txt` for a run: an opt-out during a run counts from the next one.

    Two sums of one run over different patients would differ by the patient who left.

    Raises:
        StorageError: When it cannot be read or written.
    """
    source = paths.home / OPTOUT_FILE
    try:
        content = source.read_bytes()
    except FileNotFoundError:
        content = b""
    except OSError as error:
        raise storage_error(source, error) from None
    frozen = paths.frozen_optout(run_id)
    write_durably(frozen, content)
    return frozen


def fold_key(paths: SitePaths) -> bytes:
    """Return the site's secret for dealing patients, made on first use; the hub cannot guess who is held out.

    It stays the same for good: were it dealt anew in each run, sums of two runs would differ by few patients.

    Raises:
        StorageError: When it cannot be read or made.
    """
    path = paths.fold_key
    try:
        if not path.exists():
            _make_key(path)
        key = path.read_bytes()
    except OSError as error:
        raise storage_error(path, error) from None
    if len(key) != _KEY_BYTES:
        raise ValueError(f"{path.name} does not hold {_KEY_BYTES} bytes")
    return key


def _make_key(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        write_all(descriptor, secrets.token_bytes(_KEY_BYTES))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    with contextlib.suppress(FileExistsError):  # another process was first: its key counts
        os.link(partial, path)
    partial.unlink()
    sync_folder(path.parent)


def table_files(folder: Path) -> list[Path]:
    """Return the files of `folder` that may be tables.

    Raises:
        OSError: When the folder cannot be listed.
    """
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in _TABLE_SUFFIXES)


class TablesDigest:
    """The content of a folder of tables as one hash; reads a file again only when its size, time or inode changed."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[tuple[int, int, int, int], str]] = {}

    def of(self, folder: Path) -> str:
        """Return the digest of all tables in `folder`.

        Raises:
            StorageError: When a table cannot be read.
        """
        try:
            return sha256_hex(canonical_json([[path.name, self._file(path)] for path in table_files(folder)]))
        except OSError as error:
            raise storage_error(folder, error) from None

    def _file(self, path: Path) -> str:
        status = path.stat()
        stamp = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
        known = self._known.get(path)
        if known is None or known[0] != stamp:
            digest = hashlib.sha256()
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
            known = self._known[path] = (stamp, digest.hexdigest())
        return known[1]


def source_digest(settings: SiteSettings, digests: TablesDigest) -> str:
    """Return what a cohort is made from, the opt-outs aside, as one hash: tables, how they are read, and floors.

    Raises:
        StorageError: When a table cannot be read.
    """
    return sha256_hex(
        canonical_json(
            {
                "tables": digests.of(settings.tables),
                "csv": settings.dialect.model_dump(mode="json"),
                "floors": settings.floors.model_dump(mode="json"),
            }
        )
    )
