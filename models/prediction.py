"""What a model says of patients: log hazard, survival curve with its interval, and what is known of them.

Works on an artefact and a cohort of one or more patients, whose times and events are never looked at. A cell that is
missing counts as the mean of the training patients, a missing layer as scores of 0, as in training.

The interval is a delta method on the log cumulative hazard, log H(t | x) = log H(t) + x beta, in which both the
coefficients and the baseline are uncertain:

    Var log H(t | x) = sum_k c_k^2 v_k / H^2 + u' V u,   u = x + sum_k c_k g_k / H,

with c_k the share of interval k before t, H = sum_k c_k h_k, V the covariance of beta, and v, g of
`models.baseline_spread` (Tsiatis 1981; Andersen, Borgan, Gill & Keiding 1993, section VII.2.3). For an unpenalised
Cox model with Breslow's ties at exact times this is R's `survfit(..., conf.type = "log-log")`. With a penalty V is
the inverse of the penalised information: the interval is about the shrunken coefficients, so it covers less than its
level where the penalty is far from what the data say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from models.contributions import layers_of, risk_parts
from models.network_parts import network_risk_parts
from models.network_shape import Shape
from models.predictor import Predictor
from models.preparation import Preparation
from models.step import Context, Floats
from schemas.artefact import Artefact
from schemas.cohort import Cohort

__all__ = [
    "LEVEL", "Curve", "contributions", "cumulative_hazard_between", "interval_hazards", "interval_shares",
    "known_shares", "log_hazards", "model_matrix", "predict", "refuse_competing",
]  # fmt: skip

_LARGEST_LOG = 600.0
LEVEL = 0.95


@dataclass(frozen=True)
class Curve:
    """Predicted survival.

    Attributes:
        times: (m,) from the start of the prediction.
        log_hazard: (n,) relative to a patient at the means.
        survival: (n, m) probability of no event within `times`, given none before the start.
        lower, upper: (n, m) ends of the interval; None where the model does not tell how sure it is.
    """

    times: Floats
    log_hazard: Floats
    survival: Floats
    lower: Floats | None
    upper: Floats | None


def model_matrix(artefact: Artefact, patients: Cohort) -> Floats:
    """Return the (n, p) rows of the model's matrix, missing cells at the mean."""
    return Preparation(_context(artefact)).matrix(patients, artefact.arrays)


def log_hazards(artefact: Artefact, patients: Cohort) -> Floats:
    """Return the (n,) log hazards, relative to a patient at the means."""
    return Predictor(_context(artefact)).log_hazard(patients, artefact.arrays)


def contributions(artefact: Artefact, patients: Cohort, times: Floats, *, start: float = 0.0) -> Floats:
    """Return what each column adds to the patients' risks, against a patient at the means.

    Exact for a linear model (`models.contributions`); of a network integrated gradients (`models.network_parts`).

    Args:
        artefact: Read and verified.
        patients: n patients.
        times: (m,) horizons, counted from `start`.
        start: As of `predict`.

    Returns:
        (n, m, p) probabilities; their sum over p is the risk less that of a patient at the means.
    """
    refuse_competing(artefact)
    cumulative = cumulative_hazard_between(artefact, start, times)
    x = model_matrix(artefact, patients)
    if artefact.manifest.network is None:
        return risk_parts(x * artefact.beta, cumulative)
    context = _context(artefact)
    shape = Shape.of(context)
    present = shape.present(patients, [layer.name for layer in context.layers])
    return network_risk_parts(shape, artefact.beta, x, present, cumulative)


def _context(artefact: Artefact) -> Context:
    """Return the plan's context as far as scoring a patient needs it."""
    manifest = artefact.manifest
    return Context(
        design=artefact.design,
        n_bins=artefact.edges.size,
        horizons=manifest.horizons,
        settings={} if manifest.network is None else {"network": manifest.network.model_dump()},
        layers=artefact.layer_designs,
    )


def predict(
    artefact: Artefact, patients: Cohort, times: Floats, *, start: float = 0.0, level: float = LEVEL
) -> Curve:
    """Return the patients' curves.

    Args:
        artefact: Read and verified.
        patients: n patients.
        times: (m,) > 0, counted from `start`.
        start: Time since the origin at which the patients are known to be free of the event: the curve is
            S(start + t) / S(start).
        level: Of the interval, pointwise.

    Raises:
        ValueError: For a time or start below 0, and for a model of competing events.
    """
    refuse_competing(artefact)
    times = np.asarray(times, dtype=np.float64)
    if start < 0 or (times < 0).any():
        raise ValueError("times are counted forward from the origin")
    log_hazard = log_hazards(artefact, patients)
    shares = interval_shares(artefact, start, times)
    baseline = shares @ interval_hazards(artefact)
    cumulative = np.exp(np.minimum(log_hazard, _LARGEST_LOG))[:, None] * baseline
    survival = np.exp(-cumulative)
    error = _standard_error(artefact, patients, shares, baseline)
    if error is None:
        return Curve(times, log_hazard, survival, None, None)
    factor = np.exp(np.minimum(NormalDist().inv_cdf(0.5 + level / 2) * error, _LARGEST_LOG))
    return Curve(times, log_hazard, survival, np.exp(-cumulative * factor), np.exp(-cumulative / factor))


def refuse_competing(artefact: Artefact) -> None:
    """Refuse to read one kind of event by itself where another can keep it from happening.

    One minus that curve would promise more of the event than there will be (`models.incidence_prediction`).

    Raises:
        ValueError: For a model of competing events.
    """
    if artefact.manifest.causes:
        raise ValueError("events compete: the survival of one kind alone is nobody's")


def cumulative_hazard_between(artefact: Artefact, start: float, times: Floats) -> Floats:
    """Return the (m,) baseline cumulative hazards from `start` to `start + times`, of a patient at the means."""
    return np.asarray(
        interval_shares(artefact, start, np.asarray(times, dtype=np.float64)) @ interval_hazards(artefact)
    )


def known_shares(artefact: Artefact, patients: Cohort) -> Mapping[str, Floats]:
    """Return for each layer of the model the (n,) share of its cells that is known of each patient."""
    manifest = artefact.manifest
    wide = {layer.name: layer for layer in manifest.layers}
    shares: dict[str, Floats] = {}
    for name in layers_of(manifest.design):
        if name in wide:
            cells = patients.layer_matrix(name, wide[name].features)
        else:
            cells = patients.matrix(tuple(column for column in manifest.design if column.layer == name))
        shares[name] = (~np.isnan(cells)).mean(axis=1)
    return shares


def interval_hazards(artefact: Artefact) -> Floats:
    """Return the (K,) baseline hazard of each interval, of a patient at the means."""
    return np.diff(artefact.cumulative_hazard, prepend=0.0)


def interval_shares(artefact: Artefact, start: float, times: Floats) -> Floats:
    """Return the (m, K) shares of each interval that lie between `start` and `start + times`.

    With exact times a hazard lies at its time as a whole. Beyond the last edge nothing was observed, so no hazard is
    added there.
    """
    edges = artefact.edges
    end = (start + times)[:, None]
    if artefact.manifest.exact_times:
        return ((edges > start) & (edges <= end)).astype(np.float64)
    lower = np.concatenate(([0.0], edges[:-1]))
    seen = np.minimum(end, edges) - np.maximum(start, lower)
    return np.clip(seen / (edges - lower), 0.0, 1.0)


def _standard_error(artefact: Artefact, patients: Cohort, shares: Floats, baseline: Floats) -> Floats | None:
    """Return the (n, m) standard errors of log H(t | x); 0 where no hazard has been added yet."""
    covariance, arrays = artefact.covariance, artefact.arrays
    if covariance is None or "hazard_variance" not in arrays:
        return None
    x = model_matrix(artefact, patients)
    begun = baseline > 0
    below = np.where(begun, baseline, 1.0)
    alone = (shares**2 @ arrays["hazard_variance"]) / below**2
    # u' V u = x' V x + 2 x' V w + w' V w with w of the time alone: no (n, m, p) array.
    w = (shares @ arrays["hazard_slope"]) / below[:, None]
    x_covariance = x @ covariance
    squared = (x_covariance * x).sum(axis=1)[:, None] + 2 * x_covariance @ w.T + ((w @ covariance) * w).sum(axis=1)
    return np.where(begun, np.sqrt(np.maximum(alone + squared, 0.0)), 0.0)
