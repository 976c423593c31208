import json
from pathlib import Path

import numpy as np
import pytest

from models.calibration import CalibrationSlope, calibration_slope, observed_expected
from models.step import DivergedError, combine
from tests.models.federation import cohort_of, context, run_step, split

REFERENCE = json.loads((Path(__file__).parents[1] / "reference" / "evaluation.json").read_text())
TIME = np.array(REFERENCE["time"])
EVENT = np.array(REFERENCE["event"]) == 1
ENTRY = np.array(REFERENCE["entry"])
LOG_HAZARD = np.array(REFERENCE["log_hazard"])
COHORT = cohort_of(LOG_HAZARD[:, None], TIME, EVENT, ENTRY)
EDGES = np.array([*REFERENCE["edges"], 22.0, 22.0])  # two edges of padding
BASELINE = 0.05 * EDGES
INPUTS = {
    "mean": np.zeros(1),
    "scale": np.ones(1),
    "beta": np.ones(1),
    "edges": EDGES,
    "n_intervals": np.array(6.0),
    "cumulative_hazard": BASELINE,
}
HORIZONS = (1.0, 7.0, 13.5, 100.0)
STEP = CalibrationSlope(context(["x0"], n_bins=8, horizons=HORIZONS))
SITES = split(COHORT, np.arange(90) % 4)


def test_the_exact_slope_equals_r_coxph():
    for slope, reference in (
        (calibration_slope(TIME, EVENT, LOG_HAZARD), "slope_efron"),
        (calibration_slope(TIME, EVENT, LOG_HAZARD, ties="breslow"), "slope_breslow"),
        (calibration_slope(TIME, EVENT, LOG_HAZARD, ENTRY), "slope_efron_late_entry"),
    ):
        np.testing.assert_allclose(slope, REFERENCE[reference], rtol=1e-9)


def test_the_exact_slope_does_not_depend_on_unit_of_time_order_of_patients_or_a_shift_of_all_log_hazards():
    slope = calibration_slope(TIME, EVENT, LOG_HAZARD, ENTRY)
    order = np.random.default_rng(0).permutation(90)
    moved = calibration_slope(TIME[order], EVENT[order], LOG_HAZARD[order], ENTRY[order])
    np.testing.assert_allclose(moved, slope, rtol=1e-11)
    np.testing.assert_allclose(calibration_slope(TIME, EVENT, LOG_HAZARD + 100, ENTRY), slope, rtol=1e-11)
    np.testing.assert_allclose(calibration_slope(TIME / 128, EVENT, LOG_HAZARD, ENTRY / 128), slope, rtol=1e-13)


def test_predictions_twice_too_extreme_have_half_the_slope():
    slope, error = calibration_slope(TIME, EVENT, LOG_HAZARD)
    np.testing.assert_allclose(calibration_slope(TIME, EVENT, 2 * LOG_HAZARD), (slope / 2, error / 2), rtol=1e-10)


def test_the_federated_slope_equals_r_cloglog_on_the_person_period_table():
    state = run_step(STEP, INPUTS, SITES)
    assert [state["slope"], state["slope_se"]] == pytest.approx(REFERENCE["grouped_slope"], rel=1e-7)


def slow_level(horizon):
    """Events observed and expected, patient by patient and interval by interval."""
    observed = expected = 0.0
    lower = np.concatenate(([0.0], EDGES[:5]))
    for i in range(90):
        for k in range(6):
            if EDGES[k] > horizon or lower[k] < ENTRY[i] or TIME[i] <= lower[k]:
                continue
            event = EVENT[i] and TIME[i] <= EDGES[k]
            if event or TIME[i] >= EDGES[k]:
                observed += event
                expected += 1 - np.exp(-0.05 * (EDGES[k] - lower[k]) * np.exp(LOG_HAZARD[i]))
    return observed, expected


def test_observed_and_expected_events_equal_the_slow_version():
    state = run_step(STEP, INPUTS, SITES)
    slow = np.array([slow_level(horizon) for horizon in HORIZONS])
    np.testing.assert_array_equal(state["observed"], slow[:, 0])
    np.testing.assert_allclose(state["expected"], slow[:, 1], rtol=1e-12, atol=1e-15)
    assert state["observed_over_expected"][0] == 0  # no edge before the first horizon
    np.testing.assert_allclose(state["observed_over_expected"][1:], slow[1:, 0] / slow[1:, 1], rtol=1e-12)


def test_federated_equals_pooled_in_any_order_of_sites_and_patients():
    pooled = run_step(STEP, INPUTS, [COHORT])
    for cohorts in (SITES, SITES[::-1], [COHORT.take(np.random.default_rng(0).permutation(90))]):
        for name, array in run_step(STEP, INPUTS, cohorts).items():
            np.testing.assert_allclose(array, pooled[name], rtol=1e-11, err_msg=name)


def test_a_shift_of_all_log_hazards_against_the_baseline_changes_nothing():
    shifted = {**INPUTS, "mean": np.full(1, -100.0), "cumulative_hazard": BASELINE * np.exp(-100)}
    before, after = run_step(STEP, INPUTS, SITES), run_step(STEP, shifted, SITES)
    for name in before:
        np.testing.assert_allclose(after[name], before[name], rtol=1e-10, err_msg=name)


def test_the_unit_of_time_changes_nothing():
    in_other_unit = cohort_of(LOG_HAZARD[:, None], TIME / 128, EVENT, ENTRY / 128)
    step = CalibrationSlope(context(["x0"], n_bins=8, horizons=tuple(h / 128 for h in HORIZONS)))
    before = run_step(STEP, INPUTS, [COHORT])
    after = run_step(step, {**INPUTS, "edges": EDGES / 128}, [in_other_unit])
    for name in before:
        np.testing.assert_allclose(after[name], before[name], rtol=1e-12, err_msg=name)


def test_equal_log_hazards_have_slope_zero_and_no_standard_error():
    state = run_step(STEP, {**INPUTS, "beta": np.zeros(1)}, SITES)
    assert state["slope"] == state["slope_se"] == 0
    assert calibration_slope(TIME, EVENT, np.zeros(90)) == (0, 0)


@pytest.mark.parametrize("rows", [0, 1, 30])
def test_without_events_there_is_no_slope(rows):
    cohort = cohort_of(LOG_HAZARD[:rows, None], TIME[:rows], np.zeros(rows))
    with pytest.raises(DivergedError):
        run_step(STEP, INPUTS, [cohort])
    with pytest.raises(DivergedError):
        calibration_slope(TIME[:rows], np.zeros(rows, dtype=bool), LOG_HAZARD[:rows])


def test_when_a_site_leaves_the_level_is_asked_again_and_the_slope_is_that_of_the_others():
    first = STEP.finish("level", {}, INPUTS, {**_total(STEP, "level", INPUTS, SITES)})
    again = STEP.shrink("newton", first.state)
    assert again.ask == "level"
    assert not again.state
    rest = run_step(STEP, INPUTS, SITES[1:])
    pooled = run_step(STEP, INPUTS, [COHORT.take(np.arange(90) % 4 != 0)])
    assert rest["slope"] == pytest.approx(float(pooled["slope"]), rel=1e-11)


def _total(step, part, inputs, cohorts):
    return combine([step.local(part, inputs, cohort) for cohort in cohorts])


def test_exact_observed_and_expected_events_agree_where_the_baseline_is_the_cohorts_own():
    # Nelson-Aalen at log hazard 0: each jump is shared by those at risk, so expected = observed (Andersen & Gill).
    times = np.unique(TIME[EVENT])
    jumps = [np.sum(TIME[EVENT] == t) / np.sum((t > ENTRY) & (t <= TIME)) for t in times]
    horizons = np.array([3.0, 8.0, 100.0])
    observed, expected = observed_expected(TIME, EVENT, np.zeros(90), times, np.cumsum(jumps), horizons, ENTRY)
    np.testing.assert_array_equal(observed, [np.sum(TIME[EVENT] <= h) for h in horizons])
    np.testing.assert_allclose(expected, observed, rtol=1e-12)
    _, doubled = observed_expected(TIME, EVENT, np.full(90, np.log(2)), times, np.cumsum(jumps), horizons, ENTRY)
    np.testing.assert_allclose(doubled, 2 * expected, rtol=1e-12)
