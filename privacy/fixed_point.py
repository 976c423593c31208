"""Numbers as integers modulo 2^64, where a sum is exact and a mask hides everything.

A float64 x within the bound b that the plan states for its array becomes the integer nearest to x 2^k (two's
complement). k is the largest for which the sum over all n sites cannot wrap,

    n (b 2^k + 1/2) <= 2^63 - 1,

so it follows from the plan and the number of sites alone, and both sides compute the same. A bound so wide that the
resolution 2^-k would be coarser than 2^-36 gets a second word (and so on): the remainder x - round(x 2^k) 2^-k, which
is exact in float64, is encoded in its own word with the bound 2^-k / 2. Whoever states a tight bound sends half as
much.

Errors of a decoded sum: at most n/2 of the last word's 2^-k from rounding, and two roundings of float64.
A value beyond its bound, a NaN or an infinity is refused, never wrapped or clipped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from schemas.errors import ArchipelError
from schemas.plan import ArraySpec

__all__ = [
    "COARSEST_EXPONENT",
    "EncodingRefusedError",
    "NotFiniteError",
    "OutOfBoundError",
    "Scale",
    "WrongFormError",
    "decode_arrays",
    "encode_arrays",
    "scale_of",
    "vector_length",
]

COARSEST_EXPONENT = 36
"""A sum over 30 sites is then off by at most 15 x 2^-36 = 2.2e-10 (wider bounds take more words, not more error)."""

_FINEST_EXPONENT = 1000  # 2^k stays a normal float64; a bound below 1e-280 gains nothing from more
_LARGEST_SUM = 2**63 - 1
_U64 = np.dtype("<u8")


class EncodingRefusedError(ArchipelError):
    """Numbers that cannot be summed as the plan says."""


class NotFiniteError(EncodingRefusedError):
    """A NaN or an infinity."""


class OutOfBoundError(EncodingRefusedError):
    """A value beyond the bound that the plan states for its array."""


class WrongFormError(EncodingRefusedError):
    """Other arrays, shapes or types than the plan's; or a vector of another length."""


@dataclass(frozen=True)
class Scale:
    """How one array's numbers become words.

    Attributes:
        exponents: k of each word, the coarsest first.
    """

    exponents: tuple[int, ...]

    @property
    def n_words(self) -> int:
        """Words a number takes."""
        return len(self.exponents)

    @property
    def resolution(self) -> float:
        """Distance of two neighbouring numbers."""
        return 2.0 ** -self.exponents[-1]

    def sum_error(self, n_sites: int) -> float:
        """Return the largest error that rounding leaves in a sum over `n_sites`."""
        return n_sites / 2 * self.resolution


def scale_of(bound: float, n_sites: int) -> Scale:
    """Return the scale of an array whose elements lie within +-`bound`, for a sum over `n_sites`.

    Raises:
        ValueError: For a bound that is not positive and finite, or no site.
    """
    if not (math.isfinite(bound) and bound > 0) or n_sites < 1:
        raise ValueError("a scale needs a positive bound and at least one site")
    exponents: list[int] = []
    rest = Fraction(bound)
    while not exponents or exponents[-1] < COARSEST_EXPONENT:
        exponents.append(_exponent(rest, n_sites))
        rest = Fraction(1, 2) / Fraction(2) ** exponents[-1]
    return Scale(tuple(exponents))


def _exponent(bound: Fraction, n_sites: int) -> int:
    """Return the largest k with n (bound 2^k + 1/2) <= 2^63 - 1, in integers."""
    most = (Fraction(_LARGEST_SUM, n_sites) - Fraction(1, 2)) / bound
    k = most.numerator.bit_length() - most.denominator.bit_length()
    return min(k if Fraction(2) ** k <= most else k - 1, _FINEST_EXPONENT)


def vector_length(specs: Sequence[ArraySpec], n_sites: int) -> int:
    """Return how many words the arrays of `specs` take together."""
    return sum(spec.size * scale_of(spec.bound, n_sites).n_words for spec in specs)


def encode_arrays(
    arrays: Mapping[str, NDArray[np.float64]], specs: Sequence[ArraySpec], n_sites: int
) -> NDArray[np.uint64]:
    """Return the arrays as one vector of words: in the order of `specs`, each word of an array after the other.

    Args:
        arrays: Exactly those of `specs`.
        specs: Of the plan.
        n_sites: Sites of the run, whether or not all of them will be in the sum.

    Returns:
        (vector_length(specs, n_sites),) uint64.

    Raises:
        NotFiniteError: For a NaN or an infinity.
        OutOfBoundError: For a value beyond its bound.
        WrongFormError: For other arrays, shapes or types than the plan's.
    """
    if set(arrays) != {spec.name for spec in specs} or len(specs) != len(arrays):
        raise WrongFormError("the arrays to be summed are not those of the plan")
    words = [_encode(np.asarray(arrays[spec.name]), spec, scale_of(spec.bound, n_sites)) for spec in specs]
    return np.concatenate([np.empty(0, dtype=_U64), *words])


def _encode(array: NDArray[np.float64], spec: ArraySpec, scale: Scale) -> NDArray[np.uint64]:
    if array.dtype != np.float64 or array.shape != spec.shape:
        raise WrongFormError(f"array {spec.name} is not float64 of the plan's shape")
    if not np.isfinite(array).all():
        raise NotFiniteError(f"array {spec.name} holds a value that is not a finite number")
    if (np.abs(array) > spec.bound).any():
        raise OutOfBoundError(f"array {spec.name} holds a value beyond the plan's bound: nothing was sent")
    rest = array.ravel()
    words = np.empty((scale.n_words, rest.size), dtype=np.int64)
    for word, k in zip(words, scale.exponents, strict=True):
        rounded = np.rint(rest * 2.0**k)
        word[...] = rounded  # at most 2^62 in absolute value for two sites and more: exact
        rest = rest - rounded * 2.0**-k
    return words.ravel().view(np.uint64).astype(_U64, copy=False)


def decode_arrays(
    total: NDArray[np.uint64], specs: Sequence[ArraySpec], n_sites: int
) -> dict[str, NDArray[np.float64]]:
    """Return the sum's arrays from the sum of the sites' vectors, modulo 2^64.

    Args:
        total: Sum of what `encode_arrays` returned, over at most `n_sites` sites.
        specs: As at encoding.
        n_sites: As at encoding.

    Raises:
        WrongFormError: When the vector has not the length of these arrays.
    """
    if total.dtype != np.uint64 or total.shape != (vector_length(specs, n_sites),):
        raise WrongFormError("the sum has not the length of the plan's arrays")
    arrays: dict[str, NDArray[np.float64]] = {}
    start = 0
    for spec in specs:
        scale = scale_of(spec.bound, n_sites)
        end = start + spec.size * scale.n_words
        words = total[start:end].astype(np.uint64, copy=False).view(np.int64).reshape(scale.n_words, spec.size)
        value = np.zeros(spec.size)
        for word, k in zip(words[::-1], scale.exponents[::-1], strict=True):  # the finest first
            value += word.astype(np.float64) * 2.0**-k
        arrays[spec.name] = value.reshape(spec.shape)
        start = end
    return arrays
