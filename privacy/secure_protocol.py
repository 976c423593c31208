"""The secure sum: what its two sides share. `privacy.secure_sum` is the site's, `privacy.secure_total` the hub's.

Double masking after Bonawitz et al., "Practical Secure Aggregation" (CCS 2017), figure 4, for few and known sites:
identities pinned in a roster, keys for all rounds of a run shared out at set-up, a fresh mask key and a fresh
self-mask seed for every round. The whole protocol, and why it holds, is docs/protocol.md.

Here are the context that every key and signature is bound to, the forms of what travels, and the masks. Pure, without
secrets of its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from privacy.secure_errors import (
    BadKeyError,
    DuplicateKeyError,
    ForgedKeysError,
    ForgedSignatureError,
    MissingPeerError,
    OverlapError,
    RunError,
    SurvivorsError,
    ThresholdError,
    UnknownPeerError,
    WrongContextError,
    WrongLengthError,
)
from privacy.shamir import Bytes
from schemas.canonical import canonical_json
from schemas.roster import Roster

__all__ = [
    "MAX_ROUNDS",
    "Announcements",
    "SecureRun",
    "Survivors",
    "add_keystreams",
    "pair_key",
    "read_announcements",
    "seed_commitment",
    "self_key",
]

PROTOCOL = "archipel secure sum 1"
MAX_ROUNDS = 100_000
KEY = 32
SIGNATURE = 64
_CHUNK = 1 << 15  # words whose masks are added in one go: they stay in the processor's cache
_U64 = np.dtype("<u8")


# ---------------------------------------------------------------- the run
@dataclass(frozen=True)
class SecureRun:
    """What a run is, for every key and signature in it.

    Attributes:
        roster: As the sites approved it.
        plan_hash: SHA-256 of the plan, hexadecimal.
        run_id: Of the run.
        sites: Who takes part, sorted: sites of the roster, at least its threshold.
        n_rounds: Rounds that the plan can have; they are numbered from 0 (`Plan.round_index`).
    """

    roster: Roster
    plan_hash: str
    run_id: str
    sites: tuple[str, ...]
    n_rounds: int

    def __post_init__(self) -> None:
        """Refuse what cannot be a run.

        Raises:
            RunError: Saying why.
            ThresholdError: For fewer sites than the threshold.
        """
        if self.sites != tuple(sorted(set(self.sites))) or not set(self.sites) <= set(self.roster.names):
            raise RunError("the run's sites are not sites of the roster, each once and sorted by name")
        if len(self.sites) < self.roster.threshold:
            raise ThresholdError(f"{len(self.sites)} sites take part; the roster asks for {self.roster.threshold}")
        if not 1 <= self.n_rounds <= MAX_ROUNDS:
            raise RunError(f"a run has 1 to {MAX_ROUNDS} rounds")
        if len(self.plan_hash) != 64 or set(self.plan_hash) - set("0123456789abcdef") or not self.run_id:
            raise RunError("the run's plan or name is missing")

    @property
    def n_sites(self) -> int:
        """How many take part."""
        return len(self.sites)

    @property
    def threshold(self) -> int:
        """Shares that open a secret."""
        return self.roster.threshold

    @cached_property
    def context(self) -> bytes:
        """32 bytes that differ between any two runs, plans, rosters, lists of sites and protocol versions."""
        content = [PROTOCOL, self.plan_hash, self.roster.hash, self.run_id, list(self.sites), self.n_rounds]
        return hashlib.sha256(canonical_json(content)).digest()

    def bind(self, purpose: str, *words: str | int) -> bytes:
        """Return `purpose` and `words` bound to this run, without any two of them reading alike."""
        return canonical_json([PROTOCOL, self.context.hex(), purpose, *words])

    def derive(self, secret: bytes, purpose: str, *words: str | int) -> bytes:
        """Return a key for one purpose (HKDF-SHA256, RFC 5869; salt: the roster's hash)."""
        return HKDF(SHA256(), KEY, bytes.fromhex(self.roster.hash), self.bind(purpose, *words)).derive(secret)

    def verify_round(self, number: int) -> None:
        """Refuse a round that the run has not.

        Raises:
            RunError: When it lies outside 0 .. n_rounds - 1.
        """
        if not 0 <= number < self.n_rounds:
            raise RunError(f"the run has no round {number}")

    def survivors(self, alive: Iterable[str]) -> Survivors:
        """Return the list in which `alive` have sent their vectors and the other sites have not."""
        present = set(alive)
        return Survivors(
            tuple(site for site in self.sites if site in present),
            tuple(site for site in self.sites if site not in present),
        )


# ---------------------------------------------------------------- the list of one round
@dataclass(frozen=True)
class Survivors:
    """Whose vectors are in the sum of a round, and whose are not.

    Both are listed, although one follows from the other: a hub and a site that disagree on who takes part notice.
    """

    alive: tuple[str, ...]
    dropped: tuple[str, ...]

    @property
    def content(self) -> bytes:
        """The list as canonical bytes: what is sent and signed."""
        return canonical_json({"alive": list(self.alive), "dropped": list(self.dropped)})

    @property
    def digest(self) -> bytes:
        """SHA-256 of `content`."""
        return hashlib.sha256(self.content).digest()

    @classmethod
    def read(cls, content: bytes) -> Survivors:
        """Parse the bytes of a list.

        Raises:
            SurvivorsError: When they are none in canonical form.
        """
        try:
            data = json.loads(content)
            found = cls(*(tuple(str(name) for name in data[key]) for key in ("alive", "dropped")))
            if found.content == content:
                return found
        except (ValueError, KeyError, TypeError, RecursionError):
            pass
        raise SurvivorsError("not a list of survivors")

    def verify(self, run: SecureRun) -> None:
        """Refuse a list that is not exactly the run's sites, divided in two, with enough of them alive.

        Raises:
            OverlapError: When a site stands in both.
            UnknownPeerError: When a name is no site of the run.
            ThresholdError: When fewer than the threshold are alive.
            SurvivorsError: When a site is missing, stands twice, or the order is another.
        """
        if set(self.alive) & set(self.dropped):
            raise OverlapError("a site is listed as alive and as dropped: both its secrets would be opened")
        if not {*self.alive, *self.dropped} <= set(run.sites):
            raise UnknownPeerError("the list of survivors names a site that is not in the run")
        if len(self.alive) < run.threshold:
            raise ThresholdError(f"the list has {len(self.alive)} survivors; the roster asks for {run.threshold}")
        if self != run.survivors(self.alive):
            raise SurvivorsError("the list of survivors does not hold each site of the run once, in order")


# ---------------------------------------------------------------- keys of the set-up
@dataclass(frozen=True, eq=False)
class Announcements:
    """The public keys of every site of a run, verified.

    Attributes:
        run: Which.
        channels: (n_sites, 32) X25519, for the boxes that carry shares.
        masks: (n_sites, n_rounds, 32) X25519, one for each round.
        commitments: (n_sites, n_rounds, 32) to the self-mask seeds (`seed_commitment`).
        digest: SHA-256 of all messages together.
    """

    run: SecureRun
    channels: Bytes
    masks: Bytes
    commitments: Bytes
    digest: bytes


def announcement_body(run: SecureRun, channel: bytes, masks: Bytes, commitments: Bytes) -> bytes:
    """Return what a site announces, without its signature."""
    return run.context + channel + masks.tobytes() + commitments.tobytes()


def announcement_bound(run: SecureRun, site: str, body: bytes) -> bytes:
    """Return the bytes that a site signs over its announcement."""
    return run.bind("keys", site) + hashlib.sha256(body).digest()


def read_announcements(run: SecureRun, keys: Mapping[str, bytes]) -> Announcements:
    """Verify the `keys` messages of all sites, as the hub relays them.

    Args:
        run: Which.
        keys: Site -> its message.

    Raises:
        UnknownPeerError: For a site that is not in the run (invented peers end here).
        MissingPeerError: When a site of the run is not among them.
        WrongLengthError: For a message of another length.
        WrongContextError: For a message of another run, plan, roster, list of sites or version.
        ForgedKeysError: For a message that its site did not sign.
        DuplicateKeyError: When a key stands twice.
    """
    verify_peers(run, keys, run.sites)
    size = run.n_rounds * KEY
    rows = []
    for site in run.sites:
        body, signature = keys[site][:-SIGNATURE], keys[site][-SIGNATURE:]
        if len(body) != 2 * KEY + 2 * size:
            raise WrongLengthError(f"the keys of {site} are not of the run's length")
        if body[:KEY] != run.context:
            raise WrongContextError(f"the keys of {site} belong to another run, plan, roster or version")
        try:
            identity = Ed25519PublicKey.from_public_bytes(run.roster.keys[site])
            identity.verify(signature, announcement_bound(run, site, body))
        except (InvalidSignature, ValueError):
            raise ForgedKeysError(f"the keys of {site} are not signed by the identity in the roster") from None
        rows.append(np.frombuffer(body, dtype=np.uint8)[KEY:])
    table = np.stack(rows)
    public = table[:, : KEY + size].reshape(-1, KEY)
    if len({key.tobytes() for key in public}) != len(public):
        raise DuplicateKeyError("a public key stands twice among the keys of the run")
    return Announcements(
        run=run,
        channels=table[:, :KEY],
        masks=table[:, KEY : KEY + size].reshape(run.n_sites, run.n_rounds, KEY),
        commitments=table[:, KEY + size :].reshape(run.n_sites, run.n_rounds, KEY),
        digest=digest_of(keys),
    )


def verify_peers(run: SecureRun, given: Mapping[str, bytes], expected: Sequence[str]) -> None:
    """Refuse anything but one message of each expected site.

    Raises:
        UnknownPeerError: For a message of another.
        MissingPeerError: When one is missing.
    """
    if not set(given) <= set(expected):
        raise UnknownPeerError("a message comes from a peer that is not expected in this run")
    missing = [site for site in expected if site not in given]
    if missing:
        raise MissingPeerError(f"nothing has come from {', '.join(missing)}")


def digest_of(messages: Mapping[str, bytes]) -> bytes:
    """Return SHA-256 over a whole set of messages, by sender."""
    parts = [[name, hashlib.sha256(messages[name]).hexdigest()] for name in sorted(messages)]
    return hashlib.sha256(canonical_json(parts)).digest()


def seed_commitment(run: SecureRun, site: str, number: int, seed: bytes) -> bytes:
    """Return what a site publishes of its self-mask seed: a hash, which 256 random bits cannot be guessed from.

    With it the hub knows a rebuilt seed for the right one; a rebuilt mask key it knows by its public key.
    """
    return hashlib.sha256(run.bind("seed", site, number) + seed).digest()


# ---------------------------------------------------------------- signatures on a list
def consent_bound(run: SecureRun, number: int, survivors: Survivors) -> bytes:
    """Return the bytes that a site signs to say that it stands by one list in one round."""
    return run.bind("consent", number) + survivors.digest


def verify_consents(run: SecureRun, number: int, survivors: Survivors, consents: Mapping[str, bytes]) -> None:
    """Verify that at least the threshold of survivors signed this very list.

    Raises:
        UnknownPeerError: For a signature of a site that is not on the list.
        ForgedSignatureError: For one that its site did not make.
        ThresholdError: When they are too few.
    """
    if not set(consents) <= set(survivors.alive):
        raise UnknownPeerError("a consent comes from a site that is not among the survivors")
    bound = consent_bound(run, number, survivors)
    for site in sorted(consents):
        try:
            Ed25519PublicKey.from_public_bytes(run.roster.keys[site]).verify(consents[site], bound)
        except (InvalidSignature, ValueError):
            raise ForgedSignatureError(f"the consent of {site} to the list of survivors is not its own") from None
    if len(consents) < run.threshold:
        raise ThresholdError(f"{len(consents)} sites consent to the list; the roster asks for {run.threshold}")


# ---------------------------------------------------------------- shares of one round
def reveal_head(run: SecureRun, number: int, survivors: Survivors) -> bytes:
    """Return what shares begin with: the round and the list that they are for."""
    return hashlib.sha256(run.bind("reveal", number) + survivors.digest).digest()


# ---------------------------------------------------------------- masks
def agree(private: bytes, public: bytes) -> bytes:
    """Return the X25519 secret (RFC 7748) of one's private and another's public key.

    Raises:
        BadKeyError: For a public key of small order, with which the secret would be known to all.
    """
    try:
        return X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise BadKeyError("a peer's public key is none that a secret can be shared with") from None


def pair_key(run: SecureRun, number: int, own: str, other: str, private: bytes, public: bytes) -> tuple[bytes, bool]:
    """Return the key of a pair's mask in a round, and whether `own` adds it (the other then takes it away)."""
    lower, higher = sorted((own, other))
    return run.derive(agree(private, public), "mask", number, lower, higher), own == lower


def self_key(run: SecureRun, number: int, site: str, seed: bytes) -> bytes:
    """Return the key of a site's own mask in a round."""
    return run.derive(seed, "self", number, site)


def add_keystreams(vector: NDArray[np.uint64], plus: Sequence[bytes], minus: Sequence[bytes]) -> None:
    """Add the masks of some keys to a vector, and take away those of others, in place and modulo 2^64.

    A mask is the ChaCha20 key stream (RFC 8439) of its key, which serves for nothing else, from block 0 under the
    nonce 0, read as little-endian words.
    """
    streams = [
        (Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor(), add)
        for keys, add in ((plus, np.add), (minus, np.subtract))
        for key in keys
    ]
    zeros = bytes(8 * min(_CHUNK, vector.size))
    buffer = bytearray(len(zeros))
    for start in range(0, vector.size, _CHUNK):
        piece = vector[start : start + _CHUNK]
        words = np.frombuffer(buffer, dtype=_U64)[: piece.size]
        for stream, add in streams:
            stream.update_into(memoryview(zeros)[: 8 * piece.size], buffer)
            add(piece, words, out=piece)
