import numpy as np
import pytest

from models.cox_stratified import CoxStratified
from models.newton import LOG_HAZARD_LIMIT, REFUSED
from models.preparation import standardised
from models.step import DivergedError
from tests.models.federation import assert_matches, cohort_of, context, fit, split
from tests.models.oracles import maximum, partial_log_likelihood
from tests.models.r_checks import assert_cox_equals_r, describe
from tests.models.synthetic import COLUMNS, patients
from tests.reference.cohorts import numbers, read, read_demo

R = [case for case in numbers("coxph.json") if case["strata"]]
COHORT = patients(120, seed=9)
LABELS = np.arange(120) % 3
SITES = split(COHORT, LABELS)


@pytest.mark.parametrize("case", [case for case in R if case["cohort"] == "cgd"], ids=describe)
def test_the_demo_cohort_equals_r_coxph_with_strata(case):
    assert_cox_equals_r("cox_stratified", case, read_demo())


@pytest.mark.parametrize("case", R, ids=describe)
def test_shared_cohorts_equal_r_coxph_with_strata(case, cohorts):
    assert_cox_equals_r("cox_stratified", case, read(case["cohort"], cohorts))


@pytest.mark.parametrize("ties", ["breslow", "efron"])
@pytest.mark.parametrize("penalties", [[0.0] * 4, [3.0, 0.0, 10.0, 1.0]])
def test_a_general_optimiser_finds_the_same_penalised_maximum(ties, penalties):
    state = fit("cox_stratified", SITES, COLUMNS, ties=ties, penalties=penalties)
    x = standardised(COHORT, context(COLUMNS).design, state["mean"], state["scale"])

    def log_likelihood(beta):
        return partial_log_likelihood(COHORT.time, COHORT.event, COHORT.entry, x, beta, ties, LABELS)

    found = maximum(lambda beta: log_likelihood(beta) - 0.5 * np.sum(penalties * beta**2), np.zeros(4))
    np.testing.assert_allclose(state["beta"], found, atol=1e-5)
    assert state["log_likelihood"] == pytest.approx(log_likelihood(state["beta"]), rel=1e-13)


@pytest.mark.parametrize("ties", ["breslow", "efron"])
def test_one_site_alone_has_the_unstratified_fit(ties):
    alone, pooled = (fit(method, [COHORT], COLUMNS, ties=ties) for method in ("cox_stratified", "cox"))
    for name in ("beta", "covariance", "log_likelihood", "n_events"):
        np.testing.assert_allclose(alone[name], pooled[name], rtol=1e-11, atol=1e-13)


def test_a_site_whose_times_are_multiplied_keeps_the_fit():
    later = cohort_of(SITES[1].matrix(COLUMNS), SITES[1].time * 64, SITES[1].event, SITES[1].entry * 64, COLUMNS)
    one, other = (fit("cox_stratified", [SITES[0], site], COLUMNS) for site in (SITES[1], later))
    np.testing.assert_array_equal(one["beta"], other["beta"])


def test_no_risk_set_leaves_a_site():
    names = {spec.name for spec in CoxStratified(context(COLUMNS)).parts()[0].releases}
    assert names == {"n_patients", "n_events", "log_likelihood", "gradient", "hessian", "hessian_terms"}


def test_a_usual_fit_takes_at_most_six_rounds():
    rounds: list[str] = []
    fit("cox_stratified", SITES, COLUMNS, rounds=rounds)
    assert len(rounds) <= 6


def test_a_step_that_overshoots_is_halved():
    # Heavy tails: the curvature at beta = 0 says little about the maximum.
    rng = np.random.default_rng(0)
    x = rng.standard_t(1.2, size=(60, 2))
    time = np.ceil(rng.exponential(size=60) * 8 * np.exp(-1.5 * (x[:, 0] > np.median(x[:, 0]))))
    cohort = cohort_of(x, time, rng.random(60) < 0.7)
    rounds: list[str] = []
    state = fit("cox_stratified", [cohort], ("x0", "x1"), rounds=rounds)
    z = standardised(cohort, context(("x0", "x1")).design, state["mean"], state["scale"])

    def log_likelihood(beta):
        return partial_log_likelihood(time, cohort.event, cohort.entry, z, beta, "efron")

    np.testing.assert_allclose(state["beta"], maximum(log_likelihood, np.zeros(2)), atol=1e-5)
    assert len(rounds) == 7


def test_a_site_refuses_log_hazards_beyond_the_limit_without_breaking_the_gate():
    step = CoxStratified(context(COLUMNS))
    sent = {"mean": np.zeros(4), "scale": np.ones(4), "beta": np.full(4, LOG_HAZARD_LIMIT)}
    answer = step.local("newton", sent, COHORT)
    assert answer["log_likelihood"] == REFUSED
    assert_matches(step.parts()[0].releases, answer)


def test_no_event_at_any_site_is_told():
    nobody = cohort_of(np.ones((5, 1)), np.arange(1.0, 6.0), np.zeros(5))
    with pytest.raises(DivergedError, match="no patient at risk has the event"):
        fit("cox_stratified", [nobody], ("x0",), edges=np.array([2.0, 5.0]))
