"""Noise that is added to a summand before it leaves, drawn exactly and on a grid.

Differential privacy is a statement about probabilities, and floating-point Gaussians do not have those that the
theorem assumes: their lowest digits can give the true sum away (Mironov 2012, "On significance of the least
significant bits for differential privacy"). So a summand is first rounded to multiples of a unit, and what is added
is a whole number of units from the discrete Gaussian distribution, sampled with integers alone by the method of
Canonne, Kamath & Steinke (2020, "The discrete Gaussian for differential privacy", algorithms 1 to 3). The unit is a
power of two about 2^-23 of the noise, the same at all sites, so that sums, masks and float64 all hold the result
without rounding it again.

Randomness comes from the operating system. Tests and simulations pass their own source.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.plan import Noise, PartSpec

Arrays = Mapping[str, NDArray[np.float64]]
Ints = NDArray[np.int64]
Words = NDArray[np.uint64]
Source = Callable[[int], Words]
"""Returns so many independent, uniform 64-bit words."""

# Standard deviations up to this keep every product below in 64 bits.
MAX_STD_UNITS = 1 << 25
_STD_BITS = 23
# Smallest standard deviation of a site's noise in units of its grid.
MIN_STD_UNITS = 1 << _STD_BITS
# Beyond, a proposal is drawn again; its probability is below exp(-60).
_MOST_UNITS = 1 << 31
_EXACT_IN_FLOAT64 = 1 << 53


@dataclass(frozen=True)
class Grid:
    """How one site's noise is drawn.

    Attributes:
        unit: The summand is rounded to multiples of it; a power of two.
        std_units: Standard deviation of the site's noise in units.
    """

    unit: float
    std_units: int

    @property
    def std(self) -> float:
        """Standard deviation of the site's noise."""
        return self.unit * self.std_units


def system_words(n: int) -> Words:
    """Return n words of the operating system's randomness."""
    return np.frombuffer(os.urandom(8 * n), dtype=np.uint64)


def grid_of(noise: Noise, mu: float, n_numbers: int) -> Grid:
    """Return unit and noise of one release, the same at every site.

    Rounding lets one patient move each number by a unit more; so much, and as much again for the rounding of sums in
    float64, is added to the sensitivity.

    Args:
        noise: Of the part.
        mu: That the release may cost (`privacy.accountant.release_mu`).
        n_numbers: In all arrays of the part together.
    """
    per_site = 1 / (mu * math.sqrt(noise.honest_sites))
    unit = 2.0 ** (math.floor(math.log2(noise.sensitivity * per_site)) - _STD_BITS)
    sensitivity = noise.sensitivity + 2 * math.sqrt(n_numbers) * unit
    return Grid(unit, math.ceil(sensitivity * per_site / unit))


def noisy(arrays: Arrays, part: PartSpec, mu: float, source: Source = system_words) -> dict[str, NDArray[np.float64]]:
    """Return a site's summand with its noise: what may leave, or go under a mask.

    Args:
        arrays: The summand, checked by the gate: finite, of the part's shapes.
        part: Of the plan, with noise.
        mu: That the release may cost.
        source: Of randomness.

    Raises:
        ValueError: When the part has no noise, or a number is too large to be held beside it exactly.
    """
    if part.noise is None:
        raise ValueError(f"the plan adds no noise to {part.name}")
    sizes = [spec.size for spec in part.releases]
    grid = grid_of(part.noise, mu, sum(sizes))
    together = np.concatenate([np.ravel(arrays[spec.name]) for spec in part.releases])
    in_units = np.rint(together / grid.unit)
    if not np.all(np.abs(in_units) < _EXACT_IN_FLOAT64 // 2):
        raise ValueError("a number of the summand is too large for its noise")
    result = (in_units.astype(np.int64) + discrete_gaussian(grid.std_units, sum(sizes), source)) * grid.unit
    pieces = np.split(result, np.cumsum(sizes)[:-1])
    return {spec.name: piece.reshape(spec.shape) for spec, piece in zip(part.releases, pieces, strict=True)}


def discrete_gaussian(std: int, size: int, source: Source = system_words) -> Ints:
    """Draw from the discrete Gaussian: P(k) proportional to exp(-k^2 / 2 std^2), exactly.

    Canonne, Kamath & Steinke (2020), algorithm 3, with t = std: a two-sided geometric k of scale t is kept with
    probability exp(-(|k| - std^2 / t)^2 / 2 std^2), which for any t gives the distribution above.

    Args:
        std: From 1 to `MAX_STD_UNITS`. (Its variance is std^2 up to a relative 1e-6.)
        size: Of the result.
        source: Of randomness.
    """
    if not 1 <= std <= MAX_STD_UNITS:
        raise ValueError(f"the standard deviation must be 1 to {MAX_STD_UNITS} units")
    return _repeated(lambda n: _gaussian_attempt(std, n, source), size)


def _gaussian_attempt(std: int, n: int, source: Source) -> tuple[Ints, NDArray[np.bool_]]:
    proposed = _repeated(lambda m: _geometric_attempt(std, m, source), n)
    excess = np.abs(proposed) - std
    return proposed, _bernoulli_exp((excess * excess).astype(np.uint64), 2 * std * std, source)


def _geometric_attempt(scale: int, n: int, source: Source) -> tuple[Ints, NDArray[np.bool_]]:
    """Propose from P(k) proportional to exp(-|k| / scale); algorithm 2 with s = 1."""
    within = _below(np.full(n, scale, dtype=np.uint64), source)
    kept = _bernoulli_exp(within, scale, source)
    turns = _geometric(n, source)
    kept &= turns < _MOST_UNITS // scale
    size = within.astype(np.int64) + scale * np.where(kept, turns, 0)
    negative = (source(n) & np.uint64(1)) == 1
    kept &= ~(negative & (size == 0))  # or zero would be drawn twice as often
    return np.where(negative, -size, size), kept


def _geometric(n: int, source: Source) -> Ints:
    """Count successes of probability exp(-1) before the first failure."""
    counts, open_ = np.zeros(n, dtype=np.int64), np.arange(n)
    while open_.size:
        open_ = open_[_bernoulli_exp(np.ones(open_.size, dtype=np.uint64), 1, source)]
        counts[open_] += 1
    return counts


def _bernoulli_exp(numerator: Words, denominator: int, source: Source) -> NDArray[np.bool_]:
    """Draw True with probability exp(-numerator / denominator); algorithm 1, both cases."""
    whole, rest = np.divmod(numerator, np.uint64(denominator))
    result = _bernoulli_exp_below_one(rest, denominator, source)
    open_ = np.flatnonzero(result & (whole > 0))
    left = whole[open_]
    while open_.size:
        success = _bernoulli_exp_below_one(np.ones(open_.size, dtype=np.uint64), 1, source)
        result[open_[~success]] = False
        left = left[success] - np.uint64(1)
        open_ = open_[success][left > 0]
        left = left[left > 0]
    return result


def _bernoulli_exp_below_one(numerator: Words, denominator: int, source: Source) -> NDArray[np.bool_]:
    """Draw True with probability exp(-g), g = numerator / denominator <= 1.

    Count k = 1, 2, ... while events of probability g / k happen; the count is odd with probability exp(-g).
    """
    k, odd, open_ = 1, np.ones(numerator.size, dtype=np.bool_), np.arange(numerator.size)
    while open_.size:
        happens = _below(np.full(open_.size, denominator * k, dtype=np.uint64), source) < numerator[open_]
        open_ = open_[happens]
        odd[open_] ^= True
        k += 1  # k is beyond 40 with probability 1e-48, and 64 bits suffice for thousands
    return odd


def _below(bounds: Words, source: Source) -> Words:
    """Draw whole numbers from 0 to below each bound, all equally likely: the surplus of 2^64 is drawn again."""
    surplus = (np.uint64(0) - bounds) % bounds  # 2^64 mod bound, in arithmetic modulo 2^64
    words = np.array(source(bounds.size))
    refused = np.flatnonzero(words < surplus)
    while refused.size:
        words[refused] = source(refused.size)
        refused = refused[words[refused] < surplus[refused]]
    return words % bounds


def _repeated(attempt: Callable[[int], tuple[Ints, NDArray[np.bool_]]], size: int) -> Ints:
    """Return `size` accepted draws; attempts are independent, so which ones are kept says nothing of the others."""
    kept: list[Ints] = []
    missing = size
    while missing:
        drawn, accepted = attempt(missing + missing // 2 + 8)
        kept.append(drawn[accepted][:missing])
        missing -= kept[-1].size
    return np.concatenate(kept) if kept else np.zeros(0, dtype=np.int64)
