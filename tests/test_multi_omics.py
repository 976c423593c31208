"""The published table of the recipe: what it must show, and that today's code still gives a row of it."""

import json
import sys
from pathlib import Path

import pytest

from schemas.cohort import concatenate

FOLDER = Path(__file__).resolve().parents[1] / "experiments" / "multi_omics"
ROWS = {path.stem: json.loads(path.read_text()) for path in sorted((FOLDER / "expected").glob("tcga_*.json"))} | {
    path.stem: json.loads(path.read_text()) for path in sorted((FOLDER / "expected").glob("fed_*.json"))
}
# Federated C that the partnership's recipe reached on the same splits (hazard, cox).
NEEDED = {
    "tcga_gbmlgg-omics": (0.862, 0.861),
    "tcga_blca-omics": (0.670, 0.668),
    "tcga_luad-omics": (0.622, 0.624),
    "fed_tcga_brca-omics": (0.738, 0.738),
    "fed_tcga_brca-clinical": (0.750, 0.7525),
}


@pytest.mark.parametrize("name", ROWS)
def test_every_row_reaches_what_was_reached_before_and_equals_the_pooled_table(name):
    row = ROWS[name]
    kind, _, likelihood = name.rpartition("-")
    assert row["scores"]["federated"]["c_index"] >= NEEDED[kind][likelihood == "cox"] - 0.005
    assert min(row["ratio_to_pooled"]) >= 0.999
    gain = next(one for one in row["differences"] if one["second"] == "site_only")
    assert gain["interval"][0] > 0, "above every site alone"


def test_there_is_a_row_for_every_cohort_and_likelihood():
    assert {f"{kind}-{likelihood}" for kind in NEEDED for likelihood in ("hazard", "cox")} == set(ROWS)


def test_clinical_columns_of_breast_cancer_are_calibrated():
    for likelihood in ("hazard", "cox"):
        scores = ROWS[f"fed_tcga_brca-clinical-{likelihood}"]["scores"]["federated"]
        assert scores["ibs"] <= 0.1
        assert 0.9 <= scores["calibration_slope"] <= 1.2


def test_todays_code_gives_the_published_row(cohorts, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.delitem(sys.modules, "load", raising=False)
    from load import Tables

    from archipel.fold_fits import fit, make_folds, with_dealt_inner_folds
    from models.concordance import c_index, harrell

    tables = Tables(cohorts, "tcga_luad")
    study, dictionary = tables.study("hazard"), tables.dictionary
    sites = with_dealt_inner_folds(study, tables.cohorts(0))
    published = ROWS["tcga_luad-omics-hazard"]["scores"]["federated"]["per_fold"]
    for fold in make_folds(study, sites)[:2]:
        model = fit(study, dictionary, {site: cohort.take(~fold.test[site]) for site, cohort in sites.items()})
        test = concatenate([cohort.take(fold.test[site]) for site, cohort in sites.items()])
        found = c_index(*harrell(test.time, test.event, model.log_hazard(test), test.entry))
        assert found == pytest.approx(published[fold.fold], abs=2e-3)
