import numpy as np

from models.baseline import cumulative_hazard_at
from models.held_out_calibration import HeldOutCalibration
from models.kaplan_meier import KaplanMeier
from tests.models.federation import run_step
from tests.models.fold_world import EDGES, FOLDS, HORIZONS, N_INTERVALS, models, patients, step_context

STEP = HeldOutCalibration(step_context(folds=FOLDS))
SITES = [patients(80, s, late=s == 1) for s in range(3)]
CUTPOINTS = np.tile(0.8 * np.array([-1.28, -0.84, -0.52, -0.25, 0.0, 0.25, 0.52, 0.84, 1.28]), (FOLDS, 1))
GRID = {"all_edges": EDGES, "all_intervals": np.array(N_INTERVALS)}
INPUTS = {**models(), "cutpoints": CUTPOINTS, **GRID}
FIGURES = ("n_group", "predicted", "observed", "observed_standard_error", "at_risk", "events", "n_patients")


def test_every_patient_is_judged_by_the_model_of_the_own_fold():
    state = run_step(STEP, INPUTS, SITES)
    groups, predicted = np.zeros(10), np.zeros((10, 2))
    for site in SITES:
        for i in range(site.n_patients):
            fold = site.fold_of[i]
            score = site.matrix(["x0"])[i, 0] * INPUTS["beta"][fold, 0]
            group = int((score > CUTPOINTS[fold]).sum())
            hazard = cumulative_hazard_at(
                np.array(HORIZONS), INPUTS["edges"][fold], 6, INPUTS["cumulative_hazard"][fold], exact=False
            )
            groups[group] += 1
            predicted[group] += np.exp(-hazard * np.exp(score))
    np.testing.assert_array_equal(state["n_group"], groups)
    np.testing.assert_allclose(state["predicted"], predicted / np.maximum(groups, 1)[:, None], rtol=1e-12)


def test_with_one_model_for_all_folds_it_is_the_calibration_of_all_patients():
    same = {name: np.stack([array[0]] * FOLDS) for name, array in models().items()}
    inputs = {**same, "cutpoints": CUTPOINTS, **GRID}
    state = run_step(STEP, inputs, SITES)
    one = {name: array[0] for name, array in same.items()} | {"cutpoints": CUTPOINTS[0]}
    whole = run_step(KaplanMeier(step_context(n_groups=10)), one, SITES)
    for name in FIGURES:
        np.testing.assert_allclose(state[name], whole[name], rtol=1e-9, atol=1e-12, err_msg=name)


def test_the_federated_curve_is_the_pooled_one_in_any_order():
    state = run_step(STEP, INPUTS, SITES)
    other = run_step(STEP, INPUTS, SITES[::-1])
    for name in FIGURES:
        np.testing.assert_allclose(state[name], other[name], rtol=1e-12, err_msg=name)


def test_a_site_without_patients_adds_nothing_and_nothing_is_nan():
    nobody = SITES[0].take(np.zeros(80, dtype=bool))
    state = run_step(STEP, INPUTS, [nobody])
    assert state["n_group"].sum() == 0
    assert np.isfinite(state["observed"]).all()
