"""Everything about a site that can be looked at without its hub: folder, keys, disk, tables, state, versions.

Each check stands for itself: what one of them finds keeps no other from looking. No line holds a patient's value or
identifier. `client.reach` looks at the way to the hub.
"""

from __future__ import annotations

import datetime
import os
import platform
import re
import stat
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

from client.approvals import is_paused, list_plans
from client.confinement import supported
from client.confinement_trial import reached_by_a_step
from client.csv_file import read_csv
from client.finding import Finding, looked_at, unchecked
from client.optout import OPTOUT_FILE, load_optout
from client.parquet_file import read_parquet
from client.settings import SiteSettings, load_settings
from client.state import SitePaths, ledger_path, table_files
from privacy.ledger import LedgerBrokenError, verify_ledger
from schemas.dictionary import CLINICAL, PATIENT_ID
from schemas.errors import ArchipelError, FaultsError
from schemas.health_checks import disk_finding

__all__ = ["local_findings", "settings_finding"]

_OLD_KEY_DAYS = 730
_NEEDS_SETTINGS = ("tables", "clinical table")


def settings_finding(home: Path) -> tuple[SiteSettings | None, Finding]:
    """Return the site's settings, None where they have faults."""
    try:
        settings = load_settings(home)
    except FaultsError as error:
        what = "; ".join(str(fault) for fault in error.faults)
        return None, Finding("settings", "problem", what, "correct site.toml or the environment")
    return settings, Finding("settings", "ok", f"site {settings.name}, hub {settings.hub_address}")


def local_findings(home: Path, settings: SiteSettings | None, now: datetime.datetime) -> list[Finding]:
    """Return what can be seen on this machine.

    Args:
        home: The site's folder.
        settings: None where they have faults.
        now: With its time zone.
    """
    looks: list[tuple[str, Callable[[], list[Finding]]]] = [
        ("versions", _versions),
        ("folder", lambda: [_folder(home)]),
        ("keys", lambda: [_keys(home, now)]),
        ("disk", lambda: [_disk(home)]),
        ("opt-outs", lambda: [_optouts(home)]),
        ("plans", lambda: [_plans(home)]),
        ("ledger", lambda: [_ledger(home)]),
    ]
    found = [_confinement(home)]  # first and here: it forks, which a process with threads should not
    for check, look in looks:
        found += looked_at(check, look)
    if settings is None:
        return [*found, *(unchecked(check, "the settings have faults") for check in _NEEDS_SETTINGS)]
    return [*found, *looked_at("tables", lambda: _tables(settings), limit_s=30.0)]


# ---------------------------------------------------------------- machine
def _versions() -> list[Finding]:
    found = []
    wanted, own = metadata.metadata("archipel")["Requires-Python"], metadata.version("archipel")
    oldest = re.search(r">=(\d+)\.(\d+)", wanted or "")
    python = platform.python_version()
    if oldest and sys.version_info[:2] < (int(oldest[1]), int(oldest[2])):
        found.append(Finding("versions", "problem", f"Python {python} is too old ({wanted})", "install a newer one"))
    else:
        found.append(Finding("versions", "ok", f"Archipel {own}, Python {python}"))
    pin = next((line for line in metadata.requires("archipel") or () if line.startswith("flwr==")), "flwr==")
    pinned, installed = pin.partition("==")[2].partition(";")[0].strip(), metadata.version("flwr")
    if pinned and installed != pinned:
        what = f"Flower is {installed}, and this Archipel was made and audited for {pinned}"
        found.append(Finding("Flower", "problem", what, f"install flwr=={pinned}"))
    else:
        found.append(Finding("Flower", "ok", installed))
    return found


def _confinement(home: Path) -> Finding:
    """Fork a step's process and let it try: what the kernel promises is not what a container lets through."""
    lacking = supported().lacking
    reached = reached_by_a_step(home)
    if reached and not lacking:
        what = f"a step's process could {' and '.join(reached)}, although the kernel says that it cannot"
        return Finding("confinement", "problem", what, "report this line to those who maintain Archipel")
    if lacking:
        return Finding("confinement", "warning", " ".join(lacking))
    return Finding("confinement", "ok", f"tried: a step has no network and no key (Landlock {supported().landlock})")


# ---------------------------------------------------------------- the folder
def _folder(home: Path) -> Finding:
    if not home.is_dir():
        return Finding("folder", "problem", f"{home} is no folder", "name the site's with --home, or `site init`")
    status = home.stat()
    if status.st_uid != os.geteuid():
        what = f"{home} belongs to another user than this one, who runs the doctor"
        return Finding("folder", "warning", what, "run the doctor as the user who runs the site")
    if status.st_mode & 0o022:
        return Finding("folder", "problem", f"{home} can be written by other users", f"chmod 700 {home}")
    if status.st_mode & 0o055:
        return Finding("folder", "warning", f"{home} can be listed by other users", f"chmod 700 {home}")
    return Finding("folder", "ok", str(home))


def _keys(home: Path, now: datetime.datetime) -> Finding:
    """Return permissions and age of what `init` makes; what comes with the kit is no secret."""
    folder = home / "keys"
    missing = [name for name in ("node.key", "identity.key") if not (folder / name).is_file()]
    if missing:
        remedy = "`archipel site init`, or `archipel site restore` where there is a backup"
        return Finding("keys", "problem", f"missing in keys/: {', '.join(missing)}", remedy)
    keys = sorted(folder.glob("*.key"))
    is_open = [path for path in (folder, *keys) if path.stat().st_mode & 0o077]
    if is_open:
        names = ", ".join(path.name for path in is_open)
        what = f"can be read or listed by other users: {names}"
        return Finding("keys", "problem", what, f"chmod 700 {folder}; chmod 600 {folder}/*.key")
    if [path for path in keys if not os.access(path, os.R_OK)]:
        return Finding("keys", "problem", "cannot be read by this user", "run the doctor as the site's own user")
    oldest = min(path.stat().st_mtime for path in (folder / "node.key", folder / "identity.key"))
    days = int((now.timestamp() - oldest) // 86_400)
    if days >= _OLD_KEY_DAYS:
        return Finding("keys", "warning", f"{days} days old", "draw new ones: `archipel site rotate`")
    return Finding("keys", "ok", f"readable by this user alone, {days} days old")


def _disk(home: Path) -> Finding:
    found = disk_finding(home)
    state = "problem" if found.level == "error" else found.level
    return Finding("disk", state, found.text)


def _optouts(home: Path) -> Finding:
    path = home / OPTOUT_FILE
    if not path.exists():
        return Finding("opt-outs", "ok", f"no {OPTOUT_FILE}: nobody has opted out")
    try:
        load_optout(path)
    except FaultsError as error:
        what = "; ".join(str(fault) for fault in error.faults[:3])
        return Finding("opt-outs", "problem", what, "until then every new run is refused")
    return Finding("opt-outs", "ok", f"{OPTOUT_FILE} is readable")


def _plans(home: Path) -> Finding:
    if is_paused(home):
        return Finding("plans", "warning", "the site is paused: nothing leaves it", "`archipel site resume`")
    try:
        found = list_plans(home)
    except ArchipelError as error:
        return Finding("plans", "problem", str(error))
    waiting = sum(
        one.state == "pending" or (one.state == "approved" and any(known.state == "pending" for known in one.rosters))
        for one in found
    )
    if waiting:
        return Finding("plans", "warning", f"{waiting} wait for a decision", "`archipel site plans`, then `approve`")
    return Finding("plans", "ok", "none waits for a decision")


def _ledger(home: Path) -> Finding:
    if not ledger_path(home).exists() and not SitePaths(home).state.exists():
        return Finding("ledger", "ok", "not begun: nothing has left this site")
    try:
        count = verify_ledger(ledger_path(home)).head.count
    except LedgerBrokenError as error:
        return Finding("ledger", "problem", str(error))
    except ArchipelError as error:
        return Finding("ledger", "problem", str(error), "check the disk and who owns the file")
    return Finding("ledger", "ok", f"{count} entr{'y' if count == 1 else 'ies'}, sound")


# ---------------------------------------------------------------- tables
def _tables(settings: SiteSettings) -> list[Finding]:
    folder = settings.tables
    remedy = "check `tables` in site.toml, that the share is mounted, and that the site's user may read it"
    try:
        files = table_files(folder)
        for path in files:
            with path.open("rb") as file:
                file.read(1)
    except OSError as error:
        where = Path(error.filename).name if error.filename and Path(error.filename) != folder else folder
        finding = Finding("tables", "problem", f"{where} cannot be read ({error.strerror})", remedy)
        return [finding, unchecked("clinical table", "the line `tables` has to be repaired first")]
    if not any(path.stem == CLINICAL for path in files):
        finding = Finding("tables", "problem", f"{folder} holds no {CLINICAL}.csv and no {CLINICAL}.parquet", remedy)
        return [finding, unchecked("clinical table", "there is none")]
    writable = [path.name for path in (folder, *files) if _can_be_written_by_others(path)]
    listing = Finding("tables", "ok", f"{len(files)} readable in {folder}")
    if writable:
        what = f"other users of this machine can change {', '.join(writable[:3])}"
        listing = Finding("tables", "warning", what, f"chmod -R o-w {folder}")
    return [listing, _clinical([path for path in files if path.stem == CLINICAL], settings)]


def _can_be_written_by_others(path: Path) -> bool:
    """Whether its mode lets others write, and every folder above it lets them through."""
    is_open = path.stat().st_mode & stat.S_IWOTH
    return bool(is_open) and all(above.stat().st_mode & stat.S_IXOTH for above in path.resolve().parents)


def _clinical(paths: Sequence[Path], settings: SiteSettings) -> Finding:
    """Read the identifiers' column alone, under the declared dialect; a study's check needs its dictionary."""
    if len(paths) > 1:
        names = " and ".join(path.name for path in paths)
        return Finding("clinical table", "problem", f"there are {names}", "keep one of them")
    only = frozenset({PATIENT_ID})
    (path,) = paths
    reading = (
        read_parquet(path, only, only) if path.suffix == ".parquet" else read_csv(path, settings.dialect, only, only)
    )
    errors = [problem for problem in reading.problems if problem.severity == "error"]
    if errors:
        what = "; ".join(f"{one.where}: {one.what}" for one in errors[:3])
        remedy = errors[0].remedy or "`archipel site check STUDY` names every row"
        return Finding("clinical table", "problem", what, remedy)
    return Finding("clinical table", "ok", f"{path.name} is readable; `archipel site check STUDY` looks at its cells")
