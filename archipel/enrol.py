"""Enrolment: how a site and a hub come to know each other's keys, with one file each way.

The site makes its own keys and writes a *join request*; nothing secret is in it. The hub checks that whoever wrote
it holds both keys, records the site, and answers with a *kit*: its address, the certificate of its authority, and
its own identity key, signed with that key. The request proves possession and not identity; so does the kit. People
prove identity: both sides read the other's fingerprint aloud on the phone before they go on.

Pure: bytes and keys in, documents out. Files are the business of `archipel.homes`, the list of sites that of the
hub's store. Both documents come from outside and are hostile until they have passed `read_request` or `read_kit`.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import hashlib
from typing import Annotated, Any, Literal, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
    load_ssh_public_key,
)
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from schemas.canonical import canonical_json
from schemas.errors import ArchipelError
from schemas.ledger_head import CountersignedHead

__all__ = [
    "KIT_DAYS",
    "EnrolmentError",
    "JoinRequest",
    "Kit",
    "fingerprint",
    "make_kit",
    "make_request",
    "public_text",
    "read_kit",
    "read_request",
]

KIT_DAYS = 30
"""Days within which a kit must be used: a forgotten copy in a mailbox should not open a hub for ever."""

MAX_BYTES = 64 << 10
_CLOCK_SKEW = datetime.timedelta(minutes=10)


class EnrolmentError(ArchipelError):
    """A request or kit that is not accepted, with what to do."""


SiteName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,59}$")]
Line = Annotated[str, Field(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
Key32 = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{43}=$")]
Signature64 = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{86}==$")]
Pem = Annotated[str, Field(min_length=50, max_length=8000, pattern=r"^[\x20-\x7e\r\n]+$")]


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    def to_json(self) -> str:
        """Return the content of the file."""
        # Without what is None, so that one from before a field was there reads it too.
        return self.model_dump_json(indent=1, exclude_none=True) + "\n"

    def signed_bytes(self) -> bytes:
        """Return what the signatures cover: everything else, under the document's own kind and version.

        The leading line keeps a signature of one kind of document from passing for one of another kind.
        """
        # Without what is None: a kit from before a field was there keeps its signature.
        content: dict[str, Any] = self.model_dump(
            mode="json", exclude={"signature", "node_signature", "previous_signature"}, exclude_none=True
        )
        return f"archipel {content['kind']} {content['version']}\n".encode() + canonical_json(content)


class JoinRequest(_Document):
    """A site's request to be enrolled.

    Attributes:
        name: Of the site, in rosters and results.
        title: The hospital's name, for people.
        node_public_key: The key of the site's connection (elliptic curve; PEM or OpenSSH text).
        identity_public_key: The site's identity (Ed25519, base64 of 32 bytes); rosters pin it.
        created: When the request was written.
        previous_identity_public_key: Which identity this one replaces, after a rotation or a restoration.
        node_signature: Base64 (ECDSA with SHA-384) by the connection's key: the writer holds it.
        signature: Base64 (Ed25519) by the identity key.
        previous_signature: Likewise by the replaced identity, in a rotation; a restored site no longer holds it.
    """

    kind: Literal["join-request"] = "join-request"
    version: Literal[1] = 1
    name: SiteName
    title: Line = ""
    node_public_key: Pem
    identity_public_key: Key32
    created: AwareDatetime
    previous_identity_public_key: Key32 | None = None
    node_signature: Annotated[str, Field(max_length=300)] = ""
    signature: Signature64 | Literal[""] = ""
    previous_signature: Signature64 | None = None

    @property
    def is_rotation(self) -> bool:
        """Whether the replaced identity itself has signed; `read_request` has verified it."""
        return self.previous_identity_public_key is not None and self.previous_signature is not None


class Kit(_Document):
    """The hub's answer: all that a site needs to find the hub and to know that it is the right one.

    Attributes:
        site: Name under which the site is enrolled.
        identity_public_key: Of the site that asked; the kit is of no use to another.
        hub_address: ``host:port`` of the one outbound connection.
        hub_certificate: Certificate (PEM) of the hub's own authority; no other is trusted.
        hub_public_key: The hub's identity (Ed25519, base64 of 32 bytes).
        model_public_key: The key with which the hub signs models, likewise; None in a kit from before there was one.
        heads_public_key: The key with which it countersigns the heads of ledgers, likewise.
        ledger_head: Of a site that was restored from a backup: the newest head of its ledger that the hub knows.
        issued: When the kit was written.
        expires: Until when it can be used to join.
        signature: Base64 (Ed25519) by the hub's identity key.
    """

    kind: Literal["kit"] = "kit"
    version: Literal[1] = 1
    site: SiteName
    identity_public_key: Key32
    hub_address: Annotated[str, Field(max_length=300, pattern=r"^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):[0-9]{1,5}$")]
    hub_certificate: Pem
    hub_public_key: Key32
    model_public_key: Key32 | None = None
    heads_public_key: Key32 | None = None
    ledger_head: CountersignedHead | None = None
    issued: AwareDatetime
    expires: AwareDatetime
    signature: Signature64 | Literal[""] = ""


def make_request(
    name: str,
    title: str,
    node_key: ec.EllipticCurvePrivateKey,
    identity_key: Ed25519PrivateKey,
    now: datetime.datetime,
    *,
    previous: Ed25519PrivateKey | str | None = None,
) -> JoinRequest:
    """Return a site's signed request.

    Args:
        name: Of the site.
        title: The hospital's name.
        node_key: Of its connection.
        identity_key: Its identity.
        now: Time of the request.
        previous: The identity that this one replaces: the key, which signs too, or its public half (base64).
    """
    bare = JoinRequest(
        name=name,
        title=title,
        node_public_key=node_key.public_key()
        .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        .decode("ascii"),
        identity_public_key=public_text(identity_key.public_key()),
        created=now,
        previous_identity_public_key=(
            public_text(previous.public_key()) if isinstance(previous, Ed25519PrivateKey) else previous
        ),
    )
    content = bare.signed_bytes()
    replaced = previous.sign(content) if isinstance(previous, Ed25519PrivateKey) else None
    return bare.model_copy(
        update={
            "previous_signature": None if replaced is None else _base64(replaced),
            "node_signature": _base64(node_key.sign(content, ec.ECDSA(hashes.SHA384()))),
            "signature": _base64(identity_key.sign(content)),
        }
    )


def read_request(content: bytes) -> JoinRequest:
    """Read a join request and verify that its writer holds both keys in it.

    Raises:
        EnrolmentError: For anything else.
    """
    request = _parse(content, JoinRequest, "join request", "ask the site to run `archipel site init` again")
    signed = request.signed_bytes()
    try:
        _key_of(request.identity_public_key).verify(_bytes_of(request.signature), signed)
        _node_key_of(request.node_public_key).verify(
            _bytes_of(request.node_signature), signed, ec.ECDSA(hashes.SHA384())
        )
        if request.previous_signature is not None:
            _key_of(request.previous_identity_public_key or "").verify(_bytes_of(request.previous_signature), signed)
    except (InvalidSignature, ValueError, UnsupportedAlgorithm):
        raise EnrolmentError(
            "The join request is not signed by the keys in it: it was damaged or changed on the way. "
            "Ask the site to send request.json again."
        ) from None
    return request


def make_kit(
    request: JoinRequest,
    hub_key: Ed25519PrivateKey,
    hub_address: str,
    hub_certificate: str,
    now: datetime.datetime,
    *,
    days: int = KIT_DAYS,
    model_key: str | None = None,
    heads_key: str | None = None,
    ledger_head: CountersignedHead | None = None,
) -> Kit:
    """Return the hub's signed answer to a request that `read_request` accepted.

    Args:
        request: Whose site is enrolled.
        hub_key: The hub's identity.
        hub_address: ``host:port`` under which sites reach the hub.
        hub_certificate: Of the hub's authority (PEM).
        now: Time of issue.
        days: Until the kit expires.
        model_key: Public key (base64) with which the hub signs models.
        heads_key: Likewise, with which it countersigns heads of ledgers.
        ledger_head: The newest one of this site, where it was restored from a backup.
    """
    bare = Kit(
        site=request.name,
        identity_public_key=request.identity_public_key,
        hub_address=hub_address,
        hub_certificate=hub_certificate,
        hub_public_key=public_text(hub_key.public_key()),
        model_public_key=model_key,
        heads_public_key=heads_key,
        ledger_head=ledger_head,
        issued=now,
        expires=now + datetime.timedelta(days=days),
    )
    return bare.model_copy(update={"signature": _base64(hub_key.sign(bare.signed_bytes()))})


def read_kit(
    content: bytes, identity: Ed25519PublicKey, now: datetime.datetime, *, pinned_hub_key: str | None = None
) -> Kit:
    """Read a kit and verify its signature, its time and that it was made for this site.

    Args:
        content: Of the file.
        identity: This site's identity.
        now: The site's clock.
        pinned_hub_key: The hub's key from an earlier kit (base64), once there was one.

    Raises:
        EnrolmentError: For anything else.
    """
    kit = _parse(content, Kit, "kit", "ask the hub to run `archipel hub enrol` again")
    try:
        _key_of(kit.hub_public_key).verify(_bytes_of(kit.signature), kit.signed_bytes())
        x509.load_pem_x509_certificate(kit.hub_certificate.encode("ascii"))
    except (InvalidSignature, ValueError, UnsupportedAlgorithm):
        raise EnrolmentError(
            "The kit is not signed by the hub's key in it: it was damaged or changed on the way. "
            "Ask the hub to send it again, by another way if you can."
        ) from None
    if kit.identity_public_key != public_text(identity):
        raise EnrolmentError(
            f"The kit was made for another request (site {kit.site}): send this site's request.json to the hub, "
            "and use the kit that it answers with."
        )
    if pinned_hub_key is not None and pinned_hub_key != kit.hub_public_key:
        raise EnrolmentError(
            "The kit is signed by another hub than the one this site joined. If the hub was really replaced, "
            "make a new site folder with `archipel site init`."
        )
    if now > kit.expires:
        raise EnrolmentError(
            f"The kit expired on {kit.expires:%Y-%m-%d}: ask the hub for a new one (`archipel hub enrol`)."
        )
    if now < kit.issued - _CLOCK_SKEW:
        raise EnrolmentError("The kit was issued in the future: set this machine's clock, then join again.")
    return kit


def fingerprint(public_key: str) -> str:
    """Return a key (base64 of 32 bytes) as 128 bits that two people can compare on the phone."""
    digest = hashlib.sha256(b"archipel identity\n" + _bytes_of(public_key)).hexdigest()[:32]
    return " ".join(digest[i : i + 4] for i in range(0, 32, 4))


_D = TypeVar("_D", bound=_Document)


def _parse(content: bytes, kind: type[_D], what: str, remedy: str) -> _D:
    if len(content) > MAX_BYTES:
        raise EnrolmentError(f"The file is too long for a {what} ({MAX_BYTES >> 10} KiB at most): {remedy}.")
    try:
        return kind.model_validate_json(content, strict=False)
    except ValidationError as error:
        # Names of our own fields only: what a stranger wrote is not repeated in a log.
        places = sorted({str(entry["loc"][0]) for entry in error.errors() if entry["loc"]} & set(kind.model_fields))
        listed = f" (wrong or missing: {', '.join(places)})" if places else ""
        raise EnrolmentError(f"The file is not a {what} of version 1{listed}: {remedy}.") from None


def _node_key_of(text: str) -> ec.EllipticCurvePublicKey:
    data = text.strip().encode("ascii")
    key = load_pem_public_key(data) if data.startswith(b"-----") else load_ssh_public_key(data)
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ValueError("not an elliptic curve key")
    return key


def _key_of(text: str) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(_bytes_of(text))


def public_text(key: Ed25519PublicKey) -> str:
    """Return a public identity as its 32 bytes in base64."""
    return _base64(key.public_bytes(Encoding.Raw, PublicFormat.Raw))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _bytes_of(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("not base64") from None
