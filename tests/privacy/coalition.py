"""A hub that keeps everything and the sites that collude with it: what could they compute? Tried, not argued."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain, combinations

import numpy as np

from privacy.secure_protocol import KEY, Survivors, add_keystreams, pair_key, self_key
from privacy.secure_sum import MASK_KEYS, SELF_SEEDS
from privacy.shamir import combine
from tests.privacy.secure_federation import Federation, Words


class Coalition:
    """Shares and masked vectors as they come in; secrets as soon as the threshold of shares is there."""

    def __init__(self, federation: Federation, colluders: Iterable[str] = ()) -> None:
        self.run = federation.run
        self.publics = federation.announcements.masks
        self.colluders = tuple(colluders)
        self.shares: dict[tuple[int, str, int], dict[int, bytes]] = {}
        self.vectors: dict[tuple[int, str], Words] = {}
        self.known: dict[tuple[int, str, int], bytes] = {}
        for site in self.colluders:
            self._tell_all(federation, site)

    def _tell_all(self, federation: Federation, site: str) -> None:
        """What a colluder holds from set-up: its own secrets, and shares of every site's, of all rounds."""
        held, own = federation.states[site].held, federation.states[site].secrets
        for kind in (MASK_KEYS, SELF_SEEDS):
            self.known |= {(number, site, kind): own[kind, number].tobytes() for number in range(own.shape[1])}
        for i, owner in enumerate(self.run.sites):
            for kind in (MASK_KEYS, SELF_SEEDS):
                for number in range(held.shape[2]):
                    self._add(number, owner, kind, site, held[i, kind, number].tobytes())

    def _add(self, number: int, owner: str, kind: int, holder: str, share: bytes) -> None:
        self.shares.setdefault((number, owner, kind), {})[self.run.sites.index(holder) + 1] = share

    def hear_vectors(self, number: int, vectors: Mapping[str, Words]) -> None:
        self.vectors |= {(number, site): vector for site, vector in vectors.items()}

    def hear_shares(self, number: int, survivors: Survivors, answers: Mapping[str, bytes]) -> None:
        for holder, answer in answers.items():
            for i, owner in enumerate(self.run.sites):
                kind = SELF_SEEDS if owner in survivors.alive else MASK_KEYS
                self._add(number, owner, kind, holder, answer[KEY * (i + 1) : KEY * (i + 2)])

    def secret(self, number: int, owner: str, kind: int) -> bytes | None:
        if (number, owner, kind) in self.known:
            return self.known[number, owner, kind]
        shares = self.shares.get((number, owner, kind), {})
        if len(shares) < self.run.threshold:
            return None
        points = sorted(shares)[: self.run.threshold]
        rows = np.stack([np.frombuffer(shares[point], dtype=np.uint8) for point in points])
        return combine(points, rows).tobytes()

    def sum_over(self, number: int, group: Iterable[str]) -> Words | None:
        """The sum of some sites' vectors in clear, or None where a mask in it is not known."""
        members = tuple(group)
        total = np.zeros_like(self.vectors[number, members[0]])
        plus: list[bytes] = []
        minus: list[bytes] = []
        for site in members:
            total += self.vectors[number, site]
            seed = self.secret(number, site, SELF_SEEDS)
            if seed is None:
                return None
            minus.append(self_key(self.run, number, site, seed))
            for peer in set(self.run.sites) - set(members):
                found = self._pair(number, site, peer)
                if found is None:
                    return None
                (minus if found[1] else plus).append(found[0])
        add_keystreams(total, plus, minus)
        return total

    def _pair(self, number: int, site: str, peer: str) -> tuple[bytes, bool] | None:
        for own, other in ((site, peer), (peer, site)):
            private = self.secret(number, own, MASK_KEYS)
            if private is not None:
                public = self.publics[self.run.sites.index(other), number].tobytes()
                key, _ = pair_key(self.run, number, own, other, private, public)
                return key, site < peer
        return None

    def open_sums(self, number: int) -> dict[tuple[str, ...], Words]:
        """Every group of honest sites whose sum the coalition can compute. (It knows its own members' vectors.)"""
        honest = [s for s in self.run.sites if s not in self.colluders and (number, s) in self.vectors]
        groups = chain.from_iterable(combinations(honest, size) for size in range(1, len(honest) + 1))
        found = {group: self.sum_over(number, group) for group in groups}
        return {group: total for group, total in found.items() if total is not None}
