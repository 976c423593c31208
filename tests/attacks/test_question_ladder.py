"""Ordinary questions, evenly spaced, solve for patients through the secure sum; fewer than patients do not."""

from __future__ import annotations

import numpy as np
import pytest

from privacy.inbound import Limits
from tests.attacks.question_ladder import figures, solve

SEEDS = range(5)
TABLES = ("gbsg2", "whas500", "veterans")
FEWER_POINTS_THAN_EVENTS = 12


def test_the_rows_behind_exponential_sums_are_found() -> None:
    rows = np.random.default_rng(0).normal(size=(5, 3))
    hazards = np.exp(np.arange(12)[:, None] * 0.3 * rows[:, 0])
    solved = solve(hazards.sum(axis=1), hazards @ rows, 5)
    np.testing.assert_allclose(solved[np.argsort(solved[:, 0])], rows[np.argsort(rows[:, 0])], atol=1e-4)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize(("method", "at_least"), [("cox", 0.18), ("hazard", 0.05)])
def test_twenty_ordinary_questions_find_rows_through_gate_grid_and_secure_sum(
    table: str, method: str, at_least: float
) -> None:
    measured = figures(table, method, 20, 5, SEEDS)
    assert measured["answered"] == 20
    assert measured["rows"] >= at_least


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("method", ["cox", "hazard"])
def test_no_more_points_than_events_in_an_interval_leave_them_unsolved(table: str, method: str) -> None:
    measured = figures(table, method, 40, FEWER_POINTS_THAN_EVENTS, SEEDS, Limits())
    assert measured["answered"] == FEWER_POINTS_THAN_EVENTS == Limits().points
    assert measured["rows"] <= 0.02


def test_with_five_events_an_interval_the_points_of_an_honest_fit_are_already_too_many() -> None:
    measured = figures("veterans", "hazard", 40, 5, SEEDS, Limits())
    assert measured["answered"] == Limits().points
    assert measured["rows"] >= 0.2, "when this falls, say in docs/attacks.md what protects now"
