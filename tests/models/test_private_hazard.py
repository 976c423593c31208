"""The private fit: every gradient clipped, and without noise and clipping the fit of `models.hazard`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from models.grouped_likelihood import summand
from models.private_hazard import clipped_gradients
from models.registry import METHODS
from models.step import Arrays
from models.time_grid import interval_of
from schemas.cohort import Cohort
from tests.models.federation import context, fit, run_step, split
from tests.models.synthetic import COLUMNS, EDGES, patients

PIECES = np.arange(len(EDGES))
ALPHA = np.array([-2.0, -1.7, -1.5, -1.2, -1.0, -1.4])
BETA = np.array([0.6, 0.1, -0.2, 0.4])
PENALTIES = [2.0, 1.0, 5.0, 1.0]
COHORT = patients()


def prepared(cohort: Cohort = COHORT) -> tuple[Any, Any]:
    spells = interval_of(cohort.time, cohort.event, cohort.entry, EDGES, len(EDGES), exact=False)
    x = np.nan_to_num(cohort.matrix(COLUMNS) - [0.0, 5.0, -1.0, 0.2])
    return spells, x


def gradients(rows: Any, alpha: Any = ALPHA, beta: Any = BETA, pieces: Any = PIECES, clip: float = 1e9) -> Arrays:
    spells, x = prepared(COHORT.take(rows))
    return clipped_gradients(spells, x, alpha, beta, pieces, clip)


def private_fit(cohorts: list[Cohort], mean: Any, scale: Any, **changed: Any) -> Arrays:
    settings = {
        "pieces": [int(piece) for piece in PIECES],
        "clip": 1e9,
        "rounds": 1000,
        "descent": 400.0,
        "penalties": PENALTIES,
        "share": 0.8,
        "honest_sites": 1,
        **changed,
    }
    n_pieces = max(settings["pieces"]) + 1
    inputs = {
        "mean": mean,
        "scale": scale,
        "edges": EDGES,
        "n_intervals": np.array(float(len(EDGES))),
        "alpha": np.full(n_pieces, -2.0),
        "events": np.full(n_pieces, 20.0),
        "n_events": np.array(80.0),
        "n_patients": np.array(160.0),
    }
    return run_step(METHODS["private_hazard"](context(COLUMNS, len(EDGES), **settings)), inputs, cohorts)


def test_without_clipping_the_gradient_is_that_of_the_likelihood() -> None:
    spells, x = prepared()
    exact = summand(spells, x, x @ BETA, ALPHA, expected=False)
    ours = clipped_gradients(spells, x, ALPHA, BETA, PIECES, 1e9)
    for name in ("gradient_alpha", "gradient_beta"):
        np.testing.assert_allclose(ours[name], exact[name], rtol=1e-11, atol=1e-11)


def test_one_baseline_over_several_intervals_adds_their_slopes() -> None:
    pieces = np.array([0, 0, 1, 1, 1, 1])
    alpha = np.array([-2.0, -1.2])
    fine = gradients(np.arange(160), alpha=alpha[pieces])
    coarse = gradients(np.arange(160), alpha=alpha, pieces=pieces)
    np.testing.assert_allclose(coarse["gradient_alpha"], np.bincount(pieces, fine["gradient_alpha"]), rtol=1e-11)
    np.testing.assert_allclose(coarse["gradient_beta"], fine["gradient_beta"], rtol=1e-11)


@pytest.mark.parametrize("clip", [0.05, 0.4, 2.0, 100.0])
def test_the_clipped_sum_is_the_sum_of_each_patients_clipped_gradient(clip: float) -> None:
    slow: dict[str, Any] = {"gradient_alpha": 0.0, "gradient_beta": 0.0}
    for row in range(COHORT.n_patients):
        one = gradients(np.array([row]))
        norm = np.sqrt(sum((array**2).sum() for array in one.values()))
        for name in slow:
            slow[name] = slow[name] + one[name] * min(1.0, clip / max(norm, 1e-300))
    ours = gradients(np.arange(COHORT.n_patients), clip=clip)
    for name in slow:
        np.testing.assert_allclose(ours[name], slow[name], rtol=1e-10, atol=1e-10)


def test_without_noise_and_clipping_many_rounds_come_to_the_ridge_fit() -> None:
    exact = fit("hazard", [COHORT], COLUMNS, edges=EDGES, penalties=PENALTIES)
    ours = private_fit([COHORT], exact["mean"], exact["scale"])
    np.testing.assert_allclose(ours["beta"], exact["beta"], atol=1e-6)
    np.testing.assert_allclose(ours["alpha"], exact["alpha"], atol=1e-6)


def test_the_federated_fit_equals_the_pooled_one() -> None:
    sites = split(COHORT, np.arange(160) % 4)
    ours, pooled = (
        private_fit(cohorts, np.zeros(4), np.ones(4), clip=1.0, rounds=20, descent=5.0, pieces=[0] * 6)
        for cohorts in (sites, [COHORT])
    )
    np.testing.assert_allclose(ours["beta"], pooled["beta"], rtol=1e-10, atol=1e-12)


def test_the_plan_knows_the_number_of_rounds_and_all_of_them_are_used() -> None:
    asked: list[str] = []
    step = METHODS["private_hazard"](
        context(COLUMNS, 6, pieces=[0] * 6, clip=1.0, rounds=9, penalties=PENALTIES, share=1.0,
                honest_sites=1)
    )  # fmt: skip
    inputs = {
        "mean": np.zeros(4), "scale": np.ones(4), "edges": EDGES, "n_intervals": np.array(6.0),
        "alpha": np.array([-2.0]), "events": np.array([80.0]), "n_events": np.array(80.0),
        "n_patients": np.array(160.0),
    }  # fmt: skip
    run_step(step, inputs, [COHORT], asked)
    assert asked == ["gradient"] * 9 == ["gradient"] * step.parts()[0].times
