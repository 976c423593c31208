"""How many events there were at least until a time, from counts that were released with noise.

Two counts of the same events stand in a run under differential privacy: `private_grid` releases all of them, and
`private_baseline` those of each piece of time. Both carry Gaussian noise of a known spread, and are put together by
least squares: with T the former (variance s1^2), A and B the sums of the latter's pieces until the time and after it
(k and J - k pieces of variance s2^2 each),

    estimate = A + w (T - A - B),   w = k s2^2 / (J s2^2 + s1^2),   variance = k s2^2 (1 - w),

which is the best linear unbiased estimate (Aitken 1935) and costs no privacy: it reads what has left already. Less
than the true count by the noise's one-sided quantile it is rarely: so many events at least are said. Until a time
within a piece only the pieces that end by then are counted, which is never more than there were.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from models.private import Pieces
from models.step import Floats

__all__ = ["LEVEL", "events_at_least"]

LEVEL = 0.95
"""How often, over the draws of the noise, there were as many events as is said, or more; of each time by itself."""

_CLOSE = 1e-12


def events_at_least(
    total: float,
    total_std: float,
    by_piece: Floats,
    piece_std: float,
    edges: Floats,
    pieces: Pieces,
    times: Sequence[float],
    *,
    level: float = LEVEL,
) -> tuple[int, ...]:
    """Return for each time how many events there were by then, at least.

    Args:
        total: All events, with noise, as they were released.
        total_std: Standard deviation of that noise, at most.
        by_piece: (J,) events of each piece of time, with noise of their own, as they were released.
        piece_std: Standard deviation of the noise of each, at most.
        edges: (K,) ends of the intervals of the grid.
        pieces: (K,) the piece of each interval.
        times: Until when.
        level: Of each statement.
    """
    ends = edges[np.flatnonzero(np.diff(pieces, append=pieces[-1] + 1))]
    away = total - float(by_piece.sum())
    below = NormalDist().inv_cdf(level)
    found = []
    for time in times:
        k = int((ends <= time * (1 + _CLOSE)).sum())
        free = by_piece.size * piece_std**2 + total_std**2
        weight = k * piece_std**2 / free if free > 0 else 0.0
        estimate = float(by_piece[:k].sum()) + weight * away
        variance = k * piece_std**2 * (1 - weight)
        # Sums of whole numbers in floating point: the last event must not be lost to rounding.
        found.append(max(math.floor(estimate - below * math.sqrt(variance) + 1e-6), 0))
    return tuple(found)
