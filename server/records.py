"""What the hub's store hands out and takes: one frozen value per kind of row, and the errors of the store."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from schemas.errors import ArchipelError

__all__ = [
    "ACTIVE",
    "Checkpoint",
    "Cost",
    "Event",
    "Hold",
    "KeptReply",
    "Level",
    "Round",
    "RunExistsError",
    "RunRecord",
    "Status",
    "TakenOverError",
    "UnknownRunError",
]

Status = Literal[
    "created", "setting-up", "waiting", "running", "paused", "stopping", "stopped", "done", "failed"
]  # fmt: skip
Level = Literal["info", "warning", "error"]
ACTIVE: frozenset[Status] = frozenset({"created", "setting-up", "waiting", "running", "paused", "stopping"})


class UnknownRunError(ArchipelError):
    """No run of this id at this hub."""


class RunExistsError(ArchipelError):
    """A run of this id is there already."""


class TakenOverError(ArchipelError):
    """Another process conducts this run now; this one must not go on."""


@dataclass(frozen=True)
class Hold:
    """The right to write on behalf of a run; see `server.store.Store.claim`."""

    run_id: str
    token: str


@dataclass(frozen=True)
class Cost:
    """What was spent since the last record.

    Attributes:
        seconds: Of wall clock.
        bytes_up: Bodies from sites to the hub.
        bytes_down: Bodies from the hub to sites.
    """

    seconds: float = 0.0
    bytes_up: int = 0
    bytes_down: int = 0

    def __sub__(self, other: Cost) -> Cost:
        """Return what was spent between two readings."""
        return Cost(self.seconds - other.seconds, self.bytes_up - other.bytes_up, self.bytes_down - other.bytes_down)


@dataclass(frozen=True)
class RunRecord:
    """One run as the store knows it.

    Attributes:
        invited: Sites that the run was launched for.
        sites: The list that set-up settled, fixed for the run; None before.
        plan: Canonical bytes; see `schemas.plan.read_plan`.
        roster: Canonical text, see `schemas.roster.read_roster`; empty where the sums are in clear.
        left_out: Invited sites that never took part, with the reason.
        dropped: Sites that left a running run under ``on_dropout = "continue"``, with the reason.
        message: The status in a sentence.
        alive_at: When the conducting process last gave a sign of life.
        wall_s: Seconds conducted, over all resumptions.
    """

    run_id: str
    study: str
    plan_hash: str
    plan: bytes = field(repr=False)
    roster: str = field(repr=False)
    code_version: str
    seed: int | None
    invited: tuple[str, ...]
    sites: tuple[str, ...] | None
    left_out: Mapping[str, str]
    dropped: Mapping[str, str]
    status: Status
    message: str
    stop_requested_at: datetime.datetime | None
    created_at: datetime.datetime
    started_at: datetime.datetime | None
    alive_at: datetime.datetime | None
    finished_at: datetime.datetime | None
    wall_s: float
    bytes_up: int
    bytes_down: int

    @property
    def remaining(self) -> tuple[str, ...]:
        """The sites still in the sums, in the order of their names; empty before set-up is over."""
        return tuple(sorted(set(self.sites or ()) - set(self.dropped)))


@dataclass(frozen=True)
class Checkpoint:
    """The state after `seq` changes of a run's progress."""

    seq: int
    step: str
    number: int
    progress: bytes = field(repr=False)


@dataclass(frozen=True)
class KeptReply:
    """One site's answer to one message.

    Attributes:
        status: ``ok`` (a summand) or ``empty``.
        body: As received; None once its round is complete.
    """

    step: str
    part: str
    number: int
    phase: str
    site: str
    status: str
    n_bytes: int
    sha256: str
    body: bytes | None = field(repr=False)


@dataclass(frozen=True)
class Round:
    """One complete round.

    Attributes:
        seconds: From the first question to the sum, all waiting included.
        heard: Sites whose summand is in the sum.
        silent: Sites that had nothing to add (too few patients for this step).
        missing: Sites that kept the round waiting at a deadline or left the run in it.
        index: 1, 2, … within the run; the store counts.
    """

    step: str
    part: str
    number: int
    started_at: datetime.datetime
    seconds: float
    bytes_up: int
    bytes_down: int
    heard: tuple[str, ...]
    silent: tuple[str, ...]
    missing: tuple[str, ...] = ()
    index: int = 0


@dataclass(frozen=True)
class Event:
    """One line of what happened in a run.

    Attributes:
        id: Grows with time; `server.runs.events` reads on from the last one seen.
    """

    id: int
    at: datetime.datetime
    level: Level
    text: str
