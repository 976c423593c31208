"""The worked example of docs/layers.md: its files are loaded as they stand there, checked and run."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from archipel.features import list_features, tables_of_sites
from archipel.simulate import simulate
from archipel.site_check import check_folder
from archipel.studies import compile_study, why_simulate_alone
from schemas.features import read_features
from schemas.result import Result
from schemas.study import load_study

PAGE = Path(__file__).parents[1] / "docs" / "layers.md"
SITES = {"lyon": 40, "oslo": 36, "turin": 30}
WITHOUT_ASSAY = "turin"


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's files, and invented patients whose burst lowers the hazard."""
    folder = tmp_path_factory.mktemp("layers")
    dictionary, study = blocks("toml")
    (folder / "dictionary.toml").write_text(dictionary, encoding="utf-8")
    (folder / "study.toml").write_text(study, encoding="utf-8")
    (folder / "burst.features").write_text(blocks("text")[0], encoding="utf-8")
    features = read_features(folder / "burst.features").identifiers
    rng = np.random.default_rng(7)
    for site, n in SITES.items():
        own = folder / "sites" / site
        own.mkdir(parents=True)
        burst = np.exp(rng.normal(1.5, 1.2, (n, 1)) + rng.normal(0, 0.3, (n, len(features))))
        age = rng.uniform(1, 40, n)
        time = np.clip(rng.exponential(100 * burst.mean(axis=1)), 1, 730)
        event = (time < 730) & (rng.uniform(size=n) < 0.8)
        ids = [f"{site}-{i}" for i in range(n)]
        clinical = zip(ids, time.round(1), event.astype(int), age.round(1), strict=True)
        write(own / "clinical.csv", [("patient_id", "time_days", "event", "age_years"), *clinical])
        if site != WITHOUT_ASSAY:
            cells = [[name, 7, *row] for name, row in zip(ids, burst.round(2), strict=True)]
            write(own / "burst.csv", [("patient_id", "plate", *features), *cells])
    return folder


def write(path: Path, rows: Sequence[Sequence[object]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)


@pytest.fixture(scope="module")
def result(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    return simulate(home / "study.toml", home / "sites", tmp_path_factory.mktemp("out") / "simulated")


def test_the_example_is_sound_and_runs_in_a_real_federation(home: Path) -> None:
    study, dictionary = load_study(home / "study.toml")
    layer = dictionary.wide_layer("burst")
    assert layer is not None
    assert (len(layer.identifiers), layer.limit_of_detection) == (6, 0.2)
    assert why_simulate_alone(study, dictionary) == ()
    assert compile_study(home / "study.toml").dictionary.wide_layer("burst") == layer


def test_the_table_of_the_page_has_the_features_of_the_page(home: Path) -> None:
    header, *rows = csv.reader(io.StringIO(blocks("csv")[0]))
    _, dictionary = load_study(home / "study.toml")
    layer = dictionary.wide_layer("burst")
    assert layer is not None
    assert tuple(header[2:]) == layer.identifiers
    assert all(len(row) == len(header) for row in rows)


def test_the_features_file_is_what_the_command_writes_from_the_tables(home: Path, tmp_path: Path) -> None:
    _, dictionary = load_study(home / "study.toml")
    (tmp_path / "dictionary.toml").write_text(blocks("toml")[0], encoding="utf-8")
    unlisted = dictionary.model_copy(
        update={"layers": tuple(layer.model_copy(update={"identifiers": ()}) for layer in dictionary.layers)}
    )
    (listed,) = list_features(unlisted, tmp_path, tables_of_sites(dictionary, home / "sites"))
    assert listed.identifiers == read_features(home / "burst.features").identifiers  # and not the plate


def test_every_site_can_take_part_with_or_without_the_assay(home: Path) -> None:
    study, dictionary = load_study(home / "study.toml")
    for site in SITES:
        report = check_folder(home / "sites" / site, study, dictionary)
        assert report.can_take_part
        assert {problem.kind for problem in report.problems} == (
            {"missing-layer"} if site == WITHOUT_ASSAY else {"unknown-column"}
        )


def test_the_example_finds_the_signal_that_was_put_in(result: Result) -> None:
    names = [covariate.name for covariate in result.covariates]
    assert names == ["age_years", "burst 1", "burst 2"]
    assert all(np.isfinite(value) for value in result.coefficients.values())
    # The sign of a component is arbitrary; that the first one, what all readings share, carries the signal is not.
    z = {name: abs(result.coefficients[name]) / (result.standard_errors[name] or np.inf) for name in names}
    assert z["burst 1"] > 4
    assert z["burst 2"] < 2
