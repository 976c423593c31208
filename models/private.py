"""What the steps under differential privacy share: their noise, their coarse pieces of time, and clipping.

A step here computes its summand without noise: what stands between a summand and the wire is `privacy.noise`, by what
the plan's part says. The step's own duty is that one patient more or less moves the summand by at most the part's
sensitivity, whatever the patient's row and whatever the hub has sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.step import Floats
from models.time_grid import Spells
from schemas.plan import Noise

Pieces = NDArray[np.intp]


def noise_of(settings: Mapping[str, Any], *, sensitivity: float, times: int = 1) -> Noise:
    """Return the noise of a part that is asked `times` times and spends the step's share of the budget on it.

    Args:
        settings: Of the step: `share`, `honest_sites`.
        sensitivity: Of one release.
        times: That it is released.
    """
    return Noise(
        sensitivity=sensitivity,
        share=float(settings["share"]) / times,
        honest_sites=int(settings["honest_sites"]),
    )


def pieces_of(settings: Mapping[str, Any], n_bins: int) -> Pieces:
    """Return for each interval of the grid the piece of time that it belongs to, 0 to J - 1."""
    pieces = np.asarray(settings["pieces"], dtype=np.intp)
    if pieces.size != n_bins or pieces[0] != 0 or not set(np.diff(pieces)) <= {0, 1}:
        raise ValueError("pieces are numbered from 0, each one or more intervals that follow each other")
    return pieces


def over_pieces(spells: Spells, values: Floats, pieces: Pieces) -> Floats:
    """Return for each patient the sums of `values` over the intervals at risk within each piece.

    Args:
        spells: Of n patients.
        values: (K,) by interval.
        pieces: (K,) the piece of each interval.

    Returns:
        (n, J).
    """
    by_piece = np.zeros((values.size + 1, int(pieces[-1]) + 1))
    by_piece[np.arange(1, values.size + 1), pieces] = values
    running = np.cumsum(by_piece, axis=0)
    return running[spells.stop] - running[spells.first]


def clipping(norms: Floats, bound: float) -> Floats:
    """Return the (n,) factors that bring vectors of these norms to at most `bound` and leave shorter ones alone."""
    return bound / np.maximum(norms, bound)
