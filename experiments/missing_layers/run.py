"""Half of the sites without RNA: everybody with zero scores for it, complete cases, and all data.

    ARCHIPEL_COHORTS=../shared/data python experiments/missing_layers/run.py [--only tcga_blca]

Every second site, in the order of their names, loses its RNA, to train and to be judged by. The same test patients
judge four models of the recipe: one of all data as they were; one of everybody, where who has no RNA counts with
scores of 0; one of the complete cases among the training patients; and one of the layers that nobody misses.
Nothing is drawn at random. Writes out/COHORT.json.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from archipel.judging import Judged
from experiments.multi_omics.load import Tables
from experiments.nested import Cohorts, federated, half_of_the_sites, summary, without_layer

HERE = Path(__file__).resolve().parent


def complete_cases(train: Cohorts, layer: str) -> dict[str, Any]:
    """Return the patients who have the layer, at the sites that have any."""
    kept = {site: cohort.take(cohort.has_layer(layer)) for site, cohort in train.items()}
    return {site: cohort for site, cohort in kept.items() if cohort.n_patients}


def evaluate(data: Path, cohort: str, repeats: list[int], missing: str) -> dict[str, Any]:
    """Return the figures of one cohort over the folds of all repeats."""
    tables = Tables(data, cohort)
    study, dictionary = tables.study("hazard"), tables.dictionary
    kept = tuple(layer for layer in study.model.layers if layer != missing)
    without = study.model_copy(update={"model": study.model.model_copy(update={"layers": kept})})
    judged: dict[str, list[list[Judged]]] = {}
    for repeat in repeats:
        everything = tables.cohorts(repeat)
        half = without_layer(everything, missing, half_of_the_sites(everything))
        runs = {
            "all data": federated(study, dictionary, everything),
            "zero scores": federated(study, dictionary, half),
            "complete cases": federated(
                study, dictionary, half, trained_on=lambda train: complete_cases(train, missing)
            ),
            f"no {missing} for anybody": federated(without, dictionary, half),
        }
        for name, folds in runs.items():
            judged.setdefault(name, []).extend(folds)
    return {
        "cohort": cohort,
        "missing": missing,
        "sites_without": sorted(half_of_the_sites(everything)),
        "patients_without": sum(everything[site].n_patients for site in half_of_the_sites(everything)),
        "models": {name: summary(folds) for name, folds in judged.items()},
    }


def main() -> None:
    """Run the cohorts of the configuration."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="one cohort")
    parser.add_argument("--out", type=Path, default=HERE / "out")
    arguments = parser.parse_args()
    config = json.loads((HERE / "config.json").read_text())
    arguments.out.mkdir(parents=True, exist_ok=True)
    with threadpool_limits(limits=1, user_api="blas"):
        for cohort in config["cohorts"]:
            if arguments.only in (None, cohort):
                data = Path(os.environ["ARCHIPEL_COHORTS"])
                found = evaluate(data, cohort, config["repeats"], config["missing"])
                (arguments.out / f"{cohort}.json").write_text(json.dumps(found, indent=1) + "\n")
                print(cohort, {name: one["c_index"] for name, one in found["models"].items()}, flush=True)


if __name__ == "__main__":
    main()
