"""What a site may be asked about wide layers: part of the inbound check (`privacy.inbound`). Pure, no IO.

Scores of components are as far apart as the hub's loadings make them, so a coefficient says nothing without them. The
site knows how far: in the last round on components it released the products of its patients' places along the hub's
basis, and loadings that an honest hub sends lie in that basis. This holds that

- a basis is orthonormal, so that no direction is stretched;
- means and units of features lie within the dictionary's range of the layer, and the columns that stand for layers
  are not scaled a second time;
- loadings lie in the last basis, at right angles to each other and of one length, and so the spread of the scores at
  this site follows from what it released: `second_moments`, by which `privacy.inbound` measures coefficients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.design import LayerDesign, design_columns, layer_designs
from schemas.plan import Plan

Floats = NDArray[np.float64]
Arrays = Mapping[str, Floats]

# Of an orthonormal basis: qr leaves about 1e-15.
_ORTHONORMAL = 1e-6
_SUMS = ("observed", "total", "squares")


def layers_of(plan: Plan) -> dict[str, LayerDesign]:
    """Return the plan's wide layers by name."""
    return {layer.name: layer for layer in layer_designs(plan.study, plan.dictionary)}


def bases_hold(sent: Arrays, layers: Sequence[str], asked: NDArray[np.bool_]) -> bool:
    """Whether every basis that is sent, ([F,] m, w), is orthonormal in the folds that are asked."""
    for name in layers:
        if f"{name}_basis" in sent:
            basis = _by_fold(sent[f"{name}_basis"], 2)[asked]
            gram = np.matmul(basis.transpose(0, 2, 1), basis)
            if np.max(np.abs(gram - np.eye(gram.shape[-1])), initial=0.0) > _ORTHONORMAL:
                return False
    return True


def array_holds(layer: LayerDesign, array: str, sent: Floats, basis: Floats | None, plan: Plan) -> bool:
    """Whether an array of a layer that is sent for the first time can be what an earlier step found.

    Args:
        layer: Whose it is.
        array: ``mean``, ``scale`` or ``loadings``.
        sent: The array, perhaps with folds in front.
        basis: The last one that this site answered about, if any.
        plan: Of the run.
    """
    if array == "loadings":
        return _loadings_hold(_by_fold(sent, 2), None if basis is None else _by_fold(basis, 2))
    low, high = _range(layer, plan)
    if array == "mean":  # of a feature that nobody knows: 0
        slack = 1e-9 * (high - low) if np.isfinite(high - low) else 0.0
        return bool((((sent >= low - slack) & (sent <= high + slack)) | (sent == 0)).all())
    return bool(((sent >= 0) & (sent <= (high - low) / 2 * (1 + 1e-9))).all())


def released_sums(step: str, summand: Arrays) -> dict[str, Floats]:
    """Return what to remember of a summand: a layer's own sums, or products along its basis, per patient."""
    own: dict[str, Floats] = {}
    patients = np.maximum(np.asarray(summand.get("n_patients", 1.0)), 1.0)[..., None]
    for name in {array.rpartition("_")[0] for array in summand} - {""}:
        if f"{name}_gram" in summand:
            own[f"{step}.{name}_gram"] = summand[f"{name}_gram"] / patients
        if all(f"{name}_{one}" in summand for one in _SUMS):
            own[f"{step}.{name}_sums"] = np.stack([summand[f"{name}_{one}"] / patients for one in _SUMS], axis=-2)
    return own


def score_moments(loadings: Floats, basis: Floats, gram: Floats) -> Floats:
    """Return ([F,] r, r): this site's mean products of each pair of scores, from what it released.

    Args:
        loadings: ([F,] m, r).
        basis: ([F,] m, w) in which they lie.
        gram: ([F,] w (w + 1) / 2) of the basis, per patient.
    """
    width = basis.shape[-1]
    upper = np.triu_indices(width)
    full = np.zeros((*gram.shape[:-1], width, width))
    full[..., upper[0], upper[1]] = gram
    full[..., upper[1], upper[0]] = gram
    turned = np.swapaxes(basis, -1, -2) @ loadings
    return np.asarray(np.swapaxes(turned, -1, -2) @ full @ turned, dtype=np.float64)


def feature_moments(sums: Floats, mean: Floats, scale: Floats) -> Floats:
    """Return ([F,] m): this site's mean square of each standardised feature, from what it released."""
    observed, total, squares = (sums[..., row, :] for row in range(len(_SUMS)))
    about_mean = np.maximum(squares - 2 * mean * total + observed * mean**2, 0.0)
    return np.divide(about_mean, scale**2, out=np.zeros_like(about_mean), where=scale > 0)


@dataclass(frozen=True)
class Columns:
    """Where the columns of the model's matrix stand.

    Attributes:
        n_covariates: The first ones.
        layers: Then, in order, each layer's.
    """

    n_covariates: int
    layers: tuple[LayerDesign, ...]

    def of_layers(self) -> list[tuple[LayerDesign, slice]]:
        """Return each layer with its columns."""
        found, start = [], self.n_covariates
        for layer in self.layers:
            found.append((layer, slice(start, start + layer.n_columns)))
            start += layer.n_columns
        return found


def squared_lengths(beta: Floats, columns: Columns, moments: Mapping[str, Floats], *, of_features: bool) -> Floats:
    """Return (F,) the mean square, over this site's patients, of what layers add to the log hazard.

    Features of a layer without components count as if they were independent, as covariates do.

    Args:
        beta: (F, p).
        columns: Of the model.
        moments: Layer -> `score_moments` or `feature_moments`; one that is missing adds nothing.
        of_features: Whether layers without components count.
    """
    total = np.zeros(beta.shape[0])
    for layer, place in columns.of_layers():
        own = moments.get(layer.name)
        if own is None:
            continue
        part = beta[:, place]
        if layer.n_components:
            total += np.einsum("fi,fij,fj->f", part, np.broadcast_to(own, (len(part), *own.shape[-2:])), part)
        elif of_features:
            total += (part**2 * own).sum(axis=-1)
    return np.maximum(total, 0.0)


def columns_of(plan: Plan) -> Columns:
    """Return where the plan's columns stand."""
    layers = tuple(layers_of(plan).values())
    p = len(design_columns(plan.study, plan.dictionary))
    return Columns(p - sum(layer.n_columns for layer in layers), layers)


def lengths(beta: Floats, columns: Columns, moments: Arrays | None = None) -> Floats:
    """Return the (F,) lengths of coefficients per unit of the model.

    Scores of components have no unit: they count by their spread at this site, where `moments` say it.
    """
    beta = np.atleast_2d(beta)
    per_unit = np.ones(beta.shape[-1], dtype=np.bool_)
    for layer, place in columns.of_layers():
        per_unit[place] = not layer.n_components
    squares = np.asarray((beta[:, per_unit] ** 2).sum(axis=-1), dtype=np.float64)
    return np.sqrt(squares + squared_lengths(beta, columns, moments or {}, of_features=False))


def _loadings_hold(loadings: Floats, basis: Floats | None) -> bool:
    gram = np.matmul(loadings.transpose(0, 2, 1), loadings)
    squares = np.diagonal(gram, axis1=1, axis2=2)
    largest = squares.max(axis=1, initial=0.0)[:, None]
    if bool(((squares > 0) & (np.abs(squares - largest) > _ORTHONORMAL * largest)).any()):
        return False
    apart = gram - squares[:, :, None] * np.eye(gram.shape[-1])
    if bool((np.abs(apart) > _ORTHONORMAL * largest[:, :, None]).any()):
        return False
    if basis is None:
        return True
    beside = loadings - basis @ np.matmul(basis.transpose(0, 2, 1), loadings)
    return bool((np.abs(beside) <= _ORTHONORMAL * np.sqrt(largest)[:, :, None]).all())


def _range(layer: LayerDesign, plan: Plan) -> tuple[float, float]:
    """Return the dictionary's range of a layer's cells, transformed as the model's are."""
    described = plan.dictionary.wide_layer(layer.name)
    if described is None or described.type == "boolean":
        return (-np.inf, np.inf) if described is None else (0.0, 1.0)
    ends = (-np.inf if described.min is None else described.min, np.inf if described.max is None else described.max)
    if layer.transform == "none":
        return ends
    low, high = (float(np.copysign(np.log1p(abs(end)), end)) for end in ends)
    return low, high


def _by_fold(array: Floats, n_axes: int) -> Floats:
    return array if array.ndim > n_axes else array[None]
