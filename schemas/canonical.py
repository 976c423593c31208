"""One way to write a value as bytes, so that the hub and every site compute the same hash of it.

JSON with sorted keys, no spaces, UTF-8, shortest round-trip numbers; NaN and infinities are refused because
JSON has no word for them and readers disagree about what they invent instead.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Protocol, Self, TypeVar

from pydantic import ValidationError

from schemas.errors import MessageError


class _Document(Protocol):
    """What is sent and hashed as one canonical text, `content`."""

    @classmethod
    def model_validate_json(cls, json_data: bytes) -> Self: ...

    @property
    def content(self) -> bytes: ...


_D = TypeVar("_D", bound=_Document)


def canonical_json(value: Any) -> bytes:
    """Return `value` (JSON types only) as its one canonical byte string.

    Raises:
        ValueError: For NaN or an infinity.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def sha256_hex(data: bytes) -> str:
    """Return the SHA-256 of `data` as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def read_canonical(kind: type[_D], content: bytes, name: str, spoken: str) -> _D:
    """Parse the bytes of a document that has one canonical text: two texts of one document would have two hashes.

    Args:
        kind: Of the document.
        content: Hostile until read.
        name: For the reader of the error, with its article: ``an approval``.
        spoken: The same without: ``approval``.

    Raises:
        MessageError: When they are none, or not in canonical form.
    """
    try:
        document = kind.model_validate_json(content)
    except (ValidationError, RecursionError):
        raise MessageError(f"not {name} of version 1") from None
    if document.content != content:
        raise MessageError(f"the {spoken} is not in canonical form")
    return document
