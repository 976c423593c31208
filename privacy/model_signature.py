"""The hub's signature on a model and on its list of models: what a site demands before it looks at either.

The hub makes an Ed25519 key for models of its own (`archipel hub init`), beside its identity, and the kit of each
site names it; so its public half is pinned at enrolment, where people compare the fingerprint of the key that signed
the kit. Pure: values in, a verdict out (RFC 8032 signatures by `cryptography`).
"""

from __future__ import annotations

import base64
import binascii

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from schemas.artefact import Artefact, read_artefact, with_hashes
from schemas.errors import ArchipelError
from schemas.model_list import ModelList, read_model_list

__all__ = [
    "SignatureError", "public_text", "read_signed_artefact", "read_signed_list", "sign_artefact", "sign_list",
    "verify_artefact",
]  # fmt: skip


class SignatureError(ArchipelError):
    """A model, or a list of models, that the pinned key has not signed."""


def public_text(key: Ed25519PrivateKey) -> str:
    """Return the public half of a key as its 32 bytes in base64."""
    return _base64(key.public_key().public_bytes_raw())


def sign_artefact(artefact: Artefact, key: Ed25519PrivateKey) -> Artefact:
    """Return the artefact, complete and signed."""
    complete = with_hashes(artefact)
    bare = complete.manifest.model_copy(update={"signed_by": public_text(key), "signature": None})
    signature = _base64(key.sign(bare.signed_bytes))
    return Artefact(bare.model_copy(update={"signature": signature}), complete.arrays)


def verify_artefact(artefact: Artefact, pinned: str) -> None:
    """Verify that the hub whose model key was pinned at enrolment has signed this artefact.

    Args:
        artefact: As `read_artefact` gave it, which has held the arrays to the manifest's hashes.
        pinned: Public key (base64 of 32 bytes).

    Raises:
        SignatureError: When it is unsigned, or by another key, or altered.
    """
    manifest = artefact.manifest
    if artefact.written_as != 2 or manifest.signature is None or manifest.signed_by is None:
        raise SignatureError("the model is not signed: a site takes signed models alone; ask the hub to release it")
    if manifest.signed_by != pinned:
        raise SignatureError(
            "the model is signed by another key than the one pinned at this site's enrolment: if the hub has a new "
            "key, join again with a new kit"
        )
    _verify(pinned, manifest.signature, manifest.signed_bytes, "the model")


def read_signed_artefact(data: bytes, pinned: str) -> Artefact:
    """Read a model and verify its signature.

    Raises:
        MessageError, IncompatibleVersionError: For anything that is no artefact, or altered.
        SignatureError: When the pinned key has not signed it.
    """
    artefact = read_artefact(data)
    verify_artefact(artefact, pinned)
    return artefact


def sign_list(models: ModelList, key: Ed25519PrivateKey) -> ModelList:
    """Return the list, signed."""
    return models.model_copy(update={"signature": _base64(key.sign(models.signed_bytes))})


def read_signed_list(data: bytes, pinned: str) -> ModelList:
    """Read the hub's list of models and verify its signature.

    Raises:
        MessageError: For anything that is no such list.
        SignatureError: When the pinned key has not signed it.
    """
    models = read_model_list(data)
    if models.signed_by != pinned:
        raise SignatureError(
            "the list of models is signed by another key than the one pinned at this site's enrolment: if the hub "
            "has a new key, join again with a new kit"
        )
    _verify(pinned, models.signature, models.signed_bytes, "the list of models")
    return models


def _verify(public: str, signature: str, content: bytes, what: str) -> None:
    try:
        key = Ed25519PublicKey.from_public_bytes(_bytes_of(public))
        key.verify(_bytes_of(signature), content)
    except (InvalidSignature, ValueError, binascii.Error):
        raise SignatureError(
            f"{what} is not signed by the hub's model key: it was altered on the way, or comes from somebody else; "
            "nothing of it is used. Tell the hub's administrator."
        ) from None


def _bytes_of(text: str) -> bytes:
    """Return the bytes of base64 in its one spelling: the last letter of 64 bytes has four bits that say nothing."""
    data = base64.b64decode(text, validate=True)
    if _base64(data) != text:
        raise ValueError("another spelling")
    return data


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
