"""Limited-memory quasi-Newton search (L-BFGS) for likelihoods with too many coefficients for an information matrix.

Sites send value and gradient; the hub keeps the last few steps with the changes of gradient they made, and from them
the product of the inverse information with a gradient (Nocedal & Wright 2006, "Numerical Optimization", algorithms
7.4 and 7.5). The objective is concave, so every accepted step has curvature, and halving a step that falls short
(their condition 3.6a) is search enough.

The search travels in a step's state between rounds, as `models.newton.Search` does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from models.newton import REFUSED
from models.step import Arrays, DivergedError, Floats

MEMORY = 40
"""Steps that are remembered."""

_ENOUGH_GAIN = 1e-4
_MAX_HALVINGS = 30
# Share of the objective by which summing in another order may change it.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Descent:
    """The search between two rounds. It goes uphill; the name is the literature's.

    Attributes:
        point: (q,) last point that raised the objective.
        objective: There; None before the first answer.
        gradient: (q,) there.
        direction: (q,) along which the next points lie.
        length: Share of `direction` that is being tried.
        steps: (m, q) the last accepted steps, oldest first.
        changes: (m, q) by how much the gradient fell along each.
    """

    point: Floats
    objective: float | None
    gradient: Floats
    direction: Floats
    length: float
    steps: Floats
    changes: Floats

    @staticmethod
    def start(point: Floats) -> Descent:
        """Return the search that first asks at `point`."""
        none = np.zeros((0, point.size))
        return Descent(point, None, np.zeros_like(point), np.zeros_like(point), 1.0, none, none)

    @property
    def candidate(self) -> Floats:
        """The (q,) point at which the likelihood is being asked."""
        return self.point + self.length * self.direction

    def arrays(self) -> dict[str, Floats]:
        """Return the search as a step's state, all finite."""
        return {
            "point": self.point,
            "objective": np.array(0.0 if self.objective is None else self.objective),
            "has_objective": np.array(float(self.objective is not None)),
            "gradient": self.gradient,
            "direction": self.direction,
            "length": np.array(self.length),
            "steps": self.steps,
            "changes": self.changes,
        }

    @staticmethod
    def of(state: Arrays) -> Descent:
        """Return the search that `arrays` wrote."""
        return Descent(
            point=state["point"],
            objective=float(state["objective"]) if state["has_objective"] else None,
            gradient=state["gradient"],
            direction=state["direction"],
            length=float(state["length"]),
            steps=state["steps"],
            changes=state["changes"],
        )

    def falls_short(self, objective: float) -> bool:
        """Whether the candidate gains less than its slope promises, or cannot be evaluated."""
        if not np.isfinite(objective) or objective <= REFUSED / 2:
            return True
        if self.objective is None:
            return False
        promised = self.length * float(self.gradient @ self.direction)
        slack = _ROUNDING * (1 + abs(self.objective))
        return objective < self.objective + _ENOUGH_GAIN * promised - slack

    def halved(self) -> Descent:
        """Return the search that tries half the step.

        Raises:
            DivergedError: When even a minute step does not raise the objective.
        """
        if self.objective is None or self.length < 2.0**-_MAX_HALVINGS:
            raise DivergedError(
                "no step raises the likelihood: add a penalty, or leave out features with values far from all others"
            )
        return replace(self, length=self.length / 2)

    def accepted(self, objective: float, gradient: Floats, curvature: Floats) -> Descent:
        """Return the search from the candidate on.

        Args:
            objective: There.
            gradient: (q,) there.
            curvature: (q,) diagonal of the information there: what the search starts from; 0 where nothing is known,
                and nothing moves.
        """
        steps, changes = self.steps, self.changes
        if self.objective is not None:
            step, change = self.candidate - self.point, self.gradient - gradient
            if float(step @ change) > 1e-14 * float(np.linalg.norm(step) * np.linalg.norm(change)):
                steps, changes = np.vstack((steps, step))[-MEMORY:], np.vstack((changes, change))[-MEMORY:]
        direction = _inverse_times(gradient, curvature, steps, changes)
        if not len(steps):
            # The diagonal alone says too far where many columns go together: up to their number times too far.
            direction /= float(np.sqrt(max(int(np.count_nonzero(curvature > 0)), 1)))
        return Descent(self.candidate, objective, gradient, direction, 1.0, steps, changes)

    def restarted(self) -> Descent:
        """Return the search without what it would compare with: the sum is now over fewer sites."""
        return Descent.start(self.point)

    @property
    def promise(self) -> float:
        """Twice what a quadratic model expects to gain along the direction."""
        return float(self.gradient @ self.direction)


def _inverse_times(gradient: Floats, curvature: Floats, steps: Floats, changes: Floats) -> Floats:
    """Return the inverse information times a gradient (two-loop recursion, Nocedal & Wright algorithm 7.4)."""
    moves = curvature > 0
    unit = np.zeros_like(curvature)
    unit[moves] = 1 / curvature[moves]
    rest = gradient.copy()
    shares: list[float] = []
    for step, change in zip(steps[::-1], changes[::-1], strict=True):
        share = float(step @ rest) / float(step @ change)
        rest -= share * change
        shares.append(share)
    scale = 1.0
    if len(steps):
        scale = float(steps[-1] @ changes[-1]) / float(changes[-1] @ (unit * changes[-1]))
    direction = scale * unit * rest
    for step, change, share in zip(steps, changes, reversed(shares), strict=True):
        direction += step * (share - float(change @ direction) / float(step @ change))
    return np.where(moves, direction, 0.0)
