"""How sure the baseline is: what the interval of a predicted curve needs beside the covariance of the coefficients.

Given the coefficients, the baseline hazards of different intervals are independent (their information is diagonal),
and all of them give way to a change of the coefficients. So two arrays hold all there is: the variance of each
interval's hazard at given coefficients, and its derivative by them. Any covariance follows, with V that of beta:
Cov(h_j, h_k) = [j = k] v_j + g_j' V g_k and Cov(h_j, beta) = g_j' V.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.step import Floats

__all__ = ["BaselineSpread", "spread_of_breslow", "spread_of_hazard"]


@dataclass(frozen=True)
class BaselineSpread:
    """Of the baseline hazards of K intervals.

    Attributes:
        variance: (K,) v, at given coefficients.
        slope: (K, p) g, derivative by the coefficients.
    """

    variance: Floats
    slope: Floats


def spread_of_hazard(covariance_full: Floats, hazard: Floats) -> BaselineSpread:
    """Return the spread of a baseline from a grouped hazard fit, by the delta method on log h = alpha.

    The joint covariance of (alpha, beta) is the inverse of an arrow matrix: Cov(alpha, beta) = -G V and Cov(alpha) =
    diag(a) + G V G' (`models.hazard`). G and a are taken out of it again. The hazards are those that predictions
    stand on (docs/adr/0009); alpha's covariance describes both, since both estimate the same hazard.

    Args:
        covariance_full: (K + p, K + p) of (alpha, beta); K intervals in use.
        hazard: (K,) baseline hazard of each interval.
    """
    k = hazard.size
    cross, covariance = covariance_full[:k, k:], covariance_full[k:, k:]
    give = np.zeros_like(cross)
    error = np.sqrt(np.diag(covariance))
    known = error > 0
    if known.any():
        unit = error[known]
        correlation = covariance[np.ix_(known, known)] / np.outer(unit, unit)
        give[:, known] = -np.linalg.lstsq(correlation, (cross[:, known] / unit).T, rcond=None)[0].T / unit
    alone = np.diag(covariance_full[:k, :k]) + (cross * give).sum(axis=1)
    return BaselineSpread(np.maximum(alone, 0.0) * hazard**2, -hazard[:, None] * give)


def spread_of_breslow(events: Floats, at_risk: Floats, mean_covariates: Floats) -> BaselineSpread:
    """Return the spread of Breslow's baseline (Tsiatis 1981, Annals of Statistics 9:93, theorem 3.3).

    h_k = d_k / S0_k has the variance d_k / S0_k^2 at given coefficients, and dh_k / dbeta = -h_k xbar_k: what R's
    survfit computes for a Cox model with Breslow's ties.

    Args:
        events: (K,) d.
        at_risk: (K,) S0, hazards at risk (on a merged grid: under observation).
        mean_covariates: (K, p) xbar, covariates averaged over those at risk with their hazards as weights.
    """
    has_events = (events > 0) & (at_risk > 0)
    below = np.where(has_events, at_risk, 1.0)
    hazard = np.where(has_events, events, 0.0) / below
    return BaselineSpread(hazard / below, -hazard[:, None] * mean_covariates)
