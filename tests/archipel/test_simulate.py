from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from archipel.demo_tables import deal_by_centre, read_rows, write_site_folders
from archipel.simulate import Stage, simulate
from models.compile import compile_plan
from models.concordance import harrell
from schemas.artefact import read_artefact
from schemas.errors import ArchipelError, FaultsError
from schemas.result import Result, parse_result
from schemas.shown import rounded
from schemas.study import load_study

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sites")
    write_site_folders(deal_by_centre(read_rows(CONFIGS / "demo" / "cgd_clinical.csv"), "centre"), folder)
    return folder


@pytest.fixture(scope="module")
def done(sites: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    out = tmp_path_factory.mktemp("out")
    return simulate(CONFIGS / "cgd" / "study.toml", sites, out), out


def study_with(folder: Path, *changes: tuple[str, str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(CONFIGS / "cgd" / "dictionary.toml", folder)
    text = (CONFIGS / "cgd" / "study.toml").read_text()
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    (folder / "study.toml").write_text(text)
    return folder / "study.toml"


def test_a_simulation_writes_what_it_returns(done: tuple[Result, Path]) -> None:
    result, out = done
    assert parse_result((out / "result.json").read_bytes()) == result
    assert result.n == rounded(128)
    assert len(result.sites) == 5
    assert set(result.evaluation) == {"federated", "site_only", "pooled", "new_site"}
    assert [(one.first, one.second) for one in result.differences] == [("federated", "site_only")]
    assert "<script" not in (out / "report.html").read_text()


def test_its_plan_hash_is_what_real_sites_would_approve(done: tuple[Result, Path]) -> None:
    assert done[0].plan_hash == compile_plan(*load_study(CONFIGS / "cgd" / "study.toml")).hash


def test_federated_equals_pooled(done: tuple[Result, Path]) -> None:
    evaluation = done[0].evaluation
    federated, pooled = evaluation["federated"], evaluation["pooled"]
    assert federated.c_index.per_fold == pooled.c_index.per_fold
    assert federated.ibs == pytest.approx(pooled.ibs, abs=1e-12)
    assert federated.calibration_slope == pytest.approx(pooled.calibration_slope, abs=1e-9)


def test_the_predictions_can_be_scored_again(done: tuple[Result, Path]) -> None:
    result, out = done
    table = pd.read_parquet(out / "predictions.parquet")
    assert list(table.columns) == ["patient_id", "site", "repeat", "fold", "time", "event", "log_hazard"]
    assert len(table) == table["patient_id"].nunique() == 128
    assert set(table["site"]) == {site.name for site in result.sites}
    again = []
    for _, fold in table.groupby("fold"):
        counts = harrell(fold["time"].to_numpy(), fold["event"].to_numpy(), fold["log_hazard"].to_numpy())
        again.append((counts[0] + counts[1] / 2) / counts[2])
    assert again == pytest.approx(result.evaluation["federated"].c_index.per_fold, abs=1e-12)


def test_order_of_patients_and_names_of_sites_change_nothing(
    done: tuple[Result, Path], sites: Path, tmp_path: Path
) -> None:
    shuffled = tmp_path / "shuffled"
    for index, site in enumerate(sorted(sites.iterdir(), reverse=True)):
        (shuffled / f"s{index}").mkdir(parents=True)
        table = pd.read_csv(site / "clinical.csv", dtype=str, keep_default_na=False)
        table.sample(frac=1, random_state=index).to_csv(shuffled / f"s{index}" / "clinical.csv", index=False)
    study = study_with(tmp_path / "study", ("folds = 5", "folds = 0"))
    again = simulate(study, shuffled, tmp_path / "out")
    for name, value in done[0].coefficients.items():
        assert again.coefficients[name] == pytest.approx(value, abs=1e-10)


def test_the_same_study_gives_the_same_figures_again(done: tuple[Result, Path], sites: Path, tmp_path: Path) -> None:
    again = simulate(CONFIGS / "cgd" / "study.toml", sites, tmp_path)
    assert again.coefficients == done[0].coefficients
    assert again.evaluation == done[0].evaluation


def test_all_faults_of_all_sites_are_named_at_once(sites: Path, tmp_path: Path) -> None:
    broken = tmp_path / "sites"
    shutil.copytree(sites, broken)
    for name in ("nih", "amsterdam"):
        path = broken / name / "clinical.csv"
        path.write_text(path.read_text().replace("placebo", "sugar pill", 1))
    with pytest.raises(FaultsError) as caught:
        simulate(CONFIGS / "cgd" / "study.toml", broken, tmp_path / "out")
    places = [fault.where for fault in caught.value.faults]
    assert [place.split("/")[0] for place in places] == ["amsterdam", "nih"]
    assert "sugar" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_site_below_the_floor_is_left_out_with_its_reason(sites: Path, tmp_path: Path) -> None:
    study = study_with(tmp_path / "study", ("min_patients = 10", "min_patients = 18"), ("folds = 5", "folds = 0"))
    result = simulate(study, sites, tmp_path / "out")
    left_out = {site.name: site.reason for site in result.sites if site.status == "left out"}
    assert set(left_out) == {"scripps-institute", "univ-of-zurich"}
    assert all("fewer than 18 patients" in reason for reason in left_out.values())
    assert result.n == rounded(128 - 32)


def test_no_site_left_is_an_error_that_says_so(sites: Path, tmp_path: Path) -> None:
    study = study_with(tmp_path / "study", ("min_patients = 10", "min_patients = 900"))
    with pytest.raises(ArchipelError, match=r"no site in .* can take part"):
        simulate(study, sites, tmp_path / "out")


def test_a_folder_without_sites_is_an_error_that_says_what_belongs_there(tmp_path: Path) -> None:
    with pytest.raises(ArchipelError, match=r"clinical\.csv"):
        simulate(CONFIGS / "cgd" / "study.toml", tmp_path, tmp_path / "out")


def test_relatives_share_a_fold(sites: Path, tmp_path: Path) -> None:
    families = tmp_path / "sites"
    shutil.copytree(sites, families)
    for site in families.iterdir():
        table = pd.read_csv(site / "clinical.csv", dtype=str, keep_default_na=False)
        table["hospital"] = np.where(np.arange(len(table)) % 2, "US:other", "US:NIH")
        table["family"] = [f"{site.name}-{i // 3}" for i in range(len(table))]
        table.to_csv(site / "clinical.csv", index=False)
    study = study_with(tmp_path / "study", ("repeats = 1", 'repeats = 2\ngroup = "family"'))
    dictionary = tmp_path / "study" / "dictionary.toml"
    dictionary.write_text(dictionary.read_text() + '\n[[columns]]\nname = "family"\ntype = "identifier"\n')
    simulate(study, families, tmp_path / "out")
    table = pd.read_parquet(tmp_path / "out" / "predictions.parquet")
    order = {
        patient: family
        for site in families.iterdir()
        for patient, family in pd.read_csv(site / "clinical.csv")[["patient_id", "family"]].to_numpy()
    }
    table["family"] = table["patient_id"].map(order)
    assert table.groupby(["repeat", "family"])["fold"].nunique().max() == 1
    assert set(table["repeat"]) == {0, 1}


def test_two_sites_may_use_one_identifier(sites: Path, tmp_path: Path) -> None:
    same = tmp_path / "sites"
    for site in sites.iterdir():
        (same / site.name).mkdir(parents=True)
        table = pd.read_csv(site / "clinical.csv", dtype=str, keep_default_na=False)
        table["patient_id"] = [f"P{i:03d}" for i in range(len(table))]
        table.to_csv(same / site.name / "clinical.csv", index=False)
    simulate(CONFIGS / "cgd" / "study.toml", same, tmp_path / "out")
    table = pd.read_parquet(tmp_path / "out" / "predictions.parquet")
    assert not table.duplicated(["site", "patient_id"]).any()
    assert table.groupby("site").size().sum() == 128


def test_a_published_train_test_split_is_one_fold(sites: Path, tmp_path: Path) -> None:
    split = tmp_path / "sites"
    shutil.copytree(sites, split)
    for site in split.iterdir():
        table = pd.read_csv(site / "clinical.csv", dtype=str, keep_default_na=False)
        table["part"] = np.where(np.arange(len(table)) % 3, "train", "test")
        table.to_csv(site / "clinical.csv", index=False)
    study = study_with(tmp_path / "study", ("folds = 5", 'folds = { column = "part" }'))
    dictionary = tmp_path / "study" / "dictionary.toml"
    dictionary.write_text(
        dictionary.read_text() + '\n[[columns]]\nname = "part"\ntype = "category"\ncodes = ["train", "test"]\n'
    )
    result = simulate(study, split, tmp_path / "out")
    assert len(result.evaluation["federated"].c_index.per_fold) == 1
    assert result.evaluation["federated"].c_index.sd is None
    assert result.kaplan_meier is not None
    assert result.kaplan_meier.basis == "held-out"


def test_a_simulation_tells_how_far_it_is(sites: Path, tmp_path: Path) -> None:
    stages: list[Stage] = []
    simulate(CONFIGS / "cgd" / "study.toml", sites, tmp_path, on_stage=stages.append)
    folds_and_sites = 5 + 5
    assert [stage.done for stage in stages if stage.name == "evaluation"] == list(range(1, folds_and_sites + 1))
    assert {stage.of for stage in stages if stage.name == "evaluation"} == {folds_and_sites}


def test_a_dictionary_without_a_largest_time_is_simulated_and_said(sites: Path, tmp_path: Path) -> None:
    study = study_with(tmp_path / "study", ("folds = 5", "folds = 0"))
    dictionary = tmp_path / "study" / "dictionary.toml"
    lines = dictionary.read_text().split('name = "time_days"')
    dictionary.write_text(lines[0] + 'name = "time_days"' + re.sub(r"\nmax = .*", "", lines[1], count=1))
    result = simulate(study, sites, tmp_path / "out")
    assert any("gives `time_days` no `max`" in warning for warning in result.warnings)


def test_exact_times_with_chosen_penalties_need_a_largest_time_too(sites: Path, tmp_path: Path) -> None:
    changes = ("folds = 5", "folds = 0"), ("penalty = 10.0", 'penalty = "cv"'), ("interval = 5", "interval = 1")
    study = study_with(tmp_path / "study", *changes)
    dictionary = tmp_path / "study" / "dictionary.toml"
    lines = dictionary.read_text().split('name = "time_days"')
    dictionary.write_text(lines[0] + 'name = "time_days"' + re.sub(r"\nmax = .*", "", lines[1], count=1))
    result = simulate(study, sites, tmp_path / "out")
    assert any("gives `time_days` no `max`" in warning for warning in result.warnings)
    assert result.exact_times
    assert result.penalty["clinical"] in (1.0, 10.0, 100.0, 1000.0)  # type: ignore[index]


def test_the_model_file_holds_what_the_result_says(done: tuple[Result, Path]) -> None:
    result, out = done
    model = read_artefact((out / "model.safetensors").read_bytes())
    assert [column.name for column in model.manifest.columns] == list(result.coefficients)
    assert list(model.beta / model.scale) == pytest.approx(list(result.coefficients.values()), abs=1e-14)
    assert list(model.cumulative_hazard) == list(result.baseline.cumulative_hazard)  # type: ignore[union-attr]
    assert model.manifest.plan_hash == result.plan_hash
