"""The plan: what a study compiles to. The exact arrays that will leave a site, before anything runs.

A site reads a plan (the data-use card is written from it), approves its hash, and its gate enforces it. A plan
binds the whole study and dictionary, so two plans with one hash ask the same of the same columns. Every shape in
it is a number: where a size is only known at run time (the intervals of the time grid) the plan gives the
largest, and shorter arrays are padded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from schemas.canonical import canonical_json, sha256_hex
from schemas.dictionary import Dictionary
from schemas.errors import MessageError
from schemas.study import Study

_STRICT = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
Identifier = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,59}$")]
# "split": the step sees all patients with their held-out mark; its floor counts the held-out ones.
# "folds": all patients with the fold that the site has dealt each of them into; under the secure sum alone.
CohortPart = Literal["all", "training", "held_out", "split", "folds"]


class ArraySpec(BaseModel):
    """One array that crosses the boundary.

    Attributes:
        name: As in the message.
        shape: Exact; () is one number.
        dtype: Always ``float64``: sums in anything narrower are not exact.
        meaning: For the data-use card: ``events in each interval``.
        bound: Largest absolute value that one element may have; a site refuses to send or take more.
    """

    model_config = _STRICT

    name: Identifier
    shape: tuple[Annotated[int, Field(ge=0, le=10_000_000)], ...]
    dtype: Literal["float64"] = "float64"
    meaning: Annotated[str, Field(max_length=300)]
    bound: Annotated[float, Field(gt=0)] = 1e12

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


class Noise(BaseModel):
    """What every site adds to its summand, so that the sum is differentially private (docs/differential-privacy.md).

    Attributes:
        sensitivity: Largest Euclidean norm of what one patient adds to all arrays of the part together.
        share: Of the study's privacy budget (its mu squared) that one release of this part costs.
        honest_sites: The sum's noise is shared out so that the noise of this many sites suffices; with 1 every
            site adds all of it, and the guarantee needs no secure sum.
    """

    model_config = _STRICT

    sensitivity: Annotated[float, Field(gt=0)]
    share: Annotated[float, Field(gt=0, le=1)]
    honest_sites: Annotated[int, Field(ge=1, le=1000)] = 1


class PartSpec(BaseModel):
    """One kind of question a step asks: what the hub sends, what every site answers.

    Attributes:
        name: Of the part within its step.
        sends: From the hub to each site.
        releases: From each site: its summand.
        times: How often this part can be asked at most in a run.
        noise: Added to the summand before it leaves; None without differential privacy.
        verified: Under the secure sum every site opens this sum itself, from what the hub passes on, and holds the
            hub to what follows from it (docs/protocol.md). Without the secure sum it says nothing.
        norm: Largest Euclidean norm of one site's summand, the count of patients left aside: the site shortens what
            is longer (`privacy.clip`). For updates; sums that are exact statistics are bounded, never shortened.
    """

    model_config = _STRICT

    name: Identifier
    sends: tuple[ArraySpec, ...]
    releases: Annotated[tuple[ArraySpec, ...], Field(min_length=1)]
    times: Annotated[int, Field(ge=1, le=1000)]
    noise: Noise | None = None
    verified: bool = False
    norm: Annotated[float, Field(gt=0)] | None = None


class PlanStep(BaseModel):
    """One step of the plan.

    Attributes:
        name: Unique in the plan.
        method: Its entry in `models.registry`.
        settings: Of the method; JSON.
        inputs: Where the step's inputs come from: its own name for an array -> ``step.array`` of an earlier step.
        cohort: Which of a site's patients it looks at.
        parts: What it asks.
        min_patients: Patients behind a summand; a site with fewer sends nothing.
        optional: Without it the model still stands (an evaluation on patients that no site may hold out): when no
            site has anything to add, or no estimate exists, the run goes on and the result says so.
        purpose: One sentence for the data-use card.
    """

    model_config = _STRICT

    name: Identifier
    method: Identifier
    settings: dict[str, Any] = Field(default_factory=dict)
    inputs: dict[Identifier, str] = Field(default_factory=dict)
    cohort: CohortPart = "all"
    parts: Annotated[tuple[PartSpec, ...], Field(min_length=1)]
    min_patients: Annotated[int, Field(ge=1)]
    optional: bool = False
    purpose: Annotated[str, Field(max_length=300)]

    @model_validator(mode="after")
    def _verified_alone(self) -> PlanStep:
        # A site finds what follows from the sum without knowing the hub's state, so there must be none.
        if any(part.verified for part in self.parts) and (
            len(self.parts) > 1 or self.parts[0].times > 1 or self.inputs
        ):
            raise ValueError("a step with a verified part has that part alone, asked once, and no inputs")
        return self

    def part(self, name: str) -> PartSpec:
        """Return the part called `name`.

        Raises:
            KeyError: When this step asks no such thing.
        """
        for part in self.parts:
            if part.name == name:
                return part
        raise KeyError(name)


class Plan(BaseModel):
    """Everything a run will do, in order.

    Attributes:
        code_version: Of Archipel; a site refuses a plan compiled by another version than its own.
        study: Normalised content of the study file.
        dictionary: Content of its dictionary.
        steps: In order.
    """

    model_config = _STRICT

    kind: Literal["plan"] = "plan"
    version: Literal[1] = 1
    code_version: Annotated[str, Field(max_length=60)]
    study: Study
    dictionary: Dictionary
    steps: Annotated[tuple[PlanStep, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _unique_steps(self) -> Plan:
        names = [step.name for step in self.steps]
        if len(set(names)) != len(names):
            raise ValueError("a step name stands twice in the plan")
        return self

    @cached_property
    def content(self) -> bytes:
        """The plan as canonical bytes: what is stored, sent and hashed."""
        return canonical_json(self.model_dump(mode="json"))

    @cached_property
    def hash(self) -> str:
        """SHA-256 of `content`; what a site approves."""
        return sha256_hex(self.content)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a changed plan under a hash of its own: pydantic alone copies what was computed before."""
        copied = super().model_copy(update=update, deep=deep)
        for name in ("content", "hash"):
            copied.__dict__.pop(name, None)
        return copied

    @property
    def terms_hash(self) -> str:
        """SHA-256 of the terms of use that a site's signed approval names beside the plan and the roster."""
        privacy = self.study.privacy
        terms = {
            "on_dropout": self.study.on_dropout,
            "min_patients": privacy.min_patients,
            "min_events_per_interval": privacy.min_events_per_interval,
            "secure_sum": privacy.secure_sum,
        }
        return sha256_hex(canonical_json(terms))

    @property
    def by_name(self) -> Mapping[str, PlanStep]:
        """The steps by name."""
        return {step.name: step for step in self.steps}

    @property
    def max_rounds(self) -> int:
        """The most rounds a run of this plan can have."""
        return sum(part.times for step in self.steps for part in step.parts)

    def round_index(self, step: str, number: int) -> int:
        """Return the place of a round among all rounds that a run of this plan can have, from 0.

        Args:
            step: Of the plan.
            number: Of the round within its step, from 0.

        Raises:
            KeyError: When the plan has no such step or round.
        """
        before = 0
        for one in self.steps:
            times = sum(part.times for part in one.parts)
            if one.name == step and 0 <= number < times:
                return before + number
            before += times
        raise KeyError(f"the plan has no round {number} of a step {step}")


def read_plan(content: bytes) -> Plan:
    """Parse the bytes of a plan, from a file or a message.

    Raises:
        MessageError: When they are not a plan, or not in canonical form (two texts of one plan would have two
            hashes).
    """
    try:
        plan = Plan.model_validate_json(content)
    except ValidationError as error:
        raise MessageError(f"not a plan of version 1 ({error.error_count()} faults)") from None
    if plan.content != content:
        raise MessageError("the plan is not in canonical form")
    return plan
