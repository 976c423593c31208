"""What the gate did to a summand, in this site's own log: which array, and never a number of it.

The hub gets a code or, under the masks, nothing at all; whoever keeps the site has to find the fault.
"""

from __future__ import annotations

import logging

import numpy as np

from privacy.clip import is_clipped
from schemas.codes import Code
from schemas.messages import Draft, Reply
from schemas.plan import ArraySpec, PartSpec

__all__ = ["log_held"]

log = logging.getLogger("archipel.site")


def log_held(draft: Draft, part: PartSpec, verdict: Reply | Code) -> None:
    """Say which arrays of a draft were held back as not finite or too large, or that it was shortened.

    Args:
        draft: The runner's.
        part: Of the plan.
        verdict: The gate's on it.
    """
    where = f"step {draft.step}, {draft.part}"
    if verdict is Code.RELEASE_NOT_FINITE:
        names = [name for name, array in draft.arrays.items() if not np.isfinite(array).all()]
        log.error("%s: held back, a value that is not a finite number in %s", where, ", ".join(sorted(names)))
    elif verdict is Code.RELEASE_TOO_LARGE:
        names = [spec.name for spec in part.releases if _is_beyond(draft, spec)]
        log.error("%s: held back, a value beyond the plan's bound in %s", where, ", ".join(sorted(names)))
    elif isinstance(verdict, Reply) and verdict.status == "ok" and is_clipped(draft.arrays, part):
        log.warning("%s: the update was longer than the plan's norm and was shortened to it", where)


def _is_beyond(draft: Draft, spec: ArraySpec) -> bool:
    array = draft.arrays.get(spec.name)
    return array is not None and bool((np.abs(array) > spec.bound).any())
