import numpy as np
import pytest

from models.hazard import Hazard
from models.newton import LOG_HAZARD_LIMIT, REFUSED
from models.preparation import standardised
from models.step import DivergedError
from tests.models.federation import assert_matches, cohort_of, context, fit, run_step, split
from tests.models.oracles import grouped_log_likelihood, maximum, person_period
from tests.models.r_checks import assert_numbers, describe
from tests.models.synthetic import COLUMNS, EDGES, patients
from tests.reference.cohorts import kept, numbers, read, read_demo

R = numbers("hazard.json")
COHORT = patients(120, seed=6)
SITES = split(COHORT, np.arange(120) % 3)


def assert_equals_r(case, reference):
    state = fit(
        "hazard",
        reference.federated(delayed=case["delayed"]),
        kept(case["cohort"], reference.columns),
        edges=None if case["exact"] else reference.edges,
    )
    k = len(case["edges"])
    assert_numbers(state, case)
    np.testing.assert_array_equal(state["edges"][:k], case["edges"])
    np.testing.assert_allclose(state["alpha"][:k], case["alpha"], rtol=1e-8, atol=1e-9)
    errors = np.sqrt(np.diag(state["covariance_full"]))
    np.testing.assert_allclose(errors[:k], case["standard_errors_alpha"], rtol=1e-8)
    np.testing.assert_allclose(state["cumulative_hazard"][:k], np.cumsum(np.exp(case["alpha"])), rtol=1e-8)
    assert state["n_events"] == case["events"]


@pytest.mark.parametrize("case", [case for case in R if case["cohort"] == "cgd"], ids=describe)
def test_the_demo_cohort_equals_r_cloglog_on_the_person_period_table(case):
    assert_equals_r(case, read_demo())


@pytest.mark.parametrize("case", R, ids=describe)
def test_shared_cohorts_equal_r_cloglog_on_the_person_period_table(case, cohorts):
    assert_equals_r(case, read(case["cohort"], cohorts))


@pytest.mark.parametrize("penalties", [[0.0] * 4, [3.0, 0.0, 10.0, 1.0]])
def test_a_general_optimiser_finds_the_same_penalised_maximum(penalties):
    state = fit("hazard", SITES, COLUMNS, edges=EDGES, penalties=penalties)
    x = standardised(COHORT, context(COLUMNS).design, state["mean"], state["scale"])
    rows = list(person_period(COHORT.time, COHORT.event, COHORT.entry, EDGES, exact=False))

    def objective(theta):
        return grouped_log_likelihood(rows, x, theta[:6], theta[6:]) - 0.5 * np.sum(penalties * theta[6:] ** 2)

    found = maximum(objective, np.concatenate((np.full(6, -2.0), np.zeros(4))))
    np.testing.assert_allclose(np.concatenate((state["alpha"], state["beta"])), found, atol=2e-5)
    at_end = grouped_log_likelihood(rows, x, state["alpha"], state["beta"])
    assert state["log_likelihood"] == pytest.approx(at_end, rel=1e-13), "without the penalty"


def test_the_covariance_of_everything_is_the_inverse_of_the_penalised_expected_information():
    penalties = np.array([3.0, 0.0, 10.0, 1.0])
    state = fit("hazard", SITES, COLUMNS, edges=EDGES, penalties=list(penalties))
    x = standardised(COHORT, context(COLUMNS).design, state["mean"], state["scale"])
    information = np.diag(np.concatenate((np.zeros(6), penalties)))
    for i, k, _ in person_period(COHORT.time, COHORT.event, COHORT.entry, EDGES, exact=False):
        row = np.concatenate((np.eye(6)[k], x[i]))
        u = np.exp(state["alpha"][k] + x[i] @ state["beta"])
        information += np.outer(row, row) * u**2 / np.expm1(u)
    np.testing.assert_allclose(state["covariance_full"], np.linalg.inv(information), rtol=1e-7, atol=1e-10)
    np.testing.assert_array_equal(state["covariance"], state["covariance_full"][6:, 6:])


def test_intervals_without_events_or_without_survivors_change_no_coefficient():
    time = np.array([1.0, 1, 2, 2, 2, 4, 4, 5, 5, 5])
    event = np.array([1, 0, 1, 0, 1, 1, 0, 1, 1, 1])
    x = np.array([[0.3], [1.0], [-1.0], [0.2], [2.0], [0.5], [-0.3], [0.1], [1.0], [0.0]])
    cohort = cohort_of(x, time, event)
    # Nobody has the event in (2, 3], and nobody survives (4, 5].
    state = fit("hazard", [cohort], ("x0",), edges=np.array([1.0, 2.0, 3.0, 4.0, 5.0]))
    short = fit("hazard", [cohort], ("x0",), edges=np.array([1.0, 2.0, 4.0]))
    np.testing.assert_allclose(state["beta"], short["beta"], rtol=1e-9)
    np.testing.assert_allclose(state["covariance"], short["covariance"], rtol=1e-8)
    assert state["log_likelihood"] == pytest.approx(short["log_likelihood"], rel=1e-12)
    increments = np.diff(state["cumulative_hazard"], prepend=0.0)
    assert increments[2] < 1e-20
    assert np.exp(-increments[4]) == 0.0
    assert (state["n_events"], short["n_events"]) == (7, 4)


def test_an_interval_whose_only_events_leave_with_their_site_is_closed():
    rng = np.random.default_rng(11)
    first = cohort_of(rng.normal(size=(30, 1)), np.full(30, 2.5), np.arange(30) % 2)  # the only events in (2, 3]
    time = np.tile([1.0, 2.0, 4.0, 5.0, 9.0], 20)
    rest = cohort_of(rng.normal(size=(100, 1)), time, rng.random(100) < 0.6)
    edges = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    rounds: list[str] = []
    whole = fit("hazard", [first, rest], ("x0",), edges=edges, rounds=rounds)
    inputs = {name: whole[name] for name in ("mean", "scale", "edges", "n_intervals")}
    step = Hazard(context(("x0",), 5))
    without = run_step(step, inputs, [rest])
    assert without["cumulative_hazard"][2] == pytest.approx(without["cumulative_hazard"][1], rel=1e-15)
    for leaving in range(1, len(rounds) + 1):
        state = run_step(step, inputs, [first, rest], leaving=leaving)
        for name in ("beta", "alpha", "covariance", "log_likelihood", "n_events"):
            np.testing.assert_allclose(state[name], without[name], rtol=1e-9, atol=1e-11)


def test_padding_changes_nothing():
    inputs = fit("hazard", SITES, COLUMNS, edges=EDGES)
    padded = {
        "mean": inputs["mean"],
        "scale": inputs["scale"],
        "edges": np.concatenate((EDGES, np.full(4, EDGES[-1]))),
        "n_intervals": np.array(6.0),
    }
    state = run_step(Hazard(context(COLUMNS, 10)), padded, SITES)
    np.testing.assert_allclose(state["beta"], inputs["beta"], rtol=1e-12)
    np.testing.assert_allclose(state["alpha"], np.concatenate((inputs["alpha"], np.zeros(4))), rtol=1e-12)
    np.testing.assert_array_equal(state["cumulative_hazard"][6:], state["cumulative_hazard"][5])


def test_a_usual_fit_takes_at_most_seven_rounds():
    rounds: list[str] = []
    fit("hazard", SITES, COLUMNS, edges=EDGES, rounds=rounds)
    assert len(rounds) <= 7
    assert rounds.count("scoring") == 1


def test_a_first_direction_that_misleads_is_given_up():
    # Most die in (0, 1], which the Poisson counts of the first direction weigh less than the likelihood does; there
    # the survivors' covariate is low, in (1, 2] that of the dead: the first direction has the wrong sign.
    x = np.concatenate((np.tile([-1.0, 1.0], 99), [-2.0, 0.0], np.tile([-1.0, 1.0], 97), np.tile([-2.0, 0.0], 3)))
    time = np.repeat([1.0, 2.0], [198, 202])
    event = np.repeat([True, False, False, True], [198, 2, 194, 6])
    entry = np.repeat([0.0, 1.0], 200)
    time[198:200] = 1.0
    rounds: list[str] = []
    edges = np.array([1.0, 2.0])
    state = fit("hazard", [cohort_of(x[:, None], time, event, entry)], ("x0",), edges=edges, rounds=rounds)
    rows = list(person_period(time, event, entry, edges, exact=False))
    z = (x[:, None] - state["mean"]) / state["scale"]
    found = maximum(lambda v: grouped_log_likelihood(rows, z, v[:2], v[2:]), np.array([1.0, -3.0, 0.0]))
    np.testing.assert_allclose(np.concatenate((state["alpha"], state["beta"])), found, atol=1e-5)
    assert state["beta"] > 0
    assert len(rounds) <= 9


def test_a_site_refuses_log_hazards_beyond_the_limit_without_breaking_the_gate():
    step = Hazard(context(COLUMNS, 6))
    sent = {
        "mean": np.zeros(4),
        "scale": np.ones(4),
        "edges": EDGES,
        "n_intervals": np.array(6.0),
        "alpha": np.full(6, -2.0),
        "beta": np.full(4, LOG_HAZARD_LIMIT),
    }
    answer = step.local("newton", sent, COHORT)
    assert answer["log_likelihood"] == REFUSED
    assert_matches(step.parts()[0].releases, answer)


def test_no_event_on_the_grid_is_told():
    nobody = cohort_of(np.ones((5, 1)), np.arange(1.0, 6.0), np.zeros(5))
    with pytest.raises(DivergedError, match="no patient at risk has the event"):
        fit("hazard", [nobody], ("x0",), edges=np.array([2.0, 5.0]))
