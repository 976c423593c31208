"""A site's update, shortened to the plan's norm before it leaves or is masked: `PartSpec.norm`.

A masked summand cannot be looked at by anybody else, so what one site may do to a sum has to be limited at that site.
An update whose Euclidean norm, over all arrays of the part together, is beyond the plan's is shortened to that norm
and keeps its direction: one site in six that sends five times its update with the wrong sign then costs the sum one
honest update instead of five. It is shortened and not refused, because a long update may be honest, and a refusal
would stop the run.

It protects against faults (a diverged fit, wrong units, a flipped sign), not against a site that lies: that one has
its own gate, and within the norm it may send what it likes.

Only updates of iterative methods have a norm. Newton's sums, counts and moments are exact statistics: shortened, they
would be the sums of no patients, and the estimate wrong without a word. Those are held to the bound of their array
and refused beyond it. The count of patients (`n_patients`) is left aside: it is what an average is divided by, and
has a bound of its own.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from schemas.plan import PartSpec

__all__ = ["clipped", "is_clipped"]

Floats = NDArray[np.float64]
_COUNT = "n_patients"


def clipped(summand: Mapping[str, Floats], part: PartSpec) -> dict[str, Floats]:
    """Return a summand no longer than the plan's norm for its part; the same where there is none.

    Args:
        summand: Finite arrays of the part's releases.
        part: Of the plan.
    """
    if not is_clipped(summand, part):
        return dict(summand)
    # By the largest element first: squares of numbers near float64's largest would be infinite.
    update = _update(summand)
    largest = max(float(np.max(np.abs(array), initial=0.0)) for array in update.values())
    unit = {name: array / largest for name, array in update.items()}
    factor = (part.norm or 0.0) / _length(unit)
    return {**summand, **{name: array * factor for name, array in unit.items()}}


def is_clipped(summand: Mapping[str, Floats], part: PartSpec) -> bool:
    """Return whether a summand is longer than the plan's norm for its part."""
    return part.norm is not None and _length(_update(summand)) > part.norm


def _update(summand: Mapping[str, Floats]) -> dict[str, Floats]:
    return {name: array for name, array in summand.items() if name != _COUNT}


def _length(arrays: Mapping[str, Floats]) -> float:
    """Return the Euclidean norm of all arrays together; infinite where a square is."""
    with np.errstate(over="ignore"):
        return float(np.sqrt(sum(float(np.sum(np.square(array))) for array in arrays.values())))
