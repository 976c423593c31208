"""Means and standard deviations over all sites, and the standardised covariates that every fit works on.

Rules: a missing cell is the mean of its column; a column that is constant, or that nobody observed, is exactly
zero everywhere and so gets weight zero. Every log hazard is relative to a patient at the means: centring changes
no coefficient, and it is what makes a shift of all log hazards change nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.step import Arrays, Context, Floats, Turn
from schemas.cohort import Cohort
from schemas.design import DesignColumn
from schemas.plan import ArraySpec, PartSpec

# Sums in the columns' own units: a count of cells per litre is large, and its square larger.
SUM_BOUND = 1e18
SQUARES_BOUND = 1e24
# The variance is a difference of two sums; what is below this share of them is rounding, not spread.
_CONSTANT = 1e-13
# A cell this close to the mean, relative to its size, equals it up to rounding.
_ROUNDING = 1e-12


class Moments:
    """Count, sum and sum of squares of each column's observed cells.

    Settings:
        centres: p fixed numbers near the columns' means (default 0), subtracted before squaring, so that a column
            far from 0 keeps its digits; the plan takes the middle of the dictionary's range.
        standardise: Whether the model works on columns divided by their standard deviation (default True); if
            not, every `scale` is 1.

    State when done:
        mean: (p,) means over observed cells; the centre where no cell is observed.
        scale: (p,) standard deviations (dividing by n) over observed cells; 1 where constant or unobserved.
        standard_deviation: (p,) the same whether or not the model uses it; 0 where constant or unobserved.
        n_observed: (p,) observed cells.
        n_patients: () patients.
    """

    def __init__(self, context: Context) -> None:
        self._design = context.design
        p = len(context.design)
        self._centres = np.asarray(context.settings.get("centres", [0.0] * p), dtype=np.float64)
        self._standardise = bool(context.settings.get("standardise", True))
        if self._centres.shape != (p,):
            raise ValueError(f"{self._centres.size} centres for {p} columns")

    def parts(self) -> tuple[PartSpec, ...]:
        """Return the one question: the sums."""
        p = len(self._design)
        releases = (
            n_patients_spec(),
            ArraySpec(name="n_observed", shape=(p,), meaning="patients in whom each covariate is known"),
            ArraySpec(
                name="total", shape=(p,), meaning="sum of each covariate, from a fixed centre", bound=SUM_BOUND
            ),
            ArraySpec(
                name="total_squares",
                shape=(p,),
                meaning="sum of squares of each covariate, from a fixed centre",
                bound=SQUARES_BOUND,
            ),
        )
        return (PartSpec(name="sums", sends=(), releases=releases, times=1),)

    def begin(self, inputs: Arrays) -> Turn:
        """Ask for the sums."""
        return Turn({}, "sums")

    def local(self, part: str, sent: Arrays, cohort: Cohort) -> Arrays:
        """Return this site's sums."""
        x = cohort.matrix(self._design) - self._centres
        observed = ~np.isnan(x)
        x = np.where(observed, x, 0.0)
        return {
            "n_patients": np.array(float(cohort.n_patients)),
            "n_observed": observed.sum(axis=0).astype(np.float64),
            "total": x.sum(axis=0),
            "total_squares": (x * x).sum(axis=0),
        }

    def finish(self, part: str, state: Arrays, inputs: Arrays, total: Arrays) -> Turn:
        """Return means and standard deviations."""
        n = np.maximum(total["n_observed"], 1.0)
        offset = total["total"] / n
        mean_square = total["total_squares"] / n
        variance = mean_square - offset**2
        varies = variance > _CONSTANT * mean_square
        scale = np.sqrt(np.where(varies, variance, 1.0))
        done = {
            "mean": self._centres + offset,
            "scale": scale if self._standardise else np.ones_like(scale),
            "standard_deviation": np.sqrt(np.where(varies, variance, 0.0)),
            "n_observed": total["n_observed"],
            "n_patients": total["n_patients"],
        }
        return Turn(done, None)

    def shrink(self, part: str, state: Arrays) -> Turn:
        """Ask the remaining sites the same."""
        return Turn(state, part)


def n_patients_spec() -> ArraySpec:
    """Return the array that every release includes: how many patients stand behind it."""
    return ArraySpec(name="n_patients", shape=(), meaning="patients behind these sums")


def covariate_specs(p: int) -> tuple[ArraySpec, ...]:
    """Return what a site is sent to standardise its covariates: `mean` and `scale`."""
    return (
        ArraySpec(name="mean", shape=(p,), meaning="mean of each covariate over all sites", bound=SUM_BOUND),
        ArraySpec(name="scale", shape=(p,), meaning="unit of each covariate in the model", bound=SUM_BOUND),
    )


def standardised(cohort: Cohort, design: Sequence[DesignColumn], mean: Floats, scale: Floats) -> Floats:
    """Return the (n, p) covariates of the model: (x - mean) / scale, missing cells at the mean, hence 0.

    Cells that equal the mean up to rounding are exactly 0, so that a constant column carries no information at
    all rather than rounding noise. Nothing is clipped: the dictionary bounds clinical columns, and a clipped
    column would have no coefficient on its original scale.
    """
    x = cohort.matrix(design)
    difference = x - mean
    at_mean = np.isnan(x) | (np.abs(difference) <= _ROUNDING * np.abs(mean))
    difference[at_mean] = 0.0
    return difference / scale


def log_hazard(cohort: Cohort, design: Sequence[DesignColumn], mean: Floats, scale: Floats, beta: Floats) -> Floats:
    """Return the (n,) log hazards, relative to a patient at the means; `beta` is on the model's scale.

    Row sums and not a matrix product: its order of adding depends on the row, and equal patients must stay tied.
    """
    return np.asarray((standardised(cohort, design, mean, scale) * beta).sum(axis=1), dtype=np.float64)


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
