"""A hub of the secure sum for tests: honest where nothing is tampered with, and keeping all that it receives.

It speaks with sites as functions from request to reply bytes; where a test is hostile it changes what the hub sends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from privacy.fixed_point import decode_arrays
from privacy.secure_protocol import Announcements, SecureRun, Survivors, read_announcements
from privacy.secure_total import inboxes, total
from privacy.verified import is_verified
from schemas.messages import Arrays, Reply, RoundRequest, SetupRequest, decode_as, encode
from schemas.plan import Plan
from schemas.roster import Roster

Request = SetupRequest | RoundRequest
Site = Callable[[bytes], bytes]


@dataclass
class SecureHub:
    """One run.

    Attributes:
        sites: Name -> what answers a request.
        heard: Every byte that came from each site.
        boxes: Receiver -> sender -> box, after `shares`.
    """

    plan: Plan
    roster: Roster
    sites: Mapping[str, Site]
    run_id: str = "run-1"
    heard: dict[str, list[bytes]] = field(default_factory=dict)
    announced: dict[str, Reply] = field(default_factory=dict)
    boxes: dict[str, dict[str, bytes]] = field(default_factory=dict)
    masked: dict[str, Reply] = field(default_factory=dict)
    shares: dict[str, bytes] = field(default_factory=dict)

    @property
    def run(self) -> SecureRun:
        return SecureRun(self.roster, self.plan.hash, self.run_id, self.roster.names, self.plan.max_rounds)

    @property
    def keys(self) -> Announcements:
        return read_announcements(self.run, {name: reply.blobs["keys"] for name, reply in self.announced.items()})

    def send(self, site: str, request: Request) -> Reply:
        return self.send_all({site: request})[site]

    def send_all(self, requests: Mapping[str, Request]) -> dict[str, Reply]:
        bodies = self.carry({site: encode(request) for site, request in requests.items()})
        for site, body in bodies.items():
            self.heard.setdefault(site, []).append(body)
        return {site: decode_as(body, Reply) for site, body in bodies.items()}

    def carry(self, requests: Mapping[str, bytes]) -> dict[str, bytes]:
        """Take requests to sites and bring what they answer."""
        return {site: self.sites[site](request) for site, request in requests.items()}

    # ------------------------------------------------------------ set-up
    def keys_request(self) -> SetupRequest:
        return SetupRequest(
            self.run_id, self.plan.hash, self.roster.names, self.plan.content.decode(), "keys",
            self.roster.content.decode(),
        )  # fmt: skip

    def shares_request(self) -> SetupRequest:
        blobs = {f"{kind}/{n}": r.blobs[kind] for n, r in self.announced.items() for kind in ("approval", "keys")}
        return self._setup("shares", blobs)

    def inbox_request(self, site: str) -> SetupRequest:
        return self._setup("inbox", {f"box/{sender}": box for sender, box in self.boxes[site].items()})

    def announce(self) -> None:
        self.announced |= self._all_ok(dict.fromkeys(self.sites, self.keys_request()))

    def deal(self) -> None:
        dealt = self._all_ok(dict.fromkeys(self.sites, self.shares_request()))
        sent = {site: {n.removeprefix("box/"): b for n, b in reply.blobs.items()} for site, reply in dealt.items()}
        self.boxes = inboxes(self.run, sent)

    def set_up(self) -> None:
        self.announce()
        self.deal()
        for reply in self._all_ok({site: self.inbox_request(site) for site in self.sites}).values():
            assert not reply.blobs
            assert not reply.arrays

    # ------------------------------------------------------------ rounds
    def value_request(self, step: str, part: str, number: int, arrays: Arrays) -> RoundRequest:
        return RoundRequest(self.run_id, self.plan.hash, self.roster.names, step, part, number, "value", arrays)

    def list_request(
        self, step: str, part: str, number: int, survivors: Survivors, phase: str = "shares", **consents: bytes
    ) -> RoundRequest:
        blobs = {"survivors": survivors.content, **{f"consent/{name}": blob for name, blob in consents.items()}}
        return RoundRequest(self.run_id, self.plan.hash, self.roster.names, step, part, number, phase, blobs=blobs)

    def value(
        self, step: str, part: str, number: int, arrays: Arrays, alive: Sequence[str] | None = None
    ) -> dict[str, Reply]:
        """Ask for masked summands."""
        request = self.value_request(step, part, number, arrays)
        self.masked = self._all_ok(dict.fromkeys(alive or self.sites, request))
        return self.masked

    def open(self, step: str, part: str, number: int, alive: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Return the sum over those whose masked summands are here."""
        survivors = self.run.survivors(alive or self.sites)
        consents: dict[str, bytes] = {}
        if survivors.dropped:
            asked = self.list_request(step, part, number, survivors, "consent")
            signed = self._all_ok(dict.fromkeys(survivors.alive, asked))
            consents = {site: reply.blobs["consent"] for site, reply in signed.items()}
        asked = self.list_request(step, part, number, survivors, **consents)
        replies = self._all_ok(dict.fromkeys(survivors.alive, asked))
        self.shares = {site: reply.blobs["shares"] for site, reply in replies.items()}
        found = self.opened(step, part, number, survivors, self.shares)
        if is_verified(self.plan, self.plan.by_name[step].part(part)):
            self._all_ok(dict.fromkeys(survivors.alive, self.verify_request(step, part, number, survivors.alive)))
        return found

    def verify_request(
        self, step: str, part: str, number: int, alive: Sequence[str], **changed: bytes | None
    ) -> RoundRequest:
        """What the sum was opened with, passed on; `changed` blobs stand for the true ones, None takes one out."""
        passed: dict[str, bytes | None] = {"survivors": self.run.survivors(alive).content}
        passed |= {f"keys/{site}": reply.blobs["keys"] for site, reply in self.announced.items()}
        for site in alive:
            passed |= {f"{name}/{site}": self.masked[site].blobs[name] for name in ("masked", "signature")}
        passed |= {f"shares/{site}": share for site, share in self.shares.items()} | changed
        blobs = {name: blob for name, blob in passed.items() if blob is not None}
        where = (step, part, number, "verify")
        return RoundRequest(self.run_id, self.plan.hash, self.roster.names, *where, blobs=blobs)

    def opened(
        self, step: str, part: str, number: int, survivors: Survivors, shares: Mapping[str, bytes]
    ) -> dict[str, np.ndarray]:
        """Return what the shares for a list open."""
        vectors = {site: np.frombuffer(self.masked[site].blobs["masked"], dtype="<u8") for site in survivors.alive}
        words = total(self.keys, self.plan.round_index(step, number), survivors, vectors, shares)
        return decode_arrays(words, self.plan.by_name[step].part(part).releases, self.run.n_sites)

    def _setup(self, phase: str, blobs: Mapping[str, bytes]) -> SetupRequest:
        return SetupRequest(
            self.run_id, self.plan.hash, self.roster.names, self.plan.content.decode(), phase,
            self.roster.content.decode(), blobs=blobs,
        )  # fmt: skip

    def _all_ok(self, requests: Mapping[str, Request]) -> dict[str, Reply]:
        replies = self.send_all(requests)
        for site, reply in replies.items():
            assert (reply.status, reply.code) == ("ok", ""), (site, reply.phase, reply.code)
        return replies
