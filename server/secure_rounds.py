"""The secure sum at the hub, message by message: it carries keys, boxes and shares, and opens totals alone.

    set-up   keys -> shares -> inbox    every site's approval and keys to all, then every box to its receiver
    a round  value [-> consent] -> shares [-> verify]

``consent`` is asked only where somebody is missing: before shares leave for such a list, the threshold of survivors
must have signed it (docs/protocol.md). The list of a round is fixed by who has answered ``value``, which the store
keeps, so that a hub that was killed asks for the same list again and never for another. ``verify`` follows where the
plan has the sites open the sum themselves (`privacy.verified`): it passes on what the hub opened it with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from models.progress import Question
from privacy.fixed_point import decode_arrays, vector_length
from privacy.secure_protocol import SIGNATURE, Announcements, SecureRun, Survivors, read_announcements
from privacy.secure_total import inboxes, open_total
from privacy.verified import is_verified
from schemas.errors import ArchipelError
from schemas.plan import PartSpec, Plan
from schemas.roster import read_roster
from server.records import RunRecord
from server.round_protocol import PLAIN_SUM, Content, Expected, Heard, RoundProtocol, Total

__all__ = ["SecureSum", "protocol_of"]

_U64 = np.dtype("<u8")
_SIGNED = ("masked", "signature")


class NoRosterError(ArchipelError):
    """A run whose sums should be masked and whose sites' keys are not known."""


def protocol_of(record: RunRecord, plan: Plan) -> RoundProtocol:
    """Return how the sums of a run are formed, as its plan says.

    Raises:
        NoRosterError: When they should be masked and the run has no roster of exactly its sites.
        SecureSumError: When the roster and the plan make no run.
    """
    if not plan.study.privacy.secure_sum:
        return PLAIN_SUM
    if not record.roster:
        raise NoRosterError(
            "The plan asks for the secure sum, and the run has no roster: launch the study again with "
            "`archipel launch`, which writes one."
        )
    roster = read_roster(record.roster.encode())
    if roster.names != tuple(sorted(record.invited)):
        raise NoRosterError("The run's roster does not name exactly its sites: launch the study again.")
    return SecureSum(plan, SecureRun(roster, plan.hash, record.run_id, roster.names, plan.max_rounds))


@dataclass(frozen=True)
class SecureSum:
    """Every site sends its summand under masks; the hub opens the sum. Fits `RoundProtocol`.

    Attributes:
        run: What keys and signatures are bound to.
        keys: The public keys of all sites, once they are known.
        sent_keys: The same as the sites sent them.
    """

    plan: Plan
    run: SecureRun
    keys: Announcements | None = None
    sent_keys: Mapping[str, bytes] = field(default_factory=dict)
    setup_phases: tuple[str, ...] = ("keys", "shares", "inbox")
    phases_to_keep: tuple[str, ...] = ("keys",)

    @property
    def roster(self) -> str:
        """The roster's canonical text."""
        return self.run.roster.content.decode()

    @property
    def threshold(self) -> int:
        """The roster's."""
        return self.run.threshold

    # ------------------------------------------------------------ set-up
    def setup_content(self, phase: str, site: str, heard: Heard) -> Content:
        """Return everybody's approvals and keys, then the boxes that the peers sealed for this site."""
        if phase == "shares":
            blobs = {
                f"{name}/{peer}": reply.blobs[name]
                for peer, reply in heard["keys"].items()
                for name in ("approval", "keys")
            }
            return Content(blobs=blobs)
        if phase == "inbox":
            sealed = {
                sender: {name.removeprefix("box/"): box for name, box in reply.blobs.items()}
                for sender, reply in heard["shares"].items()
            }
            return Content(blobs={f"box/{sender}": box for sender, box in inboxes(self.run, sealed)[site].items()})
        return Content()

    def setup_expected(self, phase: str, site: str) -> Expected:
        """Return a signed approval and keys, then a box for every peer, then a bare yes."""
        blobs: Mapping[str, int | None] = {}
        if phase == "keys":
            blobs = {"approval": None, "keys": None}
        elif phase == "shares":
            blobs = {f"box/{peer}": None for peer in self.run.sites if peer != site}
        return Expected(blobs=blobs)

    def after_setup(self, heard: Heard) -> SecureSum:
        """Return the protocol with the keys of all sites, verified.

        Raises:
            SecureSumError: Naming the site whose keys do not hold.
        """
        sent = {site: reply.blobs["keys"] for site, reply in heard["keys"].items()}
        return replace(self, keys=read_announcements(self.run, sent), sent_keys=sent)

    # ------------------------------------------------------------ rounds
    def opening_phases(self, sites: tuple[str, ...]) -> tuple[str, ...]:
        """Return the phases that open the sum; consent is needed where somebody is missing."""
        return ("shares",) if sites == self.run.sites else ("consent", "shares")

    def closing_phases(self, part: PartSpec) -> tuple[str, ...]:
        """Return ``verify`` where the sites open the sum themselves."""
        return ("verify",) if is_verified(self.plan, part) else ()

    def content(self, phase: str, question: Question, heard: Heard) -> Content:
        """Return the question, then the list of survivors, with consents, or with what opened the sum."""
        if phase == "value":
            return Content(question.arrays)
        if phase == "verify":
            return Content(blobs=self._passed_on(heard))
        consents = {f"consent/{site}": reply.blobs["consent"] for site, reply in heard.get("consent", {}).items()}
        return Content(blobs={"survivors": self._survivors(heard).content, **consents})

    def expected(self, phase: str, part: PartSpec) -> Expected:
        """Return a masked vector, a signature or shares, or a bare yes; never an array."""
        length = _U64.itemsize * vector_length(part.releases, self.run.n_sites)
        blobs: Mapping[str, Mapping[str, int | None]] = {
            "value": {"masked": length, **({"signature": SIGNATURE} if is_verified(self.plan, part) else {})},
            "consent": {"consent": None},
            "shares": {"shares": None},
            "verify": {},
        }
        return Expected(blobs=blobs[phase])

    def total(self, question: Question, part: PartSpec, heard: Heard) -> Total:
        """Return the sum over the survivors.

        A site with nothing to add masks zeros, so a sum that is zero everywhere is one of nothing.

        Raises:
            SharesDisagreeError: When it cannot be told whose shares are wrong, or the others are too few.
            SecureSumError: When the answers open no sum.
        """
        vectors = {site: np.frombuffer(reply.blobs["masked"], dtype=_U64) for site, reply in heard["value"].items()}
        shares = {site: reply.blobs["shares"] for site, reply in heard["shares"].items()}
        words, remarks = self._open(question, self._survivors(heard), vectors, shares)
        arrays = decode_arrays(words, part.releases, self.run.n_sites) if words.any() else None
        return Total(arrays, remarks)

    def _passed_on(self, heard: Heard) -> dict[str, bytes]:
        """Return what the sum of a round was opened with: everybody's keys, signed vectors and shares."""
        passed = {"survivors": self._survivors(heard).content}
        passed |= {f"keys/{site}": keys for site, keys in self.sent_keys.items()}
        passed |= {f"{name}/{site}": r.blobs[name] for site, r in heard["value"].items() for name in _SIGNED}
        return passed | {f"shares/{site}": reply.blobs["shares"] for site, reply in heard["shares"].items()}

    def _survivors(self, heard: Heard) -> Survivors:
        return self.run.survivors(heard["value"])

    def _open(
        self,
        question: Question,
        survivors: Survivors,
        vectors: Mapping[str, NDArray[np.uint64]],
        shares: Mapping[str, bytes],
    ) -> tuple[NDArray[np.uint64], tuple[str, ...]]:
        """Return the sum's words; shares that one site alone gave wrong are left aside where the rest suffices."""
        if self.keys is None:
            raise ValueError("no sum can be opened before the set-up")
        number = self.plan.round_index(question.step, question.number)
        words, liar = open_total(self.keys, number, survivors, vectors, shares)
        if not liar:
            return words, ()
        return words, (f"{liar} sent shares that disagree with those of all others; they were not used.",)
