"""Ridge penalties of a fit: fixed by the study, or found by an earlier step of the plan."""

from __future__ import annotations

import numpy as np

from models.step import Arrays, Context, Floats

OFF = 1e9
"""A penalty from which on a coefficient is exactly 0: the layer is switched off."""


def given_penalties(context: Context) -> Floats | None:
    """Return the (p,) penalties of a step's settings; None where an earlier step finds them.

    Raises:
        ValueError: When there is not one for each column.
    """
    if "penalties" not in context.settings:
        return None
    penalties = np.asarray(context.settings["penalties"], dtype=np.float64)
    if penalties.shape != (len(context.design),):
        raise ValueError(f"{penalties.size} penalties for {len(context.design)} columns")
    return penalties


def penalties_for(given: Floats | None, inputs: Arrays, p: int) -> Floats:
    """Return the (p,) penalties of a fit: those given, else its input `penalties`, else 0."""
    if given is not None:
        return given
    return np.asarray(inputs.get("penalties", np.zeros(p)), dtype=np.float64)
