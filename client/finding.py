"""One line of `archipel site doctor`: what was looked at, how it is, and what to do."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

__all__ = ["LIMIT_S", "Finding", "State", "looked_at", "unchecked"]

State = Literal["ok", "warning", "problem", "not checked"]

LIMIT_S = 5.0
"""A check that takes longer is given up: a name server, a share or a hub that hangs must not hang the doctor."""


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        check: One or two words, the same on every machine, for a program that watches one line.
        state: A warning leaves the exit code at 0.
        found: What is; no patient's value, no identifier.
        remedy: What to do; empty where nothing is to be done.
    """

    check: str
    state: State
    found: str
    remedy: str = ""


def unchecked(check: str, because: str) -> Finding:
    """Return that a check was left out because another one failed."""
    return Finding(check, "not checked", f"because {because}")


def looked_at(check: str, look: Callable[[], list[Finding]], limit_s: float = LIMIT_S) -> list[Finding]:
    """Return what `look` finds; a problem where it fails in a way that nobody foresaw, or takes too long.

    Args:
        check: Name of the line where there is no other.
        look: Runs in a thread of its own, which is left behind when it hangs.
        limit_s: Longest wait.
    """
    found: list[Finding] = []

    def run() -> None:
        try:
            found.extend(look())
        except Exception as error:  # its text may quote a cell
            what = f"the check itself failed ({type(error).__name__})"
            found.append(Finding(check, "problem", what, "report this line to those who maintain Archipel"))

    thread = threading.Thread(target=run, name=f"doctor {check}", daemon=True)
    thread.start()
    thread.join(limit_s)
    if thread.is_alive():
        return [Finding(check, "problem", f"did not end within {limit_s:g} s", "see whether a disk or a share hangs")]
    return found
