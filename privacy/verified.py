"""A sum that every site opens itself, and holds the hub to: protocol.md, "A sum that the sites check".

Masks hide one site's numbers from the hub; they do not stop the hub from inventing the sum. Where a plan marks a part
``verified`` the hub therefore passes on what it opened that sum with: every survivor's masked vector, which its site
has signed for this round, the shares, and the keys of the set-up. A site makes the total of it with the hub's own
code (`privacy.secure_total`), so what it finds is the sum of what the sites signed, or nothing. Pure.

`verdict` is the other half: what comes from such a step is not taken from the hub before the site has found it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from numpy.typing import NDArray

from privacy.inbound import Seen, sources_of
from privacy.secure_errors import (
    AnsweredOtherwiseError,
    ForgedSignatureError,
    MissingPeerError,
    UnknownPeerError,
    WrongLengthError,
)
from privacy.secure_protocol import SecureRun, Survivors, read_announcements
from privacy.secure_total import open_total
from schemas.codes import Code
from schemas.messages import RoundRequest
from schemas.plan import PartSpec, Plan

__all__ = ["PassedOn", "is_verified", "open_passed_on", "signed_bytes", "verdict"]

_WORD = np.dtype("<u8")


@dataclass(frozen=True)
class PassedOn:
    """What the hub passes on of a round, as it came.

    Attributes:
        survivors: The list that the sum was opened for.
        keys: Site -> its `keys` message of the set-up.
        masked: Site -> its masked vector, of the survivors.
        signatures: Site -> what it signed over that (`signed_bytes`).
        shares: Site -> its shares for the list; at least the threshold.
    """

    survivors: Survivors
    keys: Mapping[str, bytes]
    masked: Mapping[str, bytes]
    signatures: Mapping[str, bytes]
    shares: Mapping[str, bytes]


def is_verified(plan: Plan, part: PartSpec) -> bool:
    """Return whether sites open the sum of a part themselves: where the plan says so, under the secure sum."""
    return part.verified and plan.study.privacy.secure_sum


def signed_bytes(run: SecureRun, number: int, masked: bytes) -> bytes:
    """Return the bytes that a site signs over its masked vector: bound to run, plan, roster, sites and round."""
    return run.bind("masked", number) + hashlib.sha256(masked).digest()


def open_passed_on(run: SecureRun, number: int, site: str, own: bytes, passed: PassedOn) -> NDArray[np.uint64]:
    """Return the sum that the hub must have found, from what it passes on.

    Args:
        run: As this site set it up.
        number: Of the round, `Plan.round_index`.
        site: Whose check this is.
        own: The masked vector that this site sent in the round.
        passed: By the hub.

    Returns:
        The words of the sum (`privacy.fixed_point.decode_arrays`).

    Raises:
        AnsweredOtherwiseError: When this site's own vector is not among them, byte for byte.
        ForgedSignatureError: For a vector that its site did not sign for this round.
        SecureSumError: When keys, list, vectors and shares open no sum (`read_announcements`, `total`).
    """
    keys = read_announcements(run, passed.keys)
    passed.survivors.verify(run)
    if passed.masked.get(site) != own:
        raise AnsweredOtherwiseError("the hub passes on another masked vector of this site than it sent")
    if set(passed.masked) != set(passed.survivors.alive) or set(passed.signatures) != set(passed.masked):
        missing = sorted(set(passed.survivors.alive) - (set(passed.masked) & set(passed.signatures)))
        if missing:
            raise MissingPeerError(f"the hub passes on no signed vector of {', '.join(missing)}")
        raise UnknownPeerError("the hub passes on a vector of a site that is not among the survivors")
    if any(len(vector) != len(own) for vector in passed.masked.values()):
        raise WrongLengthError("the masked vectors that the hub passes on differ in length")
    for peer in sorted(passed.masked):
        _verify_signature(run, number, peer, passed.masked[peer], passed.signatures[peer])
    vectors = {peer: np.frombuffer(vector, dtype=_WORD) for peer, vector in passed.masked.items()}
    words, _ = open_total(keys, number, passed.survivors, vectors, passed.shares)
    return words


def _verify_signature(run: SecureRun, number: int, peer: str, masked: bytes, signature: bytes) -> None:
    key = Ed25519PublicKey.from_public_bytes(run.roster.keys[peer])
    try:
        key.verify(signature, signed_bytes(run, number, masked))
    except (InvalidSignature, ValueError):
        raise ForgedSignatureError(
            f"the masked vector that the hub passes on as {peer}'s is not signed by it"
        ) from None


def verdict(request: RoundRequest, plan: Plan, seen: Seen) -> Code | None:
    """Judge what a question brings from verified steps.

    Args:
        request: Admitted by the gate.
        plan: Of the run.
        seen: Of the run so far; what the site found itself stands in `Seen.given`.

    Returns:
        `GRID_NOT_VERIFIED` for what this site has not found itself yet, `GRID_DIFFERS` for what differs from that in
        one bit, else None.
    """
    step = plan.by_name[request.step]
    for name, source in sources_of(step.part(request.part), step).items():
        made_by = plan.by_name.get(source.partition(".")[0])
        if made_by is None or not any(is_verified(plan, part) for part in made_by.parts):
            continue
        found = seen.given.get(source)
        if found is None:
            return Code.GRID_NOT_VERIFIED
        sent = request.arrays[name]
        if sent.shape != found.shape or sent.tobytes() != found.tobytes():
            return Code.GRID_DIFFERS
    return None
