import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.brier import Brier, score_range
from models.censoring import brier_scores, censoring_curve
from tests.models.federation import cohort_of, context, run_step, split

REFERENCE = json.loads((Path(__file__).parents[1] / "reference" / "evaluation.json").read_text())
LOG_HAZARD = np.array(REFERENCE["log_hazard"])
COHORT = cohort_of(LOG_HAZARD[:, None], REFERENCE["time"], REFERENCE["event"], REFERENCE["entry"])
EDGES = np.array([*REFERENCE["edges"], 22.0, 22.0])  # two edges of padding
N_INTERVALS = 6
BASELINE = 0.05 * EDGES
INPUTS = {
    "mean": np.zeros(1),
    "scale": np.ones(1),
    "beta": np.ones(1),
    "edges": EDGES,
    "n_intervals": np.array(float(N_INTERVALS)),
    "cumulative_hazard": BASELINE,
    "events": np.array([12.0, 15.0, 10.0, 11.0, 6.0, 6.0, 0.0, 0.0]),
}
STEP = Brier(context(["x0"], n_bins=8))
SITES = split(COHORT, np.arange(90) % 4)


def on_moved_times(cohort, log_hazard):
    """The exact-time score after moving every patient to the edges: censoring falls just after the edge reached."""
    active = EDGES[:N_INTERVALS]
    edge = np.concatenate(([0.0], active))
    in_grid = cohort.event & (cohort.time <= active[-1])
    up = edge[np.minimum(np.searchsorted(active, cohort.time), N_INTERVALS - 1) + 1]
    down = edge[np.searchsorted(active, cohort.time, side="right")]
    time = np.where(in_grid, up, down + 1e-6)
    before = np.searchsorted(edge, cohort.entry)
    entry = np.concatenate((edge, [np.inf]))[before]
    seen = entry < time
    hazard = np.concatenate(([0.0], 0.05 * active))
    at_entry = np.exp(-hazard[np.minimum(before, N_INTERVALS)] * np.exp(log_hazard))
    at_edges = np.exp(-0.05 * active * np.exp(log_hazard)[:, None])
    curve = censoring_curve(time[seen], in_grid[seen], entry[seen])
    return brier_scores(
        time[seen], in_grid[seen], at_edges[seen], active, curve, entry[seen], at_entry[seen]
    ), curve.after(active)


def test_brier_equals_the_exact_score_of_times_moved_to_the_grid():
    state = run_step(STEP, INPUTS, SITES)
    expected, g = on_moved_times(COHORT, LOG_HAZARD)
    np.testing.assert_allclose(state["censoring_survival"][:N_INTERVALS], g, rtol=1e-12)
    np.testing.assert_allclose(state["brier"][:N_INTERVALS], expected, rtol=1e-12)
    assert not state["brier"][N_INTERVALS:].any()


patients = st.lists(
    st.tuples(st.integers(1, 25), st.booleans(), st.floats(0, 0.99), st.integers(-2, 2)), min_size=1, max_size=25
)


@given(patients=patients)
def test_brier_equals_the_exact_score_of_moved_times_for_any_cohort(patients):
    time = np.array([float(one[0]) for one in patients])
    entry = np.floor(time * np.array([one[2] for one in patients]))
    score = np.array([float(one[3]) for one in patients])
    cohort = cohort_of(score[:, None], time, [one[1] for one in patients], entry)
    expected, _ = on_moved_times(cohort, score)
    np.testing.assert_allclose(
        run_step(STEP, INPUTS, [cohort])["brier"][:N_INTERVALS], expected, rtol=1e-9, atol=1e-12
    )


def test_the_variance_of_the_integrated_score_is_that_of_a_mean_over_patients():
    cohort = cohort_of(LOG_HAZARD[:, None], REFERENCE["time"], REFERENCE["event"])
    state = run_step(STEP, INPUTS, split(cohort, np.arange(90) % 4))
    g, first, last = state["censoring_survival"], *score_range(INPUTS["events"], N_INTERVALS)
    parts = []
    for i in range(90):  # each patient's own errors at the edges, then their mean over time
        time, event = cohort.time[i], cohort.event[i] and cohort.time[i] <= EDGES[N_INTERVALS - 1]
        errors = []
        for k in range(first, last + 1):
            survival = np.exp(-BASELINE[k] * np.exp(LOG_HAZARD[i]))
            if event and time <= EDGES[k]:
                errors.append(survival**2 / g[np.searchsorted(EDGES[:N_INTERVALS], time)])
            else:
                reached = EDGES[k] < time if event else EDGES[k] <= time
                errors.append((1 - survival) ** 2 / g[k] if reached else 0.0)
        edges = EDGES[first : last + 1]
        parts.append(np.trapezoid(errors, edges) / (edges[-1] - edges[0]))
    assert state["ibs"] == pytest.approx(np.mean(parts), rel=1e-12)
    assert state["ibs_variance"] == pytest.approx(np.var(parts) / 90, rel=1e-9)


def test_the_interval_of_the_integrated_score_covers_the_truth_in_95_of_100_repetitions():
    def judged(n, seed):
        rng = np.random.default_rng(seed)
        score = rng.normal(size=n)
        failure, censoring = rng.exponential(12 * np.exp(-0.7 * score)), rng.uniform(3, 30, size=n)
        cohort = cohort_of(score[:, None], np.minimum(failure, censoring), failure <= censoring)
        return run_step(STEP, INPUTS, [cohort])

    truth = judged(40_000, 0)["ibs"]
    states = [judged(150, seed) for seed in range(1, 301)]
    hits = [abs(state["ibs"] - truth) < 1.96 * np.sqrt(state["ibs_variance"]) for state in states]
    # 300 repetitions tell the share to +-2.5 points; the censoring curve is estimated and counted as known.
    assert 0.91 <= np.mean(hits) <= 0.985


def test_without_censoring_brier_is_the_mean_squared_error():
    cohort = cohort_of(LOG_HAZARD[:, None], np.minimum(COHORT.time, 22), np.ones(90))
    brier = run_step(STEP, INPUTS, [cohort])["brier"]
    for k in range(N_INTERVALS):
        alive = cohort.time > EDGES[k]
        assert brier[k] == pytest.approx(np.mean((np.exp(-BASELINE[k] * np.exp(LOG_HAZARD)) - alive) ** 2), rel=1e-12)


def test_the_integral_runs_from_the_10_to_the_80_percent_quantile_of_events():
    state = run_step(STEP, INPUTS, SITES)
    assert state["ibs_from"] == 2  # 12 of 60 events
    assert state["ibs_to"] == 11  # 48 of 60: exactly 80 %
    b = state["brier"]
    by_hand = ((b[0] + b[1]) / 2 * 2 + (b[1] + b[2]) / 2 * 3 + (b[2] + b[3]) / 2 * 4) / 9
    assert state["ibs"] == pytest.approx(by_hand, rel=1e-13)


def test_the_range_of_the_integral_with_few_events():
    assert score_range(np.array([9.0, 1.0, 0.0]), 2) == (0, 0)
    assert score_range(np.array([1.0, 0.0, 0.0]), 1) == (0, 0)
    assert score_range(np.zeros(4), 3) == (0, 2)


def test_an_integral_over_one_edge_is_the_score_there():
    state = run_step(STEP, {**INPUTS, "events": np.array([9.0, 1, 0, 0, 0, 0, 0, 0])}, SITES)
    assert state["ibs"] == state["brier"][0]


def test_federated_equals_pooled_in_any_order_of_sites_and_patients():
    pooled = run_step(STEP, INPUTS, [COHORT])
    for cohorts in (SITES, SITES[::-1], [COHORT.take(np.random.default_rng(0).permutation(90))]):
        for name, array in run_step(STEP, INPUTS, cohorts).items():
            np.testing.assert_allclose(array, pooled[name], rtol=1e-13, err_msg=name)


def test_a_shift_of_all_log_hazards_against_the_baseline_changes_nothing():
    shifted = {**INPUTS, "mean": np.full(1, -100.0), "cumulative_hazard": BASELINE * np.exp(-100)}
    before, after = run_step(STEP, INPUTS, SITES), run_step(STEP, shifted, SITES)
    np.testing.assert_allclose(after["brier"], before["brier"], rtol=1e-11)


def test_the_unit_of_time_changes_no_score():
    in_other_unit = cohort_of(LOG_HAZARD[:, None], COHORT.time / 128, COHORT.event, COHORT.entry / 128)
    before = run_step(STEP, INPUTS, [COHORT])
    after = run_step(STEP, {**INPUTS, "edges": EDGES / 128}, [in_other_unit])
    np.testing.assert_allclose(after["brier"], before["brier"], rtol=1e-13)
    assert after["ibs"] == pytest.approx(before["ibs"], rel=1e-13)


def test_nobody_one_patient_and_a_cohort_without_events_give_finite_scores():
    nobody = run_step(STEP, INPUTS, [COHORT.take(np.arange(0))])
    assert nobody["ibs"] == 0
    assert nobody["n_patients"] == 0
    alone = run_step(STEP, INPUTS, [COHORT.take(np.arange(1))])
    assert alone["n_patients"] == 1
    censored = cohort_of(LOG_HAZARD[:, None], COHORT.time, np.zeros(90))
    assert run_step(STEP, INPUTS, [censored])["ibs"] > 0


def test_extreme_log_hazards_give_finite_scores():
    state = run_step(STEP, {**INPUTS, "beta": np.full(1, 1e6)}, SITES)
    assert np.isfinite(state["ibs"])


def test_when_a_site_leaves_the_censoring_curve_is_asked_again():
    parts = {part.name: part for part in STEP.parts()}
    turn = STEP.begin(INPUTS)
    state = run_step(STEP, INPUTS, SITES)
    again = STEP.shrink("errors", {"censoring_survival": state["censoring_survival"]})
    assert again.ask == turn.ask == "censoring"
    assert not again.state
    assert all(part.times == 2 for part in parts.values())
