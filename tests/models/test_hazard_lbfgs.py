"""Ridge regression on all features: the same maximum as Newton's, and laws of a federation."""

from __future__ import annotations

import numpy as np
import pytest

from models.hazard_lbfgs import HazardLbfgs
from models.penalties import OFF
from models.step import DivergedError
from privacy.inbound import Limits
from tests.models.federation import cohort_of, context, fit, split
from tests.models.synthetic import COLUMNS, EDGES, patients

COHORT = patients(120, seed=6)
SITES = split(COHORT, np.arange(120) % 3)


@pytest.mark.parametrize("penalty", [0.0, 3.0])
def test_it_finds_the_maximum_that_newton_finds(penalty):
    newton = fit("hazard", SITES, COLUMNS, edges=EDGES, penalties=[penalty] * 4)
    found = fit("hazard_lbfgs", SITES, COLUMNS, edges=EDGES, penalties=[penalty] * 4)
    np.testing.assert_allclose(found["beta"], newton["beta"], atol=2e-5)
    np.testing.assert_allclose(found["alpha"], newton["alpha"], atol=2e-4)
    assert found["log_likelihood"] == pytest.approx(float(newton["log_likelihood"]), abs=1e-6)
    assert found["n_events"] == newton["n_events"]


def test_the_federation_finds_what_one_table_gives():
    apart, pooled = (fit("hazard_lbfgs", of, COLUMNS, edges=EDGES, penalties=[1.0] * 4) for of in (SITES, [COHORT]))
    np.testing.assert_allclose(apart["beta"], pooled["beta"], atol=1e-9)


def test_a_layer_that_is_switched_off_has_coefficients_of_exactly_zero():
    found = fit("hazard_lbfgs", SITES, COLUMNS, edges=EDGES, penalties=[1.0, OFF, 1.0, OFF])
    without = fit("hazard_lbfgs", SITES, [COLUMNS[0], COLUMNS[2]], edges=EDGES, penalties=[1.0, 1.0])
    assert found["beta"][1] == found["beta"][3] == 0.0
    np.testing.assert_allclose(found["beta"][[0, 2]], without["beta"], atol=1e-5)


def test_more_features_than_patients_have_a_ridge_solution():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((60, 200))
    time, event = rng.exponential(1 / (0.1 * np.exp(x[:, 0]))), rng.random(60) < 0.8
    cohort = cohort_of(x, time, event)
    names = [f"x{j}" for j in range(200)]
    edges = np.quantile(time, [0.2, 0.4, 0.6, 0.8, 1.0])
    rounds: list[str] = []
    found = fit(
        "hazard_lbfgs", split(cohort, np.arange(60) % 4), names, edges=edges, penalties=[5.0] * 200, rounds=rounds
    )
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    # The slope of the penalised likelihood vanishes at the maximum: z' score = penalty * beta.
    newton = fit("hazard", [cohort], names, edges=edges, penalties=[5.0] * 200)
    np.testing.assert_allclose(z @ found["beta"], z @ newton["beta"], atol=1e-4)
    assert len(rounds) < 60


def test_no_question_is_as_far_from_the_last_as_sites_refuse():
    """Of 300 columns that go together: the diagonal alone would go some hundred times too far."""
    rng = np.random.default_rng(2)
    common = rng.standard_normal((80, 1))
    x = common + 0.3 * rng.standard_normal((80, 300))
    cohort = cohort_of(x, rng.exponential(1 / (0.1 * np.exp(common[:, 0]))), rng.random(80) < 0.8)
    settings = {"n_bins": 3, "penalties": [50.0] * 300}
    step = HazardLbfgs(context([f"x{j}" for j in range(300)], **settings))
    inputs = {
        "mean": x.mean(axis=0),
        "scale": x.std(axis=0),
        "edges": np.quantile(cohort.time, [0.3, 0.6, 1.0]),
        "n_intervals": np.array(3.0),
    }
    asked = []
    turn = step.begin(inputs)
    while turn.ask is not None:
        asked.append(turn.state["beta"])
        turn = step.finish(turn.ask, turn.state, inputs, step.local(turn.ask, {**inputs, **turn.state}, cohort))
    steps = np.linalg.norm(np.diff(asked, axis=0), axis=1)
    assert steps.max() <= Limits().step / 2
    assert len(asked) < 60
    assert np.linalg.norm(asked[-1]) > 2 * steps[0], "it has not been held back for good"


def test_without_events_it_says_so():
    nobody = cohort_of(COHORT.matrix(COLUMNS), COHORT.time, COHORT.event * 0, columns=COLUMNS)
    with pytest.raises(DivergedError, match="event"):
        fit("hazard_lbfgs", [nobody], COLUMNS, edges=EDGES, penalties=[1.0] * 4)


def test_a_column_that_separates_perfectly_ends_with_a_penalty_in_finite_numbers():
    event = COHORT.event.astype(float)
    x = np.column_stack((event * 2 - 1, COHORT.matrix(COLUMNS)[:, 0]))
    separating = cohort_of(x, COHORT.time, COHORT.event)
    found = fit("hazard_lbfgs", [separating], ["x0", "x1"], edges=EDGES, penalties=[1.0, 1.0])
    assert np.isfinite(found["beta"]).all()
    assert found["beta"][0] > 1
