"""What is said of events under differential privacy: rarely more than there were, and not much less."""

from __future__ import annotations

import numpy as np
import pytest

from models.private_events import LEVEL, events_at_least

EDGES = np.arange(1.0, 9.0)
PIECES = np.array([0, 1, 2, 2, 3, 3, 3, 3], dtype=np.intp)
EVENTS = np.array([12.0, 9.0, 30.0, 41.0])


def test_without_noise_it_is_the_count_until_the_last_whole_piece() -> None:
    said = events_at_least(92.0, 0.0, EVENTS, 0.0, EDGES, PIECES, [0.5, 1.0, 2.0, 3.9, 4.0, 7.9, 8.0, 9.0])
    assert said == (0, 12, 21, 21, 51, 51, 92, 92)


@pytest.mark.parametrize(("total_std", "piece_std"), [(4.0, 6.3), (0.5, 9.0), (9.0, 3.0)])
def test_as_often_as_it_says_there_were_so_many_or_more(total_std: float, piece_std: float) -> None:
    rng = np.random.default_rng(7)
    held = np.zeros(3)
    draws = 4000
    times, true = [1.0, 4.0, 8.0], np.array([12, 51, 92])
    for _ in range(draws):
        by_piece = EVENTS + piece_std * rng.normal(size=4)
        total = 92 + total_std * rng.normal()
        held += np.array(events_at_least(total, total_std, by_piece, piece_std, EDGES, PIECES, times)) <= true
    # Rounding down and the bound of 0 only make it hold more often.
    assert (held / draws > LEVEL - 3 * np.sqrt(LEVEL * (1 - LEVEL) / draws)).all()
    assert held[1] / draws < 0.985, "a bound that always held would say too little"


def test_it_is_the_least_squares_estimate_of_the_two_counts() -> None:
    by_piece, total, total_std, piece_std = np.array([14.0, 5.0, 33.0, 36.0]), 95.0, 4.0, 6.0
    design = np.vstack((np.eye(4), np.ones(4)))
    weight = np.diag([piece_std**-2] * 4 + [total_std**-2])
    covariance = np.linalg.inv(design.T @ weight @ design)
    estimate = covariance @ design.T @ weight @ np.append(by_piece, total)
    until = np.array([1.0, 1, 1, 0])
    slow = until @ estimate - 1.6448536269514722 * np.sqrt(until @ covariance @ until)
    said = events_at_least(total, total_std, by_piece, piece_std, EDGES, PIECES, [4.0])
    assert said == (int(np.floor(slow)),)


def test_nobody_counts_less_than_nothing() -> None:
    assert events_at_least(-3.0, 9.0, EVENTS * 0 - 5, 9.0, EDGES, PIECES, [1.0, 8.0]) == (0, 0)
