"""What moved a network's prediction: integrated gradients of the risk, from the means to the patient.

    part_j = x_j * integral over s in [0, 1] of dF(eta(s x)) / dx_j,   F(eta) = 1 - exp(-H e^eta)

(Sundararajan, Taly & Yan 2017, "Axiomatic attribution for deep networks", equation 1), with the derivative of the
encoders written out and Gauss-Legendre nodes, so that nothing but NumPy is needed where a patient is scored. For a
network without curvature these are the parts of a linear model (`models.contributions`).
"""

from __future__ import annotations

import numpy as np

from models.network_shape import Shape
from models.step import Floats

__all__ = ["gradient", "layer_log_hazards", "network_risk_parts"]

_N_NODES = 48
_LARGEST_LOG = 600.0


def gradient(shape: Shape, weights: Floats, x: Floats, present: Floats) -> Floats:
    """Return the (n, p) derivatives of the log hazard by the columns of x.

    Args:
        shape: Of the network.
        weights: (P,).
        x: (n, p).
        present: (n, n_encoders), see `Shape.present`.
    """
    found = np.zeros_like(x)
    for j, (encoder, own) in enumerate(zip(shape.encoders, shape.parts(weights), strict=True)):
        u, v, b, w = encoder.split(own)
        slope = 1 - np.tanh(x[:, encoder.columns] @ w.T + b) ** 2
        found[:, encoder.columns] += present[:, j : j + 1] * (u + (slope * v) @ w)
    return found


def network_risk_parts(
    shape: Shape, weights: Floats, x: Floats, present: Floats, cumulative_hazard: Floats
) -> Floats:
    """Return what each column adds to the risk, against a patient at the means.

    Args:
        shape: Of the network.
        weights: (P,).
        x: (n, p).
        present: (n, n_encoders).
        cumulative_hazard: (m,) baseline cumulative hazards at the horizons.

    Returns:
        (n, m, p); the sum over p is the risk less that of a patient at the means, up to the quadrature.
    """
    nodes, shares = np.polynomial.legendre.leggauss(_N_NODES)
    parts = np.zeros((x.shape[0], cumulative_hazard.size, x.shape[1]))
    for node, share in zip((nodes + 1) / 2, shares / 2, strict=True):
        eta = np.minimum(shape.log_hazard(weights, node * x, present), _LARGEST_LOG)
        expected = np.exp(eta)[:, None] * cumulative_hazard
        density = expected * np.exp(-expected)
        parts += share * density[:, :, None] * (gradient(shape, weights, node * x, present) * x)[:, None, :]
    return parts


def layer_log_hazards(shape: Shape, weights: Floats, x: Floats, present: Floats) -> Floats:
    """Return the (n, n_encoders) parts of the log hazard, which sum to it: exact, since fusion is late."""
    parts = []
    for j, (encoder, own) in enumerate(zip(shape.encoders, shape.parts(weights), strict=True)):
        alone = Shape((encoder,))
        parts.append(alone.log_hazard(own, x, present[:, j : j + 1]))
    return np.column_stack(parts)
