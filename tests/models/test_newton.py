import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.newton import (
    MAX_ROUNDS,
    REFUSED,
    NewtonStep,
    Search,
    can_evaluate,
    inverse,
    packed,
    refused,
    unpacked,
    within_bounds,
)
from models.step import DivergedError
from schemas.plan import ArraySpec

START = Search(np.zeros(2), np.zeros(2))


def step_of(direction, decrement, information=(1.0, 1.0)):
    return NewtonStep(np.array(direction), decrement, np.array(information))


def symmetric(p, seed=0):
    a = np.random.default_rng(seed).normal(size=(p, 2 * p + 1))
    return a @ a.T


@given(
    length=st.sampled_from([1.0, 0.5, 2.0**-20]),
    objective=st.none() | st.floats(-1e9, 1e9),
    rounds=st.integers(0, 40),
    information=st.none() | st.just(np.array([1.0, 3.0])),
)
def test_a_search_comes_back_from_its_state(length, objective, rounds, information):
    search = Search(np.array([1.0, -2.0]), np.array([0.25, 4.0]), length, objective, rounds, information)
    state = search.arrays()
    assert all(np.isfinite(array).all() for array in state.values())
    back = Search.of(state)
    np.testing.assert_array_equal(back.candidate, search.candidate)
    assert (back.length, back.objective, back.rounds) == (length, objective, rounds)
    assert (back.first_information is None) == (information is None)


def test_a_quadratic_ends_after_one_step():
    curvature, top = np.array([[4.0, 1.0], [1.0, 2.0]]), np.array([3.0, -1.0])
    search: Search | None = START
    for expected in (np.zeros(2), top):
        assert search is not None
        np.testing.assert_allclose(search.candidate, expected, atol=1e-14)
        away = top - search.candidate
        objective = -0.5 * away @ curvature @ away
        gradient = curvature @ away
        direction = inverse(curvature, np.diag(curvature)) @ gradient
        step = NewtonStep(direction, float(gradient @ direction), np.diag(curvature))
        search = search.stepped(objective, step, ("a", "b"))
    assert search is None


def test_a_point_that_lowers_the_objective_is_halved_towards_the_last_one():
    search = START.stepped(-10.0, step_of([8.0, -4.0], 3.0), ("a", "b"))
    assert search is not None
    for objective, falls in (
        (-10.1, True),
        (float("nan"), True),
        (REFUSED, True),
        (-9.9, False),
        (-10 - 1e-12, False),
    ):
        assert search.falls(objective) is falls
    np.testing.assert_array_equal(search.halved().halved().candidate, [2.0, -1.0])


def test_halving_ends_in_a_sentence():
    search = START.stepped(-10.0, step_of([8.0, -4.0], 3.0), ("a", "b"))
    for _ in range(30):
        search = search.halved()
    search = search.halved()
    with pytest.raises(DivergedError, match="add a penalty"):
        search.halved()


def test_a_start_that_cannot_be_evaluated_is_refused():
    with pytest.raises(DivergedError, match="far from all others"):
        START.halved()


def test_a_search_without_end_is_refused_within_its_rounds():
    search = START
    for i in range(MAX_ROUNDS - 1):
        search = search.stepped(float(i), step_of([0.1, 0.1], 1.0), ("a", "b"))
    with pytest.raises(DivergedError, match=f"{MAX_ROUNDS} rounds"):
        search.stepped(99.0, step_of([0.1, 0.1], 1.0), ("a", "b"))


def test_nothing_to_gain_and_a_long_step_name_the_covariate_that_grows_without_end():
    with pytest.raises(DivergedError, match="`smoker`"):
        START.stepped(-3.0, step_of([0.0, 1.0], 1e-9), ("age", "smoker"))
    with pytest.raises(DivergedError, match="coefficients grow without end"):
        START.stepped(-3.0, step_of([0.0, 1.0], 1e-9), ("", ""))
    assert START.stepped(-3.0, step_of([0.0, 1e-4], 1e-9), ("age", "smoker")) is not None


def test_a_search_over_fewer_sites_forgets_what_it_would_compare_with_and_keeps_its_point():
    search = START.stepped(-10.0, step_of([8.0, -4.0], 3.0), ("a", "b")).halved()
    fewer = search.restarted()
    np.testing.assert_array_equal(fewer.candidate, search.point)
    assert fewer.objective is None
    assert not fewer.falls(-1e6)
    assert fewer.rounds == search.rounds


@given(
    p=st.integers(1, 12), seed=st.integers(0, 100), exponents=st.lists(st.integers(-6, 6), min_size=12, max_size=12)
)
def test_the_inverse_is_the_inverse_whatever_the_units(p, seed, exponents):
    unit = 10.0 ** np.array(exponents[:p])
    matrix = symmetric(p, seed) * np.outer(unit, unit)
    found = inverse(matrix, np.diag(matrix)) * np.outer(unit, unit)
    np.testing.assert_allclose(found @ (matrix / np.outer(unit, unit)), np.eye(p), atol=1e-8)


def test_columns_without_information_are_left_out_penalised_or_not():
    matrix = symmetric(4)
    matrix[2, :] = matrix[:, 2] = 0.0
    others = [0, 1, 3]
    expected = np.zeros((4, 4))
    expected[np.ix_(others, others)] = np.linalg.inv(matrix[np.ix_(others, others)])
    np.testing.assert_allclose(inverse(matrix, np.diag(matrix)), expected, rtol=1e-10)
    penalised = matrix + np.diag([0.0, 0.0, 5.0, 0.0])
    np.testing.assert_allclose(inverse(penalised, np.diag(matrix)), expected, rtol=1e-10)


def test_a_column_that_follows_from_those_before_it_gets_no_coefficient_as_in_r():
    x = np.random.default_rng(3).normal(size=(50, 5))
    x[:, 3] = 2 * x[:, 0] - 1e3 * x[:, 1]
    matrix = x.T @ x
    found = inverse(matrix, np.diag(matrix))
    kept = [0, 1, 2, 4]
    np.testing.assert_array_equal(found[3], 0.0)
    np.testing.assert_array_equal(found[:, 3], 0.0)
    np.testing.assert_allclose(found[np.ix_(kept, kept)], np.linalg.inv(matrix[np.ix_(kept, kept)]), rtol=1e-7)


def test_no_information_at_all_is_no_covariance():
    np.testing.assert_array_equal(inverse(np.zeros((3, 3)), np.zeros(3)), np.zeros((3, 3)))
    assert inverse(np.zeros((0, 0)), np.zeros(0)).shape == (0, 0)


@given(p=st.integers(0, 8), seed=st.integers(0, 50))
def test_a_packed_triangle_comes_back(p, seed):
    matrix = symmetric(p, seed) if p else np.zeros((0, 0))
    assert packed(matrix).shape == (p * (p + 1) // 2,)
    np.testing.assert_array_equal(unpacked(packed(matrix), p), np.triu(matrix) + np.triu(matrix, 1).T)


def test_a_site_evaluates_small_hazards_but_no_enormous_ones():
    assert can_evaluate(np.array([-499.0, 39.0]))
    for bad in (41.0, -501.0, np.nan):
        assert not can_evaluate(np.array([0.0, bad]))


def test_a_refusal_has_all_arrays_and_passes_the_gate():
    specs = (
        ArraySpec(name="n_patients", shape=(), meaning=""),
        ArraySpec(name="value", shape=(), meaning="", bound=1e30),
        ArraySpec(name="slope", shape=(3,), meaning=""),
    )
    answer = refused(specs, "value", 12)
    assert set(answer) == {"n_patients", "value", "slope"}
    assert answer["n_patients"] == 12
    assert within_bounds(specs, answer)
    for bad in (1e13, np.inf, np.nan):
        assert not within_bounds(specs, {**answer, "slope": np.array([0.0, bad, 0.0])})
