"""How a site asks the hub for models: three calls on the hub's public port, each signed by the site's node key.

The transport of the rounds carries what the hub asks of a site; here the site asks. The calls go to the same port
over the same TLS, whose authority the site pinned when it joined, and a site is known by the same node key. The
signature covers path, time and body under a leading line of its own, so neither can be moved to another call, and
none of Flower's signatures (over a time alone) passes for one of these.
"""

from __future__ import annotations

import hashlib
import json
import re

__all__ = [
    "ARTEFACT_PATH", "CARD_PATH", "KEY_HEADER", "LIST_PATH", "MAX_CALL_BYTES", "PREFIX", "SIGNATURE_HEADER",
    "SIGNED_AT_HEADER", "WINDOW_S", "asked_model", "call_body", "signed_content",
]  # fmt: skip

PREFIX = "/v1/models/"
LIST_PATH = PREFIX + "list"
ARTEFACT_PATH = PREFIX + "artefact"
CARD_PATH = PREFIX + "card"

KEY_HEADER = "x-archipel-node-key"
"""Request: the site's public node key, base64 of its PEM."""

SIGNED_AT_HEADER = "x-archipel-signed-at"
"""Request: the site's clock in whole seconds since 1970."""

SIGNATURE_HEADER = "x-archipel-signature"
"""Request: base64 of the signature (ECDSA with SHA-384) over `signed_content`."""

WINDOW_S = 300
"""How far the two clocks may be apart."""

MAX_CALL_BYTES = 1000
_HASH = re.compile(r"[0-9a-f]{64}")


def signed_content(path: str, at: str, body: bytes) -> bytes:
    """Return what the signature of a call covers."""
    digest = hashlib.sha256(body).hexdigest()
    return f"archipel model call 1\n{path}\n{at}\n{digest}\n".encode()


def call_body(model: str | None = None) -> bytes:
    """Return the body of a call: nothing for the list, else which model is meant."""
    return b"" if model is None else json.dumps({"hash": model}).encode()


def asked_model(body: bytes) -> str | None:
    """Return the model's hash that a body names, or None where it names none."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return None
    found = content.get("hash") if isinstance(content, dict) and set(content) == {"hash"} else None
    return found if isinstance(found, str) and _HASH.fullmatch(found) else None
