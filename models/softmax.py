"""The likelihood of an outcome without a time: value, gradient and information of one site's patients.

Of C categories the first is the reference; category c = 1 .. C - 1 has the log odds eta_c = alpha_c + x beta_c
against it, so that Pr(c) = exp(eta_c) / (1 + sum_d exp(eta_d)): the multinomial logit model, with C = 2 logistic
regression (McCullagh & Nelder 1989, sections 5.2 and 4.3). With pi_i the probabilities of patient i and y_i the
indicators,

    l_i = log pi_i(y_i),   gradient = sum (y_i - pi_i) z_i,   information = sum (diag(pi_i) - pi_i pi_i') z_i z_i',

where z = (1, x). The link is canonical, so observed and expected information are the same.

The parameters stand in one row, theta: alpha (C - 1), then beta_1, beta_2, ... (p each).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.step import Floats


def log_probabilities(log_odds: Floats) -> Floats:
    """Return the (n, C) log probabilities, the reference first, without overflow.

    Args:
        log_odds: (n, C - 1) eta, against the reference.
    """
    eta = np.column_stack((np.zeros(log_odds.shape[0]), log_odds))
    highest = eta.max(axis=1, keepdims=True)
    normed: Floats = eta - highest - np.log(np.exp(eta - highest).sum(axis=1, keepdims=True))
    return normed


def log_odds_of(x: Floats, alpha: Floats, beta: Floats) -> Floats:
    """Return the (n, C - 1) log odds; `alpha` is (C - 1,), `beta` the (C - 1) p coefficients in one row.

    Row sums and not a matrix product: equal patients must stay tied.
    """
    rows = beta.reshape(alpha.size, x.shape[1])
    return np.stack([alpha[c] + (x * rows[c]).sum(axis=1) for c in range(alpha.size)], axis=1)


def indicators(outcome: Floats, n_outcomes: int) -> Floats:
    """Return the (n, C) indicators of the (n,) codes."""
    return np.asarray(outcome[:, None] == np.arange(n_outcomes), dtype=np.float64)


def summand(outcome: Floats, x: Floats, log_odds: Floats) -> dict[str, Floats]:
    """Return a site's log-likelihood, its gradient, its information and the counts of the categories.

    Args:
        outcome: (n,) codes, 0 is the reference.
        x: (n, p) covariates.
        log_odds: (n, C - 1) at the point that is asked.

    Returns:
        log_likelihood (), outcomes (C,), gradient_alpha (C - 1,), gradient_beta ((C - 1) p,), hessian (q, q).
    """
    logs = log_probabilities(log_odds)
    y = indicators(outcome, logs.shape[1])
    residual = (y - np.exp(logs))[:, 1:]
    return {
        "log_likelihood": np.array((y * logs).sum()),
        "outcomes": y.sum(axis=0),
        "gradient_alpha": residual.sum(axis=0),
        "gradient_beta": (residual.T @ x).reshape(-1),
        "hessian": information(np.exp(logs[:, 1:]), x),
    }


def information(probability: Floats, x: Floats) -> Floats:
    """Return the (q, q) information of theta.

    Args:
        probability: (n, C - 1) of each category but the reference.
        x: (n, p) covariates.
    """
    m, p = probability.shape[1], x.shape[1]
    z = np.column_stack((np.ones(x.shape[0]), x))
    blocks = np.zeros((m, 1 + p, m, 1 + p))
    for c in range(m):
        for d in range(c, m):
            weight = probability[:, c] * (float(c == d) - probability[:, d])
            blocks[c, :, d] = (z * weight[:, None]).T @ z
            blocks[d, :, c] = blocks[c, :, d].T
    return in_order(blocks)


def in_order(blocks: Floats) -> Floats:
    """Return the (q, q) matrix of theta from (C - 1, 1 + p, C - 1, 1 + p) blocks by category."""
    m, width = blocks.shape[0], blocks.shape[1]
    order = theta_order(m, width - 1)
    flat = blocks.reshape(m * width, m * width)
    return np.asarray(flat[np.ix_(order, order)])


def theta_order(m: int, p: int) -> NDArray[np.intp]:
    """Return where each parameter of theta stands in the row (alpha_1, beta_1, alpha_2, beta_2, ...)."""
    places = np.arange(m * (1 + p), dtype=np.intp).reshape(m, 1 + p)
    return np.concatenate((places[:, 0], places[:, 1:].reshape(-1)))


def by_category(matrix: Floats, m: int) -> Floats:
    """Return the (C - 1, 1 + p, C - 1, 1 + p) blocks of a (q, q) matrix of theta: the inverse of `in_order`."""
    q = matrix.shape[0]
    order = theta_order(m, q // m - 1)
    flat = np.empty_like(matrix)
    flat[np.ix_(order, order)] = matrix
    return flat.reshape(m, q // m, m, q // m)
