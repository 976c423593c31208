"""Late fusion beside early concatenation, with half of the sites without RNA; and the hub's optimisers.

    ARCHIPEL_COHORTS=../shared/data python experiments/fusion/run.py [--only tcga_blca]

The patients, folds and missing layers of `experiments/missing_layers`; the linear model there is what a network has
to beat. How long and how fast a network trains comes from invented patients (`choose.py`), penalties from the inner
folds of the training patients. Writes out/COHORT.json after every network.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from archipel.judging import Judged
from experiments.fusion.choose import as_network
from experiments.multi_omics.load import Tables
from experiments.nested import federated, half_of_the_sites, summary, without_layer
from models.step import DivergedError

HERE = Path(__file__).resolve().parent


def evaluate(tables: Tables, network: Mapping[str, Any], repeats: list[int], missing: str) -> dict[str, Any]:
    """Return the figures of one network over the folds of all repeats."""
    study = as_network(tables.study("hazard"), network)
    judged: list[list[Judged]] = []
    for repeat in repeats:
        cohorts = tables.cohorts(repeat)
        half = without_layer(cohorts, missing, half_of_the_sites(cohorts))
        try:
            judged += federated(study, tables.dictionary, half)
        except DivergedError as error:
            return {"c_index": None, "reason": str(error)}
    return {**summary(judged), "repeats": repeats}


def main() -> None:
    """Run the cohorts and networks of the configuration."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="one cohort")
    parser.add_argument("--out", type=Path, default=HERE / "out")
    arguments = parser.parse_args()
    config = json.loads((HERE / "config.json").read_text())
    optimisers = config["server_optimisers"]
    wanted = [(name, network, config["repeats"]) for name, network in config["networks"].items()]
    others = [(name, network, optimisers["repeats"]) for name, network in optimisers["networks"].items()]
    arguments.out.mkdir(parents=True, exist_ok=True)
    with threadpool_limits(limits=1, user_api="blas"):
        for cohort in config["cohorts"]:
            if arguments.only not in (None, cohort):
                continue
            tables = Tables(Path(os.environ["ARCHIPEL_COHORTS"]), cohort)
            found: dict[str, Any] = {"cohort": cohort, "missing": config["missing"], "models": {}}
            for name, network, repeats in wanted + (others if cohort in optimisers["cohorts"] else []):
                found["models"][name] = evaluate(tables, network, repeats, config["missing"])
                print(cohort, name, found["models"][name]["c_index"], flush=True)
                (arguments.out / f"{cohort}.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
