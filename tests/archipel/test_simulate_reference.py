"""`archipel simulate`, from the study file to result.json, gives the numbers of R (tests/reference)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from archipel.simulate import simulate
from schemas.result import parse_result
from schemas.shown import rounded
from tests.reference.cohorts import kept, numbers, read
from tests.site_folders import write_cohort

_EXACT = [fit for fit in numbers("coxph.json") if not fit["grid"]]


def _name(fit: dict[str, Any]) -> str:
    words = [fit["cohort"], fit["ties"], f"penalty-{fit['penalty']}", fit["scale"]]
    return "-".join(words + [word for word in ("strata", "delayed") if fit[word]])


@pytest.mark.parametrize("fit", _EXACT, ids=map(_name, _EXACT))
def test_exact_times_equal_coxph(cohorts: Path, tmp_path: Path, fit: dict[str, Any]) -> None:
    folder = cohorts / fit["cohort"]
    reference = read(fit["cohort"], cohorts)
    table = pd.read_parquet(folder / "clinical.parquet").dropna().reset_index(drop=True)
    table["entry"] = reference.delayed.entry
    if fit["delayed"]:
        table = table[table["entry"] < table["time"]]
    covariates = kept(fit["cohort"], reference.columns) if fit["penalty"] == 0 else reference.columns
    study, sites = write_cohort(
        folder,
        tmp_path,
        table=table,
        covariates=covariates,
        endpoint={"entry": "entry"} if fit["delayed"] else {},
        model={
            "method": "cox-stratified" if fit["strata"] else "cox",
            "ties": fit["ties"],
            "penalty": float(fit["penalty"]),
            "standardise": fit["scale"] == "model" and not fit["delayed"],
        },
        privacy={"min_events_per_interval": 1, "min_patients": 1},
    )
    if fit["delayed"] and fit["penalty"]:
        # R's ridge worked on columns standardised over all patients, these sites standardise over those who entered
        _standardise_by_hand(study, sites, reference, table)
    simulate(study, sites, tmp_path / "out")
    result = parse_result((tmp_path / "out" / "result.json").read_bytes())
    scale = _scale(fit, reference, covariates)
    found = np.array([result.coefficients[name] for name in covariates])
    errors = np.array([result.standard_errors[name] for name in covariates], dtype=float)
    if fit["delayed"] and fit["penalty"]:
        scale = np.ones_like(scale)
    assert np.allclose(found * scale, fit["coefficients"], atol=1e-6, rtol=0)
    assert np.allclose(errors * scale, fit["standard_errors"], atol=1e-6, rtol=0)
    assert abs(result.log_likelihood - fit["log_likelihood"]) < 1e-6
    assert result.events == rounded(fit["events"])
    assert json.loads((tmp_path / "out" / "result.json").read_text())["n"] == rounded(len(table))


def _scale(fit: dict[str, Any], reference: Any, covariates: tuple[str, ...]) -> np.ndarray:
    """Population standard deviations of all patients: R's coefficients on the model's scale are for one of them."""
    x = reference.pooled.matrix(covariates)
    return x.std(axis=0) if fit["scale"] == "model" else np.ones(len(covariates))


def _standardise_by_hand(study: Path, sites: Path, reference: Any, table: pd.DataFrame) -> None:
    x = reference.pooled.matrix(reference.columns)
    mean, spread = x.mean(axis=0), x.std(axis=0)
    for site in sites.iterdir():
        own = pd.read_parquet(site / "clinical.parquet")
        for j, name in enumerate(reference.columns):
            own[name] = (own[name].astype(float) - mean[j]) / spread[j]
        own.to_parquet(site / "clinical.parquet", index=False)
