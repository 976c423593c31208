"""The secure sum at a site: secrets, masks and shares, as values. The protocol and its proof: docs/protocol.md.

Every function takes a state and returns the next one with what is to be sent, and does nothing else: whoever calls
makes the new state durable (`privacy.secure_state`, mode 0600) *before* the message leaves. After a crash in between,
the same call on the stored state gives the same bytes; another call under the same name is refused.

    begin -> Announced   `keys`: public keys for every round, signed
    deal  -> Dealt       `shares`: a sealed box for every peer, once the keys of all were verified
    receive -> Ready     the boxes of the others, opened
    mask, [consent,] reveal   in each round; `consent` only where a site is missing

The rules a site holds to, whatever the hub says:
- rounds only go forward, and one vector is masked in each;
- for one round it stands by one list of survivors, which contains itself and at least the threshold;
- of each peer it gives away one share a round: of the self-mask seed of a survivor, or of the mask key of a dropped;
- a list that leaves somebody out opens nothing before the threshold of survivors have signed it;
- what is over is forgotten: the secrets and shares of past rounds leave the state.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from numpy.typing import NDArray

from privacy.secure_errors import (
    AnsweredOtherwiseError,
    DamagedBoxError,
    NotMaskedError,
    RoundOverError,
    RunError,
    SecondListError,
    SurvivorsError,
    WrongLengthError,
)
from privacy.secure_protocol import (
    KEY,
    SecureRun,
    Survivors,
    add_keystreams,
    agree,
    announcement_body,
    announcement_bound,
    consent_bound,
    digest_of,
    pair_key,
    read_announcements,
    reveal_head,
    seed_commitment,
    self_key,
    verify_consents,
    verify_peers,
)
from privacy.shamir import Bytes, split

__all__ = [
    "Announced",
    "Dealt",
    "Ready",
    "begin",
    "consent",
    "deal",
    "mask",
    "receive",
    "reveal",
]

_NONCE = 12
_TAG = 16
MASK_KEYS, SELF_SEEDS = 0, 1


@dataclass(frozen=True, eq=False)
class Announced:
    """After `begin`.

    Attributes:
        run: Which.
        site: Whose state this is.
        channel_key: X25519, private.
        secrets: (2, n_rounds, 32) private mask keys, self-mask seeds.
        message: The `keys` message.
    """

    KIND: ClassVar[str] = "announced"
    run: SecureRun
    site: str
    channel_key: bytes
    secrets: Bytes
    message: bytes


@dataclass(frozen=True, eq=False)
class Dealt:
    """After `deal`.

    Attributes:
        run: Which.
        site: Whose state this is.
        channel_key: X25519, private.
        secrets: (2, n_rounds, 32) private mask keys, self-mask seeds.
        channels: (n_sites, 32) public.
        masks: (n_sites, n_rounds, 32) public.
        own_shares: (2, n_rounds, 32) this site's shares of its own secrets.
        answered: SHA-256 of the keys that were dealt to.
        boxes: The `shares` message: peer -> box.
    """

    KIND: ClassVar[str] = "dealt"
    run: SecureRun
    site: str
    channel_key: bytes
    secrets: Bytes
    channels: Bytes
    masks: Bytes
    own_shares: Bytes
    answered: bytes
    boxes: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Ready:
    """After `receive`: what the rounds need, from `first` on.

    Attributes:
        run: Which.
        site: Whose state this is.
        answered: SHA-256 of the boxes that were opened.
        first: The round to which index 0 of the following belongs; what lay before is forgotten.
        secrets: (2, rounds left, 32) private mask keys, self-mask seeds.
        masks: (n_sites, rounds left, 32) public mask keys.
        held: (n_sites, 2, rounds left, 32) shares of every site's secrets.
        number: The round last touched; -1 before the first.
        vector: SHA-256 of the vector that was masked in it.
        stands_by: SHA-256 of the one list of survivors in it; empty before there is one.
        answer: The `shares` of it; empty before they were given.
    """

    KIND: ClassVar[str] = "ready"
    run: SecureRun
    site: str
    answered: bytes
    first: int
    secrets: Bytes
    masks: Bytes
    held: Bytes
    number: int = -1
    vector: bytes = b""
    stands_by: bytes = b""
    answer: bytes = b""


# ---------------------------------------------------------------- set-up
def begin(run: SecureRun, site: str, identity: Ed25519PrivateKey) -> tuple[Announced, bytes]:
    """Make this site's keys for every round and announce them (Bonawitz et al., round 0).

    Raises:
        RunError: When the site is not in the run, or the roster knows it by another identity.
    """
    if site not in run.sites or run.roster.keys[site] != identity.public_key().public_bytes_raw():
        raise RunError("the run's roster does not name this site by its identity")
    channel = X25519PrivateKey.from_private_bytes(os.urandom(KEY))
    secrets = np.frombuffer(os.urandom(2 * run.n_rounds * KEY), dtype=np.uint8).reshape(2, run.n_rounds, KEY)
    publics = [
        X25519PrivateKey.from_private_bytes(key.tobytes()).public_key().public_bytes_raw()
        for key in secrets[MASK_KEYS]
    ]
    commitments = [seed_commitment(run, site, r, seed.tobytes()) for r, seed in enumerate(secrets[SELF_SEEDS])]
    body = announcement_body(run, channel.public_key().public_bytes_raw(), _rows(publics), _rows(commitments))
    message = body + identity.sign(announcement_bound(run, site, body))
    return Announced(run, site, channel.private_bytes_raw(), secrets, message), message


def deal(state: Announced | Dealt, keys: Mapping[str, bytes]) -> tuple[Dealt, Mapping[str, bytes]]:
    """Verify everybody's keys and share this site's secrets out among all (Bonawitz et al., round 1).

    Args:
        state: After `begin`.
        keys: Site -> `keys` message, of all sites of the run, as the hub relays them.

    Returns:
        The next state, and a box for every peer.

    Raises:
        SecureSumError: As `read_announcements` says; or AnsweredOtherwiseError, when shares were dealt to other keys.
    """
    run = state.run
    if isinstance(state, Dealt):
        if state.answered != digest_of(keys):
            raise AnsweredOtherwiseError("this site has dealt its shares to other keys in this run")
        return state, state.boxes
    known = read_announcements(run, keys)
    if keys[state.site] != state.message:
        raise AnsweredOtherwiseError("the hub passes on other keys of this site than it has now")
    shares = split(state.secrets, run.n_sites, run.threshold)
    boxes = {
        peer: _seal(run, state.site, peer, state.channel_key, known.channels[i].tobytes(), shares[i])
        for i, peer in enumerate(run.sites)
        if peer != state.site
    }
    dealt = Dealt(
        run=run,
        site=state.site,
        channel_key=state.channel_key,
        secrets=state.secrets,
        channels=known.channels,
        masks=known.masks,
        own_shares=shares[run.sites.index(state.site)],
        answered=known.digest,
        boxes=boxes,
    )
    return dealt, boxes


def receive(state: Dealt | Ready, boxes: Mapping[str, bytes]) -> Ready:
    """Open the boxes of all peers; the set-up is then complete.

    Args:
        state: After `deal`.
        boxes: Sender -> box for this site.

    Raises:
        UnknownPeerError, MissingPeerError: When they are not those of all peers.
        DamagedBoxError: When one was not sealed by its sender for this site in this run.
        AnsweredOtherwiseError: When others were opened before.
    """
    if isinstance(state, Ready):
        if state.answered != digest_of(boxes):
            raise AnsweredOtherwiseError("this site has received other shares in this run")
        return state
    run, site = state.run, state.site
    verify_peers(run, boxes, [peer for peer in run.sites if peer != site])
    held = [
        state.own_shares
        if peer == site
        else _open(run, peer, site, state.channel_key, state.channels[i].tobytes(), boxes[peer])
        for i, peer in enumerate(run.sites)
    ]
    return Ready(run, site, digest_of(boxes), 0, state.secrets, state.masks, np.stack(held))


# ---------------------------------------------------------------- rounds
def mask(state: Ready, number: int, vector: NDArray[np.uint64]) -> tuple[Ready, NDArray[np.uint64]]:
    """Mask this site's vector of a round (Bonawitz et al., round 2).

    y = x + PRG(self seed) + sum over peers j > i of PRG(pair ij) - sum over j < i, modulo 2^64.

    Args:
        state: After `receive`.
        number: Of the round, `Plan.round_index`.
        vector: As `privacy.fixed_point` encodes it.

    Raises:
        RunError: When the run has no such round.
        RoundOverError: When the round is over or lies in the past.
        AnsweredOtherwiseError: When another vector was masked in it: the difference of the two would be in clear.
    """
    run = state.run
    run.verify_round(number)
    if vector.dtype != np.uint64 or vector.ndim != 1 or vector.size == 0:
        raise WrongLengthError("the vector to be masked is not a row of 64-bit words")
    digest = hashlib.sha256(np.ascontiguousarray(vector).data).digest()
    if number < state.number or (number == state.number and state.answer):
        raise RoundOverError(f"round {number} is over at this site")
    if number == state.number and state.vector != digest:
        raise AnsweredOtherwiseError(f"this site has masked another vector in round {number}")
    if number > state.number:
        state = replace(_forget(state, number), number=number, vector=digest, stands_by=b"", answer=b"")
    at = number - state.first
    private = state.secrets[MASK_KEYS, at].tobytes()
    plus = [self_key(run, number, state.site, state.secrets[SELF_SEEDS, at].tobytes())]
    minus: list[bytes] = []
    for i, peer in enumerate(run.sites):
        if peer != state.site:
            key, adds = pair_key(run, number, state.site, peer, private, state.masks[i, at].tobytes())
            (plus if adds else minus).append(key)
    masked = vector.astype("<u8")  # a copy
    add_keystreams(masked, plus, minus)
    return state, masked


def consent(state: Ready, number: int, survivors: Survivors, identity: Ed25519PrivateKey) -> tuple[Ready, bytes]:
    """Sign the one list of survivors that this site stands by in a round (Bonawitz et al., round 3).

    Needed only where somebody is missing: before shares are given for such a list, the threshold must have signed it.

    Raises:
        SecureSumError: As `reveal`.
    """
    state = _stand_by(state, number, survivors)
    return state, identity.sign(consent_bound(state.run, number, survivors))


def reveal(
    state: Ready, number: int, survivors: Survivors, consents: Mapping[str, bytes] | None = None
) -> tuple[Ready, bytes]:
    """Give this site's shares for one list of survivors (Bonawitz et al., round 4); the round is then over here.

    Args:
        state: After `mask` in this round.
        number: Of the round.
        survivors: The list.
        consents: Site -> its `consent`; needed where the list leaves somebody out.

    Raises:
        NotMaskedError: When this site has masked nothing in the round.
        RoundOverError: When a later round has begun.
        SecondListError: When it stands by another list in this round.
        OverlapError, UnknownPeerError, ThresholdError, SurvivorsError: When the list is none (`Survivors.verify`), or
            this site is not on it; ThresholdError also for too few consents.
        ForgedSignatureError: For a consent that its site did not sign.
    """
    state = _stand_by(state, number, survivors)
    if state.answer:
        return state, state.answer
    run = state.run
    if survivors.dropped:
        verify_consents(run, number, survivors, consents or {})
    at = number - state.first
    kinds = [SELF_SEEDS if site in survivors.alive else MASK_KEYS for site in run.sites]
    shares = state.held[np.arange(run.n_sites), kinds, at]
    answer = reveal_head(run, number, survivors) + shares.tobytes()
    return replace(_forget(state, number + 1), answer=answer), answer


def _stand_by(state: Ready, number: int, survivors: Survivors) -> Ready:
    """Fix the one list of a round, or refuse it."""
    state.run.verify_round(number)
    if number < state.number:
        raise RoundOverError(f"round {number} is over at this site")
    if number > state.number:
        raise NotMaskedError(f"this site has masked nothing in round {number}")
    survivors.verify(state.run)
    if state.site not in survivors.alive:
        raise SurvivorsError("the list of survivors leaves out this site, which is asked for shares")
    if state.stands_by not in (b"", survivors.digest):
        raise SecondListError(f"this site stands by another list of survivors in round {number}")
    return replace(state, stands_by=survivors.digest)


def _forget(state: Ready, first: int) -> Ready:
    """Drop every secret and share of the rounds before `first`; copies, so that nothing keeps the whole alive."""
    cut = first - state.first
    return replace(
        state,
        first=first,
        secrets=state.secrets[:, cut:].copy(),
        masks=state.masks[:, cut:].copy(),
        held=state.held[:, :, cut:].copy(),
    )


# ---------------------------------------------------------------- boxes
def _box_key(run: SecureRun, sender: str, receiver: str, private: bytes, public: bytes) -> ChaCha20Poly1305:
    """Return the cipher of one direction between two sites; the channel keys are fresh in every run."""
    return ChaCha20Poly1305(run.derive(agree(private, public), "box", sender, receiver))


def _seal(run: SecureRun, sender: str, receiver: str, private: bytes, public: bytes, shares: Bytes) -> bytes:
    nonce = os.urandom(_NONCE)
    cipher = _box_key(run, sender, receiver, private, public)
    return nonce + cipher.encrypt(nonce, shares.tobytes(), run.bind("shares", sender, receiver))


def _open(run: SecureRun, sender: str, receiver: str, private: bytes, public: bytes, box: bytes) -> Bytes:
    if len(box) != _NONCE + 2 * run.n_rounds * KEY + _TAG:
        raise DamagedBoxError(f"the shares from {sender} are not of the run's length")
    cipher = _box_key(run, sender, receiver, private, public)
    try:
        opened = cipher.decrypt(box[:_NONCE], box[_NONCE:], run.bind("shares", sender, receiver))
    except InvalidTag:
        raise DamagedBoxError(f"the shares from {sender} were not sealed by it for this site and run") from None
    return np.frombuffer(opened, dtype=np.uint8).reshape(2, run.n_rounds, KEY)


def _rows(keys: list[bytes]) -> Bytes:
    return np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(len(keys), KEY)
