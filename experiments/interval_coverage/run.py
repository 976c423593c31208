"""How often the 95 % interval of a predicted survival holds the true one, on invented patients of a known model.

    python experiments/interval_coverage/run.py [--cohorts 300] [--competing]

Eight covariates, four with a log hazard ratio of .5 a standard deviation, four without; exponential times, uniform
censoring, 300 patients at three sites. New patients are judged at three times. docs/models.md shows the table.

With `--competing` a second kind of event, at half the rate and with other log hazard ratios, can come first, and the
interval is of the cumulative incidence of the first kind.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from models.incidence_prediction import predict_incidence
from models.prediction import predict
from models.step import Floats
from schemas.cohort import Cohort
from tests.models.federation import cohort_of, split
from tests.models.test_incidence_prediction import cox_competing, grouped_competing
from tests.models.test_prediction import cox_model, hazard_model

P, N, N_NEW = 8, 300, 40
OTHER_BETA = np.array([0.5, 0.0, 0.0, 0.0, 0.5, -0.5, 0.0, 0.0])
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


def competing_patients(rng: np.random.Generator, n: int) -> tuple[Cohort, Floats, Floats]:
    """Return n invented patients, the kind of event of each and their (2, n) true hazards."""
    x = rng.normal(size=(n, P))
    hazards = RATE * np.stack((np.exp(x @ BETA), 0.5 * np.exp(x @ OTHER_BETA)))
    times, censored = rng.exponential(1 / hazards), rng.uniform(2, 20, n)
    first = times.min(axis=0)
    kind = np.where(first <= censored, 1.0 + times.argmin(axis=0), 0.0)
    observed = np.maximum(np.minimum(first, censored), 1e-3)
    return cohort_of(x, observed, kind > 0, columns=COLUMNS), kind, hazards


def competing(n_cohorts: int) -> dict[str, list[Floats]]:
    """Return for each model the marks of the incidences of the first kind that its intervals hold."""
    marks: dict[str, list[Floats]] = {}
    for seed in range(n_cohorts):
        rng = np.random.default_rng(seed)
        cohort, kind, _ = competing_patients(rng, N)
        new, _, hazards = competing_patients(rng, N_NEW)
        together = hazards.sum(axis=0)
        truth = (hazards[0] / together)[:, None] * -np.expm1(-together[:, None] * TIMES)
        models = {"Cox, exact times, no penalty": cox_competing(cohort, kind, [i % 3 for i in range(N)], COLUMNS)}
        for penalty in (0.0, 10.0):
            name = f"hazard, grid, penalty {penalty:g}"
            models[name] = grouped_competing(cohort, kind, grid_of(cohort), COLUMNS, penalty)[0]
        for name, model in models.items():
            found = predict_incidence(model, new, TIMES)
            lower, upper = (None if one is None else one[0] for one in (found.lower, found.upper))
            marks.setdefault(name, []).append(covered(lower, upper, truth))
    return marks


def covered(curve_lower: Floats | None, curve_upper: Floats | None, truth: Floats) -> Floats:
    """Return the (n, m) marks of the intervals that hold the truth."""
    if curve_lower is None or curve_upper is None:
        raise SystemExit("the model gave no interval")
    return (curve_lower <= truth) & (truth <= curve_upper)


def grid_of(cohort: Cohort) -> Floats:
    """Return edges with about ten events in each interval."""
    times = np.sort(cohort.time[cohort.event])
    return np.unique(np.round(times[9::10], 3))


def single(n_cohorts: int) -> dict[str, list[Floats]]:
    """Return for each model the marks of the survivals that its intervals hold."""
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
    return marks


def main() -> None:
    """Print the coverage for each model, by time."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cohorts", type=int, default=300)
    parser.add_argument("--competing", action="store_true")
    options = parser.parse_args()
    n_cohorts = options.cohorts
    marks = competing(n_cohorts) if options.competing else single(n_cohorts)
    print(f"{n_cohorts} cohorts of {N} patients, {N_NEW} new patients each; share of 95 % intervals that hold")
    for name, found in marks.items():
        shares = np.mean(np.concatenate(found), axis=0)
        print(
            f"{name:<30}" + "".join(f"  t = {time:g}: {share:.3f}" for time, share in zip(TIMES, shares, strict=True))
        )


if __name__ == "__main__":
    main()
