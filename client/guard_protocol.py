"""What the agent asks of a gate: two questions, one before and one after the work.

The agent (`client.agent`) is the only process of a site that speaks with the
hub, and the gate runs inside it. This protocol is all the agent knows of the
gate; the real one is `client.guard.open_guard`. Bodies are bytes on both sides,
so the agent needs no statistics and the gate no Flower.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

__all__ = ["Answer", "Guard", "Run"]


@dataclass(frozen=True)
class Run:
    """Verdict on a request: hand it on to the runner."""


@dataclass(frozen=True)
class Answer:
    """Verdict on a request: reply at once, the runner is not asked.

    Attributes:
        body: The bytes that leave; a refusal's code, or the answer already
            given to the very same request.
    """

    body: bytes


class Guard(Protocol):
    """The gate as the agent sees it.

    An implementation need not raise for bad input. If it does raise, whatever it
    raises, the agent fails closed: a fixed error code leaves and nothing else.
    The agent calls both from one thread, never at the same time.
    """

    def admit(self, request: bytes) -> Run | Answer:
        """Judges a request before anything of it is stored for the runner."""
        ...

    def release(self, request: bytes, draft: bytes | None) -> bytes:
        """Returns the only bytes that may leave in answer to `request`.

        Args:
            request: The bytes the hub sent, kept by the agent since `admit`.
            draft: What the runner produced, or None where it failed.
        """
        ...
