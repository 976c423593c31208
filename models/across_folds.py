"""Steps that look at all folds of a cross-validation at once, and add them up at the site.

`models.folded` keeps folds apart: every array has one more axis. Where only what all folds come to together is wanted
(each patient judged by the model of the one fold that did not train on them) the site adds the folds up itself, and
less leaves it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from models.folded import fold_part
from models.step import Arrays, Floats
from schemas.cohort import Cohort
from schemas.plan import ArraySpec

__all__ = ["all_asked", "judged_folds", "sent_to_all"]


def sent_to_all(specs: Sequence[ArraySpec], n_folds: int) -> tuple[ArraySpec, ...]:
    """Return what is sent: the arrays of every fold, and the mark by which a site knows them to be of folds."""
    asked = ArraySpec(name="asked", shape=(n_folds,), meaning="which folds are asked (all)", bound=1)
    wide = [
        spec.model_copy(update={"shape": (n_folds, *spec.shape), "meaning": f"{spec.meaning}, by fold"})
        for spec in specs
    ]
    return (asked, *wide)


def all_asked(n_folds: int) -> dict[str, Floats]:
    """Return the state that is sent as `asked`."""
    return {"asked": np.ones(n_folds)}


def judged_folds(
    cohort: Cohort, sent: Arrays, specs: Sequence[ArraySpec], n_folds: int
) -> Iterator[tuple[Cohort, dict[str, Floats]]]:
    """Yield each fold's held-out patients, where there are any, with the arrays of the model that judges them.

    Args:
        cohort: With `fold_of` dealt.
        sent: Arrays of all folds.
        specs: Of one fold's arrays.
        n_folds: F.
    """
    for fold in range(n_folds):
        patients = fold_part(cohort, fold, "held_out")
        if patients.n_patients:
            yield patients, {spec.name: sent[spec.name][fold] for spec in specs}
