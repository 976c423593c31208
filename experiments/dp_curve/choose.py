"""The settings of the private fit, chosen on invented patients, so that no real patient's privacy paid for it.

    python experiments/dp_curve/choose.py [--cohorts 10] [--seeds 3]

Prints C on other invented patients for the defaults and for each setting changed alone: the choice is no knife's
edge. 870 patients to fit, as many as four fifths of Fed-TCGA-BRCA, one number and 39 indicators in twelve categories,
some of them correlated, 15 to 20 % events. The defaults of `schemas.study.Differential`, `models.private_plan.SHARES`
and the length of descent in `models.private_hazard` come from here, and were fixed before run.py saw a real patient.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from typing import Any
from unittest.mock import patch

import numpy as np
from private_fit import Mode, cohort_of, fit, scores, study_of

import models.private_hazard
import models.private_plan
from models.compile import compile_plan
from models.concordance import c_index, harrell
from schemas.cohort import Cohort

N_FIT, N_JUDGE = 870, 1000
CATEGORIES = (3, 3, 2, 4, 6, 5, 4, 2, 2, 2, 3, 3)
EPSILONS = (math.inf, 8.0, 3.0, 1.0)
PENALTY = 5.0
Changed = Mapping[str, Any]
CHANGES: list[tuple[str, Changed]] = [
    ("defaults", {}),
    ("clip 1", {"clip": 1.0}),
    ("clip 4", {"clip": 4.0}),
    ("15 rounds", {"rounds": 15}),
    ("60 rounds", {"rounds": 60}),
    ("descent 3", {"descent": 3.0}),
    ("descent 8", {"descent": 8.0}),
    ("no penalty", {"penalty": 0.0}),
    ("penalty 20", {"penalty": 20.0}),
    ("moments twice", {"shares": {"moments": 0.2, "grid": 0.05, "fit": 0.7, "baseline": 0.05}}),
    ("moments half", {"shares": {"moments": 0.05, "grid": 0.05, "fit": 0.85, "baseline": 0.05}}),
    ("grid twice", {"shares": {"moments": 0.1, "grid": 0.1, "fit": 0.75, "baseline": 0.05}}),
    ("baseline twice", {"shares": {"moments": 0.1, "grid": 0.05, "fit": 0.75, "baseline": 0.1}}),
]


def invented(seed: int) -> tuple[list[str], Cohort]:
    """Patients with one number, age, and indicators of twelve categories, some of which go together."""
    rng = np.random.default_rng(seed)
    n = N_FIT + N_JUDGE
    severity = rng.normal(size=n)
    age = np.clip(59 + 13 * rng.normal(size=n), 20, 92)
    columns, effects = [age], [0.035]
    for codes in CATEGORIES:
        hidden = 0.6 * severity * rng.integers(2) + rng.normal(size=n)
        cuts = np.quantile(hidden, np.cumsum(rng.dirichlet(np.full(codes + 1, 1.5)))[:-1])
        category = np.searchsorted(cuts, hidden)
        columns += [(category == code).astype(np.float64) for code in range(1, codes + 1)]
        effects += list(0.35 * rng.normal(size=codes))
    x = np.column_stack(columns)
    failure = rng.exponential(1 / (1.4e-4 * np.exp((x - x.mean(axis=0)) @ np.array(effects))))
    censoring = rng.exponential(1250, size=n)
    names = ["age", *(f"i{j}" for j in range(1, x.shape[1]))]
    return names, cohort_of(names, x, np.clip(np.minimum(failure, censoring), 1, 8600), failure <= censoring)


def judged(epsilon: float, mode: Mode, changed: Changed, cohorts: int, seeds: int) -> float:
    """Mean C over invented cohorts and draws of the noise."""
    own = {name: changed[name] for name in ("clip", "rounds") if name in changed}
    shares = {"SHARES": changed["shares"]} if "shares" in changed else {}
    with (
        patch.multiple(models.private_plan, **(shares or {"SHARES": models.private_plan.SHARES})),
        patch.object(models.private_hazard, "_DESCENT", changed.get("descent", models.private_hazard._DESCENT)),
    ):
        found = []
        for index in range(cohorts):
            names, everybody = invented(index)
            study, dictionary = study_of(
                names[1:], "age", epsilon, mode, penalty=changed.get("penalty", PENALTY), **own
            )
            plan = compile_plan(study, dictionary, adds_noise=True)
            trained, others = everybody.take(np.arange(N_FIT)), everybody.take(np.arange(N_FIT, N_FIT + N_JUDGE))
            for seed in range(seeds if math.isfinite(epsilon) else 1):
                done = fit(plan, trained, epsilon, np.random.default_rng([index, seed]))
                found.append(c_index(*harrell(others.time, others.event, scores(plan, done, others))))
    return float(np.mean(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cohorts", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    wanted = parser.parse_args()
    print(f"{'':16}" + "".join(f"{mode}, eps = {epsilon:g}".rjust(24) for mode, epsilon in _columns()))
    for name, changed in CHANGES:
        values = [judged(epsilon, mode, changed, wanted.cohorts, wanted.seeds) for mode, epsilon in _columns()]
        print(f"{name:16}" + "".join(f"{value:24.4f}" for value in values), flush=True)


def _columns() -> list[tuple[Mode, float]]:
    return [("secure sum", epsilon) for epsilon in EPSILONS] + [("each site", 8.0)]


if __name__ == "__main__":
    main()
