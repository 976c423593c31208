"""Invented patients for laws that need no real ones: tied times, censoring, late entry, missing cells."""

import numpy as np

from schemas.cohort import Cohort
from tests.models.federation import cohort_of

COLUMNS = ("x0", "x1", "x2", "x3")
EDGES = np.array([1.0, 2.0, 3.0, 5.0, 8.0, 13.0])


def patients(n: int = 160, seed: int = 0, *, delayed: bool = True, missing: bool = True) -> Cohort:
    """n patients with four covariates, the first of which matters most."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 4)) * [1.0, 2.0, 0.5, 1.0] + [0.0, 5.0, -1.0, 0.0]
    x[:, 3] = x[:, 3] > 0.8
    hazard = 0.15 * np.exp(0.7 * x[:, 0] + 0.2 * (x[:, 1] - 5) + 0.5 * x[:, 3])
    failure = np.ceil(rng.exponential(1 / hazard) * 2) / 2
    censoring = np.ceil(rng.uniform(1, 16, size=n) * 2) / 2
    time = np.minimum(failure, censoring)
    entry = np.where(rng.random(n) < 0.4, np.floor(time * rng.random(n) * 2) / 2, 0.0) if delayed else np.zeros(n)
    if missing:
        x[rng.random((n, 4)) < 0.05] = np.nan
    return cohort_of(x, time, failure <= censoring, np.minimum(entry, time - 0.5), columns=COLUMNS)
