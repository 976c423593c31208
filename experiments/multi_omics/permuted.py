"""Nothing leaks: with outcomes permuted over all patients the nested evaluation must find nothing.

    ARCHIPEL_COHORTS=../shared/data python experiments/multi_omics/permuted.py [--cohort tcga_gbmlgg]

Each permutation gives every patient another one's time and event, whatever the site, and runs the whole recipe on the
first repeat of the splits: components and penalties inside the training folds. Prints the mean C over the
permutations. Permutation k is drawn from PCG64 with seed k.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from archipel.fold_fits import fit, make_folds, with_dealt_inner_folds
from archipel.judging import Judge, Judged, scores_of
from experiments.multi_omics.load import Tables
from models.step import DivergedError
from schemas.cohort import concatenate


def permuted(tables: Tables, seed: int) -> Tables:
    """Return the tables with the outcomes of one permutation."""
    rows = np.random.Generator(np.random.PCG64(seed)).permutation(len(tables.clinical))
    outcome = tables.clinical[["time", "event"]].to_numpy()[rows]
    tables.clinical = tables.clinical.assign(time=outcome[:, 0], event=outcome[:, 1])
    return tables


def federated_c(tables: Tables) -> float | None:
    """Return the federated model's C, on the first repeat of the splits."""
    study, dictionary = tables.study("hazard"), tables.dictionary
    cohorts = with_dealt_inner_folds(study, tables.cohorts(0))
    judged: list[list[Judged]] = []
    for fold in make_folds(study, cohorts):
        train = {site: part for site, c in cohorts.items() if (part := c.take(~fold.test[site])).n_patients}
        test = concatenate([cohorts[site].take(mask) for site, mask in fold.test.items() if mask.any()])
        judge = Judge(study, fold, concatenate(list(train.values())), test)
        try:
            judged.append([judge("", fit(study, dictionary, train))])
        except DivergedError:
            judged.append([])
    return scores_of(judged).c_index.mean


def main() -> None:
    """Run the permutations of one cohort."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--permutations", type=int, default=20)
    parser.add_argument("--cohort", default="tcga_gbmlgg")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "out")
    arguments = parser.parse_args()
    data = Path(os.environ["ARCHIPEL_COHORTS"])
    values = []
    with threadpool_limits(limits=1, user_api="blas"):
        for seed in range(arguments.permutations):
            values.append(federated_c(permuted(Tables(data, arguments.cohort), seed)))
    known = [value for value in values if value is not None]
    found: dict[str, Any] = {
        "cohort": arguments.cohort,
        "permutations": len(known),
        "mean_c": round(float(np.mean(known)), 4),
        "sd_c": round(float(np.std(known, ddof=1)), 4) if len(known) > 1 else None,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / f"permuted-{arguments.cohort}.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
