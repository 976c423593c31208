"""The experiments: what their kept numbers must show, and that today's code still gives a piece of each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from archipel.fold_fits import fit, make_folds, with_dealt_inner_folds
from experiments import compare, nested
from experiments.figure import draw
from experiments.fusion import run as fusion
from experiments.fusion.choose import as_network
from experiments.growth import run as growth
from experiments.missing_layers import run as missing_layers
from experiments.multi_omics.load import Tables
from experiments.published_split import run as published_split

REPOSITORY = Path(__file__).resolve().parents[1]
FOLDER = REPOSITORY / "experiments"
NEAR = 2e-3


def expected(experiment: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / experiment / "expected" / f"{name}.json").read_text())
    return found


def test_the_published_split_is_the_one_of_32_deaths_and_gives_the_kept_figure(cohorts: Path) -> None:
    tables = Tables(cohorts, "fed_tcga_brca", ())
    sites = tables.cohorts(labels=tables.clinical["fold"])
    study, dictionary = tables.study("hazard"), tables.dictionary
    dealt = with_dealt_inner_folds(study, sites)
    fold = published_split.published_fold(dealt)
    judged = nested.judge_fold(study, dealt, fold, lambda train: fit(study, dictionary, train))
    kept = expected("published_split", "published_split")["rows"]["clinical, hazard"]
    assert (judged.patients.n_patients, judged.patients.event.sum()) == (kept["test_patients"], 32)
    assert judged.c_index == pytest.approx(kept["federated"], abs=NEAR)


def test_who_misses_a_layer_helps_and_the_kept_fold_comes_again(cohorts: Path) -> None:
    kept = expected("missing_layers", "tcga_gbmlgg")
    for cohort in ("tcga_gbmlgg", "tcga_blca"):
        models = expected("missing_layers", cohort)["models"]
        assert models["zero scores"]["c_index"] > models["complete cases"]["c_index"]
    tables = Tables(cohorts, "tcga_gbmlgg")
    study, everything = tables.study("hazard"), tables.cohorts(0)
    half = nested.without_layer(everything, "rna", nested.half_of_the_sites(everything))
    assert [site for site, cohort in half.items() if not cohort.has_layer("rna").any()] == kept["sites_without"]
    dealt = with_dealt_inner_folds(study, half)

    def complete(train: nested.Cohorts) -> Any:
        return fit(study, tables.dictionary, missing_layers.complete_cases(train, "rna"))

    first = nested.judge_fold(study, dealt, make_folds(study, dealt)[0], complete)
    assert first.c_index == pytest.approx(kept["models"]["complete cases"]["per_fold"][0], abs=NEAR)


def test_late_fusion_of_layers_that_miss_gives_the_kept_fold(cohorts: Path) -> None:
    config = json.loads((FOLDER / "fusion" / "config.json").read_text())
    kept = expected("fusion", "tcga_gbmlgg")["models"]["late fusion"]
    tables = Tables(cohorts, "tcga_gbmlgg")
    study = as_network(tables.study("hazard"), config["networks"]["late fusion"])
    sites = tables.cohorts(0)
    half = nested.without_layer(sites, config["missing"], nested.half_of_the_sites(sites))
    dealt = with_dealt_inner_folds(study, half)
    first = make_folds(study, dealt)[0]
    judged = nested.judge_fold(study, dealt, first, lambda train: fit(study, tables.dictionary, train))
    assert judged.c_index == pytest.approx(kept["per_fold"][0], abs=NEAR)


def test_a_network_that_diverges_is_said_to(cohorts: Path) -> None:
    tables = Tables(cohorts, "tcga_blca", ("mut",))
    found = fusion.evaluate(tables, {"server": "averaging", "rate": 10.0, "rounds": 30}, [0], "mut")
    assert found["c_index"] is None
    assert "worse instead of better" in found["reason"]


def test_the_largest_layer_keeps_to_the_limits_and_a_small_one_costs_what_is_said(tmp_path: Path) -> None:
    limits = json.loads((FOLDER / "growth" / "config.json").read_text())["limits"]
    kept = expected("growth", "growth")
    for largest in (kept["features"][-1], kept["with_evaluation"][-1]):
        assert largest["features"] == limits["features"]
        assert largest["seconds"] < limits["seconds"]
        assert largest["peak_mb"] < limits["peak_mb"]
    study = growth.write_study(tmp_path, patients=200, sites=4, features=60, folds=0)
    found = growth.measure(study)
    growth.draw({"features": [{**found, "features": 60}], "sites": [{**found, "sites": 4}]}, tmp_path / "growth.svg")
    assert found["rounds"] <= 24 + 40
    assert 0 < found["megabytes_a_site_sends"] < kept["features"][0]["megabytes_a_site_sends"]
    assert (tmp_path / "growth.svg").stat().st_size > 1000


def test_the_readme_shows_the_figure_of_the_kept_numbers(tmp_path: Path) -> None:
    shown = draw.read()
    draw.draw(shown, tmp_path / "cohorts.svg")
    assert (tmp_path / "cohorts.svg").read_bytes() == (REPOSITORY / "docs" / "cohorts.svg").read_bytes()
    assert "docs/cohorts.svg" in (REPOSITORY / "README.md").read_text()
    assert all(scores["federated"]["c_index"] > scores["site_only"]["c_index"] for scores in shown.values())


def test_what_was_measured_stands_beside_what_is_expected() -> None:
    expected_figures = {"models": {"linear": {"c_index": 0.85, "per_fold": [0.9, 0.8]}}, "seconds": 3.0}
    near, agree = compare.lines({"models": {"linear": {"c_index": 0.851}}}, expected_figures, 0.002)
    assert agree
    assert near == ["  models / linear / c_index: measured 0.851, expected 0.85"]
    far, agree = compare.lines({"models": {"linear": {"c_index": 0.86}}}, expected_figures, 0.002)
    assert not agree
    assert far[0].endswith("differs")
    missing, agree = compare.lines({}, expected_figures, 0.002)
    assert not agree
    assert "measured missing" in missing[0]


def test_every_second_site_is_half_of_the_sites() -> None:
    empty = dict.fromkeys(("d", "a", "c", "b"))
    assert nested.half_of_the_sites(empty) == {"b", "d"}
