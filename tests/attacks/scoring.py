"""When an attack counts as a success: rows recovered, and how well members are told from others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.step import Floats

TOLERANCE = 0.1
"""A row is recovered when every covariate is within a tenth of its standard deviation."""


def share_recovered(candidates: Sequence[Floats], rows: Floats) -> float:
    """Return the share of the (n, p) `rows` that some candidate row matches in every covariate."""
    if not len(candidates):
        return 0.0
    guesses = np.asarray(candidates)
    guesses = guesses[np.isfinite(guesses).all(axis=1)]
    hits = [bool((np.abs(guesses - row).max(axis=1) <= TOLERANCE).any()) for row in rows] if len(guesses) else [False]
    return float(np.mean(hits))


def auc(scores: Floats, member: NDArray[np.bool_]) -> float:
    """Return the probability that a member scores higher than another, ties one half."""
    members, others = scores[member], scores[~member]
    difference = members[:, None] - others[None, :]
    return float(np.mean((difference > 0) + 0.5 * (difference == 0)))


def bootstrap_interval(
    scores: Floats, member: NDArray[np.bool_], rng: np.random.Generator, draws: int = 500
) -> tuple[float, float]:
    """Return the 95 % percentile interval of the AUC over patients drawn anew, members and others apart."""
    members, others = np.flatnonzero(member), np.flatnonzero(~member)
    values = []
    for _ in range(draws):
        rows = np.concatenate((rng.choice(members, members.size), rng.choice(others, others.size)))
        values.append(auc(scores[rows], member[rows]))
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def mean_of(figures: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the mean of each figure over repetitions."""
    return {name: float(np.mean([figure[name] for figure in figures])) for name in figures[0]}
