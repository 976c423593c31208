import numpy as np
import pytest

from models.baseline import Baseline
from models.cox import Cox
from models.hazard import Hazard
from models.moments import Moments
from models.step import Context
from models.treatment_response import TreatmentResponse
from schemas.cohort import Cohort
from schemas.design import DesignColumn
from tests.models.federation import cohort_of, run_step, split

HORIZONS = (2.5, 7.0)
EDGES = np.array([1.0, 2.0, 3.0, 5.0, 8.0])
DESIGN = (
    DesignColumn("arm", "arm", "clinical"),
    DesignColumn("age", "age", "clinical"),
    DesignColumn("arm x age", "age", "clinical", treatment="arm"),
)


def trial(n: int = 200, seed: int = 0, *, effect: float = -0.8) -> Cohort:
    """A randomised trial in which age changes what the treatment does; some ages are missing."""
    rng = np.random.default_rng(seed)
    arm, age = (rng.random(n) < 0.5).astype(float), rng.normal(50, 10, n)
    hazard = 0.2 * np.exp(effect * arm + 0.03 * (age - 50) + 0.04 * arm * (age - 50))
    failure, censoring = rng.exponential(1 / hazard), rng.uniform(1, 12, n)
    age[rng.random(n) < 0.05] = np.nan
    x = np.column_stack((arm, age, np.where(arm == 1, age, np.nan)))
    time = np.minimum(failure, censoring)
    return cohort_of(x, time, failure <= censoring, columns=[column.name for column in DESIGN])


COHORT = trial()
SITES = split(COHORT, np.arange(200) % 4)


def made(n_bins=EDGES.size, **settings):
    return Context(DESIGN, n_bins, HORIZONS, settings)


def model(cohorts, method=Hazard, penalties=(0.0, 0.0, 0.0)):
    inputs = {**run_step(Moments(made()), {}, cohorts), "edges": EDGES, "n_intervals": np.array(5.0)}
    fit = run_step(method(made(penalties=list(penalties))), inputs, cohorts)
    inputs |= {"beta": fit["beta"], "covariance": fit["covariance"]}
    return {**inputs, **run_step(Baseline(made()), inputs, cohorts)}


def response(cohorts, inputs):
    return run_step(TreatmentResponse(made(treatment="arm")), inputs, cohorts)


def slow_curve(cohort, inputs, arm, times, log_hazard=None, beta=None):
    """The mean over patients of exp(-H(t) exp(log hazard)), patient by patient."""
    mean, scale = inputs["mean"], inputs["scale"]
    beta = inputs["beta"] if beta is None else beta
    steps = np.diff(inputs["cumulative_hazard"], prepend=0.0) if log_hazard is None else np.exp(log_hazard)
    cumulative = np.cumsum(steps)
    curves = []
    for age in cohort.matrix(("age",))[:, 0]:
        z_age = 0.0 if np.isnan(age) else (age - mean[1]) / scale[1]
        z_both = 0.0 if np.isnan(age) else (age - mean[2]) / scale[2]
        eta = beta[0] * (arm - mean[0]) / scale[0] + beta[1] * z_age + beta[2] * arm * z_both
        hazard = np.interp(times, np.concatenate(([0.0], EDGES)), np.concatenate(([0.0], cumulative)))
        curves.append(np.exp(-hazard * np.exp(eta)))
    return np.mean(curves, axis=0)


TIMES = np.concatenate((EDGES, HORIZONS))


@pytest.mark.parametrize("method", [Hazard, Cox])
def test_curves_are_the_means_over_patients_predicted_one_by_one(method):
    inputs = model(SITES, method)
    state = response(SITES, inputs)
    for arm in (0, 1):
        np.testing.assert_allclose(state["survival"][arm], slow_curve(COHORT, inputs, arm, TIMES), rtol=1e-12)
    np.testing.assert_allclose(state["difference"], state["survival"][1] - state["survival"][0])


def test_the_error_is_the_delta_method_with_derivatives_by_differences():
    inputs = model(SITES)
    state = response(SITES, inputs)
    log_hazard = np.log(np.diff(inputs["cumulative_hazard"], prepend=0.0))
    theta = np.concatenate((log_hazard, inputs["beta"]))

    def difference(at):
        return slow_curve(COHORT, inputs, 1, TIMES, at[:5], at[5:]) - slow_curve(
            COHORT, inputs, 0, TIMES, at[:5], at[5:]
        )

    h = 1e-5
    slopes = np.stack([(difference(theta + h * e) - difference(theta - h * e)) / (2 * h) for e in np.eye(8)], axis=1)

    # log h = log d - log S0(beta): its own variance 1 / d, and E = d log S0 / d beta by differences too.
    def log_baseline(beta):
        found = run_step(Baseline(made()), {**inputs, "beta": beta}, SITES)["cumulative_hazard"]
        return np.log(np.diff(found, prepend=0.0))

    moves = np.stack(
        [(log_baseline(inputs["beta"] + h * e) - log_baseline(inputs["beta"] - h * e)) / (2 * h) for e in np.eye(3)],
        axis=1,
    )
    counts = np.histogram(COHORT.time[COHORT.event], np.concatenate(([0.0], EDGES)))[0]
    joint = np.vstack((moves, np.eye(3)))
    covariance = joint @ inputs["covariance"] @ joint.T
    covariance[:5, :5] += np.diag(1 / counts)
    expected = np.sqrt(np.einsum("tp,pq,tq->t", slopes, covariance, slopes))
    np.testing.assert_allclose(state["difference_se"], expected, rtol=1e-6)


def test_the_federated_response_equals_the_pooled_one_in_any_order():
    inputs = model([COHORT])
    one, pooled, turned = (response(sites, inputs) for sites in (SITES, [COHORT], SITES[::-1]))
    for name in one:
        np.testing.assert_allclose(one[name], pooled[name], rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(one[name], turned[name], rtol=1e-12, atol=1e-14)


def test_swapping_the_arms_swaps_the_curves_where_no_cell_is_missing():
    known = COHORT.take(~np.isnan(COHORT.matrix(("age",))[:, 0]))
    x = known.matrix(("arm", "age"))
    swapped = np.column_stack((1 - x[:, 0], x[:, 1], np.where(x[:, 0] == 0, x[:, 1], np.nan)))
    other = cohort_of(swapped, known.time, known.event, columns=[column.name for column in DESIGN])
    one, turned = response([known], model([known])), response([other], model([other]))
    np.testing.assert_allclose(one["survival"], turned["survival"][::-1], rtol=1e-7)
    np.testing.assert_allclose(one["difference_se"], turned["difference_se"], rtol=1e-6)


def test_the_error_is_the_spread_of_the_difference_over_many_trials():
    states = [response([cohort], model([cohort])) for cohort in (trial(250, seed=seed) for seed in range(80))]
    differences = np.array([state["difference"][3] for state in states])
    errors = np.array([state["difference_se"][3] for state in states])
    assert errors.mean() == pytest.approx(differences.std(ddof=1), rel=0.2)


def test_the_error_shrinks_with_the_square_root_of_the_patients():
    small, large = ([trial(n, seed=5)] for n in (300, 4800))
    errors = [response(sites, model(sites))["difference_se"][-1] for sites in (small, large)]
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.2)


def test_a_penalty_draws_the_arms_together():
    free, drawn = (response(SITES, model(SITES, penalties=[p, p, p])) for p in (0.0, 100.0))
    assert abs(drawn["difference"][-1]) < abs(free["difference"][-1])


def test_an_interval_without_events_adds_nothing_and_no_nan():
    edges = np.array([1.0, 2.0, 3.0, 5.0, 5.0])
    inputs = {**model(SITES), "edges": edges, "n_intervals": np.array(4.0)}
    inputs["cumulative_hazard"] = np.array([0.1, 0.3, 0.5, 0.9, 0.9])
    state = response(SITES, inputs)
    assert np.isfinite(state["difference_se"]).all()
    assert state["difference_se"][4] == pytest.approx(state["difference_se"][3])
