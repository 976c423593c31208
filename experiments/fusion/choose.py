"""How long and how fast a network trains, by each server optimiser: chosen on invented patients, not on the cohorts.

    python experiments/fusion/choose.py [--worlds 3]

The worlds are those of `experiments/multi_omics/choose.py`; half of the patients of each have no RNA. A network is
fitted to few patients by the whole recipe (components, penalties, grid), and C is counted on 2,500 others. Writes
choose.json, with what is not yet in it: the mean C of every candidate and of the linear model, and how often training
diverged.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from archipel.fold_fits import fit, with_dealt_inner_folds
from experiments.multi_omics.choose import KINDS, study, world
from models.concordance import c_index, harrell
from models.step import DivergedError
from schemas.cohort import Cohort, Layer
from schemas.study import Network, Study

HERE = Path(__file__).resolve().parent
CANDIDATES: dict[str, dict[str, Any]] = {
    "adam .02, 100 rounds": {"rate": 0.02, "rounds": 100},
    "adam .02, 50 rounds": {"rate": 0.02, "rounds": 50},
    "adam .02, 200 rounds": {"rate": 0.02, "rounds": 200},
    "adam .05, 100 rounds": {"rate": 0.05, "rounds": 100},
    "adam .02, 100 rounds, hidden 4": {"rate": 0.02, "rounds": 100, "hidden": 4},
    "adam .01, 100 rounds": {"rate": 0.01, "rounds": 100},
    "adam .01, 50 rounds": {"rate": 0.01, "rounds": 50},
    "averaging .03, 100 rounds": {"server": "averaging", "rate": 0.03, "rounds": 100},
    "averaging .1, 100 rounds": {"server": "averaging", "rate": 0.1, "rounds": 100},
    "averaging 1, 100 rounds": {"server": "averaging", "rate": 1.0, "rounds": 100},
    "momentum .03, 100 rounds": {"server": "momentum", "rate": 0.03, "rounds": 100},
}


def without_rna(cohort: Cohort, seed: int) -> Cohort:
    """Return the cohort with RNA missing for half of its patients."""
    rng = np.random.Generator(np.random.PCG64([seed, 99]))
    rna = cohort.layers["rna"]
    missing = rng.random(cohort.n_patients) < 0.5
    values = np.where(missing[:, None], np.nan, rna.values)
    return replace(cohort, layers={**cohort.layers, "rna": Layer(rna.columns, values)})


def as_network(own: Study, network: Mapping[str, Any]) -> Study:
    """Return the study with a network in place of its linear model."""
    model = own.model.model_copy(update={"method": "hazard-network", "network": Network(**network)})
    return own.model_copy(update={"model": model})


def c_of(own: Study, pair: tuple[Cohort, Cohort], dictionary: Any) -> float | None:
    """Return C on the others; None where training diverges."""
    train, others = pair
    try:
        model = fit(own, dictionary, with_dealt_inner_folds(own, {train.site: train}))
    except DivergedError:
        return None
    return c_index(*harrell(others.time, others.event, model.log_hazard(others), others.entry))


def main() -> None:
    """Compare the candidates over all worlds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=3)
    arguments = parser.parse_args()
    linear, dictionary = study()
    rules = {"linear model": linear, **{name: as_network(linear, one) for name, one in CANDIDATES.items()}}
    pairs = [
        (without_rna(train, seed), without_rna(others, seed + 1000))
        for kind in KINDS
        for seed in range(arguments.worlds)
        for train, others in [world(kind, seed)]
    ]
    path = HERE / "choose.json"
    found: dict[str, Any] = {"worlds": len(pairs), "mean_c": {}, "diverged": {}}
    if path.is_file():
        found = json.loads(path.read_text())
    with threadpool_limits(limits=1, user_api="blas"):
        for name, own in rules.items():
            if name in found["mean_c"]:
                continue
            values = [c_of(own, pair, dictionary) for pair in pairs]
            known = [value for value in values if value is not None]
            found["mean_c"][name] = round(float(np.mean(known)), 4) if len(known) == len(values) else None
            found["diverged"][name] = len(values) - len(known)
            print(name, found["mean_c"][name], found["diverged"][name], flush=True)
            path.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
