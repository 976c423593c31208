"""The numbers of a prognosis: R's, those of `models.prediction`, slow versions, and laws."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.page.calibration import calibration_of
from client.page.open_model import OpenModel
from client.page.prognosis import prognose
from client.page.rows import patient_of, with_arm
from client.page.shapes import Asked, Moved, Prognosis, Row, SiteCalibration
from models.prediction import contributions, cumulative_hazard_between, log_hazards, predict
from models.recalibration import predict_recalibrated
from models.step import Floats
from schemas.artefact import Artefact, Manifest
from tests.client.page.page_kit import ASKED, TODAY, codes, small_model, small_row, with_cells
from tests.client.page.test_calibration import cohort
from tests.models.test_prediction import CASES, cox_model
from tests.reference.cohorts import numbers, read, read_demo

BLOCK = {"rna": np.array([1.0, np.nan, 2.0, 3.0])}
CALIBRATION = SiteCalibration(
    1095, slope=0.7, slope_low=0.6, slope_high=0.8, intercept=0.3, observed_over_expected=1.1, observed_low=0.9,
    observed_high=1.4,
)  # fmt: skip


def told(row: Row | None = None, asked: Asked = ASKED, **changes: Any) -> Prognosis:
    found = prognose(small_model(**changes), small_row(blocks=BLOCK) if row is None else row, asked=asked)
    assert isinstance(found, Prognosis)
    return found


# ---------------------------------------------------------------- R
def reference_model(model: Artefact, last: float) -> OpenModel:
    """The same model, judged at the last time that R gives."""
    changed = {**dict(model.manifest), "horizons": (last,)}
    return OpenModel("c" * 64, replace(model, manifest=Manifest(**changed)))


def assert_prognosis_equals_r(case: Mapping[str, Any], folder: Path | None) -> None:
    reference = read_demo() if folder is None else read(case["cohort"], folder)
    last = float(case["time"][-1])
    model = reference_model(cox_model(reference.federated(delayed=case["delayed"]), reference.columns), last)
    rows = [
        one
        for one in numbers("survfit.json")
        if (one["cohort"], one["delayed"]) == (case["cohort"], case["delayed"]) and one["patient"] < 4
    ]
    assert rows
    for r in rows:
        values = reference.pooled.take(np.array([r["patient"]])).matrix(reference.columns)[0]
        cells = dict(zip(reference.columns, map(float, values), strict=True))
        row = Row("table", model.artefact.manifest.dictionary_hash, cells, in_sample=False)
        found = prognose(model, row, asked=Asked(TODAY))
        assert isinstance(found, Prognosis)
        at = dict(zip(found.curve.times, range(len(found.curve.times)), strict=True))
        places = [at[float(time)] for time in r["time"]]  # every time of R is a point of the curve
        assert found.curve.low is not None
        assert found.curve.high is not None
        np.testing.assert_allclose(np.array(found.curve.survival)[places], r["survival"], atol=1e-6)
        np.testing.assert_allclose(np.array(found.curve.low)[places], r["lower"], atol=1e-6)
        np.testing.assert_allclose(np.array(found.curve.high)[places], r["upper"], atol=1e-6)
        at_end = found.horizons[-1]
        assert at_end.survival == pytest.approx(r["survival"][-1], abs=1e-6)
        assert at_end.low == pytest.approx(r["lower"][-1], abs=1e-6)
        assert at_end.high == pytest.approx(r["upper"][-1], abs=1e-6)


def test_the_curve_of_an_unpenalised_cox_model_equals_survfit_on_cgd() -> None:
    assert_prognosis_equals_r(next(one for one in CASES if one["cohort"] == "cgd" and not one["delayed"]), None)


@pytest.mark.parametrize(
    "case", CASES, ids=lambda case: f"{case['cohort']}-{'delayed' if case['delayed'] else 'all'}"
)
def test_the_curve_of_an_unpenalised_cox_model_equals_survfit(case: dict[str, Any], cohorts: Path) -> None:
    assert_prognosis_equals_r(case, cohorts)


# ---------------------------------------------------------------- the model's own numbers
def test_the_numbers_are_those_of_the_artefacts_prediction() -> None:
    model, row = small_model(), small_row(blocks=BLOCK)
    found = told()
    times = np.array([one.time for one in found.horizons])
    expected = predict(model.artefact, patient_of(model.artefact, row), times)
    assert expected.lower is not None
    assert expected.upper is not None
    assert [one.survival for one in found.horizons] == expected.survival[0].tolist()
    assert [one.low for one in found.horizons] == expected.lower[0].tolist()
    assert [one.high for one in found.horizons] == expected.upper[0].tolist()
    along = predict(model.artefact, patient_of(model.artefact, row), np.array(found.curve.times))
    np.testing.assert_allclose(found.curve.survival, along.survival[0], rtol=1e-14)


def test_the_log_hazard_is_the_one_worked_out_by_hand() -> None:
    model = small_model()
    a = model.artefact.arrays
    # Age 50, stage II, untreated: the interaction counts as its mean; no rna: scores of 0.
    expected = 0.3 * (50 - 55) / 10 + 0.4 * (1 - 0.4) + 0.9 * (0 - 0.2) - 0.5 * (0 - 0.5) + 0.0
    assert log_hazards(model.artefact, patient_of(model.artefact, small_row()))[0] == pytest.approx(
        expected, abs=1e-14
    )
    # Treated: the interaction is age less its mean in the treated.
    treated = patient_of(model.artefact, with_cells(treated=1.0))
    assert log_hazards(model.artefact, treated)[0] == pytest.approx(expected - 0.5 + 0.2 * (50 - 54) / 10, abs=1e-14)
    z = np.clip((BLOCK["rna"] - 0.1) * np.array([1.0, 0.5, 0.0, 1.0]), -5, 5)
    scores = np.where(np.isnan(z), 0.0, z) @ a["rna_loadings"]
    with_rna = patient_of(model.artefact, small_row(blocks=BLOCK))
    assert log_hazards(model.artefact, with_rna)[0] == pytest.approx(expected + 0.5 * scores[0] - 0.3 * scores[1])


def test_a_patient_free_of_the_event_until_today_has_the_ratio_of_two_survivals() -> None:
    late = told(asked=replace(ASKED, event_free_until=730.0, horizons=(365.0, 1095.0)))
    whole = told(asked=replace(ASKED, horizons=(1095.0, 1825.0)))
    model, row = small_model(), small_row(blocks=BLOCK)
    until = predict(model.artefact, patient_of(model.artefact, row), np.array([730.0])).survival[0, 0]
    expected = [one.survival / until for one in whole.horizons]
    np.testing.assert_allclose([one.survival for one in late.horizons], expected, rtol=1e-12)
    assert late.event_free_until == 730.0
    assert late.curve.survival[0] == 1.0


def test_what_moved_the_estimate_sums_to_the_difference_from_a_patient_at_the_means() -> None:
    found = told()
    at_means = np.exp(-cumulative_hazard_between(small_model().artefact, 0.0, np.array([1095.0, 1825.0])))
    for i, horizon in enumerate(found.horizons):
        total = sum(one.by_horizon[i] for one in found.moved)
        assert total == pytest.approx(100 * (at_means[i] - horizon.survival), abs=1e-10)
    assert [one.points for one in found.moved] == [one.by_horizon[-1] for one in found.moved]
    sizes = [abs(one.points) for one in found.moved]
    assert sizes == sorted(sizes, reverse=True)


def test_what_moved_the_estimate_is_told_by_column_and_layer() -> None:
    found: dict[str, Moved] = {one.name: one for one in told().moved}
    assert set(found) == {"age", "stage", "treated", "rna"}
    assert (found["age"].label, found["age"].value, found["age"].unit) == ("Age at diagnosis", 50.0, "year")
    assert (found["stage"].value, found["treated"].value, found["rna"].value) == ("II", False, None)
    parts = contributions(
        small_model().artefact, patient_of(small_model().artefact, small_row(blocks=BLOCK)), np.array([1825.0])
    )
    assert found["stage"].points == pytest.approx(100 * parts[0, 0, 1:3].sum())
    missing: dict[str, Moved] = {one.name: one for one in told(with_cells(stage=math.nan)).moved}
    assert (missing["stage"].is_missing, missing["stage"].points, missing["stage"].value) == (True, 0.0, None)
    assert (missing["rna"].is_missing, missing["rna"].points) == (True, 0.0)


def test_layers_say_how_much_is_known() -> None:
    shares = {share.name: (share.known, share.of) for share in told().layers}
    assert shares == {"clinical": (3, 3), "rna": (3, 4)}


def test_the_rank_is_the_highest_released_share_at_or_below_the_patient() -> None:
    assert told(with_cells(age=60.0, stage=2.0)).rank == 0.5
    assert told(with_cells(age=1.0, stage=0.0, treated=1.0)).rank == 0.0
    assert told(with_cells(age=109.0, stage=2.0)).rank == 0.9
    assert told(log_hazards=()).rank is None


# ---------------------------------------------------------------- arms
def test_each_arm_is_the_patient_under_it() -> None:
    found, model = told(), small_model()
    control, treated = found.arms
    assert (control.treated, treated.treated, control.is_observed, treated.is_observed) == (False, True, True, False)
    for arm in found.arms:
        row = with_arm(model.artefact.manifest, small_row(blocks=BLOCK), treated=arm.treated)
        expected = predict(model.artefact, patient_of(model.artefact, row), np.array([1095.0, 1825.0]))
        assert [one.survival for one in arm.horizons] == expected.survival[0].tolist()
    for difference, a, b in zip(treated.difference, control.horizons, treated.horizons, strict=True):
        assert difference.survival == pytest.approx(b.survival - a.survival, abs=1e-14)
        assert difference.low is not None
        assert difference.high is not None
        assert difference.low < difference.survival < difference.high
    assert control.difference == ()


def test_a_study_without_a_treatment_has_no_arms() -> None:
    columns = tuple(one for one in small_model().artefact.manifest.columns if one.treatment is None)
    model = small_model(treatment=False)
    keep = [0, 1, 2, 3, 5, 6]
    arrays: dict[str, Floats] = {
        name: array[keep] if name in ("mean", "scale", "beta") else array
        for name, array in model.artefact.arrays.items()
        if name not in ("covariance", "hazard_variance", "hazard_slope")
    }
    manifest = Manifest(**{**dict(model.artefact.manifest), "columns": columns})
    found = prognose(
        OpenModel("c" * 64, Artefact(manifest, arrays)), small_row(), asked=replace(ASKED, horizons=(1095.0,))
    )
    assert isinstance(found, Prognosis)
    assert found.arms == ()


# ---------------------------------------------------------------- this site's calibration
def test_calibration_is_shown_and_changes_nothing_unless_it_was_chosen() -> None:
    shown = told(asked=replace(ASKED, calibration=CALIBRATION))
    assert (shown.horizons, shown.recalibrated, shown.calibration) == (told().horizons, False, CALIBRATION)


def test_applied_calibration_is_the_curve_at_the_calibrated_log_hazard() -> None:
    model = small_model()
    found = told(asked=replace(ASKED, calibration=CALIBRATION, recalibrate=True))
    eta = float(log_hazards(model.artefact, patient_of(model.artefact, small_row(blocks=BLOCK)))[0])
    hazard = cumulative_hazard_between(model.artefact, 0.0, np.array([1095.0, 1825.0]))
    expected = np.exp(-hazard * math.exp(0.3 + 0.7 * eta))
    np.testing.assert_allclose([one.survival for one in found.horizons], expected, rtol=1e-12)
    assert found.recalibrated
    assert {"recalibrated", "interval-none"} <= set(codes(found))
    assert {one.low for one in found.horizons} == {None}
    total = sum(one.points for one in found.moved)
    at_means = math.exp(-hazard[1] * math.exp(0.3))
    assert total == pytest.approx(100 * (at_means - expected[1]), abs=1e-10)


def test_applied_calibration_has_the_interval_of_model_and_hospital_together() -> None:
    """Shown is what `models.recalibration` says, for curve, arms and their difference."""
    model, horizons = small_model().artefact, np.array([1095.0, 1825.0])
    patient = patient_of(model, small_row(blocks=BLOCK))
    for n in (150, 1500):
        known = calibration_of(model, cohort(n, 9, slope=0.7, level=1.3), 1825.0)
        assert known.recalibration is not None
        found = told(asked=replace(ASKED, calibration=known, recalibrate=True))
        expected = predict_recalibrated(model, known.recalibration, patient, horizons)
        assert expected.lower is not None
        assert expected.upper is not None
        assert [one.low for one in found.horizons] == pytest.approx(expected.lower[0])
        assert [one.high for one in found.horizons] == pytest.approx(expected.upper[0])
        assert [one.survival for one in found.horizons] == pytest.approx(expected.survival[0])
        assert "interval-none" not in codes(found)
        control, treated = (one.horizons for one in found.arms)
        for before, after, between in zip(control, treated, found.arms[1].difference, strict=True):
            assert between.survival == pytest.approx(after.survival - before.survival)
            assert between.low is not None
            assert between.high is not None
            assert between.low < between.survival < between.high


@pytest.mark.parametrize("slope", [0.0, -0.4])
def test_a_slope_that_would_turn_the_order_around_is_never_applied(slope: float) -> None:
    upside_down = replace(CALIBRATION, slope=slope, slope_low=slope - 0.1, slope_high=slope + 0.1)
    found = told(asked=replace(ASKED, calibration=upside_down, recalibrate=True))
    assert not found.recalibrated
    assert {"calibration-poor", "not-recalibrated"} <= set(codes(found))
    assert found.horizons == told().horizons


def test_calibration_that_is_not_known_is_never_applied() -> None:
    for none in (None, SiteCalibration(1095, reason="no-plan")):
        found = told(asked=replace(ASKED, calibration=none, recalibrate=True))
        assert (found.recalibrated, found.horizons) == (False, told().horizons)
