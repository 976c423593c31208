"""Writes a shared cohort as a federation would hold it: site folders, a dictionary, its features files and a study.

    python experiments/shared_cohorts/make_sites.py tcga_gbmlgg OUT [--sites 4] [--method hazard] [--layers rna cnv]
    archipel simulate OUT/study.toml --sites OUT/sites --out OUT/simulated
    archipel trial OUT/study.toml --sites OUT/sites --out OUT/trial

The cohorts are read from the folder that ARCHIPEL_COHORTS names, and never become part of the repository: OUT has to
lie outside of it. RNA is read as sign(x) log(1 + |x|), copy number as it is, mutations where at least 3 % of the
patients have them.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import tomli_w

from schemas.features import write_features

REPOSITORY = Path(__file__).resolve().parents[2]
LAYERS: Mapping[str, Mapping[str, Any]] = {
    "rna": {"type": "number", "transform": "sign-log1p", "unit": "z-score"},
    "cnv": {"type": "number", "min": -2, "max": 2, "unit": "GISTIC call"},
    "mut": {"type": "boolean", "min_prevalence": 0.03},
}
PENALTIES = {"clinical": 10.0, "rna": 300.0, "cnv": 300.0, "mut": 300.0}
_OTHERS = frozenset({"patient_id", "tss", "site", "fold", "time", "event"})


@dataclass(frozen=True)
class Made:
    """What was written.

    Attributes:
        study: The study's file.
        sites: The folder of the site folders.
        layers: The wide layers, with their number of features.
    """

    study: Path
    sites: Path
    layers: Mapping[str, int]


def make_sites(
    cohorts: Path,
    name: str,
    out: Path,
    *,
    layers: Sequence[str] | None = None,
    n_sites: int | None = None,
    model: Mapping[str, Any] | None = None,
    evaluation: Mapping[str, Any] | None = None,
    privacy: Mapping[str, Any] | None = None,
) -> Made:
    """Write one cohort's site folders, dictionary, features files and study.

    Args:
        cohorts: Folder of the shared cohorts.
        name: Of the cohort.
        out: For everything; outside of the repository.
        layers: Wide layers; all that the cohort has, by default.
        n_sites: Put the sites together, in turn, to so many.
        model: Keys of the study's model in place of the default ones.
        evaluation: The study's section.
        privacy: The study's section.

    Raises:
        SystemExit: When `out` lies in the repository, or there is no such cohort.
    """
    if out.resolve().is_relative_to(REPOSITORY):
        raise SystemExit(f"{out} lies in the repository, which never holds these cohorts: name a folder elsewhere.")
    source = cohorts / name
    if not (source / "clinical.parquet").is_file():
        raise SystemExit(f"There is no {name}/clinical.parquet in the folder that ARCHIPEL_COHORTS names.")
    meta = json.loads((source / "meta.json").read_text(encoding="utf-8"))
    clinical = pd.read_parquet(source / "clinical.parquet")
    wide = [layer for layer in LAYERS if (source / f"omics_{layer}.parquet").is_file()]
    tables = {
        layer: pd.read_parquet(source / f"omics_{layer}.parquet")
        for layer in wide
        if layers is None or layer in layers
    }
    out.mkdir(parents=True, exist_ok=True)
    _write_tables(clinical, tables, out / "sites", n_sites)
    for layer, table in tables.items():
        write_features(out / f"{layer}.features", tuple(table.columns.drop("patient_id")))
    covariates = [column for column in clinical.columns if column not in _OTHERS]
    (out / "dictionary.toml").write_text(tomli_w.dumps(_dictionary(name, clinical, meta, tables)), encoding="utf-8")
    study = _study(name, covariates, tables, model or {}, evaluation or {"folds": 5}, privacy or {})
    (out / "study.toml").write_text(tomli_w.dumps(study), encoding="utf-8")
    return Made(out / "study.toml", out / "sites", {layer: table.shape[1] - 1 for layer, table in tables.items()})


def _write_tables(
    clinical: pd.DataFrame, tables: Mapping[str, pd.DataFrame], sites: Path, n_sites: int | None
) -> None:
    names = sorted(clinical["site"].astype(str).unique())
    of_site = {site: f"site-{site.lower()}" for site in names}
    if n_sites is not None:
        of_site = {site: f"site-{index % n_sites + 1}" for index, site in enumerate(names)}
    for home, rows in clinical.groupby(clinical["site"].astype(str).map(of_site)):
        folder = sites / str(home)
        folder.mkdir(parents=True, exist_ok=True)
        kept = rows.drop(columns=[column for column in ("site", "tss", "fold") if column in rows])
        kept.to_parquet(folder / "clinical.parquet", index=False)
        for layer, table in tables.items():
            own = table[table["patient_id"].isin(rows["patient_id"])]
            if len(own):
                own.to_parquet(folder / f"{layer}.parquet", index=False)


def _dictionary(
    name: str, clinical: pd.DataFrame, meta: Mapping[str, Any], tables: Mapping[str, pd.DataFrame]
) -> dict[str, Any]:
    # In words of its own: under the plain unit the check takes the truly short follow-up of one TCGA site for another
    # unit's, which is right to ask of a hospital and known to be wrong here.
    unit = f"{meta['time_unit']} of follow-up"
    time = {"name": "time", "type": "number", "unit": unit, "min": 0, "max": float(clinical["time"].max())}
    columns: list[dict[str, Any]] = [
        {"name": "patient_id", "type": "identifier", "required": True},
        {**time, "required": True},
        {"name": "event", "type": "boolean", "required": True},
    ]
    columns += [{"name": column, "type": "number"} for column in clinical.columns if column not in _OTHERS]
    layers = [{"name": layer, **LAYERS[layer], "features": f"{layer}.features"} for layer in tables]
    described = {"kind": "dictionary", "version": 1, "name": name, "columns": columns}
    return {**described, "layers": layers} if layers else described


def _study(
    name: str,
    covariates: Sequence[str],
    tables: Mapping[str, pd.DataFrame],
    model: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    privacy: Mapping[str, Any],
) -> dict[str, Any]:
    layers = ["clinical", *tables]
    default = {
        "method": "hazard",
        "layers": layers,
        "covariates": list(covariates),
        "penalty": {layer: PENALTIES[layer] for layer in layers},
    }
    return {
        "kind": "study",
        "version": 1,
        "name": name.replace("_", "-"),
        "title": name,
        "dictionary": "dictionary.toml",
        "purpose": "Research on methods with public data.",
        "endpoint": {"time": "time", "event": "event"},
        "model": {**default, **model},
        "evaluation": dict(evaluation),
        "privacy": dict(privacy),
    }


def main() -> None:
    """Write what the command line asks for, and say where it is."""
    parser = argparse.ArgumentParser(description="Writes a shared cohort as site folders with dictionary and study.")
    parser.add_argument("cohort")
    parser.add_argument("out", type=Path)
    parser.add_argument("--sites", type=int, default=None, help="put the sites together, in turn, to so many")
    parser.add_argument("--layers", nargs="*", default=None, choices=tuple(LAYERS))
    parser.add_argument("--method", default="hazard")
    parser.add_argument("--components", type=int, default=20)
    given = parser.parse_args()
    if "ARCHIPEL_COHORTS" not in os.environ:
        raise SystemExit("Set ARCHIPEL_COHORTS to the folder that holds the shared cohorts.")
    model = {"method": given.method, "components": given.components}
    cohorts = Path(os.environ["ARCHIPEL_COHORTS"])
    made = make_sites(cohorts, given.cohort, given.out, layers=given.layers, n_sites=given.sites, model=model)
    for layer, n_features in made.layers.items():
        print(f"{layer}: {n_features:,} features")
    print(f"archipel simulate {made.study} --sites {made.sites} --out {given.out / 'simulated'}")


if __name__ == "__main__":
    main()
