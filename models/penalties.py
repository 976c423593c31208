"""Ridge penalties of a fit: fixed by the study, or found by an earlier step of the plan."""

from __future__ import annotations

import numpy as np

from models.step import Arrays, Context, Floats

OFF = 1e9
"""A penalty at which a coefficient counts as switched off: it is exactly 0, and its standard error too."""


class Penalties:
    """The (p,) ridge penalties of a fit: of its settings where the study fixes them, else an input of the step."""

    def __init__(self, context: Context) -> None:
        self._p = len(context.design)
        given = context.settings.get("penalties")
        self._fixed = None if given is None else self._checked(np.asarray(given, dtype=np.float64))

    def of(self, inputs: Arrays) -> Floats:
        """Return the penalties, 0 where neither settings nor inputs name any.

        Raises:
            ValueError: When there is not one for each column.
        """
        if self._fixed is not None:
            return self._fixed
        return self._checked(np.asarray(inputs.get("penalties", np.zeros(self._p)), dtype=np.float64))

    def _checked(self, penalties: Floats) -> Floats:
        if penalties.shape != (self._p,):
            raise ValueError(f"{penalties.size} penalties for {self._p} columns")
        return penalties


def penalties_of(context: Context) -> Floats:
    """Return the (p,) ridge penalties of a step's settings, 0 unless given.

    Raises:
        ValueError: When there is not one for each column.
    """
    return Penalties(context).of({})


def switched_off(scale: Floats, penalties: Floats) -> Floats:
    """Return the scale of the information's terms (`models.newton.inverse`) as if switched-off columns had none."""
    return np.where(penalties >= OFF, 0.0, scale)
