"""The cohorts behind the reference numbers, read the same way by R's input and by the tests.

Run as a script it writes the tables that the R scripts read; see README.md.

    python -m tests.reference.cohorts COHORTS FOLDER

Rules, fixed here once:
- complete cases, in the order of the table;
- `site` as in the table; covariates are all other columns but identifiers, in order;
- delayed entry is made up: patient i = 0, 1, 2, ... enters at floor(0.3 time (i mod 3) / 2), which often ties with
  an event time (at risk only after it);
- `EDGES` is a grid for each cohort with several events in each interval, and a last edge before the last times.
"""

import csv
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from models.step import Floats
from schemas.cohort import Cohort
from tests.models.federation import cohort_of, split

DEMO = Path(__file__).resolve().parents[2] / "configs" / "demo" / "cgd_clinical.csv"

EDGES = {
    "cgd": (30, 70, 110, 150, 190, 230, 270, 310, 350),
    "rhdnase_cf": (7, 10, 14, 20, 28, 35, 42, 50, 60, 75, 90, 105, 120, 140, 160, 168),
    "ncctg_lung": (30, 70, 110, 150, 180, 210, 250, 300, 350, 400, 500, 600, 800),
    "fed_tcga_brca": (300, 500, 700, 900, 1100, 1400, 1700, 2000, 2400, 2800, 3200, 4000),
}
# Left out of the fits without a penalty. Of the first two coxph warns that their coefficients may be infinite (nobody
# in the reference category of race dies; nor does one of two small groups), and of the others that they are linear
# combinations of columns before them.
DROPPED = {
    "fed_tcga_brca": (
        "race_white",
        "synchronous_malignancy_Not Reported",
        "primary_diagnosis_Infiltrating duct carcinoma, NOS",
        "primary_diagnosis_Lobular carcinoma, NOS",
        "tumor_stage_stage ia",
        "tumor_stage_stage iia",
        "tumor_stage_stage iib",
        "tumor_stage_stage iiia",
        "tumor_stage_stage iiic",
    )
}
_NOT_COVARIATES = ("patient_id", "tss", "site", "fold", "time", "event")


@dataclass(frozen=True)
class Reference:
    """One table.

    Attributes:
        pooled: All patients, observed from the origin.
        delayed: The same with the made-up entry times.
        sites: Label of each patient.
        columns: Covariates.
        edges: The cohort's grid.
    """

    pooled: Cohort
    delayed: Cohort
    sites: tuple[str, ...]
    columns: tuple[str, ...]
    edges: Floats

    def federated(self, *, delayed: bool) -> list[Cohort]:
        """The cohorts of the sites."""
        return split(self.delayed if delayed else self.pooled, self.sites)


def read(name: str, cohorts: Path) -> Reference:
    """One of the shared cohorts."""
    return _reference(name, pd.read_parquet(cohorts / name / "clinical.parquet").dropna())


def read_demo() -> Reference:
    """The cohort `cgd` from the demo's table: the same patients, covariates and merged sites."""
    table = pd.read_csv(DEMO)
    small = table.groupby("centre")["centre"].transform("size") < 10
    same = pd.DataFrame(
        {
            "site": table["centre"].mask(small, "Small centres"),
            "time": table["time_days"],
            "event": table["event"],
            "rIFNg": table["treatment"] == "rIFN-g",
            "female": table["sex"] == "female",
            "age": table["age_years"],
            "height": table["height_cm"],
            "weight": table["weight_kg"],
            "autosomal": table["inheritance"] == "autosomal",
            "steroids": table["steroids"],
            "propylac": table["prophylactic_antibiotics"],
            "hos_us": table["hospital"].str.startswith("US"),
        }
    )
    return _reference("cgd", same)


def numbers(file: str) -> list[dict[str, Any]]:
    """The fits of one of R's files here."""
    return json.loads((Path(__file__).parent / file).read_text(encoding="utf-8"))["fits"]


def kept(name: str, columns: tuple[str, ...]) -> tuple[str, ...]:
    """The covariates of the fits without a penalty."""
    return tuple(column for column in columns if column not in DROPPED.get(name, ()))


def _reference(name: str, table: pd.DataFrame) -> Reference:
    columns = tuple(column for column in table.columns if column not in _NOT_COVARIATES)
    x = table[list(columns)].to_numpy(dtype=np.float64)
    time, event = table["time"].to_numpy(dtype=np.float64), table["event"].to_numpy() == 1
    entry = np.floor(3 * time * (np.arange(time.size) % 3) / 20)
    return Reference(
        pooled=cohort_of(x, time, event, columns=columns),
        delayed=cohort_of(x, time, event, entry, columns=columns),
        sites=tuple(table["site"].astype(str)),
        columns=columns,
        edges=np.asarray(EDGES[name], dtype=np.float64),
    )


def main(cohorts: Path, folder: Path) -> None:
    """Write NAME.csv, NAME_edges.csv and NAME_dropped.csv for each cohort; covariates are called z1, z2, ..."""
    for name in EDGES:
        reference = read(name, cohorts)
        pooled, delayed = reference.pooled, reference.delayed
        x = pooled.matrix(reference.columns)
        dropped = [reference.columns.index(column) + 1 for column in DROPPED.get(name, ())]
        header = ["site", "time", "event", "entry", *(f"z{j + 1}" for j in range(x.shape[1]))]
        rows = zip(reference.sites, pooled.time, pooled.event.astype(int), delayed.entry, *x.T, strict=True)
        _write(folder / f"{name}.csv", header, rows)
        _write(folder / f"{name}_edges.csv", ["edge"], ([edge] for edge in reference.edges))
        _write(folder / f"{name}_dropped.csv", ["column"], ([column] for column in dropped))


def _write(path: Path, header: list[str], rows: object) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)  # type: ignore[arg-type]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
