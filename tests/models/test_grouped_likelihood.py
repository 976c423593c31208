from decimal import Decimal, getcontext

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.grouped_likelihood import CEILING, FLOOR, event_terms, summand
from models.newton import unpacked
from models.time_grid import interval_of
from tests.models.oracles import curvatures, grouped_log_likelihood, person_period, slopes
from tests.models.synthetic import EDGES, patients

COHORT = patients(60, seed=4, missing=False)
X = np.nan_to_num(COHORT.matrix(("x0", "x1"))) - [0.0, 5.0]
ALPHA = np.array([-2.0, -1.5, -1.0, -1.2, -0.5, 0.3])
BETA = np.array([0.4, -0.2])
SPELLS = interval_of(COHORT.time, COHORT.event, COHORT.entry, EDGES, 6, exact=False)
ROWS = list(person_period(COHORT.time, COHORT.event, COHORT.entry, EDGES, exact=False))


def slow(theta):
    return grouped_log_likelihood(ROWS, X, theta[:6], theta[6:])


def information(answer):
    cross = answer["hessian_alpha_beta"]
    return np.block([[np.diag(answer["hessian_alpha"]), cross], [cross.T, unpacked(answer["hessian_beta"], 2)]])


def test_value_gradient_and_information_equal_the_slow_version():
    answer = summand(SPELLS, X, X @ BETA, ALPHA, expected=False)
    theta = np.concatenate((ALPHA, BETA))
    assert answer["log_likelihood"] == pytest.approx(slow(theta), rel=1e-13)
    gradient = np.concatenate((answer["gradient_alpha"], answer["gradient_beta"]))
    np.testing.assert_allclose(gradient, slopes(slow, theta), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(information(answer), curvatures(slow, theta), rtol=1e-5, atol=1e-4)


def test_expected_information_is_that_of_the_complementary_log_log_link():
    by_hand = np.zeros((8, 8))
    for i, k, _ in ROWS:
        row = np.concatenate((np.eye(6)[k], X[i]))
        eta = ALPHA[k] + X[i] @ BETA
        p = 1 - np.exp(-np.exp(eta))
        by_hand += np.outer(row, row) * (np.exp(eta) * (1 - p)) ** 2 / (p * (1 - p))
    answer = summand(SPELLS, X, X @ BETA, ALPHA, expected=True)
    np.testing.assert_allclose(information(answer), by_hand, rtol=1e-11)


def test_counts_are_those_of_the_person_period_table():
    answer = summand(SPELLS, X, X @ BETA, ALPHA, expected=False)
    events = np.bincount([k for _, k, y in ROWS if y], minlength=6)
    np.testing.assert_array_equal(answer["events"], events)
    np.testing.assert_array_equal(answer["n_survived"], np.bincount([k for _, k, y in ROWS if not y], minlength=6))
    assert answer["n_patients"] == 60


@pytest.mark.parametrize("expected", [False, True])
def test_closed_intervals_take_no_part(expected):
    closed = ALPHA.copy()
    closed[1], closed[4] = FLOOR, CEILING
    answer = summand(SPELLS, X, X @ BETA, closed, expected=expected)
    rows = [row for row in ROWS if row[1] not in (1, 4)]
    assert answer["log_likelihood"] == pytest.approx(grouped_log_likelihood(rows, X, ALPHA, BETA), rel=1e-13)
    for name in ("gradient_alpha", "hessian_alpha", "hessian_alpha_beta"):
        np.testing.assert_array_equal(answer[name][[1, 4]], 0.0)
    assert answer["events"].sum() == sum(y for _, _, y in ROWS), "counts include them"


@given(log_u=st.floats(-60, 6))
def test_terms_of_an_event_are_exact_for_any_hazard(log_u):
    getcontext().prec = 80
    u = np.exp(log_u)
    exact = Decimal(float(u))
    a = exact / (exact.exp() - 1)
    value, slope, curvature = event_terms(np.array([u]))
    assert value[0] == pytest.approx(float((1 - (-exact).exp()).ln()), rel=1e-13)
    assert slope[0] == pytest.approx(float(a), rel=1e-13)
    assert curvature[0] == pytest.approx(float(a * (exact + a - 1)), rel=1e-12)


def test_an_event_under_an_enormous_hazard_is_certain_and_nothing_overflows():
    value, slope, curvature = event_terms(np.array([1e4, 1e300]))
    np.testing.assert_array_equal([value, slope, curvature], 0.0)
