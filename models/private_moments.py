"""Means and standard deviations of sums to which noise is added (docs/differential-privacy.md).

What one patient can add is bounded by the dictionary's range of each column, so nothing needs to be clipped that the
dictionary allows. An indicator's unit is fixed at one half, the standard deviation of a balanced one, and nothing is
spent on it; a number's unit is its standard deviation. (Gelman 2008, Statistics in Medicine 27:2865, puts both on one
scale so.) Dividing a rare indicator by its small standard deviation would give its few patients large covariates,
which the clipping of gradients takes away again, and every other coefficient's noise would grow for it.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from models.private import noise_of
from models.step import Arrays, Context, Floats, Turn
from schemas.cohort import Cohort
from schemas.plan import ArraySpec, PartSpec

INDICATOR_SCALE = 0.5
# The smallest standard deviation that a noisy variance can give, in half ranges of the column.
_SMALLEST_DEVIATION = 0.05


class PrivateMoments:
    """Patients, observed cells, sums and sums of squares, all in units of each column's half range.

    All numbers of a release carry the same noise, so what few numbers many others rest on is multiplied by a weight
    first: the count of patients, and the sums of squares where few columns are numbers, weigh at least a quarter of
    what the sums do together.

    Settings:
        centres: (p,) middles of the dictionary's ranges; 1/2 for an indicator.
        half_ranges: (p,) half their widths.
        is_number: (p,) False for an indicator.
        may_miss: (p,) whether a cell can be empty; where none can, observed cells are patients and cost nothing.
        share: Of the study's privacy budget.
        honest_sites: Whose noise suffices.

    State when done:
        mean: (p,) noisy means over observed cells, within the ranges.
        scale: (p,) units of the covariates: noisy standard deviations of numbers, `INDICATOR_SCALE` of indicators.
        standard_deviation: (p,) noisy standard deviations; an indicator's follows from its mean.
        n_observed: (p,) noisy, at least 1.
        n_patients: () noisy, at least 1.
    """

    def __init__(self, context: Context) -> None:
        self._settings = context.settings
        self._design = context.design
        self._centres = np.asarray(context.settings["centres"], dtype=np.float64)
        self._half_ranges = np.asarray(context.settings["half_ranges"], dtype=np.float64)
        self._is_number: NDArray[np.bool_] = np.asarray(context.settings["is_number"], dtype=np.bool_)
        self._may_miss: NDArray[np.bool_] = np.asarray(context.settings["may_miss"], dtype=np.bool_)
        p = len(context.design)
        if any(a.shape != (p,) for a in (self._centres, self._half_ranges, self._is_number, self._may_miss)):
            raise ValueError(f"centres, half ranges and kinds are needed for each of {p} columns")
        self._count_weight = math.sqrt(max(p / 4, 1.0))
        self._square_weight = math.sqrt(max(p / (4 * max(int(self._is_number.sum()), 1)), 1.0))

    def parts(self) -> tuple[PartSpec, ...]:
        """Return the one question: the sums."""
        p, q, m = len(self._design), int(self._is_number.sum()), int(self._may_miss.sum())
        releases = [
            ArraySpec(name="count", shape=(), meaning=f"patients, times {self._count_weight:.3g}"),
            ArraySpec(name="total", shape=(p,), meaning="sum of each covariate, from its middle, in half ranges"),
        ]
        if m:
            meaning = "patients in whom each covariate that may be empty is known"
            releases.append(ArraySpec(name="n_observed", shape=(m,), meaning=meaning))
        if q:
            meaning = f"sum of squares of each covariate that is a number, times {self._square_weight:.3g}"
            releases.append(ArraySpec(name="total_squares", shape=(q,), meaning=meaning))
        sensitivity = math.sqrt(self._count_weight**2 + p + m + q * self._square_weight**2)
        noise = noise_of(self._settings, sensitivity=sensitivity)
        return (PartSpec(name="sums", sends=(), releases=tuple(releases), times=1, noise=noise),)

    def begin(self, inputs: Arrays) -> Turn:
        """Ask for the sums."""
        return Turn({}, "sums")

    def local(self, part: str, sent: Arrays, cohort: Cohort) -> Arrays:
        """Return this site's sums."""
        x = (cohort.matrix(self._design) - self._centres) / self._half_ranges
        observed = ~np.isnan(x)
        x = np.clip(np.where(observed, x, 0.0), -1.0, 1.0)
        sums = {
            "count": np.array(self._count_weight * cohort.n_patients),
            "total": x.sum(axis=0),
            "n_observed": observed[:, self._may_miss].sum(axis=0).astype(np.float64),
            "total_squares": self._square_weight * (x[:, self._is_number] ** 2).sum(axis=0),
        }
        return {spec.name: sums[spec.name] for spec in self.parts()[0].releases}

    def finish(self, part: str, state: Arrays, inputs: Arrays, total: Arrays) -> Turn:
        """Return means and units, held to what exact ones could be."""
        n_patients = max(float(total["count"]) / self._count_weight, 1.0)
        n: Floats = np.full(len(self._design), n_patients)
        if self._may_miss.any():
            n[self._may_miss] = np.maximum(total["n_observed"], 1.0)
        offset = np.clip(total["total"] / n, -1.0, 1.0)
        deviation = np.sqrt(1.0 - offset**2)  # of an indicator, whose values are -1 and 1 in half ranges
        scale: Floats = np.full(offset.size, INDICATOR_SCALE)
        if self._is_number.any():
            number = self._is_number
            variance = total["total_squares"] / self._square_weight / n[number] - offset[number] ** 2
            deviation[number] = np.sqrt(np.clip(variance, _SMALLEST_DEVIATION**2, 1.0))
            scale[number] = (deviation * self._half_ranges)[number]
        done = {
            "mean": self._centres + self._half_ranges * offset,
            "scale": scale,
            "standard_deviation": deviation * self._half_ranges,
            "n_observed": n,
            "n_patients": np.array(n_patients),
        }
        return Turn(done, None)

    def shrink(self, part: str, state: Arrays) -> Turn:
        """Ask the remaining sites the same."""
        return Turn(state, part)
