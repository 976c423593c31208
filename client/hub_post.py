"""One call of this site to its hub: an HTTPS request to the port and authority that the site joined with, signed.

`schemas.model_call` says how a call is signed. What comes back is hostile until somebody has judged it; it is read up
to a limit and never further.
"""

from __future__ import annotations

import base64
import http.client
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from client.hub_check import REASONS, clock_offset_s, clock_sentence, split_address
from client.proxy import ProxyError, hub_connection
from client.settings import load_settings
from schemas.errors import ArchipelError
from schemas.headers import REASON_HEADER, TIME_HEADER
from schemas.model_call import KEY_HEADER, SIGNATURE_HEADER, SIGNED_AT_HEADER, signed_content

__all__ = ["Answered", "HubCallError", "Post", "hub_post", "node_key", "signed_headers"]

_TIMEOUT_S = 30.0


class HubCallError(ArchipelError):
    """A call that could not be made, with what to do."""


@dataclass(frozen=True)
class Answered:
    """What the hub sent back.

    Attributes:
        status: Of HTTP.
        content: Up to one byte beyond the limit.
        sentence: Why a status other than 200 came, and what to do; empty for 200.
    """

    status: int
    content: bytes
    sentence: str = ""


Post = Callable[[str, bytes, int], Answered]
"""(path, body, most bytes to read) -> what the hub sent back; `HubCallError` where it does not answer."""


def hub_post(home: Path) -> Post:
    """Return what makes one call to this site's hub.

    Raises:
        HubCallError: When the site has not joined, or a key is missing.
    """
    settings = load_settings(home)
    host, port = split_address(settings.hub_address)
    key = node_key(home)
    try:
        context = ssl.create_default_context(cafile=str(home / "keys" / "hub-ca.crt"))
    except (OSError, ssl.SSLError):
        raise HubCallError("The site has not joined a hub yet: `archipel site join KIT.json`.") from None

    def call(path: str, body: bytes, limit: int) -> Answered:
        try:
            connection = hub_connection(host, port, context, _TIMEOUT_S)
        except ProxyError as error:
            raise HubCallError(str(error)) from None
        try:
            connection.request("POST", path, body, signed_headers(key, path, body, int(time.time())))
            response = connection.getresponse()
            content = response.read(limit + 1)
        except (OSError, http.client.HTTPException) as error:
            raise HubCallError(
                f"The hub does not answer at {settings.hub_address} ({type(error).__name__}): `archipel site status` "
                "says what is in the way."
            ) from None
        finally:
            connection.close()
        return Answered(response.status, content, _sentence(response))

    return call


def signed_headers(key: ec.EllipticCurvePrivateKey, path: str, body: bytes, at: int) -> dict[str, str]:
    """Return the headers by which the hub knows who calls."""
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    signature = key.sign(signed_content(path, str(at), body), ec.ECDSA(hashes.SHA384()))
    return {
        KEY_HEADER: base64.b64encode(pem).decode("ascii"),
        SIGNED_AT_HEADER: str(at),
        SIGNATURE_HEADER: base64.b64encode(signature).decode("ascii"),
        "content-length": str(len(body)),
    }


def node_key(home: Path) -> ec.EllipticCurvePrivateKey:
    """Return the key of this site's connection.

    Raises:
        HubCallError: When it is missing or damaged.
    """
    try:
        key = load_pem_private_key((home / "keys" / "node.key").read_bytes(), None)
    except (OSError, ValueError):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise HubCallError("keys/node.key is missing or damaged: run `archipel site init`, then enrol anew.")
    return key


def _sentence(response: http.client.HTTPResponse) -> str:
    if response.status == http.HTTPStatus.OK:
        return ""
    reason = response.getheader(REASON_HEADER) or ""
    if reason == "clock":
        return clock_sentence(clock_offset_s(response.getheader(TIME_HEADER)))
    return REASONS.get(reason, f"The hub refused the call (HTTP {response.status}).")
