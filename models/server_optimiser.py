"""What the hub does with a summed update: averaging, momentum, or Adam.

As in Reddi et al. 2021, "Adaptive Federated Optimization", algorithm 2: the mean update of a round stands in the
place of the gradient.

An optimiser is a pure function of its state, which travels in the step's state between rounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from models.step import Arrays, Floats

Server = Literal["averaging", "momentum", "adam"]
_MOMENTUM = 0.9
_SECOND = 0.99
_SMALL = 1e-8


@dataclass(frozen=True)
class Optimiser:
    """The rule and the length of its step.

    Attributes:
        rule: ``averaging`` adds the mean update, ``momentum`` a running mean of them, ``adam`` that divided by the
            running root mean square of each coordinate.
        rate: Times that.
    """

    rule: Server
    rate: float

    def start(self, size: int) -> dict[str, Floats]:
        """Return the state before the first update of `size` weights."""
        return {"first": np.zeros(size), "second": np.zeros(size), "updates": np.array(0.0)}

    def step(self, state: Arrays, update: Floats) -> tuple[Floats, dict[str, Floats]]:
        """Return what to add to the weights, and the next state.

        Args:
            state: From `start`, or from the last call.
            update: (size,) mean update of the round, uphill.
        """
        count = float(state["updates"]) + 1
        first = _MOMENTUM * state["first"] + (1 - _MOMENTUM) * update
        second = _SECOND * state["second"] + (1 - _SECOND) * update**2
        after = {"first": first, "second": second, "updates": np.array(count)}
        if self.rule == "averaging":
            return self.rate * update, after
        mean = first / (1 - _MOMENTUM**count)  # the running means start at 0 and would be too small at first
        if self.rule == "momentum":
            return self.rate * mean, after
        return self.rate * mean / (np.sqrt(second / (1 - _SECOND**count)) + _SMALL), after
