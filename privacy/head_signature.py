"""The two signatures under a ledger's head, and that a head never goes back. Pure.

The site signs with its identity (Ed25519, RFC 8032), the hub with a key of its own for heads: the process that faces
the network holds it, so it is none of those that sign kits or models. Its public half comes in the kit.
"""

from __future__ import annotations

import base64
import binascii
import datetime
from typing import Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from schemas.errors import ArchipelError
from schemas.ledger_head import CountersignedHead, LedgerHead

__all__ = [
    "HeadSignatureError", "countersign", "judge_step", "public_text", "sign_head", "verify_countersigned",
    "verify_head",
]  # fmt: skip


class HeadSignatureError(ArchipelError):
    """A head without the signature that it claims."""


def public_text(key: Ed25519PrivateKey) -> str:
    """Return the public half of a key as its 32 bytes in base64."""
    return _base64(key.public_key().public_bytes_raw())


def sign_head(head: LedgerHead, key: Ed25519PrivateKey) -> LedgerHead:
    """Return a site's head, signed; `head.signed_by` names the key."""
    return head.model_copy(update={"signature": _base64(key.sign(head.signed_bytes))})


def verify_head(head: LedgerHead, identity: str) -> None:
    """Verify that the site of this identity (base64 of 32 bytes) has signed a head.

    Raises:
        HeadSignatureError: When it has not.
    """
    if head.signed_by != identity or not _is_signed(identity, head.signature, head.signed_bytes):
        raise HeadSignatureError("The head of the ledger is not signed by this site's identity.")


def countersign(head: LedgerHead, key: Ed25519PrivateKey, now: datetime.datetime) -> CountersignedHead:
    """Return the hub's signature under a site's signed head."""
    bare = CountersignedHead(head=head, at=now, signed_by=public_text(key))
    return bare.model_copy(update={"signature": _base64(key.sign(bare.signed_bytes))})


def verify_countersigned(document: CountersignedHead, pinned: str) -> None:
    """Verify that the hub's key for heads, pinned at enrolment, has signed; the site's signature is `verify_head`'s.

    Raises:
        HeadSignatureError: When it has not.
    """
    if document.signed_by != pinned or not _is_signed(pinned, document.signature, document.signed_bytes):
        raise HeadSignatureError(
            "The head of the ledger is not countersigned by the hub's key that came with the kit: if the hub has a "
            "new key, join again with a new kit."
        )


def judge_step(known: LedgerHead | None, new: LedgerHead) -> Literal["on", "back", "fork"]:
    """Judge a site's head against the newest one that was countersigned: a ledger only grows.

    Two heads alone cannot show that the longer ledger continues the shorter one; the site shows that to itself
    (`privacy.ledger.verify_holds`), and whoever holds the ledger against the countersigned head.
    """
    if known is None or new.count > known.count:
        return "on"
    if new.count < known.count:
        return "back"
    return "on" if new.hash == known.hash else "fork"


def _is_signed(public: str, signature: str, content: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(base64.b64decode(public, validate=True)).verify(
            base64.b64decode(signature, validate=True), content
        )
    except (InvalidSignature, ValueError, binascii.Error):
        return False
    return True


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
