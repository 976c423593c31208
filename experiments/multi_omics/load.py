"""The shared cohorts as cohorts, dictionary and study: in memory, what `archipel simulate` reads from folders."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from schemas.cohort import Cohort, Layer
from schemas.dictionary import Column, Dictionary, WideLayer
from schemas.study import Endpoint, Evaluation, FoldColumn, Model, Privacy, Study

LAYERS: dict[str, dict[str, Any]] = {
    "rna": {"type": "number", "transform": "sign-log1p"},
    "cnv": {"type": "number"},
    "mut": {"type": "number", "min_prevalence": 0.03},
}
Likelihood = Literal["hazard", "cox"]


class Tables:
    """One cohort's tables.

    Args:
        folder: Of the shared data.
        name: Of the cohort.
        wide: Layers to read beside the clinical one.
    """

    def __init__(self, folder: Path, name: str, wide: Sequence[str] = tuple(LAYERS)) -> None:
        self.name, self.wide = name, tuple(wide)
        self.clinical = pd.read_parquet(folder / name / "clinical.parquet")
        self.meta = json.loads((folder / name / "meta.json").read_text())
        self.covariates = list(self.meta["covariates"])
        self.splits = pd.read_csv(folder / name / "splits_5x5.csv", dtype={"patient_id": str})
        self.omics = {
            layer: pd.read_parquet(folder / name / f"omics_{layer}.parquet")
            .set_index("patient_id")
            .reindex(self.clinical["patient_id"])
            for layer in self.wide
        }

    @property
    def dictionary(self) -> Dictionary:
        """The dictionary, with its time's range from the table as `simulate` completes it."""
        longest = float(self.clinical["time"].max())
        columns = [
            Column(name="patient_id", type="identifier"),
            Column(name="time", type="number", unit=self.meta["time_unit"], min=0, max=longest),
            Column(name="event", type="boolean"),
            Column(name="split", type="integer", min=0, max=99),
            *(Column(name=name, type="number", unit="1") for name in self.covariates),
        ]
        layers = [
            WideLayer(
                name=layer,
                columns="*",
                features=f"{layer}.features",
                identifiers=tuple(map(str, self.omics[layer].columns)),
                **LAYERS[layer],
            )
            for layer in self.wide
        ]
        return Dictionary(kind="dictionary", version=1, name=self.name, columns=tuple(columns), layers=tuple(layers))

    def study(self, likelihood: Likelihood, penalty: Any = "cv", components: int = 20) -> Study:
        """The study: `hazard` on the grid of at least five events, or `cox` at the exact times (Breslow's ties)."""
        return Study(
            kind="study",
            version=1,
            name=f"{self.name.replace('_', '-')}-recipe",
            dictionary="dictionary.toml",
            endpoint=Endpoint(time="time", event="event"),
            model=Model(
                method=likelihood,
                layers=("clinical", *self.wide),
                covariates=tuple(self.covariates),
                components=components,
                penalty=penalty,
                ties="breslow",
            ),
            evaluation=Evaluation(folds=FoldColumn(column="split")),
            privacy=Privacy(min_patients=1, min_events_per_interval=5 if likelihood == "hazard" else 1),
        )

    def cohorts(self, repeat: int | None = None, labels: pd.Series | None = None) -> dict[str, Cohort]:
        """The sites' patients, with the folds of one repeat of the splits (or other labels) as their `fold`."""
        if labels is None and repeat is not None:
            own = self.splits[self.splits["repeat"] == repeat].set_index("patient_id")["fold"]
            labels = own.reindex(self.clinical["patient_id"])
        folds = None if labels is None else labels.to_numpy().astype(str)
        return {
            str(site): self._cohort(rows.to_numpy(), str(site), folds)
            for site, rows in self.clinical.groupby("site").groups.items()
        }

    def _cohort(self, rows: Any, site: str, folds: Any) -> Cohort:
        table = self.clinical.iloc[rows]
        layers = {"clinical": Layer(tuple(self.covariates), table[self.covariates].to_numpy(np.float64))}
        for layer, values in self.omics.items():
            layers[layer] = Layer(tuple(map(str, values.columns)), values.iloc[rows].to_numpy(np.float64))
        return Cohort(
            patient_ids=tuple(table["patient_id"]),
            time=table["time"].to_numpy(np.float64),
            event=table["event"].to_numpy() == 1,
            entry=np.zeros(len(table)),
            layers=layers,
            fold=None if folds is None else folds[rows],
            site=site,
        )
