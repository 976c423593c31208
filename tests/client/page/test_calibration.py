"""This site's own calibration: right on patients of the model's own making, and silent where it cannot be known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.page.calibration import SiteCalibrations, calibration_of
from client.page.open_model import OpenModel
from client.page.patients import Patients
from models.compile import compile_plan
from models.concordance import harrell
from models.incidence_prediction import predict_incidence
from models.prediction import cumulative_hazard_between, log_hazards, model_matrix
from schemas.artefact import Artefact, ArtefactColumn, Manifest
from schemas.cohort import Cohort, Layer
from schemas.design import design_columns
from schemas.study import load_study
from tests.client.page.page_kit import competing_model, small_model
from tests.client.page.test_patients import members, site
from tests.models.test_prediction import cox_model
from tests.reference.cohorts import read_demo

HORIZON = 1825.0
CONFIGS = Path(__file__).parents[3] / "configs"


def cohort(n: int, seed: int = 0, *, slope: float = 1.0, level: float = 1.0) -> Cohort:
    """Patients whose hazards are level * exp(slope * log hazard) times the small model's, censored at random."""
    rng = np.random.default_rng(seed)
    model = small_model().artefact
    age, treated = rng.uniform(20, 80, n), rng.integers(0, 2, n).astype(float)
    cells = np.column_stack(
        [age, rng.integers(0, 2, n), rng.integers(0, 2, n), treated, np.where(treated == 1, age, np.nan)]
    )
    names = tuple(column.name for column in model.manifest.columns[:5])
    everybody = Cohort(
        tuple(f"P-{i}" for i in range(n)), np.ones(n), np.zeros(n, dtype=bool), np.zeros(n),
        {"clinical": Layer(names, cells)},
    )  # fmt: skip
    eta = log_hazards(model, everybody)
    times = np.arange(1.0, 2001.0)
    hazard = cumulative_hazard_between(model, 0.0, times)
    reached = rng.exponential(size=n) / (level * np.exp(slope * eta))
    event_at = np.where(reached > hazard[-1], np.inf, times[np.minimum(np.searchsorted(hazard, reached), 1999)])
    censored = rng.uniform(500, 2000, n)
    return replace(everybody, time=np.minimum(event_at, censored), event=event_at <= censored)


def test_patients_of_the_models_own_making_are_well_calibrated() -> None:
    found = calibration_of(small_model().artefact, cohort(6000), HORIZON)
    assert found.slope == pytest.approx(1.0, abs=0.1)
    assert found.observed_over_expected == pytest.approx(1.0, abs=0.06)
    assert found.intercept == pytest.approx(0.0, abs=0.1)
    assert found.slope_low is not None
    assert found.slope_high is not None
    assert found.slope_low < 1 < found.slope_high


def test_another_slope_and_level_are_found() -> None:
    found = calibration_of(small_model().artefact, cohort(6000, slope=0.5, level=1.8), HORIZON)
    assert found.slope == pytest.approx(0.5, abs=0.1)
    assert found.intercept == pytest.approx(np.log(1.8), abs=0.08)


def test_with_slope_and_intercept_applied_as_many_events_are_expected_as_were_observed() -> None:
    model, patients = small_model().artefact, cohort(400, 3, slope=0.6, level=1.5)
    found = calibration_of(model, patients, HORIZON)
    assert found.slope is not None
    assert found.intercept is not None
    eta = log_hazards(model, patients)
    baseline = np.array(
        [cumulative_hazard_between(model, 0.0, np.array([min(t, HORIZON)]))[0] for t in patients.time]
    )
    expected = sum(h * np.exp(found.intercept + found.slope * e) for h, e in zip(baseline, eta, strict=True))
    assert expected == pytest.approx((patients.event & (patients.time <= HORIZON)).sum())


def test_concordance_is_harrells() -> None:
    model, patients = small_model().artefact, cohort(200, 4)
    concordant, tied, comparable = harrell(patients.time, patients.event, log_hazards(model, patients))
    found = calibration_of(model, patients, HORIZON)
    assert found.c is not None
    assert found.c == pytest.approx((concordant + tied / 2) / comparable)
    assert found.c_low is not None
    assert found.c_high is not None
    assert found.c_low < found.c < found.c_high


def test_the_slope_of_a_cox_model_on_those_who_trained_it_is_1() -> None:
    """The score of an unpenalised fit is 0 at its own coefficients, and its martingale residuals sum to 0."""
    reference = read_demo()
    model = cox_model(reference.federated(delayed=False), reference.columns)
    horizon = float(model.edges[-1])
    found = calibration_of(model, reference.pooled, horizon)
    assert found.slope == pytest.approx(1.0, abs=0.02)  # Breslow's ties there, Efron's here
    assert found.observed_over_expected == pytest.approx(1.0, abs=1e-9)


def competing_cohort(n: int, *, level: float = 1.0, other_level: float = 1.0) -> Cohort:
    """Patients whose three kinds of event happen at the rates of the small model of competing events."""
    rng, model = np.random.default_rng(7), competing_model().artefact
    everybody = replace(cohort(n), outcome=np.zeros(n))
    x, times = model_matrix(model, everybody), np.arange(1.0, 2001.0)
    reached = []
    for number, factor in ((1, level), (2, other_level), (3, 1.0)):
        own = model.of_cause(number)
        hazard = np.interp(times, np.append(0.0, model.edges), np.append(0.0, own["cumulative_hazard"]))
        wanted = rng.exponential(size=n) / (factor * np.exp(x @ own["beta"]))
        place = np.searchsorted(hazard, wanted)
        reached.append(np.where(place < times.size, times[np.minimum(place, times.size - 1)], np.inf))
    first, censored = np.min(reached, axis=0), rng.uniform(500, 2000, n)
    kind = np.where(first <= censored, 1.0 + np.argmin(reached, axis=0), 0.0)
    return replace(everybody, time=np.minimum(first, censored), event=kind == 1, outcome=kind)


def test_where_events_compete_the_level_is_observed_over_predicted_incidence() -> None:
    model = competing_model().artefact
    found = calibration_of(model, competing_cohort(6000), HORIZON)
    assert found.slope == pytest.approx(1.0, abs=0.12)
    assert found.observed_over_expected == pytest.approx(1.0, abs=0.08)
    assert found.observed_low is not None
    assert found.observed_high is not None
    assert found.observed_low < 1 < found.observed_high
    more = calibration_of(model, competing_cohort(6000, level=2.0), HORIZON)
    assert more.observed_over_expected is not None
    assert 1.5 < more.observed_over_expected < 2.0  # of twice the hazard a part is forestalled
    # Twice as many deaths leave fewer relapses at the same hazard of relapse, and the level says so.
    fewer = calibration_of(model, competing_cohort(6000, other_level=3.0), HORIZON)
    assert fewer.observed_over_expected is not None
    assert fewer.observed_over_expected < 0.92
    assert fewer.slope == pytest.approx(1.0, abs=0.12)


def test_without_censoring_the_observed_incidence_is_a_share() -> None:
    model = competing_model().artefact
    everybody = competing_cohort(800)
    kind = np.where(everybody.outcome > 0, everybody.outcome, 0.0)
    whole = replace(everybody, time=np.where(kind > 0, everybody.time, 1e6), outcome=kind)
    found = calibration_of(model, whole, HORIZON)
    share = ((kind == 1) & (whole.time <= HORIZON)).mean()
    expected = predict_incidence(model, whole, np.array([HORIZON])).incidence[0].mean()
    assert found.observed_over_expected == pytest.approx(share / expected)


def test_nothing_is_said_of_few_patients_or_few_events() -> None:
    model: Artefact = small_model().artefact
    assert calibration_of(model, cohort(19), HORIZON).reason == "too-few-patients"
    everybody = cohort(60)
    few = replace(everybody, event=everybody.event & (np.cumsum(everybody.event) <= 9))
    found = calibration_of(model, few, HORIZON)
    assert (found.reason, found.events, found.is_known) == ("too-few-events", "<10", False)


def test_patients_who_are_all_alike_have_no_slope() -> None:
    everybody = cohort(300)
    nobody = replace(everybody, layers={})
    assert calibration_of(small_model().artefact, nobody, HORIZON).reason == "failed"


def test_a_site_without_the_models_plan_does_not_know_its_calibration(tmp_path: Path) -> None:
    home = site(tmp_path)
    found = SiteCalibrations(home, Patients(home)).of(small_model())
    assert (found.reason, found.horizon, found.is_known) == ("no-plan", 1825.0, False)


# ---------------------------------------------------------------- a site's own tables, with the model's plan
def planned(home: Path) -> OpenModel:
    """A model of the demo's study, with its plan, at a site that holds all of the demo's patients."""
    study, dictionary = load_study(CONFIGS / "cgd" / "study.toml")
    plan = compile_plan(study, dictionary)
    (home / "tables" / "clinical.csv").write_bytes((CONFIGS / "demo" / "cgd_clinical.csv").read_bytes())
    design = design_columns(study, dictionary)
    columns = tuple(
        ArtefactColumn(name=one.name, column=one.column, layer=one.layer, code=one.code, type=described.type,
                       codes=described.codes, min=described.min, max=described.max)
        for one in design
        if (described := dictionary.column(one.column)) is not None
    )  # fmt: skip
    assert len(columns) == len(design)
    manifest = {
        **dict(small_model().artefact.manifest), "columns": columns, "layers": (), "treatment": None,
        "plan_hash": plan.hash, "dictionary_hash": dictionary.hash, "horizons": study.endpoint.horizons_days,
    }  # fmt: skip
    p = len(columns)
    arrays = {
        "mean": np.zeros(p), "scale": np.ones(p), "beta": np.array([-1.0, 0.3, *[0.01] * (p - 2)]),
        "edges": np.array([90.0, 180, 270, 360]), "cumulative_hazard": np.array([0.02, 0.05, 0.08, 0.12]),
    }  # fmt: skip
    return OpenModel("d" * 64, Artefact(Manifest(**manifest), arrays), plan)


def test_a_sites_own_patients_with_outcomes_are_judged_without_those_who_trained(tmp_path: Path) -> None:
    home = site(tmp_path)
    model = planned(home)
    everybody = SiteCalibrations(home, Patients(home)).of(model)
    assert (everybody.reason, everybody.patients, everybody.is_known) == ("", "130", True)
    rows = (CONFIGS / "demo" / "cgd_clinical.csv").read_text().splitlines()[1:]
    members(home, *(row.split(",")[0].strip('"') for row in rows))
    assert SiteCalibrations(home, Patients(home)).of(model).reason == "too-few-patients"


def test_figures_are_computed_anew_when_the_tables_change(tmp_path: Path) -> None:
    home = site(tmp_path)
    model = planned(home)
    known = SiteCalibrations(home, Patients(home))
    first = known.of(model)
    assert first.is_known
    assert known.of(model) is first
    (home / "tables" / "clinical.csv").write_text("patient_id,age\n")
    assert known.of(model).reason == "tables"
