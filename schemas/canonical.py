"""One way to write a value as bytes, so that the hub and every site compute the same hash of it.

JSON with sorted keys, no spaces, UTF-8, shortest round-trip numbers; NaN and infinities are refused because
JSON has no word for them and readers disagree about what they invent instead.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any


def canonical_json(value: Any) -> bytes:
    """Return `value` (JSON types only) as its one canonical byte string.

    Raises:
        ValueError: For NaN or an infinity.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def sha256_hex(data: bytes) -> str:
    """Return the SHA-256 of `data` as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()
