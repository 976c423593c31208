"""A folder's list of files, signed with the release key: writing it, verifying it, and the key itself.

`verify` needs the folder and a public key only; without this program, two commands say the same:

    openssl pkeyutl -verify -pubin -inkey release.pub -rawin -in wheelhouse.json -sigfile wheelhouse.json.sig
    sha256sum *                             beside the hashes of the list
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from packaging.utils import parse_wheel_filename

__all__ = [
    "LIST", "SIGNATURE", "WheelhouseError", "fingerprint", "public_pem", "read_public_key", "release_key", "sha256",
    "verify", "write_list",
]  # fmt: skip

LIST, SIGNATURE = "wheelhouse.json", "wheelhouse.json.sig"


class WheelhouseError(Exception):
    """Why there is no wheelhouse, or why the one at hand must not be used."""


def write_list(folder: Path, facts: Mapping[str, Any], key: Ed25519PrivateKey) -> None:
    """Write the list of every file that is in a folder now, and its signature (Ed25519, 64 bytes)."""
    files = [_entry(path) for path in sorted(folder.iterdir())]
    content = (json.dumps({"kind": "wheelhouse", "version": 1, **facts, "files": files}, indent=1) + "\n").encode()
    (folder / LIST).write_bytes(content)
    (folder / SIGNATURE).write_bytes(key.sign(content))


def _entry(path: Path) -> dict[str, Any]:
    name, version = path.name, None
    if path.suffix == ".whl":
        parsed = parse_wheel_filename(path.name)
        name, version = str(parsed[0]), str(parsed[1])
    size = path.stat().st_size
    return {"name": name, "version": version, "file": path.name, "size_bytes": size, "sha256": sha256(path)}


def verify(folder: Path, public_key: Ed25519PublicKey) -> dict[str, Any]:
    """Hold a role's folder against its signed list, and return the list.

    Raises:
        WheelhouseError: When the signature is not this key's, or naming every file that is missing, extra or changed.
    """
    content, signature = _read(folder / LIST), _read(folder / SIGNATURE)
    try:
        public_key.verify(signature, content)
    except InvalidSignature:
        raise WheelhouseError(
            f"{folder / LIST} is not signed by this key: the list was changed, or another key signed it. "
            "Compare the key's fingerprint with the one that the release names."
        ) from None
    listed = json.loads(content)
    if listed.get("kind") != "wheelhouse" or listed.get("version") != 1:
        raise WheelhouseError(f"{folder / LIST} is not a list of version 1.")
    wanted = {entry["file"]: entry["sha256"] for entry in listed["files"]}
    there = {path.name for path in folder.iterdir()} - {LIST, SIGNATURE}
    faults = [f"missing: {name}" for name in sorted(set(wanted) - there)]
    faults += [f"extra: {name}" for name in sorted(there - set(wanted))]
    faults += [f"changed: {name}" for name in sorted(there & set(wanted)) if sha256(folder / name) != wanted[name]]
    if faults:
        raise WheelhouseError("\n  ".join([f"{folder} is not what was signed:", *faults]))
    return dict(listed)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise WheelhouseError(f"{path} cannot be read ({error.strerror}).") from None


# ---------------------------------------------------------------- the release key
def release_key(path: Path) -> Ed25519PrivateKey:
    """Return the release key, made on first use, readable by its owner alone.

    Raises:
        WheelhouseError: When the file is no such key or others can read it.
    """
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = Ed25519PrivateKey.generate()
        content = fresh.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
    if path.stat().st_mode & 0o077:
        raise WheelhouseError(f"The release key can be read by others: chmod 600 {path}")
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except ValueError:
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise WheelhouseError(f"{path} is no Ed25519 key (PEM).")
    return key


def public_pem(key: Ed25519PublicKey) -> bytes:
    """Return a public key as a PEM file."""
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def read_public_key(path: Path) -> Ed25519PublicKey:
    """Return a public release key.

    Raises:
        WheelhouseError: When the file holds none.
    """
    try:
        key = load_pem_public_key(_read(path))
    except ValueError:
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise WheelhouseError(f"{path} is no public Ed25519 key (PEM).")
    return key


def fingerprint(key: Ed25519PublicKey) -> str:
    """Return the SHA-256 of the key's PEM file, as `sha256sum` prints it."""
    return hashlib.sha256(public_pem(key)).hexdigest()
