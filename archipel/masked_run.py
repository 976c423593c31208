"""The secure sum with every site in this process: the same encoding, masks, shares and total as in a federation.

It protects nothing here, since one process knows everybody's secrets. It is there so that anybody can see that sums
under masks give what sums in clear give (`archipel simulate --secure-sum`).
"""

from __future__ import annotations

import base64
from collections.abc import Mapping

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from models.progress import Question
from models.step import Arrays
from privacy.fixed_point import decode_arrays, encode_arrays
from privacy.secure_protocol import SecureRun
from privacy.secure_sum import Ready, begin, deal, mask, receive, reveal
from privacy.secure_total import inboxes, read_announcements, total
from schemas.errors import ArchipelError
from schemas.plan import Plan
from schemas.roster import make_roster

__all__ = ["MIN_SITES", "MaskedSum", "TooFewSitesError"]

MIN_SITES = 3


class TooFewSitesError(ArchipelError):
    """Too few sites for a sum that hides each."""


class MaskedSum:
    """Sites of one simulated run that are set up with each other, and the hub that opens their sums."""

    def __init__(self, plan: Plan, sites: tuple[str, ...]) -> None:
        """Set up every site.

        Raises:
            TooFewSitesError: For fewer than three sites.
        """
        if len(sites) < MIN_SITES:
            raise TooFewSitesError(
                f"The secure sum needs {MIN_SITES} sites and there are {len(sites)}: of a sum of two, each knows the "
                "other's part."
            )
        identities = {site: Ed25519PrivateKey.generate() for site in sites}
        public = {site: key.public_key().public_bytes_raw() for site, key in identities.items()}
        roster = make_roster({site: base64.b64encode(key).decode("ascii") for site, key in public.items()})
        run = SecureRun(roster, plan.hash, "simulation", roster.names, plan.max_rounds)
        announced = {site: begin(run, site, key) for site, key in identities.items()}
        keys = {site: message for site, (_, message) in announced.items()}
        dealt = {site: deal(state, keys) for site, (state, _) in announced.items()}
        boxes = inboxes(run, {site: sealed for site, (_, sealed) in dealt.items()})
        self._plan = plan
        self._run = run
        self._keys = read_announcements(run, keys)
        self._states: dict[str, Ready] = {site: receive(state, boxes[site]) for site, (state, _) in dealt.items()}

    def total(self, question: Question, terms: Mapping[str, Arrays]) -> Arrays:
        """Return the sum of the sites' summands; a site without one masks zeros.

        Raises:
            EncodingRefusedError: For a value that the plan's bounds do not allow.
        """
        releases = self._plan.by_name[question.step].part(question.part).releases
        number = self._plan.round_index(question.step, question.number)
        nothing = {spec.name: np.zeros(spec.shape) for spec in releases}
        survivors = self._run.survivors(self._run.sites)
        vectors = {}
        shares = {}
        for site in self._run.sites:
            vector = encode_arrays(terms.get(site, nothing), releases, self._run.n_sites)
            self._states[site], vectors[site] = mask(self._states[site], number, vector)
        for site in self._run.sites:
            self._states[site], shares[site] = reveal(self._states[site], number, survivors)
        words = total(self._keys, number, survivors, vectors, shares)
        return decode_arrays(words, releases, self._run.n_sites)
