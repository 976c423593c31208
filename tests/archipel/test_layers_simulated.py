"""What becomes of awkward layers in a whole simulation: never NaN, and an outcome that somebody can read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from archipel.simulate import simulate
from archipel.site_check import check_folder
from schemas.errors import FaultsError
from schemas.result import Result
from schemas.study import load_study

DICTIONARY = """
kind = "dictionary"
version = 1
name = "awkward"
[[columns]]
name = "patient_id"
type = "identifier"
[[columns]]
name = "time_days"
type = "number"
unit = "days"
max = 900
[[columns]]
name = "event"
type = "boolean"
[[columns]]
name = "age"
type = "number"
[[layers]]
name = "rna"
features = "rna.features"
"""
STUDY = """
kind = "study"
version = 1
name = "awkward"
dictionary = "dictionary.toml"
endpoint = {{ time = "time_days", event = "event", horizons_days = [300] }}
evaluation = {{ folds = 3 }}
[model]
layers = ["clinical", "rna"]
covariates = ["age"]
components = {components}
penalty = {{ clinical = 1, rna = 10 }}
"""
FEATURES = tuple(f"G{i}" for i in range(8))
SITES = ("a", "b", "c")
Change = Callable[[str, pd.DataFrame, pd.DataFrame], tuple[pd.DataFrame, pd.DataFrame | None]]


def federation(home: Path, change: Change, components: int = 2) -> Path:
    """Write study, dictionary and three sites of 30 patients, whose tables `change` has seen."""
    (home / "dictionary.toml").write_text(DICTIONARY)
    (home / "study.toml").write_text(STUDY.format(components=components))
    (home / "rna.features").write_text("\n".join(FEATURES) + "\n")
    rng = np.random.default_rng(3)
    for site in SITES:
        n = 30
        z = rng.normal(size=(n, 1))
        time = np.clip(rng.exponential(300 * np.exp(-0.7 * z[:, 0])), 1, 900).round(1)
        ids = [f"{site}{i}" for i in range(n)]
        event = (rng.uniform(size=n) < 0.7).astype(int)
        clinical = pd.DataFrame({"patient_id": ids, "time_days": time, "event": event, "age": rng.normal(50, 9, n)})
        rna = pd.DataFrame(z + rng.normal(0, 0.5, (n, len(FEATURES))), columns=list(FEATURES))
        rna.insert(0, "patient_id", ids)
        changed, layer = change(site, clinical, rna)
        folder = home / "sites" / site
        folder.mkdir(parents=True)
        changed.to_csv(folder / "clinical.csv", index=False)
        if layer is not None:
            layer.to_csv(folder / "rna.csv", index=False)
    return home


def run(home: Path) -> Result:
    result = simulate(home / "study.toml", home / "sites", home / "out")
    assert all(np.isfinite(value) for value in result.coefficients.values())
    return result


def rna_of(result: Result) -> Mapping[str, float]:
    return {name: value for name, value in result.coefficients.items() if name.startswith("rna")}


@pytest.mark.parametrize("components", [0, 2])
def test_a_layer_that_no_site_has_has_no_weight_and_changes_nothing(tmp_path: Path, components: int) -> None:
    home = federation(tmp_path, lambda site, clinical, rna: (clinical, None), components)
    result = run(home)
    assert set(rna_of(result).values()) == {0.0}
    (home / "study.toml").write_text(
        STUDY.format(components=components).replace('"clinical", "rna"', '"clinical"').replace(", rna = 10", "")
    )
    alone = simulate(home / "study.toml", home / "sites", home / "alone")
    assert result.coefficients["age"] == pytest.approx(alone.coefficients["age"], abs=1e-7)


def test_a_feature_that_never_varies_has_no_weight(tmp_path: Path) -> None:
    result = run(federation(tmp_path, lambda site, clinical, rna: (clinical, rna.assign(G3=1.5)), components=0))
    assert result.coefficients["rna:G3"] == 0.0
    assert all(value != 0 for name, value in rna_of(result).items() if name != "rna:G3")


@pytest.mark.parametrize("components", [0, 2])
def test_a_feature_that_one_site_lacks_is_learnt_from_the_others(tmp_path: Path, components: int) -> None:
    home = federation(
        tmp_path, lambda site, clinical, rna: (clinical, rna.drop(columns="G3") if site == "a" else rna), components
    )
    assert all(value != 0 for value in rna_of(run(home)).values())
    report = check_folder(home / "sites" / "a", *load_study(home / "study.toml"))
    assert {problem.kind for problem in report.problems} == {"absent-features"}
    assert report.can_take_part


def test_a_site_without_the_layer_takes_part_with_its_clinical_columns(tmp_path: Path) -> None:
    home = federation(tmp_path, lambda site, clinical, rna: (clinical, None if site == "a" else rna))
    assert abs(rna_of(run(home))["rna 1"]) > 0.05


def test_a_site_without_events_is_used_in_a_simulation_and_refused_by_its_own_check(tmp_path: Path) -> None:
    home = federation(
        tmp_path, lambda site, clinical, rna: (clinical.assign(event=0) if site == "a" else clinical, rna)
    )
    run(home)
    report = check_folder(home / "sites" / "a", *load_study(home / "study.toml"))
    assert "it has no observed event in this study" in report.verdict


def test_a_column_that_stands_twice_stops_the_simulation_with_its_place(tmp_path: Path) -> None:
    home = federation(tmp_path, lambda site, clinical, rna: (clinical, rna))
    table = home / "sites" / "b" / "rna.csv"
    table.write_text(table.read_text().replace("G4", "G5", 1))
    with pytest.raises(FaultsError, match=r"b/rna.csv row 1, column G5: the header holds this name more than once"):
        simulate(home / "study.toml", home / "sites", home / "out")


def test_a_missing_list_of_features_is_made_and_said_in_the_result(tmp_path: Path) -> None:
    home = federation(tmp_path, lambda site, clinical, rna: (clinical, rna))
    listed = run(home)
    (home / "rna.features").unlink()
    made = simulate(home / "study.toml", home / "sites", home / "again")
    assert made.coefficients == listed.coefficients
    assert any("8 features of layer rna were listed from the sites' tables" in note for note in made.warnings)
    assert not any("were listed" in note for note in listed.warnings)
