"""Where a run is in its plan: the one state machine that the simulator and the hub both drive.

It decides; it does not send, wait or store. `question` says what to ask every site; `absorb` takes the sum of
the answers. Its bytes are the checkpoint from which a run resumes, and a resumed run asks the very same
questions under the same numbers, so that sites can answer with the bytes they already sent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import numpy as np
import safetensors
import safetensors.numpy
from pydantic import BaseModel, ConfigDict, Field

from models.compile import build_step
from models.step import Arrays, DivergedError, Floats, Turn, sent_arrays
from schemas.errors import MessageError
from schemas.plan import Plan, PlanStep


class _Header(BaseModel):
    """What a checkpoint says of itself; damage that leaves it readable must not resume a run elsewhere."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    kind: Literal["progress"] = "progress"
    version: Literal[1] = 1
    plan_hash: str
    step_index: Annotated[int, Field(ge=0)]
    ask: str | None
    number: Annotated[int, Field(ge=0)]
    asked: dict[str, Annotated[int, Field(ge=0)]]
    skipped: dict[str, str]


@dataclass(frozen=True)
class Question:
    """What the hub asks every site now.

    Attributes:
        number: Of the message within its step; never used for two different questions.
        arrays: What is sent.
    """

    step: str
    part: str
    number: int
    arrays: Mapping[str, Floats]


@dataclass(frozen=True)
class Progress:
    """A run's place in its plan, and all that it has learned.

    Attributes:
        plan: What is being run.
        step_index: Of the current step; ``len(plan.steps)`` when done.
        ask: The part being asked.
        number: Of the current question within its step.
        state: The current step's own arrays.
        arrays: ``step.array`` of every finished step.
        asked: How often each part of the current step was asked.
        skipped: Optional steps that came to nothing, with the reason.
    """

    plan: Plan
    step_index: int = -1
    ask: str | None = None
    number: int = 0
    state: Arrays = field(default_factory=dict)
    arrays: Arrays = field(default_factory=dict)
    asked: Mapping[str, int] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def start(plan: Plan) -> Progress:
        """Return the state in which the first question can be read."""
        return Progress(plan)._next_step()

    @property
    def done(self) -> bool:
        """Whether nothing is left to ask."""
        return self.step_index >= len(self.plan.steps)

    @property
    def step(self) -> PlanStep:
        """The current step of the plan."""
        return self.plan.steps[self.step_index]

    @property
    def question(self) -> Question | None:
        """What to ask every site, or None when the run is done."""
        if self.done or self.ask is None:
            return None
        part = self.step.part(self.ask)
        return Question(self.step.name, self.ask, self.number, sent_arrays(part, self.state, self._inputs()))

    def absorb(self, total: Arrays) -> Progress:
        """Return the state after the sum over all sites for the current question is known.

        Raises:
            DivergedError: When the step finds no estimate and the plan cannot do without it.
        """
        if self.ask is None:
            raise ValueError("the run is done")
        try:
            turn = build_step(self.plan, self.step.name).finish(self.ask, self.state, self._inputs(), total)
            return self._turn(turn)
        except DivergedError as error:
            if not self.step.optional:
                raise
            return self.skip(str(error))

    def skip(self, reason: str) -> Progress:
        """Return the state after giving up an optional step, and with it the steps that read from it.

        Raises:
            DivergedError: When the current step is not optional.
        """
        if not self.step.optional:
            raise DivergedError(f"step {self.step.name}: {reason}")
        return replace(self, skipped={**self.skipped, self.step.name: reason})._next_step()

    def shrink(self) -> Progress:
        """Return how to go on when a site has left for good (`on_dropout = "continue"`).

        Where the question stays the same, so does its number, and the answers of the remaining sites to it can be
        absorbed at once; otherwise the number is a new one and the remaining sites are asked again.
        """
        if self.ask is None:
            raise ValueError("the run is done")
        before = self.question
        turn = build_step(self.plan, self.step.name).shrink(self.ask, self.state)
        after = replace(self, state=turn.state, ask=turn.ask)
        if before is not None and _is_same(before, after.question):
            return after
        return after._count(self.number + 1)

    def to_bytes(self) -> bytes:
        """Return the checkpoint."""
        header = _Header(
            plan_hash=self.plan.hash,
            step_index=self.step_index,
            ask=self.ask,
            number=self.number,
            asked=dict(self.asked),
            skipped=dict(self.skipped),
        )
        tensors = {f"state/{name}": np.asarray(array, order="C") for name, array in self.state.items()}
        tensors |= {f"arrays/{name}": np.asarray(array, order="C") for name, array in self.arrays.items()}
        return safetensors.numpy.save(tensors, metadata={"archipel": header.model_dump_json()})

    @staticmethod
    def from_bytes(plan: Plan, data: bytes) -> Progress:
        """Read a checkpoint of `plan`.

        Raises:
            MessageError: When the bytes are damaged or belong to another plan.
        """
        try:
            tensors = safetensors.numpy.load(data)
            length = int.from_bytes(data[:8], "little")
            text = json.loads(data[8 : 8 + length])["__metadata__"]["archipel"]
            header = _Header.model_validate_json(text)
        except (safetensors.SafetensorError, ValueError, KeyError, TypeError, RecursionError):
            raise MessageError("the checkpoint cannot be read") from None
        if header.plan_hash != plan.hash:
            raise MessageError("the checkpoint belongs to another plan")
        is_done = header.step_index == len(plan.steps)
        if not is_done and (
            header.step_index > len(plan.steps)
            or header.ask not in {part.name for part in plan.steps[header.step_index].parts}
        ):
            raise MessageError("the checkpoint stands at a place that the plan has not")

        def of(prefix: str) -> dict[str, Floats]:
            return {name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)}

        return Progress(
            plan=plan,
            step_index=header.step_index,
            ask=header.ask,
            number=header.number,
            state=of("state/"),
            arrays=of("arrays/"),
            asked=header.asked,
            skipped=header.skipped,
        )

    def _inputs(self) -> dict[str, Floats]:
        return {name: self.arrays[source] for name, source in self.step.inputs.items()}

    def _turn(self, turn: Turn) -> Progress:
        if turn.ask is not None:
            return replace(self, state=turn.state, ask=turn.ask)._count(self.number + 1)
        found = {f"{self.step.name}.{name}": np.asarray(array) for name, array in turn.state.items()}
        return replace(self, arrays={**self.arrays, **found})._next_step()

    def _count(self, number: int) -> Progress:
        ask = str(self.ask)
        times = self.asked.get(ask, 0) + 1
        if times > self.step.part(ask).times:
            raise DivergedError(
                f"step {self.step.name} has not converged after {self.step.part(ask).times} rounds: "
                "add a penalty, or leave out covariates that separate the events"
            )
        return replace(self, number=number, asked={**self.asked, ask: times})

    def _next_step(self) -> Progress:
        """Return the state at the next step that has a question, passing those that need none."""
        after = replace(self, step_index=self.step_index + 1, ask=None, number=0, state={}, asked={})
        if after.done:
            return after
        missing = [source for source in after.step.inputs.values() if source not in after.arrays]
        if missing:
            needed = sorted({source.partition(".")[0] for source in missing})
            return after.skip(f"needs {', '.join(needed)}, which came to nothing")
        try:
            turn = build_step(after.plan, after.step.name).begin(after._inputs())
        except DivergedError as error:
            if not after.step.optional:
                raise
            return after.skip(str(error))
        if turn.ask is None:
            return after._turn(turn)
        return replace(after, state=turn.state, ask=turn.ask)._count(0)


def _is_same(before: Question, after: Question | None) -> bool:
    return (
        after is not None
        and before.part == after.part
        and before.arrays.keys() == after.arrays.keys()
        and all(np.array_equal(before.arrays[name], after.arrays[name]) for name in before.arrays)
    )
