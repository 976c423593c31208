"""Gaussian differential privacy against closed forms, a second accountant, and what noise on a grid really is."""

from __future__ import annotations

import math
from typing import Any

import mpmath
import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from models.compile import compile_plan
from privacy.accountant import (
    composed,
    delta_of,
    discrete_excess,
    epsilon_of,
    mu_of,
    plan_delta,
    plan_share,
    release_mu,
)
from schemas.plan import Plan
from schemas.study import Differential, Privacy
from tests.plans import small_dictionary, small_study

EPSILONS = st.floats(0.05, 20.0)
DELTAS = st.floats(1e-12, 1e-2)


def private_plan(**changed: Any) -> Plan:
    return compile_plan(
        small_study(privacy=Privacy(differential=Differential(epsilon=3.0, **changed))),
        small_dictionary(),
        adds_noise=True,
    )


def precise_delta(epsilon: float, mu: float) -> float:
    """Corollary 2.13 of Dong, Roth & Su (2022) with fifty digits."""
    with mpmath.workdps(50):
        e, m = mpmath.mpf(epsilon), mpmath.mpf(mu)
        return float(mpmath.ncdf(-e / m + m / 2) - mpmath.exp(e) * mpmath.ncdf(-e / m - m / 2))


@pytest.mark.parametrize("mu", [0.01, 0.3, 1.0, 2.5, 10.0])
def test_at_epsilon_zero_delta_is_the_total_variation_of_two_normals(mu: float) -> None:
    assert delta_of(0.0, mu) == pytest.approx(2 * norm.cdf(mu / 2) - 1, rel=1e-12)


@given(epsilon=EPSILONS, mu=st.floats(0.05, 5.0))
def test_delta_equals_the_formula_with_fifty_digits(epsilon: float, mu: float) -> None:
    assert delta_of(epsilon, mu) == pytest.approx(precise_delta(epsilon, mu), rel=1e-9, abs=1e-300)


@given(epsilon=EPSILONS, delta=DELTAS)
def test_there_and_back_is_the_same_and_never_promises_more(epsilon: float, delta: float) -> None:
    mu = mu_of(epsilon, delta)
    assert epsilon_of(mu, delta) == pytest.approx(epsilon, rel=1e-8)
    assert delta_of(epsilon, mu) <= delta * (1 + 1e-9)


@pytest.mark.parametrize(("mu", "delta"), [(0.0, 1e-5), (1e-7, 1e-5)])
def test_what_tells_nothing_within_delta_has_epsilon_zero(mu: float, delta: float) -> None:
    assert epsilon_of(mu, delta) == 0.0


@pytest.mark.parametrize(("epsilon", "delta"), [(-1.0, 1e-5), (math.nan, 1e-5), (1.0, 0.0), (1.0, 1.0)])
def test_a_guarantee_that_is_none_is_refused(epsilon: float, delta: float) -> None:
    with pytest.raises(ValueError):
        mu_of(epsilon, delta)


@pytest.mark.parametrize(("sigma", "times"), [(4.0, 1), (10.0, 30), (40.0, 400), (2.0, 3)])
def test_a_second_accountant_finds_the_same_epsilon(sigma: float, times: int) -> None:
    ours = epsilon_of(composed([1 / sigma] * times), 1e-5)
    each = privacy_loss_distribution.from_gaussian_mechanism(sigma, value_discretization_interval=1e-4)
    theirs = each.self_compose(times).get_epsilon_for_delta(1e-5)
    assert ours == pytest.approx(theirs, rel=2e-3)
    assert ours <= theirs * (1 + 1e-9)  # theirs rounds losses up


def test_a_second_accountant_finds_that_a_plan_spends_what_its_study_says() -> None:
    plan = private_plan(rounds=12)
    differential = plan.study.privacy.differential
    assert differential is not None
    together = privacy_loss_distribution.identity(value_discretization_interval=1e-4)
    for part in (part for step in plan.steps for part in step.parts):
        assert part.noise is not None
        sigma = 1 / release_mu(differential, part.noise)
        each = privacy_loss_distribution.from_gaussian_mechanism(sigma, value_discretization_interval=1e-4)
        together = together.compose(each.self_compose(part.times))
    assert together.get_epsilon_for_delta(differential.delta) == pytest.approx(3.0, rel=2e-3)


def test_the_releases_of_a_plan_share_all_of_its_budget() -> None:
    assert plan_share(private_plan()) == pytest.approx(1.0, abs=1e-12)
    assert plan_share(private_plan(rounds=499)) == pytest.approx(1.0, abs=1e-12)


def test_a_plan_without_differential_privacy_spends_nothing() -> None:
    assert plan_share(compile_plan(small_study(), small_dictionary(), adds_noise=True)) == 0.0


def test_a_plan_that_leaves_out_the_noise_of_one_part_is_refused() -> None:
    plan = private_plan()
    part = plan.steps[1].parts[0].model_copy(update={"noise": None})
    step = plan.steps[1].model_copy(update={"parts": (part,)})
    broken = plan.model_copy(update={"steps": (plan.steps[0], step, *plan.steps[2:])})
    with pytest.raises(ValueError, match="every part"):
        plan_share(broken)


def test_noise_in_a_plan_whose_study_asks_for_none_is_refused() -> None:
    plan = private_plan()
    with pytest.raises(ValueError, match="every part"):
        plan_share(plan.model_copy(update={"study": small_study()}))


def _discrete(std: float, reach: int) -> np.ndarray:
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * std**2))
    return weights / weights.sum()


@pytest.mark.parametrize("std", [8.0, 20.0])
@pytest.mark.parametrize("sites", [1, 2, 5])
def test_the_excess_of_noise_on_a_grid_is_no_less_than_it_truly_is(std: float, sites: int) -> None:
    reach = int(12 * std)
    sum_of_sites = np.ones(1)
    for _ in range(sites):
        sum_of_sites = np.convolve(sum_of_sites, _discrete(std, reach))
    k = np.arange(sum_of_sites.size) - sum_of_sites.size // 2
    total = std * math.sqrt(sites)
    rounded = norm.cdf((k + 0.5) / total) - norm.cdf((k - 0.5) / total)
    distance = 0.5 * float(np.abs(sum_of_sites - rounded).sum())
    assert distance <= discrete_excess(std, sites, 1) <= 4 * distance


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 8.0, 10.0])
@pytest.mark.parametrize("honest_sites", [1, 4])
def test_the_grid_of_our_noise_takes_nothing_from_delta_that_matters(epsilon: float, honest_sites: int) -> None:
    differential = Differential(epsilon=epsilon, delta=1e-6, honest_sites=honest_sites)
    plan = compile_plan(small_study(privacy=Privacy(differential=differential)), small_dictionary(), adds_noise=True)
    assert 1e-6 < plan_delta(plan) < 1.01e-6


def test_a_plan_that_spends_more_than_its_study_says_keeps_no_delta() -> None:
    plan = private_plan()
    twice = plan.steps[2].parts[0].model_copy(update={"times": 60})
    greedy = plan.model_copy(update={"steps": (plan.steps[2].model_copy(update={"parts": (twice,)}),)})
    with pytest.raises(ValueError, match="spends more"):
        plan_delta(greedy)


def test_a_coarse_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="coarse"):
        discrete_excess(3.0, 1, 1)
