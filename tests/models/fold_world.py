"""Patients in folds with a model for each fold: what the steps across folds are held to."""

from dataclasses import replace

import numpy as np

from models.brier import Brier
from models.folded import Folded
from tests.models.federation import cohort_of, context, run_step

FOLDS, K = 3, 8
HORIZONS = (4.0, 9.0)
EDGES = np.array([1.0, 2.0, 4.0, 6.0, 9.0, 13.0, 13.0, 13.0])
N_INTERVALS = 6.0


def patients(n, seed, *, late=False):
    rng = np.random.default_rng(seed)
    score = rng.normal(size=n)
    failure, censoring = rng.exponential(6 * np.exp(-0.8 * score)), rng.exponential(15, size=n)
    time = np.minimum(np.minimum(failure, censoring), 13.0)
    entry = np.where(rng.uniform(size=n) < 0.4, 0.7 * rng.uniform(size=n) * time, 0.0) if late else np.zeros(n)
    cohort = cohort_of(score[:, None], time, (failure <= censoring) & (failure < 13.0), entry)
    return replace(cohort, fold_of=rng.integers(0, FOLDS, size=n))


def step_context(**settings):
    return context(["x0"], n_bins=K, horizons=HORIZONS, **settings)


def models():
    """One model a fold: other slopes, baselines and grids."""
    beta = np.array([[0.8], [0.7], [0.9]])
    edges = np.stack([EDGES, EDGES * 0.95, EDGES * 1.05])
    return {
        "mean": np.zeros((FOLDS, 1)),
        "scale": np.ones((FOLDS, 1)),
        "beta": beta,
        "edges": edges,
        "n_intervals": np.full(FOLDS, N_INTERVALS),
        "cumulative_hazard": edges / np.array([[6.0], [7.0], [5.0]]),
        "events": np.tile([9.0, 8.0, 12.0, 8.0, 7.0, 6.0, 0.0, 0.0], (FOLDS, 1)),
    }


def with_censoring(inputs, sites):
    """The same with the censoring curve that the `brier` step of the cross-validation finds."""
    step = Folded(step_context(n_folds=FOLDS, look_at="held_out"), Brier)
    return {**inputs, "censoring_survival": run_step(step, inputs, sites)["censoring_survival"]}
