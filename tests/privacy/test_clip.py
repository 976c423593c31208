"""Updates are shortened to the plan's norm and keep their direction; exact statistics are left as they are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.clip import clipped, is_clipped
from privacy.gate import Floors, release
from schemas.codes import Code
from schemas.messages import Arrays, Draft, Reply, RoundRequest
from schemas.plan import ArraySpec, PartSpec, Plan, PlanStep
from tests.plans import small_plan

NORM = 1.0
SIZE = 3


def averaging_plan(norm: float | None = NORM) -> Plan:
    """One step whose summands are updates: what each site would change, and for how many patients."""
    releases = (
        ArraySpec(name="n_patients", shape=(), meaning="patients", bound=1e6),
        ArraySpec(name="update", shape=(SIZE,), meaning="change of the weights", bound=1e9),
        ArraySpec(name="bias", shape=(), meaning="change of the intercept", bound=1e9),
    )
    weights = ArraySpec(name="weights", shape=(SIZE,), meaning="weights")
    part = PartSpec(name="epoch", sends=(weights,), releases=releases, times=50, norm=norm)
    step = PlanStep(name="fit", method="network", parts=(part,), min_patients=10, purpose="The weights.")
    return small_plan().model_copy(update={"steps": (step,)})


def through_the_gate(plan: Plan, update: np.ndarray, bias: float = 0.0) -> Reply | Code:
    request = RoundRequest("run-1", plan.hash, ("A",), "fit", "epoch", 0, arrays={"weights": np.zeros(SIZE)})
    arrays = {"n_patients": np.array(40.0), "update": update, "bias": np.array(bias)}
    draft = Draft("run-1", "fit", "epoch", 0, 40, 12, arrays=arrays)
    return release(draft, request, plan, Floors())


PART = averaging_plan().steps[0].parts[0]
elements = st.floats(-1e300, 1e300, allow_nan=False)


@given(st.lists(elements, min_size=SIZE, max_size=SIZE), elements)
def test_no_update_is_longer_than_the_norm_and_its_direction_stays(values: list[float], bias: float) -> None:
    summand = {"n_patients": np.array(40.0), "update": np.array(values), "bias": np.array(bias)}
    found = clipped(summand, PART)
    assert float(found["n_patients"]) == 40.0
    before, after = (np.append(one["update"], one["bias"]) for one in (summand, found))
    assert np.linalg.norm(after) <= NORM * (1 + 1e-12)
    if not is_clipped(summand, PART):
        assert all(found[name].tobytes() == summand[name].tobytes() for name in summand)
    else:
        assert np.linalg.norm(after) >= NORM * (1 - 1e-12)
        largest = int(np.argmax(np.abs(before)))
        np.testing.assert_allclose(after / after[largest], before / before[largest], rtol=1e-12, atol=1e-300)


def test_without_a_norm_nothing_is_shortened() -> None:
    part = averaging_plan(None).steps[0].parts[0]
    summand = {"n_patients": np.array(40.0), "update": np.full(SIZE, 1e8), "bias": np.array(0.0)}
    assert not is_clipped(summand, part)
    assert clipped(summand, part)["update"].tobytes() == summand["update"].tobytes()


def test_the_gate_shortens_before_it_looks_at_bounds_and_refuses_what_is_not_finite() -> None:
    reply = through_the_gate(averaging_plan(), np.full(SIZE, 1e12))
    assert isinstance(reply, Reply)
    assert float(np.linalg.norm(reply.arrays["update"])) == pytest.approx(NORM)
    assert through_the_gate(averaging_plan(None), np.full(SIZE, 1e12)) is Code.RELEASE_TOO_LARGE
    for wrong in (np.nan, np.inf, -np.inf):
        assert through_the_gate(averaging_plan(), np.array([wrong, 0.0, 0.0])) is Code.RELEASE_NOT_FINITE


def test_no_compiled_plan_shortens_an_exact_statistic() -> None:
    assert all(part.norm is None for step in small_plan().steps for part in step.parts)


# ---------------------------------------------------------------- one of six sites flips its sign
TRUTH = np.array([1.0, -2.0, 0.5])
RATE = 0.3


def averaged(plan: Plan, *, faulty: bool, rounds: int = 40) -> float:
    """Return how far from the truth an average of six sites' updates ends, in the norm of the truth.

    Each site's update goes part of the way to its own optimum, which scatters about the truth; the sixth, where it is
    faulty, sends five times its update with the wrong sign.
    """
    optima = TRUTH + np.random.default_rng(3).normal(0, 0.1, (6, SIZE))
    weights = np.zeros(SIZE)
    for _ in range(rounds):
        updates = RATE * (optima - weights)
        if faulty:
            updates[5] *= -5
        replies = [through_the_gate(plan, update) for update in updates]
        weights = weights + np.mean([_arrays(reply)["update"] for reply in replies], axis=0)
    return float(np.linalg.norm(weights - TRUTH) / np.linalg.norm(TRUTH))


def _arrays(reply: Reply | Code) -> Arrays:
    assert isinstance(reply, Reply)
    return reply.arrays


def test_one_site_in_six_that_flips_its_sign_by_five_stops_the_mean_and_not_the_clipped_mean() -> None:
    clip = averaging_plan(norm=0.25)
    assert averaged(averaging_plan(None), faulty=False) < 0.05
    assert averaged(clip, faulty=False, rounds=60) < 0.05
    # Five honest updates and minus five: nothing draws the mean to the truth, and it drifts, further each round.
    assert averaged(averaging_plan(None), faulty=True) > 0.4
    assert averaged(averaging_plan(None), faulty=True, rounds=200) > 1.5
    assert averaged(clip, faulty=True, rounds=60) < 0.15
    assert averaged(clip, faulty=True, rounds=200) < 0.15


def test_a_plan_says_nothing_of_norms_that_are_none() -> None:
    with pytest.raises(ValueError, match="norm"):
        replace_norm(-1.0)


def replace_norm(norm: float) -> PartSpec:
    return PartSpec.model_validate({**PART.model_dump(), "norm": norm})


def test_a_count_that_leaves_is_still_the_one_behind_the_floor() -> None:
    plan = averaging_plan()
    request = RoundRequest("run-1", plan.hash, ("A",), "fit", "epoch", 0, arrays={"weights": np.zeros(SIZE)})
    arrays = {"n_patients": np.array(41.0), "update": np.full(SIZE, 9.0), "bias": np.array(0.0)}
    draft = Draft("run-1", "fit", "epoch", 0, 40, 12, arrays=arrays)
    assert release(draft, request, plan, Floors()) is Code.RELEASE_NOT_IN_PLAN
    assert isinstance(release(replace(draft, n_patients=41), request, plan, Floors()), Reply)
