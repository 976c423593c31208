"""The shared cohorts as site folders (experiments/shared_cohorts): what the script writes is what a site reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from archipel.site_folders import read_sites
from experiments.shared_cohorts.make_sites import LAYERS, REPOSITORY, make_sites
from schemas.study import load_study


def test_a_cohort_with_omics_comes_back_cell_by_cell(cohorts: Path, tmp_path: Path) -> None:
    made = make_sites(cohorts, "tcga_gbmlgg", tmp_path / "out")
    study, dictionary = load_study(made.study)
    read = read_sites(made.sites, study, dictionary).cohorts
    assert (len(read), sum(cohort.n_patients for cohort in read.values())) == (12, 569)
    assert study.model.wide_layers == tuple(LAYERS)
    for layer in LAYERS:
        table = pd.read_parquet(cohorts / "tcga_gbmlgg" / f"omics_{layer}.parquet").set_index("patient_id")
        for cohort in read.values():
            held = cohort.layers[layer]
            assert held.columns == tuple(table.columns)
            np.testing.assert_array_equal(held.values, table.loc[list(cohort.patient_ids)].to_numpy(np.float64))


def test_patients_without_omics_miss_the_layers(cohorts: Path, tmp_path: Path) -> None:
    made = make_sites(cohorts, "fed_tcga_brca", tmp_path / "out", layers=("mut",))
    study, dictionary = load_study(made.study)
    read = read_sites(made.sites, study, dictionary).cohorts
    assert sum(int(cohort.has_layer("mut").sum()) for cohort in read.values()) == 950
    assert sum(cohort.n_patients for cohort in read.values()) == 1088


def test_sites_are_put_together_whole(cohorts: Path, tmp_path: Path) -> None:
    made = make_sites(cohorts, "tcga_gbmlgg", tmp_path / "out", layers=(), n_sites=4)
    clinical = pd.read_parquet(cohorts / "tcga_gbmlgg" / "clinical.parquet").set_index("patient_id")
    homes = sorted(path for path in made.sites.iterdir())
    assert [home.name for home in homes] == ["site-1", "site-2", "site-3", "site-4"]
    held = [set(clinical.loc[pd.read_parquet(home / "clinical.parquet")["patient_id"], "site"]) for home in homes]
    assert sorted(site for sites in held for site in sites) == sorted(clinical["site"].unique())


def test_a_cohort_without_omics_has_a_study_of_its_clinical_columns(cohorts: Path, tmp_path: Path) -> None:
    made = make_sites(cohorts, "ncctg_lung", tmp_path / "out")
    study, _ = load_study(made.study)
    assert made.layers == {}
    assert study.model.wide_layers == ()


def test_nothing_is_written_into_the_repository(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="lies in the repository"):
        make_sites(tmp_path, "tcga_gbmlgg", REPOSITORY / "out" / "sites")
    with pytest.raises(SystemExit, match=r"no tcga_gbmlgg/clinical\.parquet"):
        make_sites(tmp_path, "tcga_gbmlgg", tmp_path / "out")
