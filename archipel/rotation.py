"""New keys for a site that is well: made aside, used from the moment at which the hub's new kit is joined.

site/keys/next/node.key, identity.key   the new ones, while the old ones are still in use

The request names the former identity and is signed by it too, so the hub may put the new entry in the place of the
old one without a further word, and the line of countersigned heads goes on (`server.heads`). Between `hub enrol` and
`site join` the hub refuses the old key and the new one is not in use: the site is cut off for that time, and a run
waits for it.
"""

from __future__ import annotations

import datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from archipel.enrol import JoinRequest, fingerprint, make_request, public_text
from archipel.identities import IDENTITY, load_key
from client.settings import load_settings
from client.site_process import create_node_key
from client.state import SitePaths
from models.compile import CODE_VERSION
from privacy.ledger import Event, Ledger
from privacy.storage import sync_folder, write_durably
from schemas.errors import Fault, FaultsError

__all__ = ["next_identity", "rotate_site", "take_next_keys"]

_NEXT = "next"


def rotate_site(home: Path, request_file: Path, now: datetime.datetime, *, who: str) -> JoinRequest:
    """Make new keys for a site and the request for the hub; asked again before it joined, the same keys.

    Args:
        home: The site's folder.
        request_file: Where the request is written.
        now: Time of the request.
        who: The person; stands in the ledger.

    Raises:
        FaultsError: When the site's folder is not in order.
        StorageError, LedgerBrokenError: When something cannot be written.
    """
    settings = load_settings(home)
    former = load_key(home, IDENTITY)
    identity = load_key(home, f"{_NEXT}/{IDENTITY}", create=True)
    create_node_key(home, folder=home / "keys" / _NEXT)
    node = load_pem_private_key((home / "keys" / _NEXT / "node.key").read_bytes(), None)
    if not isinstance(node, ec.EllipticCurvePrivateKey):
        fault = Fault(f"keys/{_NEXT}/node.key", "is not an elliptic curve key", f"remove keys/{_NEXT}, then rotate")
        raise FaultsError(str(home), [fault])
    request = make_request(settings.name, settings.title, node, identity, now, previous=former)
    rule = f"new keys made, fingerprint {fingerprint(request.identity_public_key)}; in use once the new kit is joined"
    Ledger(SitePaths(home).ledger).append(Event("rotation", rule=rule, who=who, code_version=CODE_VERSION))
    write_durably(request_file, request.to_json().encode())
    return request


def next_identity(home: Path) -> Ed25519PrivateKey | None:
    """Return the identity that waits for its kit, or None."""
    waits = (home / "keys" / _NEXT / IDENTITY).exists()
    return load_key(home, f"{_NEXT}/{IDENTITY}") if waits else None


def take_next_keys(home: Path, joined: str) -> bool:
    """Put the new keys in the place of the old ones, if the kit was made for them; return whether it was.

    Args:
        home: The site's folder.
        joined: Public identity (base64) that the accepted kit names.

    Raises:
        OSError: When a file cannot be moved; joining again goes on from there.
    """
    identity = next_identity(home)
    if identity is None or public_text(identity.public_key()) != joined:
        return False
    aside = home / "keys" / _NEXT
    for name in ("node.key", "node.pub", IDENTITY):  # the identity last: while it waits, joining again is possible
        if (aside / name).exists():
            (aside / name).replace(home / "keys" / name)
    sync_folder(home / "keys")
    aside.rmdir()
    rule = f"new keys in use, fingerprint {fingerprint(joined)}"
    Ledger(SitePaths(home).ledger).append(Event("rotation", rule=rule, code_version=CODE_VERSION))
    return True
