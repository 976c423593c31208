"""What has come in for one round so far: answers as bytes, who kept it waiting, what it had cost before."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field

from models.progress import Question
from schemas.canonical import sha256_hex
from schemas.messages import Reply
from server.exchange import Failure
from server.records import Cost, KeptReply
from server.rounds import Asked, Verdict, Wait, read_reply

__all__ = ["Tally", "keep_reply"]


@dataclass
class Tally:
    """What came in for one round.

    Attributes:
        before: What the conduct had cost when the round began.
        replies: By phase and site.
        missing: Sites that kept the round waiting or left the run in it.
    """

    question: Question
    started_at: datetime.datetime
    before: Cost
    replies: dict[tuple[str, str], KeptReply]
    missing: set[str] = field(default_factory=set)

    def noting(self, verdict: Verdict) -> Verdict:
        """Return the verdict; whoever keeps the round waiting is written down."""
        if isinstance(verdict, Wait) and verdict.paused:
            self.missing |= {failure.site for failure in verdict.missing}
        return verdict

    def heard_before(self, asked: Asked) -> dict[str, Reply | Failure]:
        """Return the answers that were kept when an earlier conduct ended within this round."""
        kept = {reply.site: reply.body for reply in self.replies.values() if reply.phase == asked.phase}
        return {site: read_reply(site, body, asked) for site, body in kept.items() if body is not None}


def keep_reply(asked: Asked, site: str, status: str, body: bytes) -> KeptReply:
    """Return an answer as the store keeps it."""
    return KeptReply(
        asked.step, asked.part, asked.number, asked.phase, site, status, len(body), sha256_hex(body), body
    )
