import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.kaplan_meier import KaplanMeier, product_limit
from tests.models.federation import cohort_of, context, run_step, split

REFERENCE = json.loads((Path(__file__).parents[1] / "reference" / "evaluation.json").read_text())
LOG_HAZARD = np.array(REFERENCE["log_hazard"])
COHORT = cohort_of(LOG_HAZARD[:, None], REFERENCE["time"], REFERENCE["event"], REFERENCE["entry"])
EDGES = np.array([*REFERENCE["edges"], 22.0, 22.0])  # two edges of padding
BASELINE = 0.08 * EDGES
INPUTS = {
    "mean": np.zeros(1),
    "scale": np.ones(1),
    "beta": np.ones(1),
    "edges": EDGES,
    "n_intervals": np.array(6.0),
    "cumulative_hazard": BASELINE,
    "cutpoints": np.array(REFERENCE["cutpoints"]),
}
HORIZONS = (1.0, 7.0, 13.5, 100.0)
STEP = KaplanMeier(context(["x0"], n_bins=8, horizons=HORIZONS))
SITES = split(COHORT, np.arange(90) % 4)


def moved_to_the_grid(cohort):
    """Events up to the next edge, censoring down to the last, entry up; who is left without time goes."""
    edges = np.array(REFERENCE["edges"])
    lower = np.concatenate(([0.0], edges))
    in_grid = cohort.event & (cohort.time <= edges[-1])
    up = edges[np.minimum(np.searchsorted(edges, cohort.time), edges.size - 1)]
    time = np.where(in_grid, up, lower[np.searchsorted(edges, cohort.time, side="right")])
    entry = np.append(lower, np.inf)[np.searchsorted(lower, cohort.entry)]
    return replace(cohort, time=time, event=in_grid, entry=entry).take(entry < time)


def test_curves_of_times_on_the_grid_equal_r_survfit_with_late_entry():
    state = run_step(STEP, INPUTS, [moved_to_the_grid(site) for site in SITES])
    for name in ("at_risk", "events", "survival"):
        np.testing.assert_allclose(state[name][:, :6], REFERENCE[name], rtol=1e-12, atol=1e-15)
    error = np.array(REFERENCE["standard_error"], dtype=float)
    last_is_zero = np.isnan(error)
    assert last_is_zero.sum() == 1
    np.testing.assert_allclose(state["standard_error"][:, :6], np.where(last_is_zero, 0, error), rtol=1e-12)


def test_padding_repeats_the_last_value():
    state = run_step(STEP, INPUTS, SITES)
    for name in ("survival", "standard_error"):
        np.testing.assert_array_equal(state[name][:, 6:], np.repeat(state[name][:, 5:6], 2, axis=1))
    assert not state["at_risk"][:, 6:].any()


def test_predicted_survival_is_the_mean_over_the_group():
    state = run_step(STEP, INPUTS, SITES)
    group = np.digitize(LOG_HAZARD, INPUTS["cutpoints"], right=True)
    hazard = 0.08 * np.minimum(HORIZONS, 22.0)  # linear between edges and constant after the last
    slow = [[np.mean(np.exp(-h * np.exp(LOG_HAZARD[group == g]))) for h in hazard] for g in range(3)]
    np.testing.assert_allclose(state["predicted"], slow, rtol=1e-12)
    np.testing.assert_array_equal(state["n_group"], np.bincount(group))


def test_observed_at_a_horizon_is_linear_within_an_interval_and_constant_beyond_the_grid():
    state = run_step(STEP, INPUTS, SITES)
    curve, error = state["survival"], state["standard_error"]
    np.testing.assert_allclose(state["observed"][:, 0], (1 + curve[:, 0]) / 2)
    np.testing.assert_allclose(state["observed_standard_error"][:, 0], error[:, 0] / 2)
    np.testing.assert_allclose(state["observed"][:, 1], curve[:, 2])
    np.testing.assert_allclose(state["observed"][:, 2], (curve[:, 3] + curve[:, 4]) / 2)
    np.testing.assert_allclose(state["observed"][:, 3], curve[:, 5])


def test_on_exact_times_curves_at_a_horizon_are_steps():
    exact = KaplanMeier(context(["x0"], n_bins=8, horizons=HORIZONS, exact=True))
    state = run_step(exact, INPUTS, SITES)
    np.testing.assert_array_equal(state["observed"][:, 0], 1.0)
    np.testing.assert_allclose(state["observed"][:, 2], state["survival"][:, 3], rtol=1e-14)
    np.testing.assert_allclose(state["predicted"][:, 0], 1.0)


def test_federated_equals_pooled_in_any_order_of_sites_and_patients():
    pooled = run_step(STEP, INPUTS, [COHORT])
    for cohorts in (SITES, SITES[::-1], [COHORT.take(np.random.default_rng(0).permutation(90))]):
        for name, array in run_step(STEP, INPUTS, cohorts).items():
            np.testing.assert_allclose(array, pooled[name], rtol=1e-13, err_msg=name)


def test_a_shift_of_all_log_hazards_changes_no_figure():
    shifted = {
        **INPUTS,
        "mean": np.full(1, -100.0),
        "cutpoints": INPUTS["cutpoints"] + 100,
        "cumulative_hazard": BASELINE * np.exp(-100),
    }
    before, after = run_step(STEP, INPUTS, SITES), run_step(STEP, shifted, SITES)
    for name in before:
        np.testing.assert_allclose(after[name], before[name], rtol=1e-11, err_msg=name)


def test_the_unit_of_time_changes_no_figure():
    in_other_unit = cohort_of(LOG_HAZARD[:, None], COHORT.time / 128, COHORT.event, COHORT.entry / 128)
    step = KaplanMeier(context(["x0"], n_bins=8, horizons=tuple(h / 128 for h in HORIZONS)))
    before = run_step(STEP, INPUTS, [COHORT])
    after = run_step(step, {**INPUTS, "edges": EDGES / 128}, [in_other_unit])
    for name in before:
        np.testing.assert_allclose(after[name], before[name], rtol=1e-13, err_msg=name)


@pytest.mark.parametrize("n", [0, 1])
def test_an_empty_group_has_a_flat_curve_and_says_that_it_is_empty(n):
    state = run_step(STEP, INPUTS, [COHORT.take(np.arange(n))])
    empty = state["n_group"] == 0
    assert empty.sum() == 3 - n
    np.testing.assert_array_equal(state["survival"][empty], 1.0)
    np.testing.assert_array_equal(state["predicted"][empty], 0.0)


def test_a_study_without_horizons_has_curves_all_the_same():
    state = run_step(KaplanMeier(context(["x0"], n_bins=8)), INPUTS, SITES)
    assert state["predicted"].shape == state["observed"].shape == (3, 0)
    np.testing.assert_array_equal(state["survival"], run_step(STEP, INPUTS, SITES)["survival"])


def test_the_curve_stays_where_nobody_is_at_risk():
    curve, error = product_limit(np.array([4.0, 0.0, 2.0]), np.array([1.0, 0.0, 2.0]))
    np.testing.assert_allclose(curve, [0.75, 0.75, 0.0])
    np.testing.assert_allclose(error, [0.75 * np.sqrt(1 / 12), 0.75 * np.sqrt(1 / 12), 0.0])


def test_whoever_is_censored_inside_an_interval_counts_for_the_share_observed():
    time = np.array([4.0, 8.0, 10.0, 20.0])
    cohort = cohort_of(np.zeros((4, 1)), time, np.array([False, True, False, False]))
    inputs = {**INPUTS, "edges": np.array([10.0, 20.0]), "n_intervals": np.array(2.0), "cutpoints": np.zeros(2)}
    inputs["cumulative_hazard"] = np.array([0.1, 0.2])
    state = run_step(KaplanMeier(context(["x0"], n_bins=2, horizons=HORIZONS)), inputs, [cohort])
    np.testing.assert_allclose(state["at_risk"][0], [0.4 + 1 + 1 + 1, 1.0])
    np.testing.assert_allclose(state["survival"][0], 1 - 1 / 3.4)
