from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.logistic import logistic
from models.moments import Moments
from models.multinomial import Multinomial
from models.preparation import Preparation
from models.softmax import by_category, in_order, log_probabilities
from models.step import DivergedError
from schemas.cohort import Cohort
from tests.models.federation import cohort_of, context, run_step, split
from tests.models.oracles import curvatures, maximum
from tests.models.synthetic import COLUMNS, patients

NAMES = ["none", "mild", "severe"]
PENALTIES = [2.0, 0.0, 5.0, 1.0]


def with_outcome(n: int = 150, n_outcomes: int = 3, seed: int = 4) -> Cohort:
    cohort = patients(n, seed=seed)
    rng = np.random.default_rng(seed)
    x = np.nan_to_num(cohort.matrix(COLUMNS), nan=1.0)
    eta = np.column_stack([k * (0.6 * x[:, 0] - 0.3) for k in range(n_outcomes)])
    outcome = (eta + rng.gumbel(size=eta.shape)).argmax(axis=1)
    return replace(cohort, outcome=outcome.astype(float), event=outcome > 0)


COHORT = with_outcome()
SITES = split(COHORT, np.arange(150) % 3)


def fit(cohorts, columns=COLUMNS, outcomes=NAMES, rounds=None, leaving=None, **settings):
    moments = run_step(Moments(context(columns, standardise=settings.pop("standardise", True))), {}, cohorts)
    step = Multinomial(context(columns, outcomes=outcomes, **settings))
    return {**moments, **run_step(step, moments, cohorts, rounds, leaving)}


def assert_same(one, other, rtol=1e-9):
    for name in ("alpha", "beta", "covariance_full", "outcomes", "log_likelihood", "n_patients", "n_events"):
        np.testing.assert_allclose(one[name], other[name], rtol=rtol, atol=rtol, err_msg=name)


def slow_log_likelihood(x, outcome, theta, m):
    """Patient by patient, straight from the formula."""
    alpha, beta = theta[:m], theta[m:].reshape(m, -1)
    total = 0.0
    for row, code in zip(x, outcome, strict=True):
        odds = [1.0] + [float(np.exp(alpha[c] + row @ beta[c])) for c in range(m)]
        total += np.log(odds[int(code)] / sum(odds))
    return total


@pytest.mark.parametrize("n_outcomes", [2, 3])
@pytest.mark.parametrize("penalties", [[0.0] * 4, PENALTIES])
def test_a_general_optimiser_finds_the_same_penalised_maximum_and_curvature(n_outcomes, penalties):
    cohort = with_outcome(90, n_outcomes)
    state = fit(split(cohort, np.arange(90) % 3), outcomes=NAMES[:n_outcomes], penalties=penalties)
    x = Preparation(context(COLUMNS)).matrix(cohort, state)
    m = n_outcomes - 1
    lam = np.concatenate((np.zeros(m), np.tile(penalties, m)))

    def objective(theta):
        return slow_log_likelihood(x, cohort.outcome, theta, m) - 0.5 * np.sum(lam * theta**2)

    found = maximum(objective, np.zeros(m * 5))
    theta = np.concatenate((state["alpha"], state["beta"]))
    np.testing.assert_allclose(theta, found, atol=2e-5)
    np.testing.assert_allclose(np.linalg.inv(state["covariance_full"]), curvatures(objective, theta), atol=2e-3)
    at_end = slow_log_likelihood(x, cohort.outcome, theta, m)
    assert state["log_likelihood"] == pytest.approx(at_end, rel=1e-12), "without the penalty"


@settings(max_examples=20)
@given(labels=st.lists(st.integers(0, 4), min_size=150, max_size=150))
def test_how_patients_fall_on_sites_does_not_matter(labels):
    assert_same(fit(split(COHORT, labels)), fit([COHORT]))


def test_neither_order_of_sites_nor_of_patients_matters():
    order = np.random.default_rng(0)
    shuffled = [site.take(order.permutation(site.n_patients)) for site in SITES[::-1]]
    assert_same(fit(SITES, penalties=PENALTIES), fit(shuffled, penalties=PENALTIES))


def test_the_unit_of_a_covariate_and_its_shift_change_no_unpenalised_coefficient():
    unit, shift = np.array([1e3, 1.0, 1e-4, 1.0]), np.array([0.0, 500.0, 0.0, 0.0])

    def changed(site):
        x = site.matrix(COLUMNS) * unit + shift
        return replace(cohort_of(x, site.time, site.event, site.entry, COLUMNS), outcome=site.outcome)

    one, other = fit(SITES), fit([changed(site) for site in SITES])
    scale = np.tile(one["scale"], 2), np.tile(other["scale"], 2)
    np.testing.assert_allclose(one["beta"] / scale[0], np.tile(unit, 2) * other["beta"] / scale[1], rtol=1e-8)
    np.testing.assert_allclose(one["alpha"], other["alpha"], rtol=1e-8)


def test_another_reference_gives_the_same_probabilities_without_a_penalty():
    order = np.array([2.0, 0.0, 1.0])  # none, mild, severe become the third, the first, the second
    turned = [replace(site, outcome=order[site.outcome.astype(int)]) for site in SITES]
    one, other = fit(SITES), fit(turned)
    mild, severe = one["beta"].reshape(2, 4)
    np.testing.assert_allclose(other["beta"].reshape(2, 4), [severe - mild, -mild], rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(other["log_likelihood"], one["log_likelihood"], rtol=1e-12)


def test_a_binary_outcome_is_the_case_of_two_categories():
    cohort = with_outcome(n_outcomes=2)
    moments = run_step(Moments(context(COLUMNS)), {}, [cohort])
    state = run_step(logistic(context(COLUMNS, outcomes=["no", "yes"])), moments, [cohort])
    assert_same(state, fit([cohort], outcomes=["no", "yes"]), 1e-14)
    assert state["n_events"] == cohort.event.sum()
    with pytest.raises(ValueError, match="two values"):
        logistic(context(COLUMNS, outcomes=NAMES))


def test_perfect_separation_is_told_by_name_and_a_penalty_cures_it():
    group = (np.arange(150) % 5 == 0).astype(float)
    outcome = np.where(group == 1, 1.0, np.arange(150) % 2)  # all of the group have the outcome
    x = np.column_stack((np.random.default_rng(0).normal(size=150), group))
    cohort = replace(cohort_of(x, COHORT.time, outcome > 0), outcome=outcome)
    sites = split(cohort, np.arange(150) % 3)
    with pytest.raises(DivergedError, match=r"`x1`.*add a penalty"):
        fit(sites, ("x0", "x1"), ["no", "yes"])
    state = fit(sites, ("x0", "x1"), ["no", "yes"], penalties=[0.0, 1.0])
    assert state["beta"][1] > 0.3
    assert 0 < state["covariance"][1, 1] < 1


def test_perfect_separation_of_one_category_names_covariate_and_category():
    group = (np.arange(150) % 5 == 0).astype(float)
    outcome = np.where(group == 1, 2.0, np.arange(150) % 2)  # only the group is severe
    cohort = replace(cohort_of(group[:, None], COHORT.time, outcome > 0), outcome=outcome)
    with pytest.raises(DivergedError, match=r"`x0 \(severe\)`"):
        fit([cohort], ("x0",))


def test_a_category_that_nobody_has_is_told_by_name():
    few = [replace(site, outcome=np.minimum(site.outcome, 1.0)) for site in SITES]
    with pytest.raises(DivergedError, match="no patient has the outcome severe"):
        fit(few)


def test_columns_without_information_get_no_coefficient_and_leave_the_others_alone():
    names = (*COLUMNS, "constant", "unknown")

    def filled(site):
        n = site.n_patients
        x = np.column_stack((site.matrix(COLUMNS), np.full(n, 0.1), np.full(n, np.nan)))
        return replace(cohort_of(x, site.time, site.event, site.entry, names), outcome=site.outcome)

    state, plain = fit([filled(site) for site in SITES], names), fit(SITES)
    beta = state["beta"].reshape(2, 6)
    np.testing.assert_array_equal(beta[:, 4:], 0.0)
    np.testing.assert_allclose(beta[:, :4].ravel(), plain["beta"], rtol=1e-9)


def test_a_layer_switched_off_gets_coefficients_of_exactly_0():
    state = fit(SITES, penalties=[0.0, 0.0, 1e9, 1e9])
    np.testing.assert_array_equal(state["beta"].reshape(2, 4)[:, 2:], 0.0)


def test_an_extreme_value_is_survived_by_halving_the_step():
    x = np.nan_to_num(COHORT.matrix(COLUMNS))
    x[:, 2] = 0.0
    x[3, 2], x[4, 2], x[5, 2] = 1e6, -2e6, 1.0
    cohort = replace(cohort_of(x, COHORT.time, COHORT.event, None, COLUMNS), outcome=COHORT.outcome)
    assert np.isfinite(fit(split(cohort, np.arange(150) % 3), penalties=[1.0] * 4)["beta"]).all()


def test_a_usual_fit_takes_at_most_seven_rounds_also_where_the_outcome_is_rare():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2000, 2))
    outcome = (rng.random(2000) < 1 / (1 + np.exp(5 - 0.8 * x[:, 0]))).astype(float)
    rare = replace(cohort_of(x, np.ones(2000), outcome > 0), outcome=outcome)
    for cohorts, columns, names in ((SITES, COLUMNS, NAMES), ([rare], ("x0", "x1"), ["no", "yes"])):
        rounds: list[str] = []
        fit(cohorts, columns, names, rounds=rounds)
        assert len(rounds) <= 7


def test_when_a_site_leaves_in_any_round_the_fit_ends_as_that_of_the_others():
    rounds: list[str] = []
    whole = fit(SITES, rounds=rounds)
    step = Multinomial(context(COLUMNS, outcomes=NAMES))
    without = run_step(step, whole, SITES[1:])
    for leaving in range(1, len(rounds) + 1):
        state = run_step(step, whole, SITES, leaving=leaving)
        assert_same(state, without, 1e-6)
        np.testing.assert_allclose(state["beta"], without["beta"], rtol=1e-9, atol=1e-11)


def test_a_site_refuses_log_odds_beyond_the_limit_without_breaking_the_gate():
    step = Multinomial(context(("x0",), outcomes=["no", "yes"]))
    cohort = replace(cohort_of(np.full((12, 1), 100.0), np.ones(12), np.ones(12)), outcome=np.ones(12))
    sent = {"mean": np.zeros(1), "scale": np.ones(1), "alpha": np.zeros(1), "beta": np.ones(1)}
    answer = step.local("newton", sent, cohort)
    assert answer["log_likelihood"] == -1e15
    assert all(not array.any() for name, array in answer.items() if name not in ("log_likelihood", "n_patients"))


@settings(max_examples=50)
@given(st.lists(st.floats(-1e4, 1e4), min_size=6, max_size=6))
def test_log_probabilities_are_finite_add_up_and_do_not_mind_a_common_shift(values):
    eta = np.array(values).reshape(3, 2)
    logs = log_probabilities(eta)
    np.testing.assert_allclose(np.exp(logs).sum(axis=1), 1.0, rtol=1e-12)
    np.testing.assert_allclose(logs[:, 1:] - logs[:, :1], eta, rtol=1e-9, atol=1e-9)


def test_blocks_by_category_and_rows_of_theta_are_each_others_inverse():
    matrix = np.arange(64.0).reshape(8, 8)
    np.testing.assert_array_equal(in_order(by_category(matrix, 2)), matrix)
