"""The quasi-Newton search by itself: on functions whose maximum is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.lbfgs import MEMORY, Descent
from models.newton import REFUSED
from models.step import DivergedError


def _climb(search, objective, gradient, curvature, rounds=200):
    """Drive a search to its end as a step does; returns the point and the number of questions."""
    for asked in range(1, rounds + 1):
        x = search.candidate
        if search.falls_short(objective(x)):
            search = search.halved()
            continue
        search = Descent.of(search.accepted(objective(x), gradient(x), curvature(x)).arrays())
        if search.promise < 1e-18 * (1 + abs(search.objective)):
            return search.point, asked
    raise AssertionError("no end")


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_maximum_of_a_quadratic_is_found(seed):
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((30, 20))
    information = a.T @ a / 30 + 0.1 * np.eye(20)
    b = rng.standard_normal(20)
    point, _ = _climb(
        Descent.start(np.zeros(20)),
        lambda x: float(b @ x - 0.5 * x @ information @ x),
        lambda x: b - information @ x,
        lambda x: np.diag(information).copy(),
    )
    np.testing.assert_allclose(point, np.linalg.solve(information, b), atol=1e-6)


def test_the_unit_of_a_coefficient_does_not_matter():
    rng = np.random.default_rng(3)
    a = rng.standard_normal((40, 6))
    information, b = a.T @ a, rng.standard_normal(6)
    unit = np.array([1.0, 1e3, 1e-3, 1.0, 10.0, 1e5])

    def climb(u):
        scaled = information * np.outer(u, u)
        return _climb(
            Descent.start(np.zeros(6)),
            lambda x: float((u * b) @ x - 0.5 * x @ scaled @ x),
            lambda x: u * b - scaled @ x,
            lambda x: np.diag(scaled).copy(),
        )

    (plain, rounds), (scaled, rounds_scaled) = climb(np.ones(6)), climb(unit)
    np.testing.assert_allclose(scaled * unit, plain, rtol=1e-6)
    assert rounds == rounds_scaled


def test_where_nothing_is_known_nothing_moves():
    point, _ = _climb(
        Descent.start(np.array([0.0, 5.0])),
        lambda x: float(-((x[0] - 1) ** 2)),
        lambda x: np.array([-2 * (x[0] - 1), 0.0]),
        lambda x: np.array([2.0, 0.0]),
    )
    np.testing.assert_allclose(point, [1.0, 5.0], atol=1e-8)


def test_it_remembers_no_more_than_it_may():
    rng = np.random.default_rng(0)
    search = Descent.start(np.zeros(3))
    for _ in range(3 * MEMORY):
        x = search.candidate
        objective = float(-np.sum(np.cosh(x - rng.standard_normal(3) * 0)))
        if search.falls_short(objective):
            search = search.halved()
            continue
        search = search.accepted(objective, -np.sinh(x) + 1e-3 * rng.standard_normal(3), np.cosh(x))
    assert len(search.steps) == len(search.changes) <= MEMORY


@pytest.mark.parametrize("bad", [np.nan, -np.inf, REFUSED])
def test_a_point_that_cannot_be_evaluated_is_halved_and_at_last_given_up(bad):
    search = Descent.start(np.zeros(2)).accepted(0.0, np.ones(2), np.ones(2))
    assert search.falls_short(bad)
    while search.length >= 2.0**-30:
        search = search.halved()
        assert search.falls_short(bad)
    with pytest.raises(DivergedError, match="add a penalty"):
        search.halved()


def test_after_a_site_has_left_nothing_is_compared():
    search = Descent.start(np.zeros(2)).accepted(1.0, np.ones(2), np.ones(2)).restarted()
    assert search.objective is None
    assert len(search.steps) == 0
    assert not search.falls_short(-1e6)
