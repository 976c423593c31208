"""A stream of bytes under a passphrase: scrypt (RFC 7914) for the key, AES-256-GCM in chunks for the rest.

The chunks follow STREAM (Hoang, Reyhanitabar, Rogaway & Vizár, *Online Authenticated-Encryption and its Nonce-Reuse
Misuse-Resistance*, CRYPTO 2015): the nonce holds the chunk's number and whether it is the last, so that none can be
changed, dropped, doubled, moved or cut off unseen. The salt is random and hence the key, so no nonce comes twice.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from schemas.errors import ArchipelError

__all__ = ["MAGIC", "SHORTEST", "SealError", "seal", "unseal"]

MAGIC = b"archipel sealed backup 1\n"
SHORTEST = 12
"""Characters of a passphrase, at least."""

_CHUNK, _TAG, _SALT = 1 << 20, 16, 32
_LOG_N = 17  # 128 MiB and some tenths of a second for each guess
_MOST_CHUNKS = 1 << 32


class SealError(ArchipelError):
    """A passphrase that does not open a file, or is too short to seal one."""


def seal(blocks: Iterable[bytes], passphrase: str) -> Iterator[bytes]:
    """Yield a stream under a passphrase.

    Raises:
        SealError: When the passphrase is too short.
    """
    if len(passphrase) < SHORTEST:
        raise SealError(f"The passphrase is shorter than {SHORTEST} characters.")
    header = MAGIC + secrets.token_bytes(_SALT)
    cipher = AESGCM(_key(passphrase, header))
    yield header
    waiting, number = bytearray(), 0
    for block in blocks:
        waiting += block
        while len(waiting) > _CHUNK:  # one chunk is kept back: it may be the last
            yield cipher.encrypt(_nonce(number, is_last=False), bytes(waiting[:_CHUNK]), header)
            del waiting[:_CHUNK]
            number += 1
    yield cipher.encrypt(_nonce(number, is_last=True), bytes(waiting), header)


def unseal(file: BinaryIO, passphrase: str) -> Iterator[bytes]:
    """Yield what was sealed, each chunk verified before it is given.

    Raises:
        SealError: For another passphrase, and at the first chunk that was changed or is missing.
    """
    header = file.read(len(MAGIC) + _SALT)
    cipher = AESGCM(_key(passphrase, header))
    chunk, number = file.read(_CHUNK + _TAG), 0
    while True:
        following = file.read(_CHUNK + _TAG)
        try:
            yield cipher.decrypt(_nonce(number, is_last=not following), chunk, header)
        except (InvalidTag, ValueError):
            what = "The passphrase is another one, or the file was changed" if number == 0 else "The file was changed"
            raise SealError(f"{what} (in its part {number + 1}).") from None
        if not following:
            return
        chunk, number = following, number + 1


def _key(passphrase: str, header: bytes) -> bytes:
    return Scrypt(salt=header[len(MAGIC) :], length=32, n=1 << _LOG_N, r=8, p=1).derive(passphrase.encode())


def _nonce(number: int, *, is_last: bool) -> bytes:
    """Return the 96 bits of a chunk's nonce: 7 bytes 0, its number, and whether it is the last."""
    if number >= _MOST_CHUNKS:
        raise SealError("The stream is too long to be sealed.")
    return bytes(7) + struct.pack(">I", number) + bytes([is_last])
