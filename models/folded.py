"""Runs one method on every fold of a cross-validation at once: all folds travel in the same message.

A round costs a fraction of a second however little it carries, so what repeats over folds is batched: each array of
the method gets one more axis, the folds, in front. A fold that does not need the part being asked (it has converged,
or it is at another part of its step) is marked idle and answers with zeros.

Which patients are in which fold is dealt at each site and never leaves it (`models.folds.deal`). Parts of a fold may
be smaller than a site's floor, so this exists under the secure sum alone, where only the sum over sites is seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from models.step import Arrays, Context, DivergedError, Floats, Step, Turn
from schemas.cohort import Cohort
from schemas.plan import ArraySpec, PartSpec

MIN_PATIENTS_A_FOLD = 10
"""Of the federation: a fold below it says more about its patients than about the model."""


class Folded:
    """A method on all folds.

    Settings:
        n_folds: F.
        look_at: ``training`` (all but the fold), ``held_out`` (the fold), or ``split`` (both, marked apart).
        what else the method wants.

    Inputs and state: those of the method, each (F, ...).
    """

    def __init__(self, context: Context, method: Callable[[Context], Step]) -> None:
        self._step = method(context)
        self._n_folds = int(context.settings["n_folds"])
        self._look_at: Literal["training", "held_out", "split"] = context.settings["look_at"]
        self._parts = {part.name: part for part in self._step.parts()}

    def parts(self) -> tuple[PartSpec, ...]:
        """Return the method's own parts, with one more axis and the mark of the folds that are asked."""
        asked = ArraySpec(
            name="asked", shape=(self._n_folds,), meaning="which folds are asked (1) or idle (0)", bound=1
        )
        return tuple(
            PartSpec(
                name=part.name,
                sends=(asked, *map(self._widened, part.sends)),
                releases=tuple(map(self._widened, part.releases)),
                times=part.times,
                verified=part.verified,
                # All folds are shortened together: as far as if each were as long as it may be.
                norm=None if part.norm is None else part.norm * math.sqrt(self._n_folds),
            )
            for part in self._parts.values()
        )

    def begin(self, inputs: Arrays) -> Turn:
        """Begin every fold."""
        return self._turn([self._step.begin(self._of_fold(inputs, fold)) for fold in range(self._n_folds)])

    def local(self, part: str, sent: Arrays, cohort: Cohort) -> Arrays:
        """Return this site's summands of the folds that are asked, and zeros for the others."""
        answers: dict[str, Floats] = {
            spec.name: np.zeros((self._n_folds, *spec.shape)) for spec in self._parts[part].releases
        }
        for fold in np.flatnonzero(sent["asked"]):
            patients = fold_part(cohort, int(fold), self._look_at)
            if patients.n_patients:
                own = {spec.name: sent[spec.name][fold] for spec in self._parts[part].sends}
                for name, array in self._step.local(part, own, patients).items():
                    answers[name][fold] = array
        return answers

    def finish(self, part: str, state: Arrays, inputs: Arrays, total: Arrays) -> Turn:
        """Bring every fold that was asked one step further.

        Raises:
            DivergedError: Naming the fold whose method finds no estimate, or that has too few patients.
        """
        turns = []
        for fold in range(self._n_folds):
            own, ask = self._fold_state(state, fold)
            if ask != part:
                turns.append(Turn(own, ask))
                continue
            summed = {name: array[fold] for name, array in total.items()}
            if "n_patients" in summed and summed["n_patients"] < MIN_PATIENTS_A_FOLD:
                raise DivergedError(f"fold {fold + 1} has fewer than {MIN_PATIENTS_A_FOLD} patients over all sites")
            try:
                turns.append(self._step.finish(part, own, self._of_fold(inputs, fold), summed))
            except DivergedError as error:
                raise DivergedError(f"fold {fold + 1}: {error}") from None
        return self._turn(turns)

    def shrink(self, part: str, state: Arrays) -> Turn:
        """Let every fold that is not done forget what it would compare with."""
        turns = []
        for fold in range(self._n_folds):
            own, ask = self._fold_state(state, fold)
            turns.append(Turn(own, None) if ask is None else self._step.shrink(ask, own))
        return self._turn(turns)

    def _widened(self, spec: ArraySpec) -> ArraySpec:
        return spec.model_copy(update={"shape": (self._n_folds, *spec.shape), "meaning": f"{spec.meaning}, by fold"})

    def _of_fold(self, arrays: Arrays, fold: int) -> dict[str, Floats]:
        return {name: array[fold] for name, array in arrays.items()}

    # A step's state is a flat table of arrays: fold 2's `alpha` is `2/alpha`, and `ask` says where each fold is.
    def _fold_state(self, state: Arrays, fold: int) -> tuple[dict[str, Floats], str | None]:
        prefix = f"{fold}/"
        own = {name.removeprefix(prefix): array for name, array in state.items() if name.startswith(prefix)}
        index = int(state["ask"][fold])
        return own, None if index < 0 else list(self._parts)[index]

    def _turn(self, turns: Sequence[Turn]) -> Turn:
        """Join the folds: ask the first part that any of them needs, or hand over the stacked results."""
        needed = [turn.ask for turn in turns]
        if all(ask is None for ask in needed):
            return Turn(_stacked([turn.state for turn in turns]), None)
        names = list(self._parts)
        part = next(name for name in names if name in needed)
        state: dict[str, Floats] = {
            f"{fold}/{name}": np.asarray(array)
            for fold, turn in enumerate(turns)
            for name, array in turn.state.items()
        }
        state["ask"] = np.array([-1.0 if ask is None else float(names.index(ask)) for ask in needed])
        state["asked"] = np.array([float(ask == part) for ask in needed])
        return Turn(state | self._questions(part, turns), part)

    def _questions(self, part: str, turns: Sequence[Turn]) -> dict[str, Floats]:
        """Return what of the folds' own states is sent, stacked; an idle fold's place is 0."""
        questions: dict[str, Floats] = {}
        for spec in self._parts[part].sends:
            if any(turn.ask == part and spec.name in turn.state for turn in turns):
                rows = [
                    np.asarray(turn.state[spec.name]) if turn.ask == part else np.zeros(spec.shape) for turn in turns
                ]
                questions[spec.name] = np.stack(rows)
        return questions


def fold_part(cohort: Cohort, fold: int, look_at: Literal["training", "held_out", "split"]) -> Cohort:
    """Return the patients of a site that one fold looks at.

    Args:
        cohort: With `fold_of` dealt.
        fold: From 0.
        look_at: See `Folded`.
    """
    if cohort.fold_of is None:
        raise ValueError("the site has not dealt its patients into folds")
    held_out = cohort.fold_of == fold
    return replace(cohort, held_out=held_out).part(look_at)


def _stacked(states: Sequence[Mapping[str, Floats]]) -> dict[str, Floats]:
    return {name: np.stack([np.asarray(state[name]) for state in states]) for name in states[0]}
