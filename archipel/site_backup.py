"""A site's state in one file, taken while the site runs, and a site made from it that forgets nothing it promised.

What is in it, and why nothing else: docs/adr/0013. Never a patient table; not the keys of connection and identity,
since a restored site draws new ones; the key of the fingerprints (``keys/fold.key``), or it would deal patients anew
and know no earlier cohort; no answer and no secret of a secure sum, since no run goes on after a restoration.

Copied is in the reverse of the order of writing: first the countersigned head, then the ledger, then what was on the
disk before each of its entries (answers, budget, cohorts). So all that the ledger in the file names is in the file;
what stands there beyond the ledger's end makes a restored site refuse more than it must, never less.
"""

from __future__ import annotations

import contextlib
import datetime
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from archipel.backup_file import BackupError, Manifest, extract_backup, member_of, verify_backup, write_backup
from archipel.copying import copy_file, copy_sqlite, empty_home, move_in, staged, verify_sqlite
from archipel.enrol import JoinRequest, make_request, public_text
from archipel.identities import IDENTITY, load_key
from client.answers import Answers
from client.decisions import load_approvals, update_approvals
from client.heads import load_countersigned, verify_held
from client.hub_post import node_key
from client.models import load_models
from client.page.access_log import ACCESS_LOG_FILE, read_access_log
from client.peers import load_peers
from client.restored import Restored, load_restored, write_restored
from client.settings import SETTINGS_FILE, load_settings
from client.site_process import create_node_key
from client.state import OPTOUT_FILE, SitePaths, fold_key
from models.compile import CODE_VERSION
from privacy.budget import Budget
from privacy.ledger import Event, Head, Ledger, LedgerBrokenError, chain, entries, head_of, read_from, write_head
from privacy.storage import locked, storage_error, write_durably

__all__ = ["backup_site", "restore_site"]

_LEDGER, _ANSWERS, _BUDGET = "state/ledger.jsonl", "state/answers.sqlite", "state/budget.sqlite"
_COUNTERSIGNED, _ACCESS = "state/countersigned.json", f"state/{ACCESS_LOG_FILE}"
_ACCESS_HEAD = "state/access.head"
_REPLACED = (
    SETTINGS_FILE, OPTOUT_FILE, "keys/fold.key", "keys/hub.json", "keys/hub-ca.crt", "state/approvals.json",
    "state/peers.json", "state/models.json", "state/accounts.json", "state/paused", "state/restored.json",
)  # fmt: skip
_FOLDERS = (
    "state/plans/*.json", "state/rosters/*/*.json", "state/runs/*/members.json", f"state/runs/*/{OPTOUT_FILE}",
    "state/figures/*.json", "models/*/model.safetensors", "models/*/card.json",
)  # fmt: skip
_ONE = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_ALLOWED = re.compile(
    "|".join(
        re.escape(name).replace(r"\*", _ONE)
        for name in (*_REPLACED, *_FOLDERS, _LEDGER, _ANSWERS, _BUDGET, _COUNTERSIGNED, _ACCESS, _ACCESS_HEAD)
    )
)


# ---------------------------------------------------------------- taking it
def backup_site(home: Path, out: Path, now: datetime.datetime, passphrase: str | None = None) -> Manifest:
    """Write a site's state into one file, while the site runs or not.

    Args:
        home: The site's folder.
        out: The file, which must not be there yet.
        now: The clock.
        passphrase: Under which the file is encrypted; None: it is not.

    Raises:
        BackupError: When something of the state is damaged: an earlier backup must not be thrown away for this one.
        LedgerBrokenError: When the ledger is not what this site wrote.
        FaultsError, StorageError: When something cannot be read or written.
    """
    settings, paths = load_settings(home), SitePaths(home)
    with staged(out) as folder:
        names = [_COUNTERSIGNED] if copy_file(paths.countersigned, folder / _COUNTERSIGNED) else []
        head = _copy_ledger(paths.ledger, folder / _LEDGER)
        names += [_LEDGER] if head.count else []
        if copy_sqlite(paths.answers, folder / _ANSWERS):
            _blank(folder / _ANSWERS)
            names.append(_ANSWERS)
        names += [_BUDGET] if copy_sqlite(paths.budget, folder / _BUDGET) else []
        names += [_ACCESS_HEAD] if copy_file(home / _ACCESS_HEAD, folder / _ACCESS_HEAD) else []
        names += [_ACCESS] if _copy_lines(home / _ACCESS, folder / _ACCESS) else []
        names += [name for name in _others(home) if copy_file(home / name, folder / name)]
        manifest = Manifest(
            kind="site-backup",
            name=settings.name,
            created=now,
            code_version=CODE_VERSION,
            identity=public_text(load_key(home, IDENTITY).public_key()),
            ledger_count=head.count,
            ledger_hash=head.hash,
            members=tuple(member_of(name, folder / name) for name in names),
        )
        write_backup(out, manifest, folder, passphrase)
    return manifest


def _others(home: Path) -> Iterator[str]:
    yield from (name for name in _REPLACED if (home / name).is_file())
    for pattern in _FOLDERS:
        found = sorted(path for path in home.glob(pattern) if path.is_file() and not path.is_symlink())
        names = (path.relative_to(home).as_posix() for path in found)
        yield from (name for name in names if _ALLOWED.fullmatch(name))


def _copy_ledger(source: Path, target: Path) -> Head:
    """Copy the whole lines of the ledger as they are at one moment, and return where they end."""
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not source.exists():
        return Head()
    with locked(source, exclusive=False) as descriptor:
        content = read_from(descriptor, 0)
    last = None
    for entry in chain(content, None):
        last = entry
    target.write_bytes(content[: content.rfind(b"\n") + 1])
    return head_of(last)


def _copy_lines(source: Path, target: Path) -> bool:
    """Copy the whole lines of a file that others append to."""
    if not source.exists():
        return False
    with locked(source, exclusive=False) as descriptor:
        content = read_from(descriptor, 0)
    target.write_bytes(content[: content.rfind(b"\n") + 1])
    return True


def _blank(path: Path) -> None:
    """Take answers and secrets out of a copy: what was asked and answered stays known, what it was does not."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA secure_delete = ON")
        db.execute("UPDATE answers SET reply = x''")
        db.execute("UPDATE secure SET state = x''")
        db.execute("VACUUM")


# ---------------------------------------------------------------- a site made from it
def restore_site(
    path: Path, home: Path, now: datetime.datetime, *, who: str, passphrase: str | None = None
) -> tuple[Manifest, JoinRequest, int]:
    """Make a site from a backup: with new keys, every run from before refused for good, and no plan approved.

    Args:
        path: The backup; hostile until read.
        home: A folder that is empty or not there.
        now: The clock.
        who: The person; stands in the ledger.
        passphrase: Under which the backup was written, if under one.

    Returns:
        What the backup says, the request for the hub, and how many runs are refused.

    Raises:
        BackupError: When the file is not a whole backup of a site, or the folder is not empty; nothing is made then.
        ArchipelError: When a file in it is not what a site writes; likewise.
    """
    manifest = verify_backup(path, "site-backup", passphrase)
    wrong = [name for name in manifest.names if not _ALLOWED.fullmatch(name)]
    if wrong or SETTINGS_FILE not in manifest.names:
        raise BackupError("The backup holds files that are no part of a site's state, or lacks its settings.")
    with empty_home(home) as staging:
        extract_backup(path, staging, passphrase)
        _verify_content(staging, manifest)
        n_runs = _make_ready(staging, manifest, now, who)
        settings = load_settings(staging)
        create_node_key(staging)
        identity = load_key(staging, IDENTITY, create=True)
        request = make_request(
            settings.name, settings.title, node_key(staging), identity, now, previous=manifest.identity
        )
        write_durably(staging / "request.json", request.to_json().encode())
        move_in(staging, home, SETTINGS_FILE)
    return manifest, request, n_runs


def _verify_content(home: Path, manifest: Manifest) -> None:
    """Verify that every file is what a site of this version reads."""
    paths = SitePaths(home)
    if load_settings(home).name != manifest.name:
        raise BackupError("The backup's manifest and its site.toml name different sites.")
    head = write_head(paths.ledger)
    if (head.count, head.hash) != (manifest.ledger_count, manifest.ledger_hash):
        raise LedgerBrokenError("The ledger in the backup does not end where its manifest says.")
    verify_held(home)
    for database in (paths.answers, paths.budget):
        if database.exists():
            verify_sqlite(database)
    if paths.answers.exists():
        Answers(paths.answers).close()
    if paths.budget.exists():
        Budget(paths.budget).close()
    if paths.fold_key.exists():
        fold_key(paths)
    for load in (load_approvals, load_peers, load_countersigned, load_restored):
        load(paths)
    load_models(home)
    if (home / _ACCESS).exists():
        for _ in read_access_log(home / _ACCESS):
            pass


def _make_ready(home: Path, manifest: Manifest, now: datetime.datetime, who: str) -> int:
    """Write down what this site must not forget, and take every approval back; return how many runs are refused."""
    paths = SitePaths(home)
    runs = _runs_of(paths)
    write_restored(
        paths,
        Restored(
            at=now,
            backup_of=manifest.created,
            count=manifest.ledger_count,
            hash=manifest.ledger_hash or Head().hash,
            previous_identity=manifest.identity,
            runs=runs,
        ),
    )
    # A withdrawal after the backup would be undone; and lists of sites were signed with a key that is gone.
    if paths.approvals.exists():
        update_approvals(paths, lambda known: known.withdraw_all(now))
    rule = (
        f"from a backup of {manifest.created:%Y-%m-%d %H:%M:%S} UTC with {manifest.ledger_count} entries; "
        f"{len(runs)} runs refused for good, every approval taken back, new keys"
    )
    Ledger(paths.ledger).append(Event("restore", rule=rule, who=who, code_version=CODE_VERSION))
    return len(runs)


def _runs_of(paths: SitePaths) -> tuple[str, ...]:
    """Return every run that the site has seen in any way, those of earlier restorations included."""
    found = {entry.event.run for entry in entries(paths.ledger) if entry.event.kind != "model"}
    found |= {folder.name for folder in (paths.state / "runs").glob("*")}
    earlier = load_restored(paths)
    found |= set() if earlier is None else set(earlier.runs)
    if paths.answers.exists():
        try:
            with contextlib.closing(sqlite3.connect(f"{paths.answers.as_uri()}?mode=ro", uri=True)) as db:
                found |= {str(run_id) for (run_id,) in db.execute("SELECT run_id FROM runs")}
        except sqlite3.Error as error:
            raise storage_error(paths.answers, OSError(0, type(error).__name__)) from None
    return tuple(sorted(found - {""}))
