"""Sites and a hub in one process, honest unless a test makes them otherwise: the secure sum without a network."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from functools import cache

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from privacy import secure_sum, secure_total
from privacy.secure_protocol import Announcements, SecureRun, Survivors
from schemas.roster import Roster, make_roster

PLAN_HASH = "a" * 64
Words = NDArray[np.uint64]


@cache
def identity(name: str) -> Ed25519PrivateKey:
    """A key that depends on the name alone, so that a failing test fails again."""
    return Ed25519PrivateKey.from_private_bytes(name.encode().ljust(32, b"."))


def public(name: str) -> str:
    return base64.b64encode(identity(name).public_key().public_bytes_raw()).decode()


def roster_of(n: int, threshold: int | None = None) -> Roster:
    return make_roster({f"s{i:02}": public(f"s{i:02}") for i in range(n)}, threshold, two_sites=n == 2)


def run_of(n: int, n_rounds: int = 1, threshold: int | None = None, run_id: str = "run-1") -> SecureRun:
    roster = roster_of(n, threshold)
    return SecureRun(roster, PLAN_HASH, run_id, roster.names, n_rounds)


class Federation:
    """Every site's state, set up; `tests` may look at all of it, the protocol's hub sees what is returned."""

    def __init__(self, run: SecureRun) -> None:
        self.run = run
        announced = {site: secure_sum.begin(run, site, identity(site)) for site in run.sites}
        self.keys = {site: message for site, (_, message) in announced.items()}
        dealt = {site: secure_sum.deal(state, self.keys) for site, (state, _) in announced.items()}
        self.inboxes = secure_total.inboxes(run, {site: boxes for site, (_, boxes) in dealt.items()})
        self.states = {site: secure_sum.receive(dealt[site][0], self.inboxes[site]) for site in run.sites}
        self.announcements: Announcements = secure_total.read_announcements(run, self.keys)

    def mask(self, number: int, vectors: Mapping[str, Words]) -> dict[str, Words]:
        masked = {}
        for site, vector in vectors.items():
            self.states[site], masked[site] = secure_sum.mask(self.states[site], number, vector)
        return masked

    def consent(self, number: int, survivors: Survivors, sites: Iterable[str]) -> dict[str, bytes]:
        signatures = {}
        for site in sites:
            self.states[site], signatures[site] = secure_sum.consent(
                self.states[site], number, survivors, identity(site)
            )
        return signatures

    def reveal(
        self, number: int, survivors: Survivors, sites: Iterable[str], consents: Mapping[str, bytes] | None = None
    ) -> dict[str, bytes]:
        answers = {}
        for site in sites:
            self.states[site], answers[site] = secure_sum.reveal(self.states[site], number, survivors, consents)
        return answers

    def round(self, number: int, vectors: Mapping[str, Words], dropped: Iterable[str] = ()) -> Words:
        """A whole round in which some sites mask their vectors, which then never reach the hub."""
        gone = set(dropped)
        masked = self.mask(number, vectors)
        survivors = self.run.survivors(set(self.run.sites) - gone)
        consents = self.consent(number, survivors, survivors.alive) if gone else None
        answers = self.reveal(number, survivors, survivors.alive, consents)
        received = {site: masked[site] for site in survivors.alive}
        return secure_total.total(self.announcements, number, survivors, received, answers)


def random_words(rng: np.random.Generator, run: SecureRun, size: int) -> dict[str, Words]:
    return {site: rng.integers(0, 2**64, size, dtype=np.uint64) for site in run.sites}


def sum_of(vectors: Mapping[str, Words], sites: Iterable[str]) -> Words:
    """The slow obvious sum, in Python's integers."""
    rows = [[int(word) for word in vectors[site]] for site in sites]
    return np.array([sum(column) % 2**64 for column in zip(*rows, strict=True)], dtype=np.uint64)
