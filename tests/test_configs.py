"""Every file that ships in configs/ is loaded here; a file nobody reads is a failure."""

import tomllib
from pathlib import Path

import pandas as pd
import pytest

from client.check import check_tables
from client.dialect import Dialect
from client.settings import SiteFloors, load_settings
from schemas.dictionary import load_dictionary
from schemas.study import load_study

CONFIGS = Path(__file__).parents[1] / "configs"
STUDIES = sorted(CONFIGS.rglob("study*.toml"))
DICTIONARIES = sorted(CONFIGS.rglob("dictionary*.toml"))
FEATURES = sorted(CONFIGS.rglob("*.features"))
TABLES = sorted((CONFIGS / "demo").glob("*.csv"))
LOADED_ELSEWHERE = {"hub.example.toml"}  # tests/server


def test_every_file_is_loaded_by_a_test() -> None:
    files = {path for path in CONFIGS.rglob("*") if path.is_file()}
    others = {path.name for path in files - {*STUDIES, *DICTIONARIES, *FEATURES, *TABLES}}
    assert others - LOADED_ELSEWHERE == {"site.example.toml", "README.md", "export.R"}


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.parent.name)
def test_study_and_its_dictionary_agree(path: Path) -> None:
    study, dictionary = load_study(path)
    assert study.purpose
    assert study.ethics_reference
    assert study.contact.endswith("@example.org")
    assert study.privacy.min_patients >= 10
    assert {dictionary.column(name) for name in study.model.covariates} <= set(dictionary.columns)


@pytest.mark.parametrize("path", DICTIONARIES, ids=lambda path: path.parent.name)
def test_dictionary_describes_the_demo_table(path: Path) -> None:
    dictionary = load_dictionary(path)
    table = pd.read_csv(CONFIGS / "demo" / f"{path.parent.name}_clinical.csv", dtype=str, keep_default_na=False)
    assert {column.name for column in dictionary.layer_columns("clinical")} == set(table.columns)
    for column in dictionary.layer_columns("clinical"):
        if column.type == "category":
            assert set(table[column.name]) - {""} == set(column.codes or ())


@pytest.mark.parametrize("path", FEATURES, ids=lambda path: path.stem)
def test_features_are_those_of_the_demo_table(path: Path) -> None:
    layer = load_dictionary(path.parent / "dictionary.toml").wide_layer(path.stem)
    table = pd.read_csv(CONFIGS / "demo" / f"{path.parent.name}_{path.stem}.csv", index_col="patient_id")
    assert layer is not None
    assert layer.features == path.name
    assert layer.identifiers == tuple(table.columns)


def test_acc_demo_tables_pass_their_check_but_for_the_one_time_of_zero(tmp_path: Path) -> None:
    study, dictionary = load_study(CONFIGS / "acc" / "study.toml")
    for layer in dictionary.layer_names:
        (tmp_path / f"{layer}.csv").write_bytes((CONFIGS / "demo" / f"acc_{layer}.csv").read_bytes())
    report = check_tables(tmp_path, dictionary, study, Dialect(), floors=SiteFloors())
    assert [problem.where for problem in report.problems] == ["clinical.csv row 87, column time_days"]
    report = check_tables(tmp_path, dictionary, study, Dialect(), {"ACC-086"}, floors=SiteFloors())
    assert report.problems == ()
    assert (report.n_patients, report.n_events) == (91, 33)


def test_cgd_demo_table_passes_its_check(tmp_path: Path) -> None:
    study, dictionary = load_study(CONFIGS / "cgd" / "study.toml")
    (tmp_path / "clinical.csv").write_bytes((CONFIGS / "demo" / "cgd_clinical.csv").read_bytes())
    report = check_tables(tmp_path, dictionary, study, Dialect(), floors=SiteFloors())
    assert report.problems == ()
    assert report.can_take_part
    assert (report.n_patients, report.n_events) == (128, 44)


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_demo_table_has_its_provenance(path: Path) -> None:
    readme = (CONFIGS / "demo" / "README.md").read_text(encoding="utf-8")
    table = pd.read_csv(path)
    assert table["patient_id"].is_unique
    assert path.name in readme or f"{path.stem.split('_')[0]}_*.csv" in readme


def test_demo_tables_can_be_written_again() -> None:
    script = (CONFIGS / "demo" / "export.R").read_text(encoding="utf-8")
    assert all(path.stem.split("_")[1] in script for path in TABLES)


def test_example_site_settings_load(tmp_path: Path) -> None:
    example = CONFIGS / "site.example.toml"
    (tmp_path / "site.toml").write_bytes(example.read_bytes())
    settings = load_settings(tmp_path)
    assert settings.dialect.delimiter == tomllib.loads(example.read_text(encoding="utf-8"))["csv"]["delimiter"]
