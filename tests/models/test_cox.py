import numpy as np
import pytest

from models.cox import Cox
from models.newton import LOG_HAZARD_LIMIT, REFUSED
from models.preparation import standardised
from models.step import DivergedError
from tests.models.federation import assert_matches, cohort_of, context, fit, split
from tests.models.oracles import maximum, partial_log_likelihood
from tests.models.r_checks import assert_cox_equals_r, describe
from tests.models.synthetic import COLUMNS, EDGES, patients
from tests.reference.cohorts import numbers, read, read_demo

R = [case for case in numbers("coxph.json") if not case["strata"]]
COHORT = patients(120, seed=8)
SITES = split(COHORT, np.arange(120) % 3)


@pytest.mark.parametrize("case", [case for case in R if case["cohort"] == "cgd"], ids=describe)
def test_the_demo_cohort_equals_r_coxph(case):
    assert_cox_equals_r("cox", case, read_demo())


@pytest.mark.parametrize("case", R, ids=describe)
def test_shared_cohorts_equal_r_coxph(case, cohorts):
    assert_cox_equals_r("cox", case, read(case["cohort"], cohorts))


@pytest.mark.parametrize("ties", ["breslow", "efron"])
@pytest.mark.parametrize("penalties", [[0.0] * 4, [3.0, 0.0, 10.0, 1.0]])
def test_a_general_optimiser_finds_the_same_penalised_maximum(ties, penalties):
    state = fit("cox", SITES, COLUMNS, ties=ties, penalties=penalties)
    x = standardised(COHORT, context(COLUMNS).design, state["mean"], state["scale"])

    def log_likelihood(beta):
        return partial_log_likelihood(COHORT.time, COHORT.event, COHORT.entry, x, beta, ties)

    found = maximum(lambda beta: log_likelihood(beta) - 0.5 * np.sum(penalties * beta**2), np.zeros(4))
    np.testing.assert_allclose(state["beta"], found, atol=1e-5)
    assert state["log_likelihood"] == pytest.approx(log_likelihood(state["beta"]), rel=1e-13)


def test_on_a_grid_the_fit_is_that_of_the_times_moved_to_it():
    prompt = patients(120, seed=8, delayed=False)
    on_grid = fit("cox", split(prompt, np.arange(120) % 3), COLUMNS, edges=EDGES)
    lower = np.concatenate(([0.0], EDGES))
    beyond = prompt.time > EDGES[-1]
    up, down = (
        EDGES[np.searchsorted(EDGES, np.minimum(prompt.time, 13.0))],
        lower[np.searchsorted(EDGES, prompt.time, "right")],
    )
    event = prompt.event & ~beyond
    moved = cohort_of(prompt.matrix(COLUMNS), np.where(event, up, down), event, columns=COLUMNS)
    exact = fit("cox", [moved], COLUMNS)
    np.testing.assert_allclose(on_grid["beta"], exact["beta"], rtol=1e-11)
    np.testing.assert_allclose(on_grid["covariance"], exact["covariance"], rtol=1e-9)


def test_a_newton_step_is_two_releases_and_a_usual_fit_at_most_six_steps():
    rounds: list[str] = []
    fit("cox", SITES, COLUMNS, edges=EDGES, rounds=rounds)
    assert rounds == ["risk_sets", "weights"] * (len(rounds) // 2)
    assert len(rounds) <= 12


def test_breslow_asks_for_no_sums_over_deaths():
    assert "d0" not in {
        spec.name for part in Cox(context(COLUMNS, 6, ties="breslow")).parts() for spec in part.releases
    }
    assert "d0" in {spec.name for part in Cox(context(COLUMNS, 6)).parts() for spec in part.releases}


def test_a_step_that_overshoots_is_halved():
    # Heavy tails: the curvature at beta = 0 says little about the maximum.
    rng = np.random.default_rng(0)
    x = rng.standard_t(1.2, size=(60, 2))
    time = np.ceil(rng.exponential(size=60) * 8 * np.exp(-1.5 * (x[:, 0] > np.median(x[:, 0]))))
    cohort = cohort_of(x, time, rng.random(60) < 0.7)
    rounds: list[str] = []
    state = fit("cox", [cohort], ("x0", "x1"), rounds=rounds)
    z = standardised(cohort, context(("x0", "x1")).design, state["mean"], state["scale"])

    def log_likelihood(beta):
        return partial_log_likelihood(time, cohort.event, cohort.entry, z, beta, "efron")

    np.testing.assert_allclose(state["beta"], maximum(log_likelihood, np.zeros(2)), atol=1e-5)
    assert rounds.count("risk_sets") == rounds.count("weights") + 1, "a point given up asks for no weights"


def test_a_site_refuses_log_hazards_beyond_the_limit_without_breaking_the_gate():
    step = Cox(context(COLUMNS, 6))
    sent = {
        "mean": np.zeros(4),
        "scale": np.ones(4),
        "edges": EDGES,
        "n_intervals": np.array(6.0),
        "beta": np.full(4, LOG_HAZARD_LIMIT),
    }
    answer = step.local("risk_sets", sent, COHORT)
    assert answer["log_hazard_of_events"] == REFUSED
    assert_matches(step.parts()[0].releases, answer)


def test_no_event_on_the_grid_is_told():
    nobody = cohort_of(np.ones((5, 1)), np.arange(1.0, 6.0), np.zeros(5))
    with pytest.raises(DivergedError, match="no patient at risk has the event"):
        fit("cox", [nobody], ("x0",), edges=np.array([2.0, 5.0]))


def test_unknown_ties_and_missing_penalties_are_refused():
    with pytest.raises(ValueError, match="exact"):
        Cox(context(COLUMNS, 6, ties="exact"))
    with pytest.raises(ValueError, match="1 penalties for 4 columns"):
        Cox(context(COLUMNS, 6, penalties=[1.0]))
