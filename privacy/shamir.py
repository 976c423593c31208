"""Sharing secrets so that any `threshold` of the shares give them back and fewer say nothing.

A. Shamir, "How to share a secret", CACM 22 (1979): a polynomial of degree threshold - 1 whose value at 0 is the
secret, of which site i receives the value at i. Over GF(2^8) (the field of AES, x^8 + x^4 + x^3 + x + 1), each byte
on its own polynomial, as in SLIP-39 and HashiCorp Vault; all bytes at once in numpy, because a run shares out every
round's secrets at set-up (docs/adr/0010).

Shares carry no checksum: whoever rebuilds a secret compares it with what its owner committed to
(`privacy.secure_total`). Table look-ups depend on secret bytes; another process on a site's machine that could time
them could as well read its memory, which is out of scope.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["MAX_SHARES", "Bytes", "combine", "split"]

Bytes = NDArray[np.uint8]
MAX_SHARES = 255
_POLYNOMIAL = 0x11B
_ORDER = 255  # of the multiplicative group; 3 generates it


def _tables() -> tuple[NDArray[np.int64], NDArray[np.int64], Bytes]:
    """Return 3^i for i < 255, the logarithm to base 3 (of 0: unused), and the product of any two bytes."""
    powers = np.zeros(_ORDER, dtype=np.int64)
    logs = np.zeros(256, dtype=np.int64)
    value = 1
    for i in range(_ORDER):
        powers[i] = value
        logs[value] = i
        value ^= value << 1  # times 3
        if value > 0xFF:
            value ^= _POLYNOMIAL
    products = powers[(logs[:, None] + logs[None, :]) % _ORDER].astype(np.uint8)
    products[0, :] = 0
    products[:, 0] = 0
    return powers, logs, products


_POWERS, _LOGS, _PRODUCTS = _tables()


def split(secrets: Bytes, n_shares: int, threshold: int) -> Bytes:
    """Return shares of every byte of `secrets`.

    Args:
        secrets: Of any shape.
        n_shares: How many; share i (from 0) is the value at i + 1.
        threshold: How many give the secrets back.

    Returns:
        (n_shares, *secrets.shape).

    Raises:
        ValueError: When 1 <= threshold <= n_shares <= 255 does not hold.
    """
    if not 1 <= threshold <= n_shares <= MAX_SHARES:
        raise ValueError(f"cannot share {threshold} of {n_shares}")
    # Uniform, zero included in the highest too: forbidding it would tell something.
    coefficients = np.frombuffer(os.urandom((threshold - 1) * secrets.size), dtype=np.uint8)
    coefficients = coefficients.reshape(threshold - 1, *secrets.shape)
    shares = np.zeros((n_shares, *secrets.shape), dtype=np.uint8)
    for i in range(n_shares):
        times_x = _PRODUCTS[i + 1]
        value = shares[i]
        for coefficient in coefficients:  # Horner, from the highest
            value[...] = times_x[value ^ coefficient]
        value ^= secrets
    return shares


def combine(points: Sequence[int], shares: Bytes, at: int = 0) -> Bytes:
    """Return the polynomial's value `at` a point, from its values at others (Lagrange).

    Args:
        points: Where the shares were taken: i + 1 for share i. As many as the threshold, or more; all are used.
        shares: (len(points), ...).
        at: 0 for the secrets; another point for the share that belongs there.

    Returns:
        Of the shape of one share. With fewer shares than the threshold: noise.

    Raises:
        ValueError: When a point stands twice or is none, or the shares do not match the points.
    """
    if len(set(points)) != len(points) or not points or not all(1 <= point <= MAX_SHARES for point in points):
        raise ValueError("the points of the shares are not distinct numbers from 1 to 255")
    if len(shares) != len(points) or not 0 <= at <= MAX_SHARES:
        raise ValueError("there is not one share for each point")
    value = np.zeros(shares.shape[1:], dtype=np.uint8)
    for point, share in zip(points, shares, strict=True):
        value ^= _PRODUCTS[_weight(points, point, at)][share]
    return value


def _weight(points: Sequence[int], point: int, at: int) -> int:
    """Return the Lagrange weight of `point`: the product of (at - x) / (point - x) over the others; minus is xor."""
    others = [other for other in points if other != point]
    if at in others:
        return 0
    exponent = sum(int(_LOGS[at ^ other]) - int(_LOGS[point ^ other]) for other in others)
    return int(_POWERS[exponent % _ORDER])
