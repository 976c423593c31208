"""What holds for every step under differential privacy, whatever the rows and whatever the hub sends."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.private import clipping, over_pieces, pieces_of
from models.registry import METHODS
from models.step import Arrays, Step, combine
from models.time_grid import Spells
from schemas.cohort import Cohort
from tests.models.federation import cohort_of, context, run_step, split
from tests.models.synthetic import COLUMNS, EDGES, patients

EXTREME = st.one_of(
    st.floats(-3, 3), st.sampled_from([0.0, 1e-300, 1e300, -1e300, 1e12, math.inf, -math.inf]), st.floats(-1e9, 1e9)
)
# Four covariates, time, event, entry as a part of it.
ROW = st.tuples(*[EXTREME] * 4, st.floats(0, 20), st.booleans(), st.floats(0, 1))
SETTINGS: dict[str, Any] = {
    "share": 0.25,
    "honest_sites": 2,
    "pieces": [0, 0, 1, 1, 1, 2],
    "bin_edges": [float(edge) for edge in EDGES],
    "centres": [0.0, 5.0, -1.0, 0.5],
    "half_ranges": [4.0, 10.0, 2.0, 0.5],
    "is_number": [True, True, True, False],
    "may_miss": [True, True, False, True],
    "clip": 1.5,
    "rounds": 7,
    "penalties": [1.0, 0.0, 2.0, 0.0],
}
STEPS = ["private_moments", "private_grid", "private_hazard", "private_baseline"]
every_step = pytest.mark.parametrize("method", STEPS)


def step_of(method: str, **changed: Any) -> Step:
    return METHODS[method](context(COLUMNS, len(EDGES), **{**SETTINGS, **changed}))


def sent_of(alpha: Any, beta: Any, scale: Any, mean: Any = (0.0, 5.0, -1.0, 0.2)) -> Arrays:
    return {
        "mean": np.array(mean, dtype=np.float64),
        "scale": np.array(scale, dtype=np.float64),
        "edges": EDGES,
        "n_intervals": np.array(float(len(EDGES))),
        "alpha": np.array(alpha, dtype=np.float64),
        "beta": np.array(beta, dtype=np.float64),
    }


ORDINARY = sent_of([-2.0, -1.5, -1.0], [0.5, 0.1, 0.0, 0.3], [1.0, 2.0, 0.5, 0.5])
INPUTS: Arrays = {
    **ORDINARY,
    "events": np.array([30.0, 20.0, 10.0]),
    "n_events": np.array(60.0),
    "n_patients": np.array(160.0),
}


def moved(step: Step, sent: Arrays, cohort: Cohort, without: int) -> float:
    """Norm of what one patient adds to all arrays of the step's part."""
    part = step.parts()[0]
    rest = cohort.take(np.arange(cohort.n_patients) != without)
    one, other = (step.local(part.name, sent, patients) for patients in (cohort, rest))
    assert set(one) == {spec.name for spec in part.releases}
    assert all(np.isfinite(one[spec.name]).all() and one[spec.name].shape == spec.shape for spec in part.releases)
    return math.sqrt(sum(float(((one[name] - other[name]) ** 2).sum()) for name in one))


@every_step
@given(
    rows=st.lists(ROW, min_size=1, max_size=4),
    alpha=st.tuples(*[st.floats(-15, 15)] * 3),
    beta=st.tuples(*[st.floats(-1e12, 1e12) | st.floats(-2, 2)] * 4),
    scale=st.tuples(*[st.sampled_from([1.0, 0.0, 1e-300, 1e30, -1.0])] * 4),
    without=st.integers(0, 3),
)
@settings(max_examples=300)
def test_no_patient_moves_a_release_by_more_than_its_sensitivity(
    method: str, rows: Any, alpha: Any, beta: Any, scale: Any, without: int
) -> None:
    x = np.array([row[:4] for row in rows])
    time = np.array([row[4] for row in rows])
    cohort = cohort_of(x, time, [row[5] for row in rows], time * np.array([row[6] for row in rows]), COLUMNS)
    step = step_of(method)
    noise = step.parts()[0].noise
    assert noise is not None
    reached = moved(step, sent_of(alpha, beta, scale), cohort, without % len(rows))
    assert reached <= noise.sensitivity * (1 + 1e-9)


@every_step
@pytest.mark.parametrize("clip", [0.01, 0.5, 3.0])
def test_removing_any_one_patient_stays_within_the_sensitivity(method: str, clip: float) -> None:
    cohort, step = patients(), step_of(method, clip=clip)
    noise = step.parts()[0].noise
    assert noise is not None
    reached = [moved(step, ORDINARY, cohort, row) for row in range(cohort.n_patients)]
    assert max(reached) <= noise.sensitivity * (1 + 1e-9)
    assert max(reached) > 0.2 * noise.sensitivity  # a bound that nobody comes near would waste the budget


@every_step
def test_the_sum_over_sites_is_the_pooled_sum(method: str) -> None:
    cohort, step = patients(), step_of(method)
    name = step.parts()[0].name
    total = combine([step.local(name, ORDINARY, site) for site in split(cohort, np.arange(160) % 4)])
    pooled = step.local(name, ORDINARY, cohort)
    for array in pooled:
        np.testing.assert_allclose(total[array], pooled[array], rtol=1e-12, atol=1e-12)


@every_step
def test_releases_count_no_patients_in_clear(method: str) -> None:
    assert "n_patients" not in {spec.name for spec in step_of(method).parts()[0].releases}


@every_step
def test_all_rounds_of_a_step_together_spend_its_share(method: str) -> None:
    (part,) = step_of(method).parts()
    assert part.noise is not None
    assert part.noise.share * part.times == pytest.approx(SETTINGS["share"])
    assert part.noise.honest_sites == 2


@every_step
@given(size=st.sampled_from([1.0, 1e3, 1e9]), seed=st.integers(0, 10_000))
def test_whatever_the_noise_makes_of_a_sum_the_state_is_finite(method: str, size: float, seed: int) -> None:
    class Drowned:
        """The step, with noise in place of every sum."""

        def __init__(self) -> None:
            self.step, self.rng = step_of(method), np.random.default_rng(seed)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.step, name)

        def local(self, part: str, sent: Arrays, cohort: Cohort) -> Arrays:
            (spec,) = self.step.parts()
            return {array.name: size * self.rng.normal(size=array.shape) for array in spec.releases}

    done = run_step(Drowned(), INPUTS, [patients()])
    assert all(np.isfinite(array).all() for array in done.values())
    if "scale" in done:
        assert np.all(done["scale"] > 0)
        assert np.all(np.abs(done["mean"] - SETTINGS["centres"]) <= SETTINGS["half_ranges"])
    if "cumulative_hazard" in done:
        assert np.all(np.diff(done["cumulative_hazard"]) > 0)


@every_step
def test_when_a_site_has_left_the_others_are_asked_the_same(method: str) -> None:
    step = step_of(method)
    turn = step.begin(INPUTS)
    after = step.shrink(str(turn.ask), turn.state)
    assert after.ask == turn.ask
    assert after.state is turn.state


@given(norm=st.floats(0, 1e6), bound=st.floats(1e-3, 1e3))
def test_clipping_shortens_what_is_too_long_and_nothing_else(norm: float, bound: float) -> None:
    (factor,) = clipping(np.array([norm]), bound)
    assert factor * norm <= bound * (1 + 1e-12)
    assert factor == 1.0 or norm > bound


def test_sums_over_pieces_equal_the_slow_ones() -> None:
    rng = np.random.default_rng(0)
    first = rng.integers(0, 4, size=20)
    stop = first + rng.integers(0, 3, size=20)
    values, pieces = rng.random(6), np.array([0, 1, 1, 2, 2, 2])
    spells = Spells(first, stop, np.zeros(20, dtype=np.bool_), 6)
    slow = [
        [sum(values[k] for k in range(a, b) if pieces[k] == j) for j in range(3)]
        for a, b in zip(first, stop, strict=True)
    ]
    np.testing.assert_allclose(over_pieces(spells, values, pieces), slow, atol=1e-15)


@pytest.mark.parametrize("pieces", [[0, 0, 2], [1, 1, 1], [0, 1, 0], [0, 0]])
def test_pieces_that_skip_return_or_do_not_fit_the_grid_are_refused(pieces: list[int]) -> None:
    with pytest.raises(ValueError, match="pieces"):
        pieces_of({"pieces": pieces}, 3)
