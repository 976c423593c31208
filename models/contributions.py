"""What moved a prediction, and which layers matter: exact for models that are linear in the log hazard.

A patient's log hazard is a sum, eta = sum_j x_j beta_j, with 0 for a patient at the means. A risk is a function of
that sum, so its parts are those of Aumann & Shapley (1974): the integral of the gradient along the straight way from
the means to the patient. Because the risk depends on eta alone, the integral has a closed form,

    part_j = x_j beta_j * (F(eta) - F(0)) / eta,

and the parts add up to F(eta) - F(0) exactly. They are what integrated gradients (Sundararajan, Taly & Yan 2017)
would give a network, so both kinds of model are read alike. Associations, not effects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from models.step import Floats
from schemas.design import DesignColumn

__all__ = ["by_column", "by_layer", "layer_importance", "layers_of", "risk_parts"]

_SMALL = 1e-9
_LARGEST_LOG = 600.0


def layers_of(design: Sequence[DesignColumn]) -> tuple[str, ...]:
    """Return the layers of a design, in its order."""
    return tuple(dict.fromkeys(column.layer for column in design))


def risk_parts(terms: Floats, cumulative_hazard: Floats) -> Floats:
    """Return what each column adds to the risk, against a patient at the means.

    Args:
        terms: (n, p) x_j beta_j.
        cumulative_hazard: (m,) baseline cumulative hazards at the horizons, of a patient at the means.

    Returns:
        (n, m, p) probabilities that sum over p to the patient's risk less that of a patient at the means; times 100
        they are percentage points.
    """
    eta = np.clip(terms.sum(axis=1), -_LARGEST_LOG, _LARGEST_LOG)
    at_means = np.exp(-cumulative_hazard)
    # F(eta) - F(0) = S(0) - S(eta), without cancellation near eta = 0.
    difference = -at_means * np.expm1(-cumulative_hazard * np.expm1(eta)[:, None])
    small = np.abs(eta) < _SMALL
    slope = difference / np.where(small, 1.0, eta)[:, None]
    slope[small] = at_means * cumulative_hazard
    return np.asarray(slope[:, :, None] * terms[:, None, :], dtype=np.float64)


def by_column(parts: Floats, design: Sequence[DesignColumn]) -> Mapping[str, Floats]:
    """Return the parts summed over the columns of one variable: all indicators of a category, all components.

    Args:
        parts: (..., p).
        design: p columns.

    Returns:
        The dictionary's column -> (...); a wide layer counts as one variable under its own name.
    """
    names = [column.layer if column.component is not None else column.column for column in design]
    return _summed(parts, names)


def by_layer(parts: Floats, design: Sequence[DesignColumn]) -> Mapping[str, Floats]:
    """Return the (..., p) parts summed over the columns of each layer."""
    return _summed(parts, [column.layer for column in design])


def layer_importance(covariance: Floats) -> Floats:
    """Return the share of each layer in the variance of the log hazard.

    Cov(eta_l, eta) / Var(eta): the Shapley value of the variance of a sum (Colini-Baldeschi, Scarsini & Vaccari 2018,
    theorem 1), in which what two layers have in common is halved between them. The shares sum to 1; one may be
    negative.

    Args:
        covariance: (L, L) of the layers' log hazards over the patients.

    Returns:
        (L,); all 0 where the log hazard does not vary.
    """
    total = float(covariance.sum())
    return covariance.sum(axis=1) / total if total > 0 else np.zeros(covariance.shape[0])


def _summed(parts: Floats, names: Sequence[str]) -> dict[str, Floats]:
    labels = np.asarray(names)
    return {name: parts[..., labels == name].sum(axis=-1) for name in dict.fromkeys(names)}
