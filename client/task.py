"""One request as the runner works on it: looked up by the runner, computed by a confined child, kept by the runner.

The child reads what `reads` names and writes nothing, so whatever it needs of the site's state (which run, which
plan, which secret) is looked up before the fork, and whatever is to be written down comes back through its pipe.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Outcome", "Task"]

_HEAD = struct.Struct(">Q")


@dataclass(frozen=True)
class Outcome:
    """What a child hands back.

    Attributes:
        draft: For the gate.
        record: What the site writes down for itself; empty for nothing.
    """

    draft: bytes
    record: bytes = b""

    def encode(self) -> bytes:
        """Return it for the pipe."""
        return _HEAD.pack(len(self.draft)) + self.draft + self.record

    @classmethod
    def decode(cls, content: bytes) -> Outcome | None:
        """Return what came through the pipe, or None where that is no outcome: the child ended before its end."""
        if len(content) < _HEAD.size:
            return None
        end = _HEAD.size + _HEAD.unpack_from(content)[0]
        return cls(content[_HEAD.size : end], content[end:]) if end <= len(content) else None


def _keep_nothing(outcome: Outcome) -> bytes:
    return outcome.draft


@dataclass(frozen=True)
class Task:
    """One request.

    Attributes:
        work: Runs in the child.
        reads: Files and folders of the site that it may read (`client.confinement`).
        keep: Runs in the runner on what the child handed back, which it does not trust; returns the draft.
    """

    work: Callable[[], Outcome]
    reads: tuple[Path, ...] = ()
    keep: Callable[[Outcome], bytes] = _keep_nothing
