"""How a patient's row of the model's matrix is made: the only place where cells become x.

Covariates are standardised. A wide layer's cells are transformed, standardised and clipped (Z); where the study takes
components, x holds the scores Z @ loadings, else Z itself. Every step that works on x, at a site or in `simulate`,
makes it here, from arrays that the hub sends.

Rules: a missing cell is the mean of its column; a column that is constant, or that nobody observed, is exactly
zero everywhere and so gets weight zero. Every log hazard is relative to a patient at the means: centring changes
no coefficient, and it is what makes a shift of all log hazards change nothing. Covariates are not clipped: the
dictionary bounds clinical columns, and a clipped column would have no coefficient on its original scale. Cells of
wide layers have heavy tails and are clipped at +-5 standard deviations. A patient without a layer has scores 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.adjustment import corrected
from models.step import Arrays, Context, Floats
from schemas.cohort import Cohort
from schemas.design import DesignColumn, LayerDesign
from schemas.dictionary import Transform
from schemas.plan import ArraySpec

# Sums in the columns' own units: a count of cells per litre is large, and its square larger.
SUM_BOUND = 1e18
CLIP = 5.0
"""Cells of wide layers count as at most this many standard deviations from the mean."""

# Scores: Z of m features is at most 5 sqrt(m) long, loadings at most sqrt(30 n / ||Z||^2).
_LOADING_BOUND = 1e6
# A cell this close to the mean, relative to its size, equals it up to rounding.
_ROUNDING = 1e-12


class Preparation:
    """Makes the model's matrix of a plan.

    Args:
        context: Its design and layers.
    """

    def __init__(self, context: Context) -> None:
        self._p = len(context.design)
        self._layers = context.layers
        self._covariates = covariates_of(context)
        self._key = (context.design, context.layers)

    def specs(self) -> tuple[ArraySpec, ...]:
        """Return what a site is sent to make x: the first arrays of whatever a step sends.

        `mean` and `scale` are (p,); columns of wide layers have mean 0 and scale 1 there, and (m,) `{layer}_mean` and
        `{layer}_scale` of their own; with r components a layer has (m, r) `{layer}_loadings`.
        """
        specs = [
            ArraySpec(
                name="mean", shape=(self._p,), meaning="mean of each covariate over all sites", bound=SUM_BOUND
            ),
            ArraySpec(name="scale", shape=(self._p,), meaning="unit of each covariate in the model", bound=SUM_BOUND),
        ]
        for layer in self._layers:
            specs += layer_specs(layer)
            if layer.n_components:
                specs.append(_loadings_spec(layer))
        return tuple(specs)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of `specs`: the arrays without which a model cannot score anybody."""
        return tuple(spec.name for spec in self.specs())

    def matrix(self, cohort: Cohort, sent: Arrays) -> Floats:
        """Return the (n, p) matrix of the model, read-only; `sent` holds the arrays of `specs`."""
        given = tuple(sent[name] for name in self.names)
        known = cohort.memo.get("matrix", self._key, given)
        if known is not None:
            return known
        q = len(self._covariates)
        blocks = [standardised(cohort, self._covariates, sent["mean"][:q], sent["scale"][:q])]
        blocks += [self._block(cohort, layer, sent) for layer in self._layers]
        x = np.hstack(blocks) if self._layers else blocks[0]
        return cohort.memo.put("matrix", self._key, given, x)

    def log_hazard(self, cohort: Cohort, sent: Arrays) -> Floats:
        """Return the (n,) log hazards, relative to a patient at the means; `sent` also holds `beta`, (p,).

        Row sums and not a matrix product: its order of adding depends on the row, and equal patients must stay tied.
        """
        return np.asarray((self.matrix(cohort, sent) * sent["beta"]).sum(axis=1), dtype=np.float64)

    def _block(self, cohort: Cohort, layer: LayerDesign, sent: Arrays) -> Floats:
        z = layer_z(cohort, layer, sent)
        return z @ sent[f"{layer.name}_loadings"] if layer.n_components else z


def covariates_of(context: Context) -> tuple[DesignColumn, ...]:
    """Return the design's first columns, those that stand for no wide layer."""
    return context.design[: len(context.design) - sum(layer.n_columns for layer in context.layers)]


def layer_specs(layer: LayerDesign) -> tuple[ArraySpec, ArraySpec]:
    """Return what a site is sent to standardise a wide layer."""
    shape = (layer.n_features,)
    what = f"of each of the {layer.n_features:,} {layer.name} features over all sites"
    return (
        ArraySpec(name=f"{layer.name}_mean", shape=shape, meaning=f"mean {what}", bound=SUM_BOUND),
        ArraySpec(name=f"{layer.name}_scale", shape=shape, meaning=f"unit {what}; 0: left out", bound=SUM_BOUND),
    )


def _loadings_spec(layer: LayerDesign) -> ArraySpec:
    return ArraySpec(
        name=f"{layer.name}_loadings",
        shape=(layer.n_features, layer.n_components),
        meaning=f"weight of each {layer.name} feature in each component",
        bound=_LOADING_BOUND,
    )


def standardised(cohort: Cohort, design: Sequence[DesignColumn], mean: Floats, scale: Floats) -> Floats:
    """Return the (n, p) standardised covariates: (x - mean) / scale, missing cells at the mean, hence 0.

    Cells that equal the mean up to rounding are exactly 0, so that a constant column carries no information at
    all rather than rounding noise.
    """
    x = cohort.matrix(design)
    difference = x - mean
    at_mean = np.isnan(x) | (np.abs(difference) <= _ROUNDING * np.abs(mean))
    difference[at_mean] = 0.0
    return difference / scale


def transformed(values: Floats, transform: Transform) -> Floats:
    """Return cells as the model takes them; NaN stays NaN.

    ``sign-log1p`` is sign(x) log(1 + |x|). ``log1p`` is the same, so that a cell below 0, which its layer should not
    have, stays a number.
    """
    if transform == "none":
        return values
    return np.copysign(np.log1p(np.abs(values)), values)


def layer_patients(cohort: Cohort, layer: LayerDesign) -> int:
    """Return of how many patients any feature of a wide layer is known."""
    known = cohort.memo.get(f"patients {layer.name}", layer, ())
    if known is None:
        cells = cohort.layer_matrix(layer.name, layer.features)
        n = np.array(float((~np.isnan(cells)).any(axis=1).sum()))
        known = cohort.memo.put(f"patients {layer.name}", layer, (), n)
    return int(known)


def _on_all_sites_scale(cohort: Cohort, layer: LayerDesign, mean: Floats, scale: Floats) -> Floats:
    """Return (n, m) transformed cells, less the mean and by the unit of all sites; NaN where missing."""
    z = transformed(cohort.layer_matrix(layer.name, layer.features), layer.transform) - mean
    z *= np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 0)
    return z


def layer_z(cohort: Cohort, layer: LayerDesign, sent: Arrays) -> Floats:
    """Return Z, (n, m), of a wide layer, read-only.

    Z = clip((cell - mean) / scale, -5, 5) of the transformed cells; 0 where the cell is missing or the scale 0. Where
    the study asks for it each site corrects its location and scale before the clip (`models.adjustment`).

    Args:
        cohort: Of one site.
        layer: In the model.
        sent: Holds `{layer}_mean` and `{layer}_scale`.
    """
    mean, scale = sent[f"{layer.name}_mean"], sent[f"{layer.name}_scale"]
    known = cohort.memo.get(f"z {layer.name}", layer, (mean, scale))
    if known is not None:
        return known
    used = scale > 0
    z = _on_all_sites_scale(cohort, layer, mean, scale)
    if layer.adjust:
        for rows, origin in cohort.by_site():
            own = z[rows]
            learned = own if origin is None else _on_all_sites_scale(origin.patients, layer, mean, scale)
            z[rows] = corrected(own, learned, used)
    np.clip(z, -CLIP, CLIP, out=z)
    z[np.isnan(z)] = 0.0
    z[:, ~used] = 0.0
    return cohort.memo.put(f"z {layer.name}", layer, (mean, scale), z)
