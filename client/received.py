"""What the hub has sent for a person to decide about: plans, and the rosters that came with them, one file each.

Files are named after the hash of what is in them and read back only where that still fits, so nothing can be put in
their place unnoticed. How many wait for a decision is bounded: a hub cannot fill the site's disk.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from client.state import SitePaths
from privacy.storage import StorageError, storage_error, write_durably
from schemas.errors import ArchipelError, MessageError
from schemas.plan import Plan, read_plan
from schemas.roster import Roster, read_roster

__all__ = [
    "ApprovalError", "find_plan", "find_roster", "list_rosters", "load_plan", "load_roster", "plan_files",
    "receive_plan", "receive_roster",
]  # fmt: skip

MAX_PENDING = 100
MAX_ROSTERS = 100
"""Of one plan."""
MAX_PLAN_BYTES = 32 << 20
_SHORTEST_PREFIX = 6
_HASH_START = re.compile(r"[0-9a-f]{6,64}")


class ApprovalError(ArchipelError):
    """An approval that cannot be given, or a plan or roster that is not there."""


# ---------------------------------------------------------------- plans
def receive_plan(paths: SitePaths, plan: Plan, decided: Collection[str]) -> None:
    """Keep a verified plan as pending, so that a person can read it.

    Args:
        paths: Of the site.
        plan: As it came.
        decided: Hashes of the plans that a person has decided about.

    Raises:
        StorageError: When it cannot be written, or too many wait already.
    """
    path = paths.plan(plan.hash)
    if path.exists():
        return
    if sum(found.stem not in decided for found in plan_files(paths)) >= MAX_PENDING:
        raise StorageError(f"{MAX_PENDING} plans wait for a decision: remove those of no use from {paths.plans.name}")
    write_durably(path, plan.content)


def load_plan(paths: SitePaths, plan_hash: str) -> Plan | None:
    """Return a received plan; None where there is none, or what is there is not that plan."""
    try:
        plan = read_plan(paths.plan(plan_hash).read_bytes())
    except FileNotFoundError:
        return None
    except MessageError:
        return None
    except OSError as error:
        raise storage_error(paths.plan(plan_hash), error) from None
    return plan if plan.hash == plan_hash else None


def find_plan(home: Path, which: str | Path) -> Plan:
    """Return the plan that a person means: by its hash, six or more of its first characters, or its file.

    Raises:
        ApprovalError: When there is no such plan, or more than one.
        StorageError: When it cannot be read.
    """
    paths = SitePaths(home)
    if isinstance(which, str) and _HASH_START.fullmatch(which):
        found = [path.stem for path in plan_files(paths) if path.stem.startswith(which)]
        plan = load_plan(paths, found[0]) if len(found) == 1 else None
        if plan is not None:
            return plan
        if found:
            raise ApprovalError(
                f"{len(found)} plans begin with {which}, or its file is damaged: give more of the hash."
            )
    path = Path(which)
    try:
        if path.is_file() and path.stat().st_size <= MAX_PLAN_BYTES:
            return read_plan(path.read_bytes())
    except MessageError as error:
        raise ApprovalError(
            f"{path.name} is not a plan as `archipel study plan STUDY --out FILE` writes it ({error}): ask again."
        ) from None
    except OSError as error:
        raise storage_error(path, error) from None
    raise ApprovalError(
        f"No plan {which} at this site: `archipel site plans` lists them; give its hash (at least "
        f"{_SHORTEST_PREFIX} characters) or a plan's file."
    )


def plan_files(paths: SitePaths) -> list[Path]:
    """Return the files of the received plans, by name."""
    return sorted(paths.plans.glob("*.json"))


# ---------------------------------------------------------------- rosters
def receive_roster(paths: SitePaths, plan_hash: str, roster: Roster) -> None:
    """Keep a roster that came with a plan, so that a person can compare its fingerprints.

    Raises:
        StorageError: When it cannot be written, or too many came with this plan already.
    """
    path = paths.roster(plan_hash, roster.hash)
    if path.exists():
        return
    if len(_roster_files(paths, plan_hash)) >= MAX_ROSTERS:
        raise StorageError(
            f"{MAX_ROSTERS} lists of sites have come with one plan: remove those of no use from {paths.rosters.name}"
        )
    write_durably(path, roster.content)


def load_roster(paths: SitePaths, plan_hash: str, roster_hash: str) -> Roster | None:
    """Return a received roster; None where there is none, or what is there is not that roster."""
    path = paths.roster(plan_hash, roster_hash)
    try:
        roster = read_roster(path.read_bytes())
    except (FileNotFoundError, MessageError):
        return None
    except OSError as error:
        raise storage_error(path, error) from None
    return roster if roster.hash == roster_hash else None


def list_rosters(paths: SitePaths, plan_hash: str) -> list[Roster]:
    """Return the rosters that came with a plan, the newest first."""
    found = sorted(_roster_files(paths, plan_hash), key=lambda path: (-path.stat().st_mtime_ns, path.name))
    return [roster for path in found if (roster := load_roster(paths, plan_hash, path.stem)) is not None]


def find_roster(paths: SitePaths, plan_hash: str, which: str | None) -> Roster | None:
    """Return the roster that a person means: by six or more characters of its hash, by its file, or the newest.

    Args:
        paths: Of the site.
        plan_hash: Of the plan that it came with.
        which: Hash or file; None: the one that came last, if any.

    Raises:
        ApprovalError: When there is no such roster, or more than one.
    """
    rosters = list_rosters(paths, plan_hash)
    if which is None:
        return rosters[0] if rosters else None
    named = [roster for roster in rosters if _HASH_START.fullmatch(which) and roster.hash.startswith(which)]
    if len(named) == 1:
        return named[0]
    path = Path(which)
    try:
        if path.is_file() and path.stat().st_size <= MAX_PLAN_BYTES:
            return read_roster(path.read_bytes())
    except MessageError as error:
        raise ApprovalError(f"{path.name} is not a list of sites: {error}.") from None
    except OSError as error:
        raise storage_error(path, error) from None
    raise ApprovalError(
        f"No list of sites {which} came with this plan (or more than one begins so): `archipel site plans` shows "
        "them; give more of the hash, or the file."
    )


def _roster_files(paths: SitePaths, plan_hash: str) -> list[Path]:
    return sorted((paths.rosters / plan_hash).glob("*.json"))
