"""The published split of Fed-TCGA-BRCA, beside the figures published for it.

    ARCHIPEL_COHORTS=../shared/data python experiments/published_split/run.py

One model of the training patients (866), one judgement on the test patients (222, of whom 32 died): site-only,
federated and pooled. Everything is chosen inside the training patients. The interval is of Harrell's C over 1,000
draws of the test patients with replacement (PCG64, seed 0), the models held fixed. Writes out/published_split.json.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from archipel.fold_fits import Fold, fit, fit_alone, with_dealt_inner_folds
from archipel.judging import Judged
from experiments.multi_omics.load import Tables
from experiments.nested import Cohorts, judge_fold, rounded
from models.concordance import c_index, harrell
from schemas.cohort import concatenate
from schemas.study import Study

HERE = Path(__file__).resolve().parent
_DRAWS = 1000


def published_fold(cohorts: Cohorts) -> Fold:
    """Return the one split, which the cohorts carry as their `fold`."""
    return Fold(0, 0, {site: np.asarray(cohort.fold == "test") for site, cohort in cohorts.items()})


def interval(judged: Judged) -> list[float | None]:
    """Return the 95 % interval of C over draws of the test patients."""
    rng = np.random.Generator(np.random.PCG64(0))
    patients, score, n = judged.patients, judged.log_hazard, judged.patients.n_patients
    drawn = []
    for _ in range(_DRAWS):
        rows = rng.integers(n, size=n)
        counts = harrell(patients.time[rows], patients.event[rows], score[rows], patients.entry[rows])
        if counts[2]:
            drawn.append(c_index(*counts))
    return [rounded(float(value)) for value in np.quantile(drawn, [0.025, 0.975])]


def evaluate(tables: Tables, study: Study, cohorts: Cohorts) -> dict[str, Any]:
    """Return the figures of the three kinds of model."""
    dealt = with_dealt_inner_folds(study, cohorts)
    fold, dictionary = published_fold(dealt), tables.dictionary
    federated = judge_fold(study, dealt, fold, lambda train: fit(study, dictionary, train))
    pooled = judge_fold(
        study, dealt, fold, lambda train: fit(study, dictionary, {"pooled": concatenate(list(train.values()))})
    )
    alone: list[tuple[float, int]] = []
    for site, cohort in dealt.items():
        own = cohort.take(~fold.test[site])
        model = fit_alone(study, dictionary, own)
        if model is not None:
            judged = judge_fold(study, dealt, fold, lambda _, model=model: model)
            alone.append((float(judged.c_index or np.nan), own.n_patients))
    values, weights = np.array(alone).T
    return {
        "site_only": rounded(float(values @ weights / weights.sum())),
        "federated": rounded(federated.c_index),
        "interval": interval(federated),
        "federated_within_sites": rounded(federated.c_index_within),
        "pooled": rounded(pooled.c_index),
        "test_patients": federated.patients.n_patients,
        "test_events": int(federated.patients.event.sum()),
    }


def main() -> None:
    """Run the rows of the configuration."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "out")
    arguments = parser.parse_args()
    config = json.loads((HERE / "config.json").read_text())
    arguments.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"published": config["published"], "rows": {}}
    with threadpool_limits(limits=1, user_api="blas"):
        for row in config["rows"]:
            tables = Tables(Path(os.environ["ARCHIPEL_COHORTS"]), config["cohort"], row["layers"])
            cohorts = tables.cohorts(labels=tables.clinical["fold"])
            for likelihood in config["likelihoods"]:
                name = f"{'clinical and omics' if row['layers'] else 'clinical'}, {likelihood}"
                found["rows"][name] = evaluate(tables, tables.study(likelihood), cohorts)
                print(name, json.dumps(found["rows"][name]), flush=True)
                (arguments.out / "published_split.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
