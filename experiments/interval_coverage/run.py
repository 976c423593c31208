"""How often the 95 % interval of a predicted survival holds the true one, on invented patients of a known model.

    python experiments/interval_coverage/run.py [--cohorts 300]

Eight covariates, four with a log hazard ratio of .5 a standard deviation, four without; exponential times, uniform
censoring, 300 patients at three sites. New patients are judged at three times. docs/models.md shows the table.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from models.prediction import predict
from models.step import Floats
from schemas.cohort import Cohort
from tests.models.federation import cohort_of, split
from tests.models.test_prediction import cox_model, hazard_model

P, N, N_NEW = 8, 300, 40
BETA = np.array([0.5, -0.5, 0.5, -0.5, 0.0, 0.0, 0.0, 0.0])
RATE = 0.1
TIMES = np.array([2.0, 5.0, 9.0])
COLUMNS = tuple(f"x{j}" for j in range(P))


def patients(rng: np.random.Generator, n: int) -> tuple[Cohort, Floats]:
    """Return n invented patients and their true log hazards."""
    x = rng.normal(size=(n, P))
    eta = x @ BETA
    time, censored = rng.exponential(1 / (RATE * np.exp(eta))), rng.uniform(2, 20, n)
    observed = np.minimum(time, censored)
    return cohort_of(x, np.maximum(observed, 1e-3), time <= censored, columns=COLUMNS), eta


def covered(curve_lower: Floats | None, curve_upper: Floats | None, truth: Floats) -> Floats:
    """Return the (n, m) marks of the intervals that hold the truth."""
    if curve_lower is None or curve_upper is None:
        raise SystemExit("the model gave no interval")
    return (curve_lower <= truth) & (truth <= curve_upper)


def grid_of(cohort: Cohort) -> Floats:
    """Return edges with about ten events in each interval."""
    times = np.sort(cohort.time[cohort.event])
    return np.unique(np.round(times[9::10], 3))


def main() -> None:
    """Print the coverage for each model, by time."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cohorts", type=int, default=300)
    n_cohorts = parser.parse_args().cohorts
    marks: dict[str, list[Floats]] = {}
    for seed in range(n_cohorts):
        rng = np.random.default_rng(seed)
        cohort, _ = patients(rng, N)
        new, eta = patients(rng, N_NEW)
        truth = np.exp(-RATE * TIMES * np.exp(eta)[:, None])
        sites = split(cohort, [i % 3 for i in range(N)])
        models = {"Cox, exact times, no penalty": cox_model(sites, COLUMNS)}
        for penalty in (0.0, 10.0, 100.0):
            models[f"hazard, grid, penalty {penalty:g}"] = hazard_model(sites, COLUMNS, grid_of(cohort), penalty)
        for name, model in models.items():
            curve = predict(model, new, TIMES)
            marks.setdefault(name, []).append(covered(curve.lower, curve.upper, truth))
    print(f"{n_cohorts} cohorts of {N} patients, {N_NEW} new patients each; share of 95 % intervals that hold")
    for name, found in marks.items():
        shares = np.mean(np.concatenate(found), axis=0)
        print(
            f"{name:<30}" + "".join(f"  t = {time:g}: {share:.3f}" for time, share in zip(TIMES, shares, strict=True))
        )


if __name__ == "__main__":
    main()
