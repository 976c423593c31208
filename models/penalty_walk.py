"""Where a search for penalties is between two rounds: its vector, the folds' points, and what has been tried."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from models.newton import REFUSED
from models.penalty_model import FoldModels
from models.step import Arrays, Floats


@dataclass(frozen=True)
class Points:
    """One point for each inner fold.

    Attributes:
        alpha: (F, K) log baseline hazards.
        beta: (F, p) log hazard ratios.
    """

    alpha: Floats
    beta: Floats


@dataclass(frozen=True)
class Tried:
    """A vector of penalties that has been fitted.

    Attributes:
        indices: Its place in each layer's grid.
        criterion: Known, not promised.
        models: What its fits show of other vectors.
    """

    indices: tuple[int, ...]
    criterion: float
    models: FoldModels


@dataclass(frozen=True)
class Walk:
    """The search.

    Attributes:
        chosen: Vector that is being fitted: the index in each layer's grid.
        anchor: Last points that raised the folds' objectives.
        target: Where their Newton steps lead.
        length: (F,) share of the way that is being tried.
        objective: (F,) penalised log-likelihoods at `anchor`, the baseline profiled out; `REFUSED` where unknown.
        rounds: Answered so far.
        tried: Vectors fitted, in order.
    """

    chosen: tuple[int, ...]
    anchor: Points
    target: Points
    length: Floats
    objective: Floats
    rounds: int
    tried: tuple[Tried, ...]

    @staticmethod
    def starting(chosen: tuple[int, ...], point: Points, *, rounds: int = 0) -> Walk:
        """Return the search that asks at `point` first and compares with nothing."""
        n_folds = len(point.beta)
        return Walk(chosen, point, point, np.ones(n_folds), np.full(n_folds, REFUSED), rounds, ())

    @property
    def asked(self) -> Points:
        """The points that are being asked."""
        length = self.length[:, None]
        return Points(
            self.anchor.alpha + length * (self.target.alpha - self.anchor.alpha),
            self.anchor.beta + length * (self.target.beta - self.anchor.beta),
        )

    def answered(self, falls: NDArray[np.bool_], objective: Floats, target: Points) -> Walk:
        """Return the search after an answer: a fold whose objective fell tries half the way, the others go on.

        Args:
            falls: (F,).
            objective: (F,) at the points asked.
            target: Where the Newton steps lead from there.
        """
        asked, rows = self.asked, falls[:, None]
        return replace(
            self,
            anchor=Points(
                np.where(rows, self.anchor.alpha, asked.alpha), np.where(rows, self.anchor.beta, asked.beta)
            ),
            target=Points(
                np.where(rows, self.target.alpha, target.alpha), np.where(rows, self.target.beta, target.beta)
            ),
            length=np.where(falls, self.length / 2, 1.0),
            objective=np.where(falls, self.objective, objective),
            rounds=self.rounds + 1,
        )

    def arrays(self) -> dict[str, Floats]:
        """Return the search as a step's state."""
        state = {
            "chosen": np.array(self.chosen, dtype=np.float64),
            "anchor_alpha": self.anchor.alpha,
            "anchor_beta": self.anchor.beta,
            "target_alpha": self.target.alpha,
            "target_beta": self.target.beta,
            "length": self.length,
            "objective": self.objective,
            "rounds": np.array(float(self.rounds)),
            "n_tried": np.array(float(len(self.tried))),
        }
        for place, one in enumerate(self.tried):
            state[f"tried{place}_indices"] = np.array(one.indices, dtype=np.float64)
            state[f"tried{place}_criterion"] = np.array(one.criterion)
            state |= {f"tried{place}_{name}": array for name, array in one.models.arrays().items()}
        return state

    @staticmethod
    def of(state: Arrays) -> Walk:
        """Return the search that `arrays` wrote."""
        return Walk(
            chosen=_indices(state["chosen"]),
            anchor=Points(state["anchor_alpha"], state["anchor_beta"]),
            target=Points(state["target_alpha"], state["target_beta"]),
            length=state["length"],
            objective=state["objective"],
            rounds=int(state["rounds"]),
            tried=tuple(_tried(state, f"tried{place}_") for place in range(int(state["n_tried"]))),
        )


def _indices(array: Floats) -> tuple[int, ...]:
    return tuple(int(index) for index in array)


def _tried(state: Arrays, prefix: str) -> Tried:
    names = ("beta", "value", "gradient", "information")
    models = FoldModels.of_arrays({name: state[prefix + name] for name in names})
    return Tried(_indices(state[f"{prefix}indices"]), float(state[f"{prefix}criterion"]), models)
