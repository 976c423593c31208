"""How the hub asks the sites something: bytes out, bytes or a named failure back.

This module owns the two types that stand between the round engine and whatever
carries its messages. The engine (`server.rounds`, `server.conduct`) depends on
nothing else: over Flower the exchange is `server.app.FlowerExchange`, in a
simulation or a test it is a few lines in memory. Bodies are opaque here; what
they mean is the business of `schemas.messages`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

__all__ = ["Exchange", "Failure", "FailureReason"]

FailureReason = Literal["late", "offline", "refused", "malformed"]


@dataclass(frozen=True)
class Failure:
    """Why one site's answer is missing.

    Attributes:
        site: The name the site was enrolled under, never a transport's id.
        reason: `late`, reached but silent at the deadline; `offline`, not
            reachable; `refused`, answered with an error; `malformed`, answered
            with something that is not one body of bytes.
        code: A short machine word where there is one (a refusal's error code).
            Never free text from a site.
    """

    site: str
    reason: FailureReason
    code: str = ""


class Exchange(Protocol):
    """Asks each named site once and waits no longer than the deadline."""

    def ask(self, bodies: Mapping[str, bytes], deadline_s: float) -> dict[str, bytes | Failure]:
        """Sends one body to each site and returns what came of it.

        Args:
            bodies: What to send, by site name.
            deadline_s: Seconds after which a silent site is a `Failure`.

        Returns:
            One entry for every name in `bodies`, no more and no less.
        """
        ...
