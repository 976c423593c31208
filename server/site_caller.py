"""Who makes one of the calls that sites sign themselves: for models, and for the heads of their ledgers.

The fleet calls are authenticated by Flower. These are ours: a site signs path, time and body with the node key that
it enrolled with (`schemas.model_call`). Pure but for the file of enrolled sites.
"""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from schemas.model_call import KEY_HEADER, SIGNATURE_HEADER, SIGNED_AT_HEADER, WINDOW_S, signed_content
from server.enrolled import node_key
from server.hub_home import HubSettings, read_sites

__all__ = ["CallAnswer", "SiteCaller"]

_LONGEST_HEADER = 4000


@dataclass(frozen=True)
class CallAnswer:
    """What is sent back; `reason` is one of the words of `client.hub_check.REASONS`, or ""."""

    status: HTTPStatus
    body: bytes = b""
    reason: str = ""


class SiteCaller:
    """Tells which enrolled site has signed a call.

    Args:
        settings: Of the hub.
        clock: Seconds since 1970.
    """

    def __init__(self, settings: HubSettings, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._clock = clock

    def of(self, path: str, headers: Mapping[str, str], body: bytes) -> tuple[str | None, str]:
        """Return the enrolled site that signed this call, or why there is none."""
        given = [headers.get(name, "") for name in (KEY_HEADER, SIGNED_AT_HEADER, SIGNATURE_HEADER)]
        if any(not 0 < len(value) <= _LONGEST_HEADER for value in given):
            return None, "malformed"
        try:
            pem, signature = (base64.b64decode(value, validate=True) for value in (given[0], given[2]))
            age_s = self._clock() - int(given[1])
        except (ValueError, binascii.Error):
            return None, "malformed"
        site = next((name for name, known in self._keys().items() if known == pem), None)
        if site is None:
            return None, "not-enrolled"
        if not _is_signed(pem, signature, signed_content(path, given[1], body)):
            return None, "connection-unknown"
        # Only now: who holds no key learns nothing about the hub's clock.
        return (site, "") if abs(age_s) <= WINDOW_S else (None, "clock")

    def _keys(self) -> dict[str, bytes]:
        """Return the enrolled sites' node keys, read anew: a revoked site is refused at its next call."""
        texts = read_sites(self._settings)
        return {name: key for name, text in texts.items() if (key := node_key(name, text)) is not None}


def _is_signed(pem: bytes, signature: bytes, content: bytes) -> bool:
    try:
        key = load_pem_public_key(pem)
        if not isinstance(key, ec.EllipticCurvePublicKey):
            return False
        key.verify(signature, content, ec.ECDSA(hashes.SHA384()))
    except (InvalidSignature, ValueError, UnsupportedAlgorithm):
        return False
    return True
