"""Without noise the private baseline is the ordinary one over pieces of time."""

from __future__ import annotations

import numpy as np
import pytest

from models.private_baseline import MAX_RATIO
from models.registry import METHODS
from models.step import Arrays
from tests.models.federation import context, run_step, split
from tests.models.synthetic import COLUMNS, EDGES, patients

PIECES = [0, 0, 1, 1, 1, 2]
COHORT = patients(n=20_000)
MILD = np.array([0.1, 0.02, 0.0, 0.1])


def inputs_of(beta: np.ndarray, edges: np.ndarray = EDGES) -> Arrays:
    return {
        "mean": np.array([0.0, 5.0, -1.0, 0.2]),
        "scale": np.ones(4),
        "edges": edges,
        "n_intervals": np.array(float(len(edges))),
        "beta": beta,
    }


def private(beta: np.ndarray, pieces: list[int]) -> np.ndarray:
    step = METHODS["private_baseline"](context(COLUMNS, 6, pieces=pieces, share=0.1, honest_sites=1))
    return run_step(step, inputs_of(beta), split(COHORT, np.arange(20_000) % 3))["cumulative_hazard"]


def test_with_a_piece_for_each_interval_it_is_the_ordinary_baseline() -> None:
    ordinary = run_step(METHODS["baseline"](context(COLUMNS, 6)), inputs_of(MILD), [COHORT])["cumulative_hazard"]
    # One event's worth of the overall hazard is added to each piece, which among twenty thousand patients is little.
    np.testing.assert_allclose(private(MILD, [0, 1, 2, 3, 4, 5]), ordinary, rtol=2e-3)


def test_a_piece_has_the_hazard_of_all_its_intervals_together() -> None:
    hazard = np.diff(private(MILD, PIECES), prepend=0.0)
    assert hazard[0] == pytest.approx(hazard[1])
    assert hazard[2] == pytest.approx(hazard[3]) == pytest.approx(hazard[4])
    assert len({round(float(h), 9) for h in hazard}) == 3


def test_a_patient_of_enormous_risk_counts_as_one_of_the_largest_that_counts() -> None:
    step = METHODS["private_baseline"](context(COLUMNS, 6, pieces=PIECES, share=0.1, honest_sites=1))
    one = COHORT.take(np.array([0]))
    enormous = step.local("risk_sets", inputs_of(np.array([1e9, 1e9, 1e9, 1e9])), one)["hazard_observed"]
    largest = step.local("risk_sets", inputs_of(np.zeros(4)), one)["hazard_observed"] * MAX_RATIO
    assert np.all((enormous == 0) | np.isclose(enormous, largest))
