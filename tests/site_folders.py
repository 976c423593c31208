"""Writes a shared cohort as site folders with a dictionary and a study, as a federation would hold it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import tomli_w


def write_cohort(
    folder: Path,
    out: Path,
    *,
    model: Mapping[str, Any],
    privacy: Mapping[str, Any] | None = None,
    evaluation: Mapping[str, Any] | None = None,
    endpoint: Mapping[str, Any] | None = None,
    covariates: Sequence[str] | None = None,
    extra: pd.DataFrame | None = None,
    table: pd.DataFrame | None = None,
) -> tuple[Path, Path]:
    """Return the paths of a study file and of a folder of site folders made from a cohort's clinical table.

    `extra` has a patient_id and columns to add (folds, entry times); they are described as numbers or identifiers.
    """
    clinical = pd.read_parquet(folder / "clinical.parquet") if table is None else table
    if extra is not None:
        clinical = clinical.merge(extra, on="patient_id", validate="one_to_one")
    names = json.loads((folder / "meta.json").read_text())["covariates"]
    sites = out / "sites"
    for site, rows in clinical.groupby("site"):
        home = sites / str(site).replace(" ", "-").lower()
        home.mkdir(parents=True)
        rows.drop(columns="site").to_parquet(home / "clinical.parquet", index=False)
    out.mkdir(parents=True, exist_ok=True)
    out.joinpath("dictionary.toml").write_text(tomli_w.dumps(_dictionary(clinical)))
    study = {
        "kind": "study",
        "version": 1,
        "name": f"study-{folder.name.replace('_', '-')}",
        "dictionary": "dictionary.toml",
        "endpoint": {"time": "time", "event": "event", **(endpoint or {})},
        "model": {"covariates": list(covariates or names), **model},
        "privacy": dict(privacy or {}),
        "evaluation": dict(evaluation or {"folds": 0}),
    }
    path = out / "study.toml"
    path.write_text(tomli_w.dumps(study))
    return path, sites


def fold_column(folder: Path, repeat: int) -> pd.DataFrame:
    """Return patient_id and `cv_fold` of one repeat of the cohort's published splits."""
    splits = pd.read_csv(folder / "splits_5x5.csv", dtype={"patient_id": str})
    own = splits[splits["repeat"] == repeat]
    return pd.DataFrame({"patient_id": own["patient_id"], "cv_fold": own["fold"].map(lambda fold: f"f{fold}")})


def _dictionary(clinical: pd.DataFrame) -> dict[str, Any]:
    columns: list[dict[str, Any]] = []
    for name in clinical.columns:
        if name == "site":
            continue
        if name == "event":
            columns.append({"name": name, "type": "boolean"})
        elif clinical[name].dtype.kind in "OSU" or str(clinical[name].dtype) in ("string", "str"):
            columns.append({"name": name, "type": "identifier"})
        else:
            columns.append({"name": name, "type": "number"})
        if name == "time":
            columns[-1] |= {"min": 0.0, "max": float(clinical["time"].max())}
    return {"kind": "dictionary", "version": 1, "name": "shared cohort", "columns": columns}
