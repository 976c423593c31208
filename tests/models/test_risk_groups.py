from dataclasses import replace

import numpy as np
import pytest

from models.risk_groups import RiskGroups
from tests.models.federation import cohort_of, context, run_step, split

RNG = np.random.default_rng(5)
X = RNG.normal(size=(300, 2))
COHORT = cohort_of(X, np.ones(300), np.zeros(300))
MODEL = {"mean": np.array([0.2, -0.1]), "scale": np.array([1.5, 0.5]), "beta": np.array([0.7, -0.3])}
SCORES = (X - MODEL["mean"]) / MODEL["scale"] @ MODEL["beta"]
STEP = RiskGroups(context(["x0", "x1"]))


def test_cutpoints_are_the_tertiles_of_a_normal_with_the_pooled_mean_and_spread():
    state = run_step(STEP, MODEL, split(COHORT, np.arange(300) % 4))
    np.testing.assert_allclose(
        state["cutpoints"], SCORES.mean() + np.array([-1, 1]) * 0.4307272992954575 * SCORES.std(), rtol=1e-13
    )
    group = np.digitize(SCORES, state["cutpoints"])
    assert np.bincount(group).min() > 85  # near 100 each, since the scores are normal


def test_cutpoints_equal_pooled_in_any_order_of_sites_and_patients():
    pooled = run_step(STEP, MODEL, [COHORT])["cutpoints"]
    sites = split(COHORT, np.arange(300) % 3)
    shuffled = COHORT.take(RNG.permutation(300))
    for cohorts in (sites, sites[::-1], [shuffled]):
        np.testing.assert_allclose(run_step(STEP, MODEL, cohorts)["cutpoints"], pooled, rtol=1e-13)


def test_a_shift_of_all_log_hazards_shifts_the_cutpoints_and_moves_nobody():
    shifted = {**MODEL, "mean": MODEL["mean"] - np.array([100 * 1.5 / 0.7, 0])}
    before, after = (run_step(STEP, model, [COHORT])["cutpoints"] for model in (MODEL, shifted))
    np.testing.assert_allclose(after, before + 100, rtol=1e-13)
    np.testing.assert_array_equal(np.digitize(SCORES, before), np.digitize(SCORES + 100, after))


@pytest.mark.parametrize("n", [0, 1])
def test_with_one_patient_or_none_both_cutpoints_are_the_mean(n):
    state = run_step(STEP, MODEL, [COHORT.take(np.arange(n))])
    np.testing.assert_allclose(state["cutpoints"], SCORES[:n].sum(), atol=1e-7)


def test_a_missing_covariate_counts_as_its_mean():
    cohort = replace(COHORT.take(np.arange(1)), layers=cohort_of([[np.nan, -0.1]], [1.0], [0]).layers)
    np.testing.assert_array_equal(run_step(STEP, MODEL, [cohort])["mean_log_hazard"], 0.0)
