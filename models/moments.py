"""Means and standard deviations over all sites, of the covariates and of the wide layers' features.

What is made of them, the model's matrix, is `models.preparation`. Sums of a wide layer are over its transformed
cells; a feature that is constant, known in too few patients of the federation, or different from 0 in too small a
share of them, gets scale 0 and so weight zero.
"""

from __future__ import annotations

import numpy as np

from models.preparation import SUM_BOUND, covariates_of, layer_patients, transformed
from models.step import Arrays, Context, Floats, Turn
from schemas.cohort import Cohort
from schemas.design import LayerDesign
from schemas.plan import ArraySpec, PartSpec

SQUARES_BOUND = 1e24
MIN_OBSERVED = 10
"""Patients of the federation in whom a feature of a wide layer must be known to take part."""

# The variance is a difference of two sums; what is below this share of them is rounding, not spread.
_CONSTANT = 1e-13
# No cell's logarithm exceeds 710: sums of them need no more digits than these.
_LOG_SUM_BOUND = 1e9
_LOG_SQUARES_BOUND = 1e12


class Moments:
    """Count, sum and sum of squares of each column's observed cells.

    Settings:
        centres: A fixed number near the mean of each of the c covariates (default 0), subtracted before squaring, so
            that a column far from 0 keeps its digits; the plan takes the middle of the dictionary's range.
        standardise: Whether the model works on covariates divided by their standard deviation (default True); if
            not, every `scale` is 1. Features of wide layers are always standardised.
        layer_floor: A site with patients of a wide layer, but fewer than this, adds nothing to the layer's sums
            (default 0): the floor under sums that nobody masks.

    State when done (p columns with those that stand for wide layers, whose mean is 0 and scale 1; c without):
        mean: (p,) means over observed cells; the centre where no cell is observed.
        scale: (p,) standard deviations (dividing by n) over observed cells; 1 where constant or unobserved.
        standard_deviation: (p,) the same whether or not the model uses it; 0 where constant or unobserved.
        n_observed: (c,) observed cells.
        n_patients: () patients.
        {layer}_mean, {layer}_scale: (m,) of a wide layer's transformed features; scale 0 where a feature takes no
            part.
        {layer}_n_patients: () patients of whom any cell of the layer is known.
    """

    def __init__(self, context: Context) -> None:
        self._covariates = covariates_of(context)
        self._layers = context.layers
        self._n_layer_columns = len(context.design) - len(self._covariates)
        c = len(self._covariates)
        self._centres = np.asarray(context.settings.get("centres", [0.0] * c), dtype=np.float64)
        self._standardise = bool(context.settings.get("standardise", True))
        self._floor = int(context.settings.get("layer_floor", 0))
        if self._centres.shape != (c,):
            raise ValueError(f"{self._centres.size} centres for {c} columns")

    def parts(self) -> tuple[PartSpec, ...]:
        """Return the one question: the sums."""
        c = len(self._covariates)
        releases = [
            n_patients_spec(),
            ArraySpec(name="n_observed", shape=(c,), meaning="patients in whom each covariate is known"),
            ArraySpec(
                name="total", shape=(c,), meaning="sum of each covariate, from a fixed centre", bound=SUM_BOUND
            ),
            ArraySpec(
                name="total_squares",
                shape=(c,),
                meaning="sum of squares of each covariate, from a fixed centre",
                bound=SQUARES_BOUND,
            ),
        ]
        for layer in self._layers:
            releases += _layer_releases(layer)
        return (PartSpec(name="sums", sends=(), releases=tuple(releases), times=1),)

    def begin(self, inputs: Arrays) -> Turn:
        """Ask for the sums."""
        return Turn({}, "sums")

    def local(self, part: str, sent: Arrays, cohort: Cohort) -> Arrays:
        """Return this site's sums."""
        x = cohort.matrix(self._covariates) - self._centres
        observed = ~np.isnan(x)
        x = np.where(observed, x, 0.0)
        found = {
            "n_patients": np.array(float(cohort.n_patients)),
            "n_observed": observed.sum(axis=0).astype(np.float64),
            "total": x.sum(axis=0),
            "total_squares": (x * x).sum(axis=0),
        }
        for layer in self._layers:
            found |= self._layer_sums(layer, cohort)
        return found

    def finish(self, part: str, state: Arrays, inputs: Arrays, total: Arrays) -> Turn:
        """Return means and standard deviations."""
        offset, variance = _spread(total["n_observed"], total["total"], total["total_squares"])
        scale = np.sqrt(np.where(variance > 0, variance, 1.0))
        of_layers = np.zeros(self._n_layer_columns)
        done = {
            "mean": np.concatenate((self._centres + offset, of_layers)),
            "scale": np.concatenate((scale if self._standardise else np.ones_like(scale), of_layers + 1)),
            "standard_deviation": np.concatenate((np.sqrt(variance), of_layers + 1)),
            "n_observed": total["n_observed"],
            "n_patients": total["n_patients"],
        }
        for layer in self._layers:
            done |= _layer_moments(layer, total)
        return Turn(done, None)

    def shrink(self, part: str, state: Arrays) -> Turn:
        """Ask the remaining sites the same."""
        return Turn(state, part)

    def _layer_sums(self, layer: LayerDesign, cohort: Cohort) -> dict[str, Floats]:
        cells = transformed(cohort.layer_matrix(layer.name, layer.features), layer.transform)
        n = patients_behind(cohort, layer, self._floor)
        known = ~np.isnan(cells) & (n > 0)
        cells = np.where(known, cells, 0.0)
        return {
            f"{layer.name}_n_patients": np.array(float(n)),
            f"{layer.name}_observed": known.sum(axis=0).astype(np.float64),
            f"{layer.name}_total": cells.sum(axis=0),
            f"{layer.name}_squares": np.einsum("ij,ij->j", cells, cells),
            f"{layer.name}_nonzero": np.count_nonzero(cells, axis=0).astype(np.float64),
        }


def patients_behind(cohort: Cohort, layer: LayerDesign, floor: int) -> int:
    """Return the patients behind a site's sums of a wide layer; 0 where they are fewer than `floor`."""
    n = layer_patients(cohort, layer)
    return n if n >= floor else 0


def _layer_releases(layer: LayerDesign) -> list[ArraySpec]:
    shape, name = (layer.n_features,), layer.name
    logs = layer.transform != "none"
    what = f"each of {layer.n_features:,} {name} features" + (" (its logarithm)" if logs else "")
    return [
        ArraySpec(name=f"{name}_n_patients", shape=(), meaning=f"patients with layer {name}"),
        ArraySpec(name=f"{name}_observed", shape=shape, meaning=f"patients in whom {what} is known"),
        ArraySpec(
            name=f"{name}_total", shape=shape, meaning=f"sum of {what}", bound=_LOG_SUM_BOUND if logs else SUM_BOUND
        ),
        ArraySpec(
            name=f"{name}_squares",
            shape=shape,
            meaning=f"sum of squares of {what}",
            bound=_LOG_SQUARES_BOUND if logs else SQUARES_BOUND,
        ),
        ArraySpec(name=f"{name}_nonzero", shape=shape, meaning=f"patients in whom {what} is not 0"),
    ]


def _layer_moments(layer: LayerDesign, total: Arrays) -> dict[str, Floats]:
    sums = {name: total[f"{layer.name}_{name}"] for name in ("observed", "total", "squares", "nonzero")}
    observed = sums["observed"]
    mean, variance = _spread(observed, sums["total"], sums["squares"])
    takes_part = (observed >= MIN_OBSERVED) & (sums["nonzero"] >= layer.min_prevalence * observed)
    return {
        f"{layer.name}_mean": mean,
        f"{layer.name}_scale": np.sqrt(np.where(takes_part, variance, 0.0)),
        f"{layer.name}_n_patients": total[f"{layer.name}_n_patients"],
    }


def _spread(observed: Floats, total: Floats, squares: Floats) -> tuple[Floats, Floats]:
    """Return means and variances, dividing by n; exactly 0 variance where a column is constant or unobserved."""
    n = np.maximum(observed, 1.0)
    mean = total / n
    mean_square = squares / n
    variance = mean_square - mean**2
    return mean, np.where(variance > _CONSTANT * mean_square, variance, 0.0)


def n_patients_spec() -> ArraySpec:
    """Return the array that every release includes: how many patients stand behind it."""
    return ArraySpec(name="n_patients", shape=(), meaning="patients behind these sums")


def original_scale(beta: Floats, covariance: Floats, scale: Floats) -> tuple[Floats, Floats]:
    """Return coefficients and standard errors per unit of the original columns.

    Args:
        beta: (p,) on the model's scale.
        covariance: (p, p) of `beta`.
        scale: (p,) as `Moments` gave it.

    Returns:
        (p,) coefficients and (p,) standard errors; a standard error of 0 means that the data do not determine
        the coefficient.
    """
    return beta / scale, np.sqrt(np.diag(covariance)) / scale
