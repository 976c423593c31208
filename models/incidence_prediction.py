"""What a model of competing events says of patients: the cumulative incidence of each kind, with its interval.

The hazards of all kinds together decide whether one kind happens, so nothing follows from one of them alone
(`models.cumulative_incidence`). With u_dj the hazard of kind d that a patient meets in interval j,

    F_c(t) = sum_j S_{j-1} u_cj psi(u_j),   psi(u) = (1 - e^-u) / u,   u_j = sum_d u_dj,   S_j = exp(-sum_{i<=j} u_i),
    dF_c(t) / du_dj = S_{j-1} ([c = d] psi(u_j) + u_cj psi'(u_j)) - (F_c(t) - F_c(t_j)).

The interval is the delta method on log(-log(1 - F_c)), in which coefficients and baselines of all kinds are
uncertain. The partial likelihood factorises over the kinds of event, so the fits of two kinds are independent and
their variances add up (Andersen, Borgan, Gill & Keiding 1993, sections VII.2.2 and VII.2.3; Rosthøj, Andersen &
Abildstrom 2004, Computer Methods and Programs in Biomedicine 74:69, who have the product over (1 - u_j) where this is
exp(-u_j)). With v, g of `models.baseline_spread` and V_d of kind d, a_dj = dF_c / du_dj exp(x beta_d) times the share
of interval j before t,

    Var F_c = sum_d [ sum_j a_dj^2 v_dj + D_d' V_d D_d ],   D_d = sum_j a_dj (h_dj x + g_dj) .

With one kind of event this is the interval of `models.prediction`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from models.arm_difference import ArmDifference
from models.prediction import LEVEL, interval_shares, model_matrix
from models.step import Floats
from schemas.artefact import Artefact
from schemas.cohort import Cohort

__all__ = [
    "Incidence", "incidence_at_means", "incidence_contributions", "incidence_difference", "incidence_gradient",
    "log_log_ends", "predict_incidence",
]  # fmt: skip

_LARGEST_LOG = 600.0
_SMALL = 1e-3
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(48)


@dataclass(frozen=True)
class Incidence:
    """Predicted shares of patients like these.

    Attributes:
        times: (m,) from the start of the prediction.
        log_hazards: (C, n) of each kind of event, relative to a patient at the means.
        incidence: (C, n, m) probability that this kind is the first to happen within `times`, given that none
            happened before the start.
        lower, upper: (C, n, m) ends of the interval; None where the model does not tell how sure it is.
        free: (n, m) probability that none happens; with `incidence` it sums to 1.
        free_lower, free_upper: (n, m) ends of its interval.
    """

    times: Floats
    log_hazards: Floats
    incidence: Floats
    lower: Floats | None
    upper: Floats | None
    free: Floats
    free_lower: Floats | None
    free_upper: Floats | None


@dataclass(frozen=True)
class _Kind:
    """One kind of event in a model.

    Attributes:
        hazard: (K,) of each interval, of a patient at the means.
        beta: (p,).
        covariance: (p, p); variance: (K,) and slope: (K, p) of the baseline. None where the model does not tell.
    """

    hazard: Floats
    beta: Floats
    covariance: Floats | None
    variance: Floats | None
    slope: Floats | None


def predict_incidence(
    artefact: Artefact, patients: Cohort, times: Floats, *, start: float = 0.0, level: float = LEVEL
) -> Incidence:
    """Return the cumulative incidence of each kind of event, that of interest first.

    Args:
        artefact: Read and verified. Of one kind of event alone the incidence is one minus survival.
        patients: n patients.
        times: (m,) > 0, counted from `start`.
        start: Time since the origin at which the patients are known to be free of every kind of event: the result is
            (F_c(start + t) - F_c(start)) / S(start).
        level: Of the interval, pointwise.

    Raises:
        ValueError: For a time or start below 0.
    """
    times = np.asarray(times, dtype=np.float64)
    if start < 0 or (times < 0).any():
        raise ValueError("times are counted forward from the origin")
    kinds, x = _kinds(artefact), model_matrix(artefact, patients)
    shares = interval_shares(artefact, start, times)
    log_hazards = np.stack([x @ kind.beta for kind in kinds])
    met = _hazards_met(kinds, log_hazards, shares)
    values = np.stack([_incidence(met[:, i]) for i in range(len(x))], axis=1)
    free = np.exp(-met.sum(axis=(0, 3)))
    if any(kind.covariance is None or kind.variance is None for kind in kinds):
        return Incidence(times, log_hazards, values, None, None, free, None, None)
    errors, free_error = np.zeros_like(values), np.zeros_like(free)
    for i, row in enumerate(x):
        factor = _factors(log_hazards[:, i])
        for c in range(len(kinds)):
            gradient = incidence_gradient(met[:, i], c) * shares * factor[:, None, None]
            errors[c, i] = _error(kinds, gradient, row)
        gradient = -free[i][None, :, None] * shares * factor[:, None, None]
        free_error[i] = _error(kinds, gradient, row)
    z = NormalDist().inv_cdf(0.5 + level / 2)
    lower, upper = log_log_ends(values, errors, z)
    # The interval of 1 - S on the same scale is that of log(-log S).
    happened_lower, happened_upper = log_log_ends(1 - free, free_error, z)
    return Incidence(times, log_hazards, values, lower, upper, free, 1 - happened_upper, 1 - happened_lower)


def incidence_at_means(artefact: Artefact, times: Floats, *, start: float = 0.0) -> tuple[Floats, Floats]:
    """Return the (C, m) incidences of a patient at the means, and the (m,) probability that no event happens.

    Args:
        artefact: Read and verified.
        times: (m,) > 0, counted from `start`.
        start: As of `predict_incidence`.
    """
    kinds = _kinds(artefact)
    shares = interval_shares(artefact, start, np.asarray(times, dtype=np.float64))
    met = _hazards_met(kinds, np.zeros((len(kinds), 1)), shares)[:, 0]
    return _incidence(met), np.asarray(np.exp(-met.sum(axis=(0, 2))))


def incidence_difference(
    artefact: Artefact, control: Cohort, treated: Cohort, times: Floats, *, start: float = 0.0, level: float = LEVEL
) -> ArmDifference:
    """Return the incidence of the event of interest when treated less that under control, for the same n patients.

    The arms share baselines and coefficients, so the gradient of the difference is the difference of the gradients.

    Args:
        artefact: Read and verified.
        control: The patients as if under control.
        treated: The same patients as if treated.
        times: (m,) > 0, counted from `start`.
        start: As of `predict_incidence`.
        level: Of the interval, pointwise and symmetric, within -1 and 1.
    """
    shares = interval_shares(artefact, start, np.asarray(times, dtype=np.float64))
    kinds = _kinds(artefact)
    arms = [model_matrix(artefact, arm) for arm in (control, treated)]
    n, m = len(arms[0]), len(shares)
    value, errors = np.zeros((n, m)), np.zeros((n, m))
    knows = all(kind.covariance is not None and kind.variance is not None for kind in kinds)
    for i in range(n):
        gradients = []
        for sign, rows in zip((-1.0, 1.0), arms, strict=True):
            log_hazards = np.array([rows[i] @ kind.beta for kind in kinds])
            met = _hazards_met(kinds, log_hazards[:, None], shares)[:, 0]
            value[i] += sign * _incidence(met)[0]
            factor = _factors(log_hazards)[:, None, None]
            gradients.append(sign * incidence_gradient(met, 0) * shares * factor)
        if knows:
            errors[i] = _error(kinds, gradients[0], arms[0][i], gradients[1], arms[1][i])
    if not knows:
        return ArmDifference(value, None, None)
    reach = NormalDist().inv_cdf(0.5 + level / 2) * errors
    return ArmDifference(value, np.maximum(value - reach, -1.0), np.minimum(value + reach, 1.0))


def incidence_contributions(artefact: Artefact, patients: Cohort, times: Floats, *, start: float = 0.0) -> Floats:
    """Return what each column adds to the incidence of the event of interest, against a patient at the means.

    Aumann & Shapley's parts as in `models.contributions`: the integral of the gradient along the straight way from
    the means to the patient, where every kind's log hazard moves, by Gauss and Legendre's rule. A column that raises
    the hazard of a competing event lowers the incidence of that of interest, and its part says so.

    Args:
        artefact: Read and verified.
        patients: n patients.
        times: (m,) horizons, counted from `start`.
        start: As of `predict_incidence`.

    Returns:
        (n, m, p) probabilities; their sum over p is the incidence less that of a patient at the means.
    """
    shares = interval_shares(artefact, start, np.asarray(times, dtype=np.float64))
    kinds, x = _kinds(artefact), model_matrix(artefact, patients)
    baseline = np.stack([kind.hazard for kind in kinds])[:, None, None, :] * shares  # (C, 1, m, K)
    parts = np.zeros((len(x), len(shares), x.shape[1]))
    for i, row in enumerate(x):
        log_hazards = np.array([row @ kind.beta for kind in kinds])
        met = _factors((_NODES + 1) / 2 * log_hazards[:, None])[:, :, None, None] * baseline  # (C, nodes, m, K)
        flat = met.reshape(len(kinds), -1, met.shape[3])
        # dF / d eta_d = sum_j dF / du_dj u_dj
        slopes = (incidence_gradient(flat, 0) * flat).sum(axis=2).reshape(met.shape[:3])
        slope = np.einsum("q,dqm->dm", _WEIGHTS / 2, slopes)
        parts[i] = sum(slope[d][:, None] * (row * kind.beta) for d, kind in enumerate(kinds))
    return parts


def incidence_gradient(met: Floats, cause: int) -> Floats:
    """Return the (C, m, K) derivative of the incidence of one kind by the hazards that one patient meets.

    Args:
        met: (C, m, K) u of each kind until each time.
        cause: c, from 0.
    """
    together = met.sum(axis=0)
    before = _free_before(together)
    own = np.cumsum(before * met[cause] * _psi(together), axis=1)
    lost = before * met[cause] * _psi_slope(together) - (own[:, -1:] - own)
    gradient = np.broadcast_to(lost, met.shape).copy()
    gradient[cause] += before * _psi(together)
    return gradient


def _incidence(met: Floats) -> Floats:
    """Return the (C, m) incidences of one patient from the (C, m, K) hazards met until each time."""
    together = met.sum(axis=0)
    return np.asarray((_free_before(together) * _psi(together) * met).sum(axis=2))


def _free_before(together: Floats) -> Floats:
    """Return the (m, K) probabilities of no event before each interval; no difference of large numbers is taken."""
    until = np.cumsum(together, axis=1)[:, :-1]
    return np.asarray(np.exp(-np.concatenate((np.zeros((len(together), 1)), until), axis=1)))


def _psi(u: Floats) -> Floats:
    """Return (1 - exp(-u)) / u, 1 at 0."""
    return np.asarray(np.where(u > 0, -np.expm1(-u) / np.where(u > 0, u, 1.0), 1.0))


def _psi_slope(u: Floats) -> Floats:
    """Return its derivative (exp(-u) (1 + u) - 1) / u^2, by its series where that cancels."""
    safe = np.where(u > _SMALL, u, 1.0)
    near = np.minimum(u, _SMALL)
    series = -0.5 + near / 3 - near**2 / 8 + near**3 / 30
    # exp(-u) (1 + u) - 1 = u exp(-u) + expm1(-u); u exp(-u) is 0 for a hazard without bound.
    return np.asarray(np.where(u > _SMALL, (np.exp(-safe) + np.expm1(-safe) / safe) / safe, series))


def _hazards_met(kinds: tuple[_Kind, ...], log_hazards: Floats, shares: Floats) -> Floats:
    """Return the (C, n, m, K) hazards of each kind that each patient meets until each time.

    Args:
        kinds: C.
        log_hazards: (C, n).
        shares: (m, K).
    """
    baseline = np.stack([kind.hazard for kind in kinds])
    return _factors(log_hazards)[:, :, None, None] * (shares * baseline[:, None, :])[:, None]


def _factors(log_hazards: Floats) -> Floats:
    return np.asarray(np.exp(np.minimum(log_hazards, _LARGEST_LOG)))


def _error(
    kinds: tuple[_Kind, ...], a: Floats, row: Floats, other: Floats | None = None, other_row: Floats | None = None
) -> Floats:
    """Return the (m,) standard errors of what has the derivatives `a` by the baseline hazards.

    Args:
        kinds: C, all of which tell how sure they are.
        a: (C, m, K).
        row: (p,) of the patient.
        other: Of a second term with the same baselines and coefficients, added to the first.
        other_row: Its patient.
    """
    variance = np.zeros(a.shape[1])
    for d, kind in enumerate(kinds):
        if kind.covariance is None or kind.variance is None or kind.slope is None:
            raise ValueError("the model does not tell how sure it is")
        both = a[d] if other is None else a[d] + other[d]
        along = (a[d] @ kind.hazard)[:, None] * row + both @ kind.slope
        if other is not None and other_row is not None:
            along = along + (other[d] @ kind.hazard)[:, None] * other_row
        variance += both**2 @ kind.variance + ((along @ kind.covariance) * along).sum(axis=1)
    return np.asarray(np.sqrt(np.maximum(variance, 0.0)))


def log_log_ends(share: Floats, error: Floats, z: float) -> tuple[Floats, Floats]:
    """Return the ends of an interval of F on the complementary log-log scale; a share of 0 or 1 is its own.

    Args:
        share: F.
        error: Its standard error, by the delta method on log(-log(1 - F)): 1 - (1 - F)^exp(-+ z se).
        z: Standard normal quantile.
    """
    inside = (share > 0) & (share < 1)
    left = np.where(inside, 1 - share, 0.5)
    scaled = np.where(inside, error, 0.0) / (left * -np.log(left))
    factor = np.exp(np.minimum(z * scaled, _LARGEST_LOG))
    ends = (-np.expm1(np.log(left) / factor), -np.expm1(np.log(left) * factor))
    return np.where(inside, ends[0], share), np.where(inside, ends[1], share)


def _kinds(artefact: Artefact) -> tuple[_Kind, ...]:
    found = []
    for number in range(1, max(len(artefact.manifest.causes), 1) + 1):
        own: Mapping[str, Floats] = artefact.of_cause(number)
        found.append(
            _Kind(
                np.diff(own["cumulative_hazard"], prepend=0.0),
                own["beta"],
                own.get("covariance"),
                own.get("hazard_variance"),
                own.get("hazard_slope"),
            )
        )
    return tuple(found)
