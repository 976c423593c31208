"""`archipel hub health` and `archipel site health`: what the supervisor says of its home."""

from __future__ import annotations

from pathlib import Path

from archipel.cli_common import print_json, say
from schemas.health import Health, Role, UnansweredHealthError, ask_health

__all__ = ["show_health"]

_MARKS = {"ok": "ok     ", "warning": "warning", "error": "ERROR  "}


def show_health(home: Path, role: Role, *, as_json: bool) -> int:
    """Print how a home is; return 0 where it is healthy, 1 where it is not or nobody tells."""
    try:
        found = ask_health(home)
        if found.role != role:
            raise UnansweredHealthError(
                f"{home.resolve()} is a {found.role}'s folder: `archipel {found.role} health`."
            )
    except UnansweredHealthError as error:
        if as_json:
            print_json({"kind": "health", "version": 1, "role": role, "healthy": False, "error": str(error)})
        else:
            say(f"{error} Start it with `archipel {role} up`.", error=True)
        return 1
    if as_json:
        print_json(found.to_dict())
    else:
        _show(found)
    return 0 if found.is_healthy else 1


def _show(found: Health) -> None:
    for finding in found.findings:
        say(f"{_MARKS[finding.level]}  {finding.check}: {finding.text}")
    say(f"The {found.role} is {'healthy' if found.is_healthy else 'NOT healthy'}.")
