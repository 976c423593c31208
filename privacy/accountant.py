"""What a study costs in privacy, in the one unit that adds up: mu of Gaussian differential privacy.

A release is mu-GDP when telling two adjacent cohorts apart from it is no easier than telling N(0, 1) from N(mu, 1)
(Dong, Roth & Su 2022, "Gaussian differential privacy", JRSS B 84:3). The Gaussian mechanism of noise sigma on a sum
of sensitivity D is exactly mu-GDP with mu = D / sigma; releases compose exactly, also adaptively, to the root of the
sum of their mu squared (their corollary 3.3), and a budget on that sum may be spent adaptively over any number of
studies (Smith & Thakurta 2022, "Fully adaptive composition for Gaussian differential privacy"). So a dataset's
account is one number, the sum of mu squared; epsilon at a delta is computed from it when somebody wants to read it.

Noise on a grid is not exactly Gaussian; `discrete_excess` bounds what that adds to delta.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from scipy.optimize import brentq
from scipy.special import log_ndtr

from privacy.noise import MIN_STD_UNITS
from schemas.plan import Noise, Plan
from schemas.study import Differential

_SMALLEST_MU, _LARGEST_MU = 1e-9, 1e3
_LARGEST_EPSILON = 1e6
# Twice what brentq may leave; each conversion errs to the side that promises less.
_RELATIVE = 1e-12


def delta_of(epsilon: float, mu: float) -> float:
    """Return the smallest delta with which mu-GDP implies (epsilon, delta)-differential privacy.

    Dong, Roth & Su (2022), corollary 2.13, in logarithms: Phi(-eps/mu + mu/2) - e^eps Phi(-eps/mu - mu/2).

    Args:
        epsilon: At least 0.
        mu: At least 0; at 0 nothing is released.
    """
    if mu == 0:
        return 0.0
    first = float(log_ndtr(-epsilon / mu + mu / 2))
    second = epsilon + float(log_ndtr(-epsilon / mu - mu / 2))
    return math.exp(first) * -math.expm1(min(second - first, 0.0))


def epsilon_of(mu: float, delta: float) -> float:
    """Return the smallest epsilon with which mu-GDP implies (epsilon, delta)-differential privacy.

    Args:
        mu: At least 0.
        delta: Between 0 and 1, both excluded.
    """
    if mu == 0 or delta_of(0.0, mu) <= delta:
        return 0.0
    upper = mu * mu / 2 + mu * math.sqrt(2 * math.log(1 / delta))  # the tail bound of N(mu^2 / 2, mu^2)
    return _root(lambda epsilon: delta_of(epsilon, mu) - delta, 0.0, upper) * (1 + _RELATIVE)


def mu_of(epsilon: float, delta: float) -> float:
    """Return the largest mu for which mu-GDP implies (epsilon, delta)-differential privacy.

    Raises:
        ValueError: When there is none: epsilon below 0, or delta not between 0 and 1.
    """
    if not (0 <= epsilon <= _LARGEST_EPSILON and 0 < delta < 1):
        raise ValueError("epsilon is at least 0, and delta lies between 0 and 1")
    return _root(lambda mu: delta_of(epsilon, mu) - delta, _SMALLEST_MU, _LARGEST_MU) * (1 - _RELATIVE)


def composed(mus: Iterable[float]) -> float:
    """Return the mu of several releases together."""
    return math.sqrt(math.fsum(mu * mu for mu in mus))


def release_mu(differential: Differential, noise: Noise) -> float:
    """Return the mu of one release of a part: its share of what the study's epsilon and delta allow."""
    return mu_of(differential.epsilon, differential.delta) * math.sqrt(noise.share)


def plan_share(plan: Plan) -> float:
    """Return which part of the study's budget a run of the plan can spend at most.

    Raises:
        ValueError: When the study asks for differential privacy and a part of its plan adds no noise, or one adds
            noise without the study asking; such a plan promises what it does not keep.
    """
    parts = [part for step in plan.steps for part in step.parts]
    noisy = [part.noise for part in parts if part.noise is not None]
    if len(noisy) != (len(parts) if plan.study.privacy.differential is not None else 0):
        raise ValueError("either every part of a plan adds noise, and the study says how much, or none does")
    return math.fsum(part.times * part.noise.share for part in parts if part.noise is not None)


def plan_mu_squared(plan: Plan) -> float:
    """Return what a run of the plan costs at most, in the unit that adds up; 0 without differential privacy.

    Raises:
        ValueError: As `plan_share`.
    """
    differential = plan.study.privacy.differential
    if differential is None:
        return 0.0
    return mu_of(differential.epsilon, differential.delta) ** 2 * plan_share(plan)


def plan_delta(plan: Plan) -> float:
    """Return the delta that a run of the plan keeps, at its study's epsilon and with noise on a grid.

    Raises:
        ValueError: As `plan_share`; and when the study asks for no differential privacy.
    """
    differential = plan.study.privacy.differential
    if differential is None or plan_share(plan) > 1 + 1e-9:
        raise ValueError("the study asks for no differential privacy, or its plan spends more than the study says")
    parts = [part for step in plan.steps for part in step.parts]
    n_numbers = sum(part.times * spec.size for part in parts for spec in part.releases)
    excess = discrete_excess(MIN_STD_UNITS, differential.honest_sites, n_numbers)
    return differential.delta + (1 + math.exp(differential.epsilon)) * excess


def discrete_excess(std_units: float, honest_sites: int, n_numbers: int) -> float:
    """Return how far, in total variation, noise on the grid can be from rounded Gaussian noise.

    Rounding a Gaussian mechanism's result to the grid leaves its guarantee as it is. The noise that is drawn is a sum
    of discrete Gaussians, and each of two differences adds to the distance:

    - a discrete Gaussian against a Gaussian rounded to the grid: over a cell the density's mean differs from its
      middle by |z^2 - 1| / (24 s^2) of it to leading order, E|z^2 - 1| < 1, and twice that covers the higher orders
      for s >= 8; half of it is the total variation;
    - the sum over the sites against one discrete Gaussian: at most 5 sum_k exp(-2 pi^2 s^2 k / (k + 1)), s of one
      site (Kairouz, Liu & Steinke 2021, "The distributed discrete Gaussian mechanism for federated learning with
      secure aggregation", the corollary on the convolution of many discrete Gaussians).

    A mechanism within a total variation t of an (epsilon, delta) one is (epsilon, delta + (1 + e^epsilon) t).

    Args:
        std_units: Standard deviation of one site's noise in units of the grid, at least 8.
        honest_sites: Sites whose noise is counted on.
        n_numbers: Numbers released over the whole run.
    """
    if std_units < 8:
        raise ValueError("the grid is too coarse for its noise to count as Gaussian")
    rounding = 1 / (24 * std_units**2 * honest_sites)
    summing = 5 * math.fsum(math.exp(-2 * math.pi**2 * std_units**2 * k / (k + 1)) for k in range(1, honest_sites))
    return n_numbers * (rounding + summing)


def _root(function: Callable[[float], float], lower: float, upper: float) -> float:
    return float(brentq(function, lower, upper, xtol=1e-300, rtol=1e-13, maxiter=500))
