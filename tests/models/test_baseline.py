import numpy as np

from models.baseline import Baseline, cumulative_hazard_at, survival
from models.preparation import standardised
from tests.models.federation import cohort_of, context, fit, run_step, split
from tests.models.oracles import intervals_at_risk
from tests.models.synthetic import COLUMNS, EDGES, patients

COHORT = patients(120, seed=10)
SITES = split(COHORT, np.arange(120) % 3)
INPUTS = ("mean", "scale", "edges", "n_intervals", "beta")


def baseline(cohorts, fitted, *, exact):
    step = Baseline(context(COLUMNS, fitted["edges"].size, exact=exact))
    return run_step(step, {name: fitted[name] for name in INPUTS}, cohorts)


def test_with_exact_times_it_equals_the_slow_breslow_sum_over_any_sites():
    fitted = fit("cox", SITES, COLUMNS, edges=None)
    x = standardised(COHORT, context(COLUMNS).design, fitted["mean"], fitted["scale"])
    hazard = np.exp(x @ fitted["beta"])
    n = int(fitted["n_intervals"])
    events, s0 = np.zeros(n), np.zeros(n)
    for i in range(120):
        at_risk, event_in = intervals_at_risk(
            COHORT.time[i], bool(COHORT.event[i]), COHORT.entry[i], fitted["edges"][:n], exact=True
        )
        s0[at_risk] += hazard[i]
        if event_in is not None:
            events[event_in] += 1
    slow = np.cumsum([d / s if d else 0.0 for d, s in zip(events, s0, strict=True)])
    for sites in (SITES, SITES[::-1], [COHORT]):
        state = baseline(sites, fitted, exact=True)
        np.testing.assert_allclose(state["cumulative_hazard"][:n], slow, rtol=1e-12)
        np.testing.assert_allclose(state["cumulative_hazard"][n:], slow[-1], rtol=1e-12)
        assert state["n_patients"] == 120


def test_on_a_merged_grid_it_equals_events_over_time_under_observation_over_any_sites():
    fitted = fit("cox", SITES, COLUMNS, edges=EDGES)
    x = standardised(COHORT, context(COLUMNS).design, fitted["mean"], fitted["scale"])
    hazard = np.exp(x @ fitted["beta"])
    n = int(fitted["n_intervals"])
    slow, lower = [], 0.0
    for upper in fitted["edges"][:n]:
        events = observed = 0.0
        for i in range(120):
            start, stop = max(lower, COHORT.entry[i]), min(upper, COHORT.time[i])
            observed += hazard[i] * max(stop - start, 0.0) / (upper - lower)
            events += bool(COHORT.event[i]) and lower < COHORT.time[i] <= upper
        slow.append(events / observed if events else 0.0)
        lower = upper
    for sites in (SITES, SITES[::-1], [COHORT]):
        state = baseline(sites, fitted, exact=False)
        np.testing.assert_allclose(state["cumulative_hazard"][:n], np.cumsum(slow), rtol=1e-12)
        np.testing.assert_allclose(state["cumulative_hazard"][n:], np.sum(slow), rtol=1e-12)


def test_wide_intervals_with_much_censoring_do_not_raise_the_hazard():
    rng = np.random.default_rng(1)
    n = 20_000
    failure, censoring = rng.exponential(200, n), rng.uniform(0, 100, n)
    time = np.minimum(failure, censoring)
    cohort = cohort_of(np.zeros((n, 1)), time, failure <= censoring)
    inputs = {
        "mean": np.zeros(1),
        "scale": np.ones(1),
        "beta": np.zeros(1),
        "edges": np.array([40.0, 95.0]),
        "n_intervals": np.array(2.0),
    }
    state = run_step(Baseline(context(["x0"], 2)), inputs, [cohort])
    np.testing.assert_allclose(state["cumulative_hazard"], [40 / 200, 95 / 200], rtol=0.05)


def test_exact_times_give_a_step_at_each_event():
    at = cumulative_hazard_at(
        np.array([0.0, 0.9, 1.0, 1.5, 3.0, 99.0]),
        np.array([1.0, 3.0, 3.0]),
        2,
        np.array([0.1, 0.4, 0.4]),
        exact=True,
    )
    np.testing.assert_array_equal(at, [0.0, 0.0, 0.1, 0.1, 0.4, 0.4])


def test_on_a_merged_grid_the_hazard_is_even_within_intervals_and_ends_with_the_grid():
    at = cumulative_hazard_at(
        np.array([[0.0, 0.5, 1.0], [2.0, 3.0, 99.0]]),
        np.array([1.0, 3.0, 3.0]),
        2,
        np.array([0.1, 0.4, 0.4]),
        exact=False,
    )
    np.testing.assert_allclose(at, [[0.0, 0.05, 0.1], [0.25, 0.4, 0.4]], rtol=1e-15)


def test_survival_is_the_exponential_of_minus_the_hazard_and_never_overflows():
    found = survival(np.array([0.0, 1.0, 1e4]), np.array([0.0, 0.5]))
    np.testing.assert_allclose(found, [[1.0, np.exp(-0.5)], [1.0, np.exp(-0.5 * np.e)], [1.0, 0.0]], rtol=1e-15)


def test_survival_falls_with_time_and_with_the_log_hazard():
    found = survival(np.linspace(-2, 2, 5), np.linspace(0, 3, 7))
    assert np.all(np.diff(found, axis=1) < 0)
    assert np.all(np.diff(found[:, 1:], axis=0) < 0)


def test_when_a_site_leaves_the_others_are_asked_the_same():
    step = Baseline(context(COLUMNS, 6))
    assert step.shrink("risk_sets", {}) == step.begin({})
