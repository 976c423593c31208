"""The grouped proportional hazards likelihood of one site's patients: value, gradient and information.

With u_ik = exp(alpha_k + x_i beta), a patient contributes (Prentice & Gloeckler 1978, equation 4)

    l_i = log(1 - exp(-u_im)) [event in interval m]  -  sum over intervals survived of u_ik .

An interval without events, or one that nobody at risk survives, takes part in no estimate of beta: its likelihood
has its supremum 0 at a hazard of 0 or infinity whatever beta is. Such an interval is closed: its alpha is `FLOOR` or
`CEILING`, and its terms are left out.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.moments import n_patients_spec
from models.newton import DERIVATIVE_BOUND, packed
from models.step import Floats
from models.time_grid import Spells
from schemas.plan import ArraySpec

FLOOR = -50.0
CEILING = 20.0


def is_open(alpha: Floats) -> NDArray[np.bool_]:
    """Return the (K,) mask of the intervals that take part."""
    return (alpha > FLOOR) & (alpha < CEILING)


def alpha_at_zero(events: Floats, survived: Floats) -> Floats:
    """Return the (K,) alpha that fits where all at risk are alike (beta = 0); intervals that tell nothing are closed.

    Args:
        events: (K,) patients with the event in each interval.
        survived: (K,) patients known to survive it.
    """
    open_ = (events > 0) & (survived > 0)
    alpha = np.where(events > 0, CEILING, FLOOR)
    alpha[open_] = np.log(np.log1p(events[open_] / survived[open_]))
    return alpha


def slope_specs(k: int, p: int) -> tuple[ArraySpec, ...]:
    """Return what every fit of this likelihood releases: counts, value, gradient, and alpha's information.

    Args:
        k: K, intervals of the grid.
        p: Coefficients.
    """
    bound = DERIVATIVE_BOUND
    return (
        n_patients_spec(),
        ArraySpec(name="events", shape=(k,), meaning="patients with the event in each interval"),
        ArraySpec(name="n_survived", shape=(k,), meaning="patients known to survive each interval"),
        ArraySpec(name="log_likelihood", shape=(), meaning="log-likelihood", bound=bound),
        ArraySpec(name="gradient_alpha", shape=(k,), meaning="its slope in each baseline hazard", bound=bound),
        ArraySpec(name="gradient_beta", shape=(p,), meaning="its slope in each coefficient", bound=bound),
        ArraySpec(name="hessian_alpha", shape=(k,), meaning="its information on each baseline hazard", bound=bound),
    )


def summand(spells: Spells, x: Floats, log_hazard: Floats, alpha: Floats, *, expected: bool) -> dict[str, Floats]:
    """Return a site's counts, log-likelihood, gradient, and information.

    Args:
        spells: Where its n patients are at risk.
        x: (n, p) covariates.
        log_hazard: (n,) x beta.
        alpha: (K,) log baseline hazards.
        expected: Whether the information is the expected one (Fisher's), or minus the second derivatives.
    """
    survived, baseline, ratio = spells.survived, _baseline(alpha), np.exp(log_hazard)
    value, slope_of, curvature_of, lost = _patient_terms(spells, log_hazard, alpha)
    columns = np.column_stack((np.ones(ratio.size), x))
    at_risk = baseline[:, None] * survived.over_patients(ratio[:, None] * columns)
    ones = np.ones(ratio.size)
    if expected:
        by_interval, weights = _expected(spells, columns, baseline, ratio)
    else:
        by_interval = spells.over_events(curvature_of[:, None] * columns) + at_risk
        weights = curvature_of + lost
    return {
        "n_patients": np.array(float(ratio.size)),
        "events": spells.over_events(ones),
        "n_survived": survived.over_patients(ones),
        "log_likelihood": np.array(value.sum() - lost.sum()),
        "gradient_alpha": spells.over_events(slope_of) - at_risk[:, 0],
        "gradient_beta": (slope_of - lost) @ x,
        "hessian_alpha": by_interval[:, 0],
        "hessian_alpha_beta": by_interval[:, 1:],
        "hessian_beta": packed((x * weights[:, None]).T @ x),
    }


def slopes(spells: Spells, x: Floats, log_hazard: Floats, alpha: Floats) -> dict[str, Floats]:
    """Return a site's counts, log-likelihood, gradient, and the diagonal of the information alone.

    For many covariates: the cost is that of a few products with `x`, and K + 2 p numbers leave. Arguments as in
    `summand`.
    """
    value, slope, curvature, lost = _patient_terms(spells, log_hazard, alpha)
    baseline = _baseline(alpha)
    at_risk = baseline * spells.survived.over_patients(np.exp(log_hazard))
    ones = np.ones(log_hazard.size)
    return {
        "n_patients": np.array(float(log_hazard.size)),
        "events": spells.over_events(ones),
        "n_survived": spells.survived.over_patients(ones),
        "log_likelihood": np.array(value.sum() - lost.sum()),
        "gradient_alpha": spells.over_events(slope) - at_risk,
        "gradient_beta": (slope - lost) @ x,
        "hessian_alpha": spells.over_events(curvature) + at_risk,
        "diagonal_beta": (curvature + lost) @ (x * x),
    }


def patient_slopes(spells: Spells, log_hazard: Floats, alpha: Floats) -> Floats:
    """Return the (n,) derivatives of the log-likelihood in each patient's log hazard."""
    _, slope, _, lost = _patient_terms(spells, log_hazard, alpha)
    return slope - lost


def _baseline(alpha: Floats) -> Floats:
    """Return the (K,) baseline hazards, 0 in closed intervals."""
    took_part = is_open(alpha)
    return np.where(took_part, np.exp(np.where(took_part, alpha, 0.0)), 0.0)


def _patient_terms(spells: Spells, log_hazard: Floats, alpha: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Return each patient's event term, its slope and minus its curvature, and the hazard survived; all (n,)."""
    took_part, baseline = is_open(alpha), _baseline(alpha)
    ratio = np.exp(log_hazard)
    in_open = took_part[spells.event_interval]
    u = np.where(in_open, baseline[spells.event_interval] * ratio[spells.event], 1.0)
    # Events: derivatives of log(1 - exp(-u)) by eta = log u.
    terms = np.zeros((3, ratio.size))
    terms[:, spells.event] = [np.where(in_open, term, 0.0) for term in event_terms(u)]
    # Survival: u_ik = exp(alpha_k) exp(x_i beta) splits, so no table of patients x intervals is needed.
    return terms[0], terms[1], terms[2], ratio * spells.survived.over_intervals(baseline)


def event_terms(u: Floats) -> tuple[Floats, Floats, Floats]:
    """Return log(1 - exp(-u)) with its slope and minus its curvature in log u, without cancellation.

    With a = u / (exp(u) - 1) the slope is a and minus the curvature a (u + a - 1) >= 0. Below 0.05 the last factor is
    taken from the series of a (Bernoulli numbers), because there it is a small difference of numbers near 1.

    Args:
        u: (m,) hazards > 0.
    """
    failing = -np.expm1(-u)
    slope = u * np.exp(-u) / failing
    near = np.minimum(u, 0.05)
    series = near / 2 + near**2 / 12 - near**4 / 720 + near**6 / 30240
    value = np.where(u < np.log(2.0), np.log(failing), np.log1p(-np.minimum(np.exp(-u), 0.5)))
    return value, slope, slope * np.where(u < 0.05, series, u + slope - 1)


def _expected(spells: Spells, columns: Floats, baseline: Floats, ratio: Floats) -> tuple[Floats, Floats]:
    """Return the expected information by interval, (K, 1 + p), and its (n,) weights of x x'.

    A patient at risk adds u a with a = u / (exp(u) - 1), whether they have the event or not: the weight of the
    complementary log-log link in McCullagh & Nelder (1989), section 4.4.
    """
    u = baseline * ratio[:, None]
    positive = (u > 0) & (spells.at_risk > 0)
    u = np.where(positive, u, 1.0)
    weights = np.where(positive, u * event_terms(u)[1], 0.0)
    return weights.T @ columns, weights.sum(axis=1)
