"""The Ed25519 keys in a home's folder of keys: read, and made where there is none."""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from privacy.storage import write_durably
from schemas.errors import Fault, FaultsError

__all__ = ["IDENTITY", "load_key"]

IDENTITY = "identity.key"


def load_key(home: Path, name: str, *, create: bool = False) -> Ed25519PrivateKey:
    """Return the key in ``keys/NAME``.

    Args:
        home: Of a hub or a site.
        name: Of the file.
        create: Whether to make one where there is none.

    Raises:
        FaultsError: When it is missing, damaged, or can be read by others.
        StorageError: When it cannot be made.
    """
    path = home / "keys" / name
    if create and not path.exists():
        fresh = Ed25519PrivateKey.generate()
        write_durably(path, fresh.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    where = f"keys/{name}"
    try:
        if os.stat(path).st_mode & 0o077:
            raise FaultsError(str(home), [Fault(where, "can be read by other users", f"chmod 600 {path}")])
        key = load_pem_private_key(path.read_bytes(), None)
    except FileNotFoundError:
        remedy = "run `archipel site init` (at a hub: `archipel hub init`)"
        raise FaultsError(str(home), [Fault(where, "is missing", remedy)]) from None
    except ValueError:
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise FaultsError(str(home), [Fault(where, "is not an Ed25519 key", "restore it from backup")])
    return key
