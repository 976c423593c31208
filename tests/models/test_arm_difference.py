"""The difference between two arms: against the slow delta method, and laws."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from models.arm_difference import arm_difference
from models.prediction import interval_shares, model_matrix, predict
from schemas.artefact import Artefact
from schemas.cohort import Cohort, Layer
from tests.models.test_prediction import cox_model, hazard_model
from tests.reference.cohorts import read_demo


def arms(patients: Cohort, column: str) -> tuple[Cohort, Cohort]:
    """The same patients as if each arm were theirs."""
    own = next(iter(patients.layers.values()))
    found = []
    for value in (0.0, 1.0):
        cells = own.values.copy()
        cells[:, own.columns.index(column)] = value
        found.append(replace(patients, layers={name: Layer(own.columns, cells) for name in patients.layers}))
    return found[0], found[1]


def slow_variance(model: Artefact, control: Cohort, treated: Cohort, time: float, start: float) -> float:
    """By numbers: the derivative of the difference in each hazard and coefficient, by central differences.

    A hazard moves by itself (variance `hazard_variance`) and with the coefficients (`hazard_slope`).
    """
    arrays = model.arrays
    hazard, beta = np.diff(model.cumulative_hazard, prepend=0.0), model.beta
    x = [model_matrix(model, arm)[0] for arm in (control, treated)]
    share = interval_shares(model, start, np.array([time]))[0]

    def difference(hazard: np.ndarray, beta: np.ndarray) -> float:
        survival = [float(np.exp(-(share @ hazard) * np.exp(one @ beta))) for one in x]
        return survival[1] - survival[0]

    def derivative(of: int, step: float) -> float:
        ends = []
        for sign in (1, -1):
            h, b = hazard.copy(), beta.copy()
            if of < h.size:
                h[of] += sign * step
            else:
                b[of - h.size] += sign * step
                h += sign * step * arrays["hazard_slope"][:, of - h.size]
            ends.append(difference(h, b))
        return (ends[0] - ends[1]) / (2 * step)

    k = hazard.size
    by_hazard = np.array([derivative(i, 1e-6) for i in range(k)])
    by_beta = np.array([derivative(k + j, 1e-6) for j in range(beta.size)])
    return float(by_hazard**2 @ arrays["hazard_variance"] + by_beta @ arrays["covariance"] @ by_beta)


def test_the_interval_equals_the_slow_delta_method() -> None:
    reference = read_demo()
    sites = reference.federated(delayed=False)
    treatment = "rIFNg"
    control, treated = arms(reference.pooled.take(np.array([5])), treatment)
    models = (cox_model(sites, reference.columns), hazard_model(sites, reference.columns, reference.edges, 3.0))
    for model in models:
        for start, time in ((0.0, 120.0), (0.0, 300.0), (90.0, 200.0)):
            found = arm_difference(model, control, treated, np.array([time]), start=start)
            curves = [predict(model, arm, np.array([time]), start=start).survival for arm in (control, treated)]
            np.testing.assert_allclose(found.value, curves[1] - curves[0], atol=1e-14)
            assert found.lower is not None
            assert found.upper is not None
            error = np.sqrt(slow_variance(model, control, treated, time, start))
            np.testing.assert_allclose(found.upper - found.value, 1.959963984540054 * error, rtol=1e-6)
            np.testing.assert_allclose(found.value - found.lower, 1.959963984540054 * error, rtol=1e-6)


def test_two_arms_that_are_the_same_do_not_differ() -> None:
    reference = read_demo()
    model = cox_model(reference.federated(delayed=False), reference.columns)
    patients = reference.pooled.take(np.arange(5))
    found = arm_difference(model, patients, patients, np.array([100.0, 300.0]))
    assert found.lower is not None
    assert found.upper is not None
    for values in (found.value, found.lower, found.upper):
        np.testing.assert_array_equal(values, np.zeros((5, 2)))


def test_a_model_that_does_not_tell_how_sure_it_is_gives_no_interval() -> None:
    reference = read_demo()
    model = cox_model(reference.federated(delayed=False), reference.columns)
    arrays = {name: model.arrays[name] for name in ("mean", "scale", "beta", "edges", "cumulative_hazard")}
    patients = reference.pooled.take(np.arange(5))
    found = arm_difference(Artefact(model.manifest, arrays), patients, patients, np.array([100.0]))
    assert (found.lower, found.upper) == (None, None)
