"""What a step is: three pure functions, `local`, `combine` and `finish`, and the arrays they exchange.

A site computes its summand with `local`; the summands are added (`combine`, the same for every step); the hub
turns the total into the next question or the estimate with `finish`. The simulator and the real federation call
these same functions. A step keeps nothing between calls: what it knows travels in `state`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from schemas.cohort import Cohort
from schemas.design import DesignColumn, LayerDesign
from schemas.errors import ArchipelError
from schemas.plan import PartSpec

Floats = NDArray[np.float64]
Arrays = Mapping[str, Floats]


class DivergedError(ArchipelError):
    """A fit that does not converge, with what to try."""


@dataclass(frozen=True)
class Context:
    """What a step knows of its plan besides its own settings.

    Attributes:
        design: Columns of the model's matrix; p = len(design).
        n_bins: K, the largest number of intervals of the common time grid.
        horizons: Times at which predictions are judged.
        settings: The plan step's settings.
        layers: The wide layers behind the design's last columns.
    """

    design: tuple[DesignColumn, ...]
    n_bins: int
    horizons: tuple[float, ...]
    settings: Mapping[str, Any]
    layers: tuple[LayerDesign, ...] = ()


@dataclass(frozen=True)
class Turn:
    """What the hub knows after a round of a step.

    Attributes:
        state: All of the step's arrays; replaces the former state. When the step is done, later steps read them.
        ask: The part to ask next, or None when the step is done.
    """

    state: Arrays
    ask: str | None


class Step(Protocol):
    """One method of `models.registry`, made for one plan step by ``method(context)``."""

    def parts(self) -> tuple[PartSpec, ...]:
        """Return what this step asks, with the exact arrays: what the plan lists and the gate enforces."""

    def begin(self, inputs: Arrays) -> Turn:
        """Return the step's first state and question, from the arrays of earlier steps."""

    def local(self, part: str, sent: Arrays, cohort: Cohort) -> Arrays:
        """Return one site's summand, exactly the arrays that the part's spec lists as releases."""

    def finish(self, part: str, state: Arrays, inputs: Arrays, total: Arrays) -> Turn:
        """Return the next state and question from the sum over all sites."""

    def shrink(self, part: str, state: Arrays) -> Turn:
        """Return how to go on when a site has left the run (`on_dropout = "continue"`).

        Sums over more sites are not comparable with sums over fewer, so an iterative step forgets what it would
        compare with (the last objective) and goes on from its current iterate; `part` is the one being asked.
        """


def combine(terms: Sequence[Arrays]) -> dict[str, Floats]:
    """Return the sum of the sites' summands, array by array: what the hub, or the secure sum, does."""
    return {name: np.sum([term[name] for term in terms], axis=0) for name in terms[0]}


def sent_arrays(part: PartSpec, state: Arrays, inputs: Arrays) -> dict[str, Floats]:
    """Return what the hub sends for `part`: each array from the step's state, else from its inputs."""
    return {spec.name: state[spec.name] if spec.name in state else inputs[spec.name] for spec in part.sends}
