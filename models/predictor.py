"""The log hazard of whatever model a plan fits: linear in the matrix's columns, or a network of them.

Steps that judge a model, or put a baseline under it, ask here, so that each of them serves every method. What a site
is sent is what makes x and one array of numbers, `beta`: p coefficients, or the P weights of the network.
"""

from __future__ import annotations

import numpy as np

from models.network_shape import Shape
from models.preparation import Preparation
from models.step import Arrays, Context, Floats
from schemas.cohort import Cohort
from schemas.plan import ArraySpec


class Predictor:
    """Scores patients with the model of a plan.

    Args:
        context: Its design and layers, and the setting `network` where the model is one.
    """

    def __init__(self, context: Context) -> None:
        self._preparation = Preparation(context)
        self._wide = tuple(layer.name for layer in context.layers)
        self._shape = Shape.of(context) if "network" in context.settings else None
        self._size = len(context.design) if self._shape is None else self._shape.n_weights

    def specs(self) -> tuple[ArraySpec, ...]:
        """Return what a site is sent to score its patients: what makes x, and `beta`."""
        beta = ArraySpec(name="beta", shape=(self._size,), meaning="coefficients of the model")
        return (*self._preparation.specs(), beta)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of `specs`, `beta` last."""
        return (*self._preparation.names, "beta")

    def log_hazard(self, cohort: Cohort, sent: Arrays) -> Floats:
        """Return the (n,) log hazards, relative to a patient at the means."""
        if self._shape is None:
            return self._preparation.log_hazard(cohort, sent)
        x = self._preparation.matrix(cohort, sent)
        present = self._shape.present(cohort, self._wide)
        return np.asarray(self._shape.log_hazard(sent["beta"], x, present), dtype=np.float64)
