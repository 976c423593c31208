"""The shared cohorts with their wide layers, as a study, a dictionary and each site's patients: read from parquet."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from schemas.cohort import Cohort, Layer
from schemas.dictionary import Column, Dictionary, Transform, WideLayer
from schemas.study import Endpoint, Evaluation, Model, Privacy, Study

TRANSFORMS: Mapping[str, Transform] = {"rna": "sign-log1p", "cnv": "none", "mut": "none"}
MIN_PREVALENCE = {"mut": 0.03}
PENALTIES = {"clinical": 10.0, "rna": 30.0, "cnv": 30.0, "mut": 30.0}
_NOT_COVARIATES = ("patient_id", "tss", "site", "fold", "time", "event")


@dataclass(frozen=True)
class Kit:
    """One shared cohort.

    Attributes:
        cohorts: Site -> its patients, in the order of the table.
    """

    study: Study
    dictionary: Dictionary
    cohorts: Mapping[str, Cohort]


def shared_cohort(
    folder: Path, name: str, layers: Sequence[str] = ("rna", "cnv", "mut"), n_sites: int | None = None, **changed: Any
) -> Kit:
    """Return a shared cohort.

    Args:
        folder: Of all shared cohorts.
        name: Of this one.
        layers: Wide layers beside the clinical one.
        n_sites: Merge the sites in turn to this many.
        changed: Fields of the study's model in place of the defaults, `evaluation` and `privacy` of the study.
    """
    clinical = pd.read_parquet(folder / name / "clinical.parquet")
    unit = json.loads((folder / name / "meta.json").read_text("utf-8"))["time_unit"].rstrip("s")
    covariates = tuple(column for column in clinical.columns if column not in _NOT_COVARIATES)
    tables = {layer: pd.read_parquet(folder / name / f"omics_{layer}.parquet") for layer in layers}
    study_fields = {key: changed.pop(key) for key in ("evaluation", "privacy") if key in changed}
    study = Study(
        kind="study",
        version=1,
        name=name.replace("_", "-"),
        dictionary="dictionary.toml",
        endpoint=Endpoint(time="time", event="event"),
        model=Model(
            **{
                "method": "hazard",
                "layers": ("clinical", *layers),
                "covariates": covariates,
                "penalty": {layer: PENALTIES[layer] for layer in ("clinical", *layers)},
                **changed,
            }
        ),
        **{"evaluation": Evaluation(folds=0), "privacy": Privacy(), **study_fields},
    )
    dictionary = Dictionary(
        kind="dictionary",
        version=1,
        name=name,
        columns=(
            Column(name="patient_id", type="identifier"),
            Column(name="time", type="number", unit=unit, min=0.0, max=float(clinical["time"].max())),
            Column(name="event", type="boolean"),
            *(Column(name=column, type="number") for column in covariates),
        ),
        layers=tuple(
            WideLayer(
                name=layer,
                features=f"{layer}.features",
                transform=TRANSFORMS[layer],
                min_prevalence=MIN_PREVALENCE.get(layer, 0.0),
                identifiers=tuple(table.columns[1:]),
            )
            for layer, table in tables.items()
        ),
    )
    sites = clinical["site"].astype(str)
    if n_sites is not None:
        order = {site: f"S{index % n_sites}" for index, site in enumerate(sorted(sites.unique()))}
        sites = sites.map(order)
    return Kit(
        study,
        dictionary,
        {site: _cohort(site, clinical[sites == site], covariates, tables) for site in sorted(set(sites))},
    )


def wide_cohort(layers: Mapping[str, Any], seed: int = 0, site: str = "") -> Cohort:
    """Return invented patients with these (n, m) layers, `x0`, `x1`, … in each, and one clinical column `age`."""
    n = len(next(iter(layers.values())))
    rng = np.random.default_rng(seed)
    return Cohort(
        patient_ids=tuple(f"{site}{i}" for i in range(n)),
        time=rng.uniform(1, 100, n),
        event=rng.random(n) < 0.6,
        entry=np.zeros(n),
        layers={
            "clinical": Layer(("age",), rng.normal(60, 10, (n, 1))),
            **{
                name: Layer(tuple(f"x{j}" for j in range(np.shape(values)[1])), np.asarray(values, dtype=np.float64))
                for name, values in layers.items()
            },
        },
        site=site,
    )


def _cohort(
    site: str, clinical: pd.DataFrame, covariates: Sequence[str], tables: Mapping[str, pd.DataFrame]
) -> Cohort:
    layers = {"clinical": Layer(tuple(covariates), clinical[list(covariates)].to_numpy(dtype=np.float64))}
    for name, table in tables.items():
        own = table.set_index("patient_id").reindex(clinical["patient_id"])
        layers[name] = Layer(tuple(own.columns), own.to_numpy(dtype=np.float64))
    return Cohort(
        patient_ids=tuple(clinical["patient_id"].astype(str)),
        time=clinical["time"].to_numpy(dtype=np.float64),
        event=clinical["event"].to_numpy() == 1,
        entry=np.zeros(len(clinical)),
        layers=layers,
        site=site,
    )
