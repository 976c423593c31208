"""The errors that cross every boundary: one sentence a person can act on, all faults at once.

Rules: a message says what is wrong, where, and what to do; it never carries a cell value or a patient
identifier, because messages end in logs and on other people's screens. Each side (client, server) derives its
own small tree from `ArchipelError`; the command line turns it into a sentence and an exit code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class ArchipelError(Exception):
    """Base of every error that a person is meant to read."""


class MessageError(ArchipelError):
    """Bytes that claim to be one of our messages and are not."""


class ArrayTypeError(MessageError):
    """A message with an array that is not float64."""


class IncompatibleVersionError(ArchipelError):
    """A file or message of a kind or version that this build does not read."""


@dataclass(frozen=True, order=True)
class Fault:
    """One thing wrong with a file, a table or a setting.

    Attributes:
        where: The place as a person finds it: ``study.toml line 7`` or ``clinical.csv row 86, column time_days``.
        what: What is wrong there, without any patient's value.
        remedy: What to do about it; empty where the fault itself says it.
    """

    where: str
    what: str
    remedy: str = ""

    def __str__(self) -> str:
        """Return the fault as one line."""
        return f"{self.where}: {self.what}" + (f" -> {self.remedy}" if self.remedy else "")


class FaultsError(ArchipelError):
    """Everything that is wrong with one input, named at once.

    Attributes:
        subject: What was checked, as the reader calls it.
        faults: In the order in which they stand in the input.
    """

    def __init__(self, subject: str, faults: Sequence[Fault]) -> None:
        self.subject = subject
        self.faults = tuple(faults)
        count = f"{len(self.faults)} fault" + ("s" if len(self.faults) != 1 else "")
        super().__init__("\n".join([f"{subject}: {count}", *(f"  {fault}" for fault in self.faults)]))
