"""Following a run as it goes: what a person wants to know at each moment, read from the hub's store.

`estimate` is pure; `follow` looks at the store and yields a view whenever something changed, until the run is over.
Polling a local database a few times a second costs nothing, and works from any process that can read the folder.
"""

from __future__ import annotations

import datetime
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from archipel import terminal
from schemas.plan import Plan, PlanStep, read_plan
from server.records import ACTIVE, Event, Round, RunRecord
from server.runs import Standing, is_abandoned, list_events, list_rounds, standing
from server.store import Store

__all__ = ["Estimate", "RunView", "estimate", "follow"]

POLL_S = 0.15
_USUAL_FIT_ROUNDS = 7
"""Newton's method needs about this many questions where no earlier fit of the run tells better."""


@dataclass(frozen=True)
class Estimate:
    """How much of a run is probably left.

    Attributes:
        rounds_left: Questions still to ask, as far as can be told; at least 1 until the run is done.
        seconds_left: At the pace of the last rounds; None before the first round.
    """

    rounds_left: int
    seconds_left: float | None


@dataclass(frozen=True)
class RunView:
    """A run at one moment.

    Attributes:
        standing: Status, sites, message, and where in its plan the run is.
        rounds: The complete rounds, in order.
        part: Of the step being asked; empty before the first question and after the last.
        estimate: Of what is left.
        news: Events since the view before.
        new_rounds: Rounds that were completed since the view before.
        abandoned: Nobody conducts the run although it is not over; `archipel runs resume` goes on.
    """

    standing: Standing
    rounds: tuple[Round, ...]
    part: str
    estimate: Estimate
    news: tuple[Event, ...]
    new_rounds: tuple[Round, ...]
    abandoned: bool

    @property
    def run(self) -> RunRecord:
        """The run as the store knows it."""
        return self.standing.record

    @property
    def is_over(self) -> bool:
        """Whether the run ended, in whatever way."""
        return self.run.status not in ACTIVE

    def for_terminal(self) -> terminal.Standing:
        """Return what the progress display shows."""
        sites = self.run.remaining or self.run.invited
        heard = self.standing.heard
        if not heard and self.run.status == "running" and self.rounds:
            # Answers of a round are stored when it ends; until somebody is late, who was heard last says more.
            heard = (*self.rounds[-1].heard, *self.rounds[-1].silent)
        return terminal.Standing(
            step=self.standing.step or "set-up",
            part=self.part or self.run.status,
            rounds_done=self.standing.rounds_done,
            rounds_expected=self.standing.rounds_done + self.estimate.rounds_left,
            heard=heard,
            sites=sites,
            seconds_left=self.estimate.seconds_left,
        )


def estimate(plan: Plan, done: Sequence[Round], *, over: bool = False) -> Estimate:
    """Return how much of a run is probably left.

    A step that asks once is one round. A fit asks until it has converged: it is expected to take as many rounds as
    an earlier fit of the same method took in this run, or seven.

    Args:
        plan: Of the run.
        done: Its complete rounds, in order.
        over: The run has ended; nothing is left.
    """
    if over:
        return Estimate(0, 0.0)
    asked = Counter(round_.step for round_ in done)
    current = done[-1].step if done else plan.steps[0].name
    names = [step.name for step in plan.steps]
    position = names.index(current) if current in names else 0
    before = {step.method: asked[step.name] for step in plan.steps[:position]}
    left = 0
    for step in plan.steps[position:]:
        usual = before.get(step.method, _USUAL_FIT_ROUNDS)
        expected = usual if _is_iterative(step) else sum(part.times for part in step.parts)
        left += max(0, expected - asked[step.name])
    left = max(1, left)
    recent = [round_.seconds for round_ in done[-8:]]
    # The median: one round that waited for a site says nothing about the next.
    return Estimate(left, left * statistics.median(recent) if recent else None)


def _is_iterative(step: PlanStep) -> bool:
    return any(part.times > 3 for part in step.parts)


def follow(
    store: Store,
    run_id: str,
    *,
    poll_s: float = POLL_S,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[RunView]:
    """Yield a view of a run at once and whenever it changed, the last one when the run is over.

    Raises:
        UnknownRunError: When there is no such run.
    """
    plan = read_plan(store.run(run_id).plan)
    seen: object = None
    last_event = rounds_seen = 0
    while True:
        now = standing(store, run_id)
        news = tuple(list_events(store, run_id, after=last_event))
        last_event = max((event.id for event in news), default=last_event)
        abandoned = is_abandoned(now.record)
        state = (now.record.status, now.record.message, now.rounds_done, now.heard, abandoned)
        over = now.record.status not in ACTIVE
        if state != seen or news:
            seen = state
            done = tuple(list_rounds(store, run_id))
            yield RunView(
                standing=now,
                rounds=done,
                part=_part(plan, now, done),
                estimate=estimate(plan, done, over=over),
                news=news,
                new_rounds=done[rounds_seen:],
                abandoned=abandoned,
            )
            rounds_seen = len(done)
        if over:
            return
        sleep(poll_s)


def _part(plan: Plan, now: Standing, done: Sequence[Round]) -> str:
    """Return the part being asked, as far as the store tells: the last one of this step, else the step's first."""
    step = plan.by_name.get(now.step)
    if step is None:
        return ""
    return done[-1].part if done and done[-1].step == step.name else step.parts[0].name


def tell_news(progress: terminal.RunProgress, view: RunView, *, lines: bool = False) -> None:
    """Show a view in the progress display; what a person should know stays above the bar.

    Args:
        progress: The display.
        view: Of the run now.
        lines: Leave a line for each round, where nobody looks at a bar (a log file).
    """
    said = [(event.at, event.text) for event in view.news]
    if lines:
        said += [(_ended(done), _line(done, view)) for done in view.new_rounds]
    for _, sentence in sorted(said, key=lambda pair: pair[0]):
        progress.say(sentence)
    if view.abandoned:
        progress.say(f"Nobody conducts this run any more: `archipel runs resume {view.run.run_id}` goes on.")
    if not lines and not view.is_over:
        progress.show(view.for_terminal())


def _ended(done: Round) -> datetime.datetime:
    return done.started_at + datetime.timedelta(seconds=done.seconds)


def _line(done: Round, view: RunView) -> str:
    expected = view.standing.rounds_done + view.estimate.rounds_left
    asked = len(view.run.remaining or view.run.invited)
    silent = f", nothing to add at {len(done.silent)}" if done.silent else ""
    words = f"{done.step} {done.part}".replace("_", " ")
    heard = f"{len(done.heard)}/{asked} sites{silent}"
    return f"Round {done.index} of about {expected} ({words}): {heard}, {done.seconds:.2f} s"
