"""Real patients for the attacks: the tables that scikit-survival bundles, and the shared cohorts.

Columns are numbers and indicators, as a study's design would make them; rows with an empty cell are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from sksurv import datasets

from models.step import Floats
from schemas.cohort import Cohort
from tests.models.federation import cohort_of, split

_LOADERS = {
    "gbsg2": datasets.load_gbsg2,
    "whas500": datasets.load_whas500,
    "veterans": datasets.load_veterans_lung_cancer,
    "breast": datasets.load_breast_cancer,
}
_NOT_COVARIATES = ("patient_id", "tss", "site", "fold", "time", "event", "entry")


@dataclass(frozen=True)
class Table:
    """A table of patients.

    Attributes:
        pooled: All patients.
        columns: p covariates.
    """

    pooled: Cohort
    columns: tuple[str, ...]

    @property
    def standardised(self) -> Floats:
        """(n, p) covariates in standard deviations from the mean of all patients."""
        x = self.pooled.matrix(self.columns)
        spread = x.std(axis=0)
        return (x - x.mean(axis=0)) / np.where(spread > 0, spread, 1.0)

    def sites(self, sizes: list[int], seed: int) -> list[Cohort]:
        """Return disjoint random sites of these sizes."""
        order = np.random.default_rng(seed).permutation(self.pooled.n_patients)
        stops = np.cumsum(sizes)
        return [self.pooled.take(order[stop - size : stop]) for size, stop in zip(sizes, stops.tolist(), strict=True)]


@cache
def bundled(name: str) -> Table:
    """Return one of scikit-survival's tables: ``gbsg2``, ``whas500``, ``veterans`` or ``breast``."""
    covariates, outcome = _LOADERS[name]()
    event, time = (np.asarray(outcome[field], dtype=np.float64) for field in outcome.dtype.names)
    encoded = pd.get_dummies(covariates, drop_first=True, dtype=np.float64)
    return _table(encoded.apply(pd.to_numeric), time, event)


def shared(name: str, cohorts: Path) -> tuple[list[Cohort], tuple[str, ...]]:
    """Return the sites of a shared cohort's clinical table, empty cells included; covariates are x0, x1, ..."""
    table = pd.read_parquet(cohorts / name / "clinical.parquet")
    table = table[table["time"] > 0]
    named = [column for column in table.columns if column not in _NOT_COVARIATES]
    columns = tuple(f"x{j}" for j in range(len(named)))
    x = table[named].apply(pd.to_numeric).to_numpy(dtype=np.float64)
    pooled = cohort_of(x, table["time"].to_numpy(dtype=np.float64), table["event"].to_numpy() == 1, columns=columns)
    return split(pooled, table["site"].astype(str).tolist()), columns


def _table(covariates: pd.DataFrame, time: Floats, event: Floats) -> Table:
    x = covariates.to_numpy(dtype=np.float64)
    whole = ~np.isnan(x).any(axis=1) & (time > 0)
    columns = tuple(f"x{j}" for j in range(x.shape[1]))
    return Table(cohort_of(x[whole], time[whole], event[whole] == 1, columns=columns), columns)
