"""Attack 6: who is a member, from the released model alone (LiRA).

Models of random halves of the patients are fitted as the attacked one was; for every patient the log-likelihood under
models with and without them gives two normal distributions, and the attacked model's value is compared under both.
(Carlini et al. 2022, "Membership inference attacks from first principles", section 4, with the logit of the
likelihood as in their section 4.2, and with a few dozen shadow models.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from models.grouped_likelihood import event_terms, is_open
from models.step import Arrays, DivergedError, Floats
from models.time_grid import interval_of
from schemas.cohort import Cohort
from tests.attacks.federation import rows_of
from tests.attacks.private_release import private_plan, run
from tests.attacks.scoring import auc, bootstrap_interval
from tests.attacks.tables import Table
from tests.models.federation import cohort_of, fit

N_BINS = 64
_N_TARGETS = 8
_LOWEST = -30.0
_LEAST_SPREAD = 1e-3
Train = Callable[[Cohort, int], Arrays]
"""Fits a model and returns `mean`, `scale`, `edges`, `n_intervals`, `alpha`, `beta`; raises where there is none."""


@dataclass(frozen=True)
class Leak:
    """How well members are told from others.

    Attributes:
        auc: Mean over the attacked models.
        low: Of the 95 % bootstrap interval over patients of the first attacked model.
        high: Likewise.
    """

    auc: float
    low: float
    high: float


def attack(table: Table, train: Train, n_models: int, seed: int) -> Leak:
    """Return the AUC of LiRA; every model is a shadow of the others, and eight in turn are attacked."""
    rng = np.random.default_rng(seed)
    n = table.pooled.n_patients
    values, members = [], []
    with threadpool_limits(limits=1, user_api="blas"):
        while len(values) < n_models:
            member = np.zeros(n, dtype=np.bool_)
            member[rng.permutation(n)[: n // 2]] = True
            try:
                model = train(table.pooled.take(member), len(values))
            except DivergedError:  # an attacker, too, gets no model there
                continue
            values.append(logit_likelihood(model, table))
            members.append(member)
    scored = [
        (_ratio(np.delete(values, k, axis=0), np.delete(members, k, axis=0), values[k]), members[k])
        for k in range(_N_TARGETS)
    ]
    low, high = bootstrap_interval(*scored[0], rng)
    return Leak(float(np.mean([auc(scores, member) for scores, member in scored])), low, high)


def _ratio(values: Floats, members: NDArray[np.bool_], target: Floats) -> Floats:
    """Return the (n,) log ratio of the target's values under the models with and without each patient."""
    logs = []
    for chosen in (members, ~members):
        count = chosen.sum(axis=0)
        mean = np.where(chosen, values, 0.0).sum(axis=0) / count
        spread = np.sqrt(np.where(chosen, (values - mean) ** 2, 0.0).sum(axis=0) / count) + _LEAST_SPREAD
        logs.append(-0.5 * ((target - mean) / spread) ** 2 - np.log(spread))
    return np.asarray(logs[0] - logs[1])


def logit_likelihood(model: Arrays, table: Table) -> Floats:
    """Return the (n,) logits of every patient's likelihood under the grouped hazard of a model."""
    cohort = table.pooled
    ratio = np.exp(np.clip(rows_of(cohort, model, table.columns) @ model["beta"], _LOWEST, -_LOWEST))
    n_intervals = int(model["n_intervals"])
    spells = interval_of(cohort.time, cohort.event, cohort.entry, model["edges"], n_intervals, exact=False)
    in_use = is_open(model["alpha"]) & (np.arange(model["alpha"].size) < n_intervals)
    baseline = np.where(in_use, np.exp(np.where(in_use, model["alpha"], 0.0)), 0.0)
    value = -ratio * spells.survived.over_intervals(baseline)
    u = baseline[spells.event_interval] * ratio[spells.event]
    value[spells.event] += np.where(u > 0, event_terms(np.where(u > 0, u, 1.0))[0], 0.0)
    value = np.clip(value, _LOWEST, -1e-9)
    return np.asarray(value - np.log(-np.expm1(value)))


def newton(table: Table, penalty: float) -> Train:
    """Return how the study's fit trains, with a ridge penalty."""
    longest = float(table.pooled.time.max())
    bins = [longest * k / N_BINS for k in range(1, N_BINS + 1)]
    penalties = [penalty] * len(table.columns)

    def train(cohort: Cohort, seed: int) -> Arrays:
        return fit("hazard", [cohort], table.columns, bin_edges=bins, min_events=5, penalties=penalties)

    return train


def private(table: Table, epsilon: float, rounds: int = 20, clip: float = 2.0) -> Train:
    """Return how a study under differential privacy trains (delta 1e-5)."""
    plan = private_plan(table.pooled, table.columns, epsilon, rounds, clip)

    def train(cohort: Cohort, seed: int) -> Arrays:
        found = run(plan, cohort, seed, noise=True)[0].arrays
        names = {"mean": "moments", "scale": "moments", "edges": "grid", "n_intervals": "grid"}
        model = {name: found[f"{step}.{name}"] for name, step in names.items()}
        return {**model, "alpha": found["fit.alpha"], "beta": found["fit.beta"]}

    return train


def expression(name: str, cohorts: Path, n_genes: int) -> Table:
    """Return a shared cohort's expression of `n_genes` genes: sign log(1 + |x|), standardised, within 5."""
    clinical = pd.read_parquet(cohorts / name / "clinical.parquet")[["patient_id", "time", "event"]]
    table = clinical.merge(pd.read_parquet(cohorts / name / "omics_rna.parquet"), on="patient_id").dropna()
    table = table[table["time"] > 0]
    x = table.drop(columns=["patient_id", "time", "event"]).to_numpy(dtype=np.float64)
    x = np.sign(x) * np.log1p(np.abs(x))
    spread = x.std(axis=0)
    x = np.clip((x - x.mean(axis=0)) / np.where(spread > 0, spread, 1.0), -5.0, 5.0)
    x = x[:, np.random.default_rng(0).permutation(x.shape[1])[:n_genes]]
    columns = tuple(f"x{j}" for j in range(n_genes))
    time, event = table["time"].to_numpy(dtype=np.float64), table["event"].to_numpy() == 1
    return Table(cohort_of(x, time, event, columns=columns), columns)
