"""Without noise the private grid starts the fit where all patients are alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from models.registry import METHODS
from models.step import Arrays
from models.time_grid import interval_of
from schemas.cohort import Cohort
from tests.models.federation import cohort_of, context, run_step, split
from tests.models.synthetic import COLUMNS, EDGES, patients

PIECES = [0, 0, 1, 1, 1, 2]


def grid(cohorts: list[Cohort], pieces: list[int], edges: Any = EDGES) -> Arrays:
    settings = {"bin_edges": list(edges), "pieces": pieces, "share": 0.1, "honest_sites": 1}
    return run_step(METHODS["private_grid"](context(COLUMNS, 6, **settings)), {}, cohorts)


@pytest.mark.parametrize("pieces", [[0] * 6, PIECES])
def test_the_start_is_events_over_intervals_survived(pieces: list[int]) -> None:
    cohort = patients()
    ours = grid(split(cohort, np.arange(160) % 3), pieces)
    spells = interval_of(cohort.time, cohort.event, cohort.entry, EDGES, 6, exact=False)
    events, survived = np.zeros(max(pieces) + 1), np.zeros(max(pieces) + 1)
    for first, stop, event in zip(spells.first, spells.stop, spells.event, strict=True):
        for k in range(first, stop):
            survived[pieces[k]] += not (event and k == stop - 1)
        if event:
            events[pieces[stop - 1]] += 1
    np.testing.assert_allclose(ours["events"], events, atol=1e-9)
    assert ours["n_events"] == pytest.approx(events.sum())
    overall = events.sum() / survived.sum()
    np.testing.assert_allclose(np.exp(ours["alpha"]), np.minimum((events + 1) / (survived + 1 / overall), 1.0))


def test_the_grid_is_the_plans_own() -> None:
    ours = grid([patients()], PIECES)
    assert np.array_equal(ours["edges"], EDGES)
    assert ours["n_intervals"] == 6


def test_without_any_event_there_is_still_somewhere_to_start() -> None:
    cohort = patients()
    nobody = cohort_of(cohort.matrix(COLUMNS), cohort.time, np.zeros(160), cohort.entry, COLUMNS)
    ours = grid([nobody], PIECES)
    assert np.isfinite(ours["alpha"]).all()
    assert ours["n_events"] > 0


def test_edges_that_do_not_rise_are_refused() -> None:
    with pytest.raises(ValueError, match="increasing"):
        grid([patients()], PIECES, EDGES[::-1])
