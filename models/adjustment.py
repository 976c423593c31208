"""Location and scale of a wide layer at one site: empirical Bayes, so that few patients move little.

Another laboratory, another platform: the same biology comes out shifted and stretched, feature by feature. Johnson,
Li & Rabinovic (2007, Biostatistics 8:118, section 3.2, "ComBat") take each site's mean and variance of every feature,
on the scale of all sites' mean and deviation, and shrink them towards what the site's other features say:

    gamma*  = (n t2 gamma + delta2* m) / (n t2 + delta2*)      m, t2: mean and variance of gamma over features
    delta2* = (b + 1/2 sum (z - gamma*)^2) / (n/2 + a - 1)     a, b: inverse gamma with the moments of delta2

and iterate. Here without covariates: what differs between sites is taken to be the laboratory's and not the
patients', which removes biology where sites differ in their patients (`experiments/adjustment` shows the cost).
Nothing more leaves the site for it: means and deviations over all sites come from the summed moments, and each site
corrects itself. Outcomes take no part. Patients who are judged are corrected by those who trained at their site; a
site where nobody trained corrects itself by its own patients. With fewer than `MIN_PATIENTS` known a feature stays.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.step import Floats

MIN_PATIENTS = 10
"""Patients of the site in whom a feature must be known to be corrected."""

_TOLERANCE = 1e-10
_MOST_ROUNDS = 200


def location_scale(z: Floats) -> tuple[Floats, Floats]:
    """Return what to subtract from each feature and to divide it by, at one site.

    Args:
        z: (n, m) on the scale of all sites' means and deviations; NaN where missing.

    Returns:
        (m,) locations and (m,) scales > 0; 0 and 1 for a feature that too few patients have.
    """
    known = ~np.isnan(z)
    n = known.sum(axis=0).astype(np.float64)
    location, scale = np.zeros(z.shape[1]), np.ones(z.shape[1])
    is_enough = n >= MIN_PATIENTS
    if not is_enough.any():
        return location, scale
    n, cells = n[is_enough], np.where(known, z, 0.0)[:, is_enough]
    mean = cells.sum(axis=0) / n
    squares = (np.where(known[:, is_enough], cells - mean, 0.0) ** 2).sum(axis=0)
    location[is_enough], variance = shrunk(n, mean, squares)
    # A feature that is constant at this site, among others that are, has no unit of its own.
    scale[is_enough] = np.sqrt(np.where(variance > 0, variance, 1.0))
    return location, scale


def shrunk(n: Floats, mean: Floats, squares: Floats) -> tuple[Floats, Floats]:
    """Return the (m,) means and variances of the module's equations.

    Args:
        n: (m,) patients behind each feature.
        mean: (m,) of the site.
        squares: (m,) sums of squares about it.
    """
    variance = squares / (n - 1)
    prior_mean, prior_spread = float(mean.mean()), float(mean.var(ddof=1)) if mean.size > 1 else 0.0
    centre, spread = float(variance.mean()), float(variance.var(ddof=1)) if mean.size > 1 else 0.0
    if prior_spread <= 0 or spread <= 0:  # one feature, or features that are all alike: nothing to learn from others
        return mean, variance
    a = (2 * spread + centre**2) / spread
    b = (centre * spread + centre**3) / spread
    location, scale2 = mean, variance
    for _ in range(_MOST_ROUNDS):
        following = (n * prior_spread * mean + scale2 * prior_mean) / (n * prior_spread + scale2)
        about = squares + n * (mean - following) ** 2
        after = (b + about / 2) / (n / 2 + a - 1)
        moved = max(_change(following, location), _change(after, scale2))
        location, scale2 = following, after
        if moved < _TOLERANCE:
            break
    return location, scale2


def _change(after: Floats, before: Floats) -> float:
    return float(np.max(np.abs(after - before) / np.maximum(np.abs(before), 1.0)))


def corrected(z: Floats, learned: Floats, used: NDArray[np.bool_]) -> Floats:
    """Return (n, m) cells of one site, corrected by the patients from whom it learns.

    Args:
        z: (n, m) cells on the scale of all sites.
        learned: (k, m) likewise, of those patients.
        used: (m,) features that take part.
    """
    location, scale = location_scale(learned[:, used])
    z = z.copy()
    z[:, used] = (z[:, used] - location) / scale
    return z
