"""Studies of other endpoints, and of a treatment, from their files to result, report and predictions."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from archipel.demo_tables import deal_by_centre, deal_by_label, read_rows, write_site_folders
from archipel.report import render_report
from archipel.simulate import simulate
from archipel.site_folders import read_sites
from models.compile import compile_plan
from models.incidence_prediction import predict_incidence
from schemas.artefact import OF_CAUSE, read_artefact
from schemas.result import Result, parse_result
from schemas.study import load_study
from tests.archipel.competing_study import write_competing_study
from tests.archipel.pages import assert_self_contained, read
from tests.archipel.test_terminal import shown
from tests.site_folders import write_cohort

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.fixture(scope="module")
def cgd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cgd")
    write_site_folders(deal_by_centre(read_rows(CONFIGS / "demo" / "cgd_clinical.csv"), "centre"), folder)
    return folder


@pytest.fixture(scope="module")
def acc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("acc")
    write_site_folders(
        deal_by_label(read_rows(CONFIGS / "demo" / "acc_clinical.csv"), "simulated_site", "site"), folder
    )
    return folder


@pytest.fixture(scope="module")
def nodes(acc: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    out = tmp_path_factory.mktemp("nodes")
    return simulate(CONFIGS / "acc" / "study-nodes.toml", acc, out), out


@pytest.fixture(scope="module")
def treatment(cgd: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    out = tmp_path_factory.mktemp("treatment")
    return simulate(CONFIGS / "cgd" / "study-treatment.toml", cgd, out), out


@pytest.fixture(scope="module")
def competing_study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The cgd trial with made-up kinds of event: every third is of the other kind."""
    return write_competing_study(tmp_path_factory.mktemp("competing"))


@pytest.fixture(scope="module")
def competing(competing_study: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    out = tmp_path_factory.mktemp("two")
    return simulate(*competing_study, out), out


@pytest.mark.parametrize("name", ["nodes", "treatment", "competing"])
def test_result_and_report_are_whole(name: str, request: pytest.FixtureRequest) -> None:
    result, out = request.getfixturevalue(name)
    assert parse_result((out / "result.json").read_bytes()) == result
    html = (out / "report.html").read_text()
    assert_self_contained(html)
    page = read(html)
    assert len(set(page.ids)) == len(page.ids)
    assert {link["href"].removeprefix("#") for link in page.all("a")} <= set(page.ids)
    assert shown(result)


# ---------------------------------------------------------------- an outcome without a time
def test_a_binary_outcome_has_odds_ratios_an_auc_and_no_curves(nodes: tuple[Result, Path]) -> None:
    result, out = nodes
    assert result.outcome is not None
    assert result.outcome.codes == ("n0", "n1")
    assert (result.baseline, result.kaplan_meier, result.calibration, result.grid_intervals) == (None,) * 4
    assert result.reasons["baseline"] == "the outcome has no time"
    assert result.ties is None
    federated = result.evaluation["federated"]
    assert federated.brier is not None
    assert federated.log_likelihood is not None
    assert federated.log_likelihood < 0
    assert 0 < federated.brier < 0.25
    text = read((out / "report.html").read_text()).text
    assert "Odds ratios of the model" in text
    assert "Odds of n1 against n0" in text
    assert "hazard" not in text.lower()
    assert "Survival by predicted risk" not in text
    assert "AUC" in shown(result)


def test_counts_of_an_outcome_do_not_tell_the_hidden_one(nodes: tuple[Result, Path]) -> None:
    outcome = nodes[0].outcome
    assert outcome is not None
    assert outcome.patients == ("80", "15")


def test_federated_and_pooled_models_of_an_outcome_judge_alike(nodes: tuple[Result, Path]) -> None:
    evaluation = nodes[0].evaluation
    assert set(evaluation) == {"federated", "site_only", "pooled"}
    assert evaluation["federated"].c_index.mean == pytest.approx(evaluation["pooled"].c_index.mean, abs=1e-12)
    assert evaluation["federated"].brier == pytest.approx(evaluation["pooled"].brier, rel=1e-9)


def test_out_of_fold_predictions_of_an_outcome_are_written(nodes: tuple[Result, Path]) -> None:
    table = pd.read_parquet(nodes[1] / "predictions.parquet")
    assert set(table["outcome"]) == {"n0", "n1"}
    assert table["patient_id"].is_unique
    assert np.isfinite(table["log_odds n1"]).all()


def test_an_outcome_has_no_model_file_of_survival(nodes: tuple[Result, Path]) -> None:
    assert not (nodes[1] / "model.safetensors").exists()


def test_masks_change_no_odds_ratio(acc: Path, nodes: tuple[Result, Path], tmp_path: Path) -> None:
    masked = simulate(CONFIGS / "acc" / "study-nodes.toml", acc, tmp_path, secure_sum=True)
    for name, value in nodes[0].coefficients.items():
        assert masked.coefficients[name] == pytest.approx(value, abs=1e-9)


def test_an_outcome_of_several_values_has_a_row_for_each(acc: Path, tmp_path: Path) -> None:
    shutil.copy(CONFIGS / "acc" / "dictionary.toml", tmp_path)
    text = (CONFIGS / "acc" / "study-nodes.toml").read_text()
    for before, after in (
        ('type = "binary"', 'type = "category"'),
        ('outcome = "n_stage"', 'outcome = "residual_tumour"'),
        ('method = "logistic"', 'method = "multinomial"'),
        ('["age_years", "sex", "t_stage", "residual_tumour"]', '["age_years", "sex"]'),
        ("folds = 5", "folds = 3"),
    ):
        assert before in text
        text = text.replace(before, after)
    (tmp_path / "study.toml").write_text(text)
    result = simulate(tmp_path / "study.toml", acc, tmp_path / "out")
    assert list(result.coefficients) == [
        f"{name} ({code})" for code in ("r1", "r2", "rx") for name in ("age_years", "sex[male]")
    ]
    assert result.outcome is not None
    assert set(result.outcome.log_odds_at_means) == {"r1", "r2", "rx"}
    assert "age (r2)" in read((tmp_path / "out" / "report.html").read_text()).text
    assert "<10" in result.outcome.patients


# ---------------------------------------------------------------- a treatment
def test_interferon_gamma_keeps_more_patients_without_an_infection(treatment: tuple[Result, Path]) -> None:
    result, out = treatment
    response = result.treatment_response
    assert response is not None
    assert (response.control.arm, response.treated.arm) == ("placebo", "rIFN-g")
    assert [at.time for at in response.horizons] == [90, 180, 270, 360]
    last = response.horizons[-1]
    assert last.lower is not None
    assert 0 < last.lower < last.difference < 0.6
    assert last.difference == pytest.approx(last.treated - last.control)
    assert not response.penalised
    names = [covariate.name for covariate in result.covariates if covariate.interaction_with]
    assert names == ["treatment[rIFN-g] x age_years"]
    text = read((out / "report.html").read_text()).text
    assert "Predicted survival under each arm" in text
    assert "drawn by lot" in text
    assert "A penalty draws" not in text
    assert "percentage points" in shown(result)


def test_the_plan_of_a_treatment_is_what_real_sites_would_approve(treatment: tuple[Result, Path]) -> None:
    plan = compile_plan(*load_study(CONFIGS / "cgd" / "study-treatment.toml"))
    assert treatment[0].plan_hash == plan.hash
    assert [step.name for step in plan.steps if step.method == "treatment_response"] == ["treatment"]


def test_a_penalised_response_says_so(cgd: Path, tmp_path: Path) -> None:
    shutil.copy(CONFIGS / "cgd" / "dictionary.toml", tmp_path)
    text = (CONFIGS / "cgd" / "study-treatment.toml").read_text().replace("penalty = 0.0", "penalty = 10.0")
    (tmp_path / "study.toml").write_text(text.replace("folds = 5", "folds = 0"))
    result = simulate(tmp_path / "study.toml", cgd, tmp_path / "out")
    assert result.treatment_response is not None
    assert result.treatment_response.penalised
    assert "A penalty draws the two curves together" in read(render_report(result)).text


def test_dornase_alfa_keeps_more_patients_without_an_exacerbation(tmp_path: Path, cohorts: Path) -> None:
    study, sites = write_cohort(
        cohorts / "rhdnase_cf",
        tmp_path,
        model={"method": "cox", "ties": "breslow", "treatment": "rhDNase", "interactions": ["fev1"]},
        endpoint={"horizons_days": [84.0, 168.0]},
        privacy={"min_events_per_interval": 1, "min_patients": 1},
    )
    dictionary = tmp_path / "dictionary.toml"
    number = '"rhDNase", type = "number"'
    assert number in dictionary.read_text()
    dictionary.write_text(dictionary.read_text().replace(number, '"rhDNase", type = "boolean"'))
    response = simulate(study, sites, tmp_path / "out").treatment_response
    assert response is not None
    last = response.horizons[-1]
    # R's numbers for the same model are in tests/reference/endpoints.json; here from the study file on.
    assert last.lower is not None
    assert 0 < last.lower < last.difference < 0.2


# ---------------------------------------------------------------- competing events
def test_competing_events_are_shown_as_cumulative_incidence(competing: tuple[Result, Path]) -> None:
    result, out = competing
    events = result.competing
    assert events is not None
    assert events.causes == ("infection", "other")
    assert (result.kaplan_meier, result.calibration) == (None, None)
    assert result.reasons["kaplan_meier"].startswith("events compete")
    assert result.baseline is not None
    assert result.baseline.survival == ()
    assert [curve.cause for curve in events.overall] == ["infection", "other"]
    assert [curve.group for curve in events.by_risk] == ["low risk", "middle risk", "high risk"]
    assert set(events.hazard_ratios) == {"other"}
    assert list(events.hazard_ratios["other"]) == list(result.coefficients)
    assert result.evaluation["federated"].ibs is None
    text = read((out / "report.html").read_text()).text
    assert "Cumulative incidence" in text
    assert "Survival by predicted risk" not in text
    assert "Cumulative incidence" in shown(result)


def test_predicted_and_observed_incidence_lie_near_each_other(competing: tuple[Result, Path]) -> None:
    events = competing[0].competing
    assert events is not None
    for curve in events.overall:
        assert curve.predicted[-1] == pytest.approx(curve.incidence[-1], abs=0.06)
        assert 0 < curve.incidence[-1] < 1
    total = sum(curve.incidence[-1] for curve in events.overall)
    assert total < 1


def test_the_model_file_predicts_what_the_run_did(
    competing: tuple[Result, Path], competing_study: tuple[Path, Path]
) -> None:
    result, out = competing
    model = read_artefact((out / "model.safetensors").read_bytes())
    assert [cause.code for cause in model.manifest.causes] == ["infection", "other"]
    cohorts = read_sites(competing_study[1], *load_study(competing_study[0])).cohorts.values()
    found = [predict_incidence(model, cohort, model.edges) for cohort in cohorts]
    mean = np.concatenate([one.incidence for one in found], axis=1).mean(axis=1)
    assert result.competing is not None
    for cause, curve in enumerate(result.competing.overall):
        np.testing.assert_allclose(mean[cause], curve.predicted[1:], rtol=1e-10)
    assert all(one.lower is not None for one in found)


def test_the_model_file_counts_the_events_of_each_kind(competing: tuple[Result, Path]) -> None:
    manifest = read_artefact((competing[1] / "model.safetensors").read_bytes()).manifest
    table = pd.read_csv(CONFIGS / "demo" / "cgd_clinical.csv")
    first = (table["event"] == 1) & (np.arange(len(table)) % 3 != 0)
    for horizon in manifest.events_by_horizon:
        true = int((first & (table["time_days"] <= horizon.horizon)).sum())
        assert horizon.at_least <= true, "never more than there were"
    assert manifest.causes[0].events_by_horizon == manifest.events_by_horizon
    assert manifest.events_by_horizon[-1].at_least >= 20
    assert manifest.causes[1].n_events == "15"
    assert manifest.causes[1].events_by_horizon[0].at_least == 0


def test_without_a_fit_of_every_kind_there_is_no_model_file(
    competing_study: tuple[Path, Path], tmp_path: Path
) -> None:
    """Nobody has the third kind of event: its fit is given up, and with it what all kinds are needed for."""
    study, sites = competing_study
    dictionary = (study.parent / "dictionary.toml").read_text()
    codes = '["none", "infection", "other"'
    assert codes in dictionary
    (tmp_path / "dictionary.toml").write_text(dictionary.replace(codes, f'{codes}, "never"'))
    text = study.read_text().replace('["other"]', '["other", "never"]').replace("folds = 5", "folds = 0")
    (tmp_path / "study.toml").write_text(text)
    result = simulate(tmp_path / "study.toml", sites, tmp_path / "out")
    assert not (tmp_path / "out" / "model.safetensors").exists()
    assert any("Cause 3 fit" in warning for warning in result.warnings), result.warnings


@pytest.mark.parametrize("method", ["hazard", "cox"])
def test_every_method_tells_how_sure_it_is_of_every_kind(
    competing_study: tuple[Path, Path], tmp_path: Path, method: str
) -> None:
    study, sites = competing_study
    shutil.copy(study.parent / "dictionary.toml", tmp_path)
    text = re.sub(r'^method = "\w+"', f'method = "{method}"', study.read_text(), flags=re.MULTILINE)
    (tmp_path / "study.toml").write_text(text.replace("folds = 5", "folds = 0"))
    simulate(tmp_path / "study.toml", sites, tmp_path / "out")
    model = read_artefact((tmp_path / "out" / "model.safetensors").read_bytes())
    assert model.manifest.method == method
    for cause in (1, 2):
        assert set(model.of_cause(cause)) == set(OF_CAUSE)
    # In an interval without an event of a kind its hazard is 0, and it is sure of that.
    hazard = np.diff(model.of_cause(2)["cumulative_hazard"], prepend=0.0)
    assert ((hazard > 0) == (model.of_cause(2)["hazard_variance"] > 0)).all()


def test_masks_change_nothing_in_a_model_of_competing_events(
    competing_study: tuple[Path, Path], tmp_path: Path
) -> None:
    study, sites = competing_study
    shutil.copy(study.parent / "dictionary.toml", tmp_path)
    text = re.sub(r'^method = "\w+"', 'method = "cox"', study.read_text(), flags=re.MULTILINE)
    (tmp_path / "study.toml").write_text(text.replace("folds = 5", "folds = 0"))
    models = []
    for secure_sum in (False, True):
        out = tmp_path / str(secure_sum)
        simulate(tmp_path / "study.toml", sites, out, secure_sum=secure_sum)
        models.append(read_artefact((out / "model.safetensors").read_bytes()))
    for name, array in models[0].arrays.items():
        np.testing.assert_allclose(models[1].arrays[name], array, rtol=1e-6, atol=1e-9, err_msg=name)


def test_with_exact_times_every_kind_of_event_has_its_times(
    competing_study: tuple[Path, Path], tmp_path: Path
) -> None:
    study, sites = competing_study
    shutil.copy(study.parent / "dictionary.toml", tmp_path)
    text = study.read_text().replace("min_events_per_interval = 5", "min_events_per_interval = 1")
    (tmp_path / "study.toml").write_text(text.replace("folds = 5", "folds = 3"))
    result = simulate(tmp_path / "study.toml", sites, tmp_path / "out")
    assert result.competing is not None
    table = pd.read_csv(CONFIGS / "demo" / "cgd_clinical.csv")
    assert result.competing.overall[0].times[1:] == tuple(np.unique(table.loc[table["event"] == 1, "time_days"]))


def test_an_outcome_can_be_told_from_components_of_a_layer(tmp_path: Path) -> None:
    for source in (CONFIGS / "acc").iterdir():
        shutil.copy(source, tmp_path)
    clinical = pd.read_csv(CONFIGS / "demo" / "acc_clinical.csv", dtype=str, keep_default_na=False)
    protein = pd.read_csv(CONFIGS / "demo" / "acc_protein.csv", dtype=str, keep_default_na=False)
    for label, rows in clinical.groupby("simulated_site"):
        home = tmp_path / "sites" / f"site-{str(label).lower()}"
        home.mkdir(parents=True)
        rows.to_csv(home / "clinical.csv", index=False)
        own = protein[protein["patient_id"].isin(rows["patient_id"])]
        if len(own):
            own.to_csv(home / "protein.csv", index=False)
    text = (CONFIGS / "acc" / "study-nodes.toml").read_text()
    for before, after in (
        ('covariates = ["age_years", "sex", "t_stage", "residual_tumour"]', 'covariates = ["age_years", "sex"]'),
        ("penalty = 3.0", 'layers = ["clinical", "protein"]\ncomponents = 3\npenalty = 3.0'),
        ("folds = 5", "folds = 3"),
    ):
        assert before in text
        text = text.replace(before, after)
    (tmp_path / "study.toml").write_text(text)
    result = simulate(tmp_path / "study.toml", tmp_path / "sites", tmp_path / "out")
    assert list(result.coefficients)[2:] == ["protein 1", "protein 2", "protein 3"]
    evaluation = result.evaluation
    assert evaluation["federated"].brier == pytest.approx(evaluation["pooled"].brier, rel=1e-6)
