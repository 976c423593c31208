"""A model corrected to a hospital's own patients: its interval by the slow delta method, by laws, and by coverage."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.arm_difference import arm_difference
from models.calibration import calibration_slope
from models.prediction import (
    cumulative_hazard_between,
    interval_hazards,
    interval_shares,
    log_hazards,
    model_matrix,
    predict,
)
from models.recalibration import Recalibration, predict_recalibrated, recalibrated_difference, recalibration_of
from models.step import Floats
from schemas.artefact import Artefact
from schemas.cohort import Cohort
from tests.models.federation import cohort_of, split
from tests.models.test_arm_difference import arms
from tests.models.test_prediction import cox_model, hazard_model
from tests.reference.cohorts import read_demo

BETA = np.array([0.6, -0.4, 0.3])
COLUMNS = ("x0", "x1", "x2")
HORIZON = 8.0
TIMES = np.array([1.5, 4.0, 7.0])


def invented(rng: np.random.Generator, n: int, *, slope: float = 1.0, level: float = 0.0) -> Cohort:
    """Patients of a known hazard; the hospital's differ by slope and level, and lie elsewhere in the covariates."""
    x = rng.normal(size=(n, 3)) + (0.4 if slope != 1 else 0.0)
    time = rng.exponential(10 * np.exp(-level - slope * (x @ BETA)))
    censored = rng.uniform(3, 15, n)
    return cohort_of(x, np.maximum(np.minimum(time, censored), 1e-3), time <= censored, columns=COLUMNS)


def corrected(model: Artefact, own: Cohort) -> Recalibration:
    """Slope and level as `client.page.calibration` finds them."""
    eta = log_hazards(model, own)
    slope, error = calibration_slope(own.time, own.event, eta, own.entry)
    found = recalibration_of(
        model, own, HORIZON, slope=slope, slope_variance=error**2, level=level_of(model, own, eta, slope)
    )
    assert found is not None
    return found


def level_of(model: Artefact, own: Cohort, eta: Floats, slope: float, horizon: float = HORIZON) -> float:
    baseline = cumulative_hazard_between(model, 0.0, np.minimum(own.time, horizon))
    baseline = baseline - cumulative_hazard_between(model, 0.0, np.minimum(own.entry, horizon))
    observed = (own.event & (own.time <= horizon)).sum()
    return float(np.log(observed / (baseline @ np.exp(slope * eta))))


def moved(model: Artefact, hazard: Floats, beta: Floats) -> Artefact:
    return replace(model, arrays={**model.arrays, "beta": beta, "cumulative_hazard": np.cumsum(hazard)})


def slow_variance(model: Artefact, own: Cohort, patient: Cohort, time: float, start: float) -> float:
    """Var log H by numbers: everything is fitted anew for each hazard and coefficient that is moved a little."""
    hazard, beta = interval_hazards(model), model.beta
    share = interval_shares(model, start, np.array([time]))[0]

    def log_hazard(changed: Artefact) -> float:
        found = corrected(changed, own)
        eta = float(log_hazards(changed, patient)[0])
        return found.level + found.slope * eta + float(np.log(share @ interval_hazards(changed)))

    def by_hazard(k: int) -> float:
        step = 1e-5 * max(hazard[k], 1e-3)
        ends = [
            log_hazard(moved(model, hazard + sign * step * (np.arange(hazard.size) == k), beta)) for sign in (1, -1)
        ]
        return float((ends[0] - ends[1]) / (2 * step))

    def by_beta(j: int) -> float:
        step, ends = 1e-4, []
        for sign in (1, -1):
            unit = sign * step * (np.arange(beta.size) == j)
            ends.append(log_hazard(moved(model, hazard + model.arrays["hazard_slope"] @ unit, beta + unit)))
        return (ends[0] - ends[1]) / (2 * step)

    h = np.array([by_hazard(k) for k in range(hazard.size)])
    b = np.array([by_beta(j) for j in range(beta.size)])
    found = corrected(model, own)
    eta, own_eta = float(log_hazards(model, patient)[0]), log_hazards(model, own)
    weights = cumulative_hazard_between(model, 0.0, np.minimum(own.time, HORIZON))
    weights = weights - cumulative_hazard_between(model, 0.0, np.minimum(own.entry, HORIZON))
    weights = weights * np.exp(found.slope * own_eta)
    away = eta - float(weights @ own_eta / weights.sum())
    observed = float((own.event & (own.time <= HORIZON)).sum())
    local = away**2 * found.slope_variance + 1 / observed
    return float(h**2 @ model.arrays["hazard_variance"] + b @ model.arrays["covariance"] @ b) + local


def variance_said(lower: Floats, upper: Floats) -> Floats:
    """Var log H from the ends of an interval."""
    return (np.log(-np.log(lower)) - np.log(-np.log(upper))) ** 2 / (2 * 1.959963984540054) ** 2


@pytest.mark.parametrize("kind", ["grid", "exact"])
@pytest.mark.parametrize("start", [0.0, 1.0])
def test_the_interval_equals_the_slow_delta_method(kind: str, start: float) -> None:
    rng = np.random.default_rng(1)
    trained = split(invented(rng, 90), [i % 3 for i in range(90)])
    edges = np.array([1.0, 2.5, 4.0, 6.0, 9.0])
    model = hazard_model(trained, COLUMNS, edges, 0.0) if kind == "grid" else cox_model(trained, COLUMNS)
    own = invented(rng, 80, slope=0.6, level=0.5)
    own = replace(own, entry=np.where(np.arange(80) % 4 == 0, own.time / 3, 0.0))
    patients = invented(rng, 3)
    curve = predict_recalibrated(model, corrected(model, own), patients, TIMES, start=start)
    assert curve.lower is not None
    assert curve.upper is not None
    said = variance_said(curve.lower, curve.upper)
    for i, j in ((0, 0), (1, 1), (2, 2)):
        slow = slow_variance(model, own, patients.take(np.array([i])), float(TIMES[j]), start)
        assert said[i, j] == pytest.approx(slow, rel=2e-3)


def test_curve_and_interval_equal_those_of_r() -> None:
    kept = json.loads((Path(read_demo.__code__.co_filename).parent / "recalibration.json").read_text())
    reference = read_demo()
    columns = tuple(reference.columns[int(j)] for j in kept["columns"])
    n = reference.pooled.n_patients
    trained, own = (reference.pooled.take(np.arange(first, n, 2)) for first in (1, 0))
    model = cox_model([trained], columns)
    eta = log_hazards(model, own)
    slope, error = calibration_slope(own.time, own.event, eta, own.entry)
    level = level_of(model, own, eta, slope, kept["horizon"])
    assert (slope, error**2) == pytest.approx((kept["slope"], kept["slope_variance"]), rel=1e-7)
    # R's columns have another centre, and with it the level; what it predicts has not.
    found = recalibration_of(model, own, kept["horizon"], slope=slope, slope_variance=error**2, level=level)
    assert found is not None
    assert found.level_variance == pytest.approx(kept["level_variance"], rel=1e-9)
    for one in kept["fits"]:
        patient = reference.pooled.take(np.array([one["patient"]]))
        curve = predict_recalibrated(model, found, patient, np.array([one["time"]]))
        assert curve.lower is not None
        assert curve.upper is not None
        said = (curve.survival[0, 0], curve.lower[0, 0], curve.upper[0, 0])
        assert said == pytest.approx((one["survival"], one["lower"], one["upper"]), abs=1e-6)


def test_slope_1_and_level_0_that_are_sure_and_given_leave_the_models_own_interval() -> None:
    reference = read_demo()
    model = cox_model(reference.federated(delayed=False), reference.columns)
    p, k = model.beta.size, model.edges.size
    nothing = Recalibration(1.0, 0.0, 0.0, 0.0, 0.0, np.zeros(p), np.zeros(p), np.zeros(k))
    patients, times = reference.pooled.take(np.arange(5)), np.array([100.0, 250.0, 380.0])
    for start in (0.0, 60.0):
        plain = predict(model, patients, times, start=start)
        ours = predict_recalibrated(model, nothing, patients, times, start=start)
        np.testing.assert_allclose(ours.survival, plain.survival, rtol=1e-12)
        for end in ("lower", "upper"):
            np.testing.assert_allclose(getattr(ours, end), getattr(plain, end), rtol=1e-10)
    control, treated = arms(reference.pooled.take(np.arange(4)), reference.columns[0])
    plain_difference = arm_difference(model, control, treated, times)
    ours_difference = recalibrated_difference(model, nothing, control, treated, times)
    np.testing.assert_allclose(ours_difference.value, plain_difference.value, atol=1e-12)
    assert ours_difference.lower is not None
    assert plain_difference.lower is not None
    np.testing.assert_allclose(ours_difference.lower, plain_difference.lower, atol=1e-10)


def test_a_hospital_of_very_many_patients_leaves_only_what_it_cannot_tell() -> None:
    """Level and slope are then sure: only the shape of the baseline and the direction of beta are not."""
    rng = np.random.default_rng(2)
    model = hazard_model(
        split(invented(rng, 240), [i % 3 for i in range(240)]), COLUMNS, np.array([1.0, 3, 5, 9]), 0.0
    )
    patients = invented(rng, 6)
    few, many = (
        predict_recalibrated(model, corrected(model, invented(rng, n, slope=0.6, level=0.5)), patients, TIMES)
        for n in (60, 3_000)
    )
    plain = predict(model, patients, TIMES)

    def width(curve: object) -> Floats:
        return variance_said(curve.lower, curve.upper)  # type: ignore[attr-defined]

    assert (width(many) < width(few)).all()
    assert width(many).mean() < width(plain).mean()


def test_the_level_of_the_models_baseline_does_not_matter_after_correction() -> None:
    """Ten times the hazard: the level takes it back, in the curve and in its interval."""
    rng = np.random.default_rng(3)
    model = hazard_model(split(invented(rng, 200), [i % 2 for i in range(200)]), COLUMNS, np.array([2.0, 5, 9]), 0.0)
    arrays = {**model.arrays}
    arrays |= {
        "cumulative_hazard": 10 * arrays["cumulative_hazard"],
        "hazard_variance": 100 * arrays["hazard_variance"],
        "hazard_slope": 10 * arrays["hazard_slope"],
    }
    own, patients = invented(rng, 100, slope=0.7, level=0.3), invented(rng, 4)
    one = predict_recalibrated(model, corrected(model, own), patients, TIMES)
    other = replace(model, arrays=arrays)
    ten = predict_recalibrated(other, corrected(other, own), patients, TIMES)
    np.testing.assert_allclose(ten.survival, one.survival, rtol=1e-9)
    assert ten.lower is not None
    assert one.lower is not None
    np.testing.assert_allclose(ten.lower, one.lower, rtol=1e-9)


def test_the_difference_of_arms_equals_numbers() -> None:
    """With one arm's patients a copy of the other's there is no difference; else the two shares go along."""
    rng = np.random.default_rng(4)
    model = hazard_model(split(invented(rng, 200), [i % 2 for i in range(200)]), COLUMNS, np.array([2.0, 5, 9]), 0.0)
    found = corrected(model, invented(rng, 150, slope=0.7, level=0.3))
    patients = invented(rng, 4)
    same = recalibrated_difference(model, found, patients, patients, TIMES)
    assert same.lower is not None
    np.testing.assert_allclose(same.lower, 0.0, atol=1e-9)
    control, treated = arms(patients, "x0")
    both = recalibrated_difference(model, found, control, treated, TIMES)
    ends = [predict_recalibrated(model, found, one, TIMES) for one in (control, treated)]
    np.testing.assert_allclose(both.value, ends[1].survival - ends[0].survival, atol=1e-12)
    # By numbers: the gradient of the difference in every uncertain thing, each by itself.
    x = [model_matrix(model, one) for one in (control, treated)]
    eta = [log_hazards(model, one) for one in (control, treated)]
    covariance, variance = model.arrays["covariance"], model.arrays["hazard_variance"]
    for i, j in ((0, 0), (3, 2)):
        share = interval_shares(model, 0.0, TIMES[j : j + 1])[0]
        total = float(share @ interval_hazards(model))
        by = []
        for arm in (0, 1):
            log_by_h = share / total - found.exposure
            away = eta[arm][i] - found.mean_log_hazard
            log_by_beta = found.slope * (x[arm][i] - found.mean_row) + away * found.slope_by_beta
            log_by_beta = log_by_beta + log_by_h @ model.arrays["hazard_slope"]
            h = total * np.exp(found.level + found.slope * eta[arm][i])
            factor = -h * np.exp(-h)
            by.append([factor * log_by_h, factor * log_by_beta, factor * away, factor])
        d = [b - a for a, b in zip(by[0], by[1], strict=True)]
        slow = d[0] ** 2 @ variance + d[1] @ covariance @ d[1]
        slow += d[2] ** 2 * found.slope_variance + d[3] ** 2 * found.level_variance
        assert both.upper is not None
        assert both.upper[i, j] - both.value[i, j] == pytest.approx(1.959963984540054 * np.sqrt(slow), rel=1e-9)


def test_95_percent_intervals_hold_the_hospitals_true_survival() -> None:
    rng = np.random.default_rng(5)
    held = []
    for _ in range(60):
        model = cox_model(split(invented(rng, 150), [i % 3 for i in range(150)]), COLUMNS)
        found = corrected(model, invented(rng, 120, slope=0.6, level=0.5))
        new = invented(rng, 20, slope=0.6)
        truth = np.exp(-0.1 * TIMES * np.exp(0.5 + 0.6 * (new.matrix(model.design) @ BETA))[:, None])
        curve = predict_recalibrated(model, found, new, TIMES)
        assert curve.lower is not None
        assert curve.upper is not None
        held.append(((curve.lower <= truth) & (truth <= curve.upper)).mean())
    assert 0.91 < np.mean(held) < 0.985


def test_a_model_that_does_not_tell_how_sure_it_is_has_none() -> None:
    rng = np.random.default_rng(6)
    model = hazard_model(split(invented(rng, 200), [i % 2 for i in range(200)]), COLUMNS, np.array([2.0, 5, 9]), 0.0)
    bare = {name: array for name, array in model.arrays.items() if not name.startswith("hazard_")}
    silent = replace(model, arrays=bare)
    assert recalibration_of(silent, invented(rng, 90), HORIZON, slope=1.0, slope_variance=0.1, level=0.0) is None
