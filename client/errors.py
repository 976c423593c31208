"""The errors of a site: a small tree, each a sentence that a data manager can act on, never with a patient's value.

A file with faults raises `schemas.errors.FaultsError` as everywhere else; what is named here are refusals that a
caller treats differently. Only the code of `schemas.codes` that belongs to an error ever leaves the site.
"""

from __future__ import annotations

from collections.abc import Sequence

from schemas.codes import Code
from schemas.errors import ArchipelError, Fault, FaultsError

__all__ = ["SiteError", "TablesChangedError", "TablesRefusedError", "TooFewPatientsError"]


class SiteError(ArchipelError):
    """Base of a site's refusals.

    Attributes:
        code: The only part of the error that the hub is told.
    """

    code = Code.STEP_FAILED


class TablesRefusedError(FaultsError, SiteError):
    """The tables do not pass the check for a study; the faults name rows and columns and no cell value."""

    code = Code.TABLES_REFUSED

    def __init__(self, subject: str, faults: Sequence[Fault]) -> None:
        super().__init__(subject, faults)


class TooFewPatientsError(TablesRefusedError):
    """The tables are sound, but fewer patients than the floor are eligible."""

    code = Code.TOO_FEW_PATIENTS


class TablesChangedError(SiteError):
    """The tables are not the ones that the run started with."""

    code = Code.TABLES_CHANGED

    def __init__(self) -> None:
        super().__init__(
            "The site's tables changed during the run; two sums over different patients would differ by those "
            "patients. Launch a new run."
        )
