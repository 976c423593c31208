"""How a sum over sites is formed out of messages: what each message carries, and what makes the sum of the answers.

Set-up and rounds consist of phases, each asked of every site before the next. What was heard is given as
phase -> site -> reply. `PlainSum` forms a sum out of one message in clear; `server.secure_rounds` out of two or three
under masks. The engine that asks, waits and stores (`server.conduct`) does not know which.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, Self

import numpy as np

from models.progress import Question
from models.step import Arrays, combine
from schemas.messages import Reply
from schemas.plan import ArraySpec, PartSpec

__all__ = ["NOTHING", "PLAIN_SUM", "Content", "Expected", "Heard", "PlainSum", "RoundProtocol", "Total"]

Heard = Mapping[str, Mapping[str, Reply]]


@dataclass(frozen=True)
class Content:
    """What one message carries besides its head."""

    arrays: Arrays = field(default_factory=dict)
    blobs: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Expected:
    """What an answer must carry, no more and no less.

    Attributes:
        arrays: As the plan lists them.
        blobs: Name -> length in bytes; None where the length says nothing.
    """

    arrays: tuple[ArraySpec, ...] = ()
    blobs: Mapping[str, int | None] = field(default_factory=dict)


NOTHING = Expected()
"""A bare yes."""


@dataclass(frozen=True)
class Total:
    """The sum of a round.

    Attributes:
        arrays: None when no site had anything to add.
        remarks: What a person should know of how it came about.
    """

    arrays: Arrays | None
    remarks: tuple[str, ...] = ()


class RoundProtocol(Protocol):
    """How sums are formed in one run."""

    @property
    def roster(self) -> str:
        """The roster that the set-up sends, as text; empty where there is none."""

    @property
    def threshold(self) -> int:
        """Answers without which no sum can be opened; also the fewest sites a run can go on with."""

    @property
    def setup_phases(self) -> tuple[str, ...]:
        """Messages of the set-up."""

    @property
    def phases_to_keep(self) -> tuple[str, ...]:
        """Messages of the set-up whose answers a resumed run needs."""

    def setup_content(self, phase: str, site: str, heard: Heard) -> Content:
        """Return what the set-up message of a phase carries to one site."""

    def setup_expected(self, phase: str, site: str) -> Expected:
        """Return what a site answers in a phase of the set-up."""

    def after_setup(self, heard: Heard) -> Self:
        """Return the protocol with what the phases to keep have told."""

    def opening_phases(self, sites: tuple[str, ...]) -> tuple[str, ...]:
        """Return the messages that follow ``value`` in a round when `sites` have answered that."""

    def closing_phases(self, part: PartSpec) -> tuple[str, ...]:
        """Return the messages that follow the opening of a sum, which every remaining site must answer."""

    def content(self, phase: str, question: Question, heard: Heard) -> Content:
        """Return what a phase of a round carries, the same to every site."""

    def expected(self, phase: str, part: PartSpec) -> Expected:
        """Return what a site answers in a phase of a round."""

    def total(self, question: Question, part: PartSpec, heard: Heard) -> Total:
        """Return the sum over the sites that have answered ``value``."""


@dataclass(frozen=True)
class PlainSum:
    """Every site sends its summand in clear, in one message; the hub adds. Fits `RoundProtocol`."""

    roster: str = ""
    threshold: int = 1
    setup_phases: tuple[str, ...] = ("value",)
    phases_to_keep: tuple[str, ...] = ()

    def setup_content(self, phase: str, site: str, heard: Heard) -> Content:
        """Return nothing: names and plan are all that a plain sum sets up."""
        return Content()

    def setup_expected(self, phase: str, site: str) -> Expected:
        """Return nothing."""
        return NOTHING

    def after_setup(self, heard: Heard) -> Self:
        """Return the same."""
        return self

    def opening_phases(self, sites: tuple[str, ...]) -> tuple[str, ...]:
        """Return nothing: what arrived is open."""
        return ()

    def closing_phases(self, part: PartSpec) -> tuple[str, ...]:
        """Return nothing: there is no sum that a site could check without the others' numbers."""
        return ()

    def content(self, phase: str, question: Question, heard: Heard) -> Content:
        """Return the question's arrays."""
        return Content(question.arrays)

    def expected(self, phase: str, part: PartSpec) -> Expected:
        """Return the plan's arrays."""
        return Expected(part.releases)

    def total(self, question: Question, part: PartSpec, heard: Heard) -> Total:
        """Return the sum in the order of the sites' names: floating-point sums depend on order, ours must not.

        A site that is empty adds zeros.
        """
        replies = [heard["value"][site] for site in sorted(heard["value"])]
        if all(reply.status == "empty" for reply in replies):
            return Total(None)
        nothing = {spec.name: np.zeros(spec.shape) for spec in part.releases}
        return Total(combine([reply.arrays if reply.status == "ok" else nothing for reply in replies]))


PLAIN_SUM = PlainSum()
