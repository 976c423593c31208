"""The roster: which sites form a federation and by which keys they are known; and a site's signed approval.

A hub relays every message between sites, so it could invent hospitals or put its own key in the place of one. Both
end here: each site approves the hash of a roster whose fingerprints its people compared with the other hospitals
outside the hub (on the phone), and every message of the secure sum is checked against the keys in it.

Pure data and its validity; signatures are made and verified in `privacy.approval`.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import hashlib
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from schemas.canonical import canonical_json, read_canonical, sha256_hex
from schemas.errors import MessageError

__all__ = [
    "MAX_SITES",
    "TWO_SITES",
    "Approval",
    "Roster",
    "RosterSite",
    "fingerprint",
    "least_threshold",
    "make_roster",
    "read_approval",
    "read_roster",
]

MAX_SITES = 255
"""Shares are points of a polynomial over GF(2^8): there are 255 of them besides 0, which is the secret."""

TWO_SITES = "each of the two sites can compute the other's sums"
"""What a federation of two must say of itself: a sum less one's own summand is the other's."""

_STRICT = ConfigDict(extra="forbid", frozen=True)
SiteName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,59}$")]
Key32 = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{43}=$")]
Signature64 = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{86}==$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def least_threshold(n_sites: int) -> int:
    """Return the smallest t with 3t > 2n: with it, n/3 colluding sites cannot make two lists succeed."""
    return 2 * n_sites // 3 + 1


def most_colluding(n_sites: int) -> int:
    """Return how many sites may help the hub before the secure sum promises nothing more (docs/protocol.md)."""
    return n_sites // 3


def fingerprint(public_key: str) -> str:
    """Return a key (base64 of 32 bytes) as 128 bits that two people can compare on the phone.

    The same words as a site's own `archipel site` shows for its identity (`archipel.enrol.fingerprint`).
    """
    digest = hashlib.sha256(b"archipel identity\n" + _bytes_of(public_key)).hexdigest()[:32]
    return " ".join(digest[i : i + 4] for i in range(0, 32, 4))


class RosterSite(BaseModel):
    """One site.

    Attributes:
        name: As enrolled.
        public_key: Its identity (Ed25519, base64 of 32 bytes).
    """

    model_config = _STRICT

    name: SiteName
    public_key: Key32

    @property
    def key_bytes(self) -> bytes:
        """The 32 bytes of the key."""
        return _bytes_of(self.public_key)

    @property
    def fingerprint(self) -> str:
        """The key as people compare it."""
        return fingerprint(self.public_key)


class Roster(BaseModel):
    """The sites of a federation and how many of them it takes to open a sum.

    Attributes:
        sites: Sorted by name.
        threshold: Sites that must answer before a sum opens; 3 threshold > 2 sites.
        two_sites: `TWO_SITES`, in a federation of two and in no other.
    """

    model_config = _STRICT

    kind: Literal["roster"] = "roster"
    version: Literal[1] = 1
    sites: Annotated[tuple[RosterSite, ...], Field(min_length=2, max_length=MAX_SITES)]
    threshold: Annotated[int, Field(ge=1, strict=True)]
    two_sites: Literal["each of the two sites can compute the other's sums"] | None = None

    @model_validator(mode="after")
    def _rules(self) -> Roster:
        n = len(self.sites)
        names = [site.name for site in self.sites]
        if names != sorted(names):
            raise ValueError("the sites are not sorted by name")
        if len({name.casefold() for name in names}) != n:
            raise ValueError("two sites have one name")
        # As bytes: base64 can write one key in more than one way.
        if len({site.key_bytes for site in self.sites}) != n:
            raise ValueError("two sites have one key")
        if not (3 * self.threshold > 2 * n and self.threshold <= n):
            raise ValueError(f"the threshold of {n} sites lies between {least_threshold(n)} and {n}")
        if (n == 2) != (self.two_sites is not None):
            raise ValueError(f'two sites, and only two, say so with two_sites = "{TWO_SITES}"')
        return self

    @cached_property
    def content(self) -> bytes:
        """The roster as canonical bytes: what is stored, sent and hashed."""
        return canonical_json(self.model_dump(mode="json"))

    @cached_property
    def hash(self) -> str:
        """SHA-256 of `content`; what a site approves and every key is derived with."""
        return sha256_hex(self.content)

    @cached_property
    def keys(self) -> Mapping[str, bytes]:
        """The 32 bytes of each site's identity, by name."""
        return {site.name: site.key_bytes for site in self.sites}

    @property
    def names(self) -> tuple[str, ...]:
        """The sites by name, sorted."""
        return tuple(site.name for site in self.sites)

    @property
    def fingerprint(self) -> str:
        """128 bits of the whole roster: two sites that read the same aloud have the same peers and keys."""
        digest = hashlib.sha256(b"archipel roster\n" + self.content).hexdigest()[:32]
        return " ".join(digest[i : i + 4] for i in range(0, 32, 4))

    def unpinned(self, pins: Mapping[str, str]) -> tuple[str, ...]:
        """Return the sites whose fingerprint is not the one that a person has pinned.

        Args:
            pins: Name -> fingerprint as compared outside the hub.
        """
        return tuple(site.name for site in self.sites if pins.get(site.name) != site.fingerprint)


def make_roster(keys: Mapping[str, str], threshold: int | None = None, *, two_sites: bool = False) -> Roster:
    """Return the roster of the sites named in `keys` (name -> base64 of the public key).

    Args:
        keys: The sites.
        threshold: At least `least_threshold`, which is the default.
        two_sites: Whether a federation of two says that it hides nothing from each other.

    Raises:
        ValueError: When a rule of `Roster` is broken.
    """
    return Roster(
        sites=tuple(RosterSite(name=name, public_key=keys[name]) for name in sorted(keys)),
        threshold=least_threshold(len(keys)) if threshold is None else threshold,
        two_sites="each of the two sites can compute the other's sums" if two_sites else None,
    )


def read_roster(content: bytes) -> Roster:
    """Parse the bytes of a roster, from a file or a message.

    Raises:
        MessageError: When they are not a roster, or not in canonical form (two texts of one roster would have two
            hashes).
    """
    try:
        roster = Roster.model_validate_json(content)
    except (ValidationError, RecursionError) as error:
        faults = error.errors() if isinstance(error, ValidationError) else []
        ours = [str(fault["ctx"]["error"]) for fault in faults if fault["type"] == "value_error"]
        raise MessageError("not a roster of version 1" + "".join(f": {text}" for text in ours)) from None
    if roster.content != content:
        raise MessageError("the roster is not in canonical form")
    return roster


class Approval(BaseModel):
    """A site's word that it takes part: this plan, with these sites, under these terms, until then.

    Attributes:
        site: Who approves.
        plan_hash: Of the plan.
        roster_hash: Of the roster.
        terms_hash: Of the terms of use that its people read.
        expires: Last day (UTC) on which a run may start or go on.
        signature: Base64 (Ed25519) by the site's identity over `signed_bytes`.
    """

    model_config = _STRICT

    kind: Literal["approval"] = "approval"
    version: Literal[1] = 1
    site: SiteName
    plan_hash: Sha256
    roster_hash: Sha256
    terms_hash: Sha256
    expires: datetime.date
    signature: Signature64 | Literal[""] = ""

    @property
    def content(self) -> bytes:
        """The approval as canonical bytes."""
        return canonical_json(self.model_dump(mode="json"))

    @property
    def signed_bytes(self) -> bytes:
        """What the signature covers: everything else, under the document's own kind and version."""
        content = self.model_dump(mode="json", exclude={"signature"})
        return f"archipel {self.kind} {self.version}\n".encode() + canonical_json(content)

    @property
    def signature_bytes(self) -> bytes:
        """The signature; empty where there is none."""
        return _bytes_of(self.signature)


def read_approval(content: bytes) -> Approval:
    """Parse the bytes of an approval; its signature is not verified here (`privacy.approval`).

    Raises:
        MessageError: When they are not an approval in canonical form.
    """
    return read_canonical(Approval, content, "an approval", "approval")


def _bytes_of(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("not base64") from None
