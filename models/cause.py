"""Competing events: one method, asked of one kind of event, with the others as censoring.

The hazard of one cause is what Cox's model and grouped hazards estimate when events of other causes end observation
without the event (Prentice et al. 1978, Biometrics 34:541). What a cause-specific hazard means for a patient's risk
only all causes together say: `models.cumulative_incidence`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from models.step import Arrays, Context, Floats, Step, Turn
from schemas.cohort import Cohort
from schemas.plan import PartSpec

ANY = 0
"""The setting `cause` of a step that looks at the first event of any kind."""


class OfCause:
    """A method on the events of one cause.

    Settings:
        cause: 1 for the event of interest, 2 and on for the others, 0 for any.
        what else the method wants.
    """

    def __init__(self, context: Context, method: Callable[[Context], Step]) -> None:
        self._step = method(context)
        self._cause = int(context.settings["cause"])

    def parts(self) -> tuple[PartSpec, ...]:
        """Return the method's own parts."""
        return self._step.parts()

    def begin(self, inputs: Arrays) -> Turn:
        """Begin the method."""
        return self._step.begin(inputs)

    def local(self, part: str, sent: Arrays, cohort: Cohort) -> Arrays:
        """Return the method's summand for the events of this cause."""
        return self._step.local(part, sent, with_cause(cohort, self._cause))

    def finish(self, part: str, state: Arrays, inputs: Arrays, total: Arrays) -> Turn:
        """Go on with the method."""
        return self._step.finish(part, state, inputs, total)

    def shrink(self, part: str, state: Arrays) -> Turn:
        """Go on without a site."""
        return self._step.shrink(part, state)


def with_cause(cohort: Cohort, cause: int) -> Cohort:
    """Return the cohort whose events are those of one cause (`ANY`: of any), the others censored."""
    kind = causes_of(cohort)
    return replace(cohort, event=kind > 0 if cause == ANY else kind == cause)


def causes_of(cohort: Cohort) -> Floats:
    """Return the (n,) kind of each patient's event, 0 for none.

    Raises:
        ValueError: For a cohort without competing events.
    """
    if cohort.outcome is None:
        raise ValueError("the cohort has no competing events")
    return np.asarray(cohort.outcome, dtype=np.float64)
