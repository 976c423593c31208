"""Conducting a run: asks the sites, writes down what came, and asks on until the plan is done.

The effects around `server.rounds` (what to do) and `models.progress` (what to ask): `server.asking` carries bytes,
the store remembers. After every complete round the state is stored before the next question is asked, so a run
conducted again, after whatever crash, goes on from its last complete round and asks the very same bytes; sites
answer those with the bytes they already sent.
"""

from __future__ import annotations

import datetime
import logging
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from models.compile import CODE_VERSION
from models.progress import Progress, Question
from models.step import Arrays, DivergedError
from schemas.canonical import sha256_hex
from schemas.errors import ArchipelError
from schemas.messages import Reply, RoundRequest, SetupRequest, encode
from schemas.plan import read_plan
from server.asking import Asker, Pacing, StopRequestedError
from server.exchange import Exchange, Failure
from server.records import Checkpoint, Cost, Hold, KeptReply, Level, Round, Status, TakenOverError
from server.rounds import (
    PLAIN_SUM,
    Asked,
    Complete,
    Continue,
    Fail,
    Hearing,
    LeaveOut,
    Policy,
    RoundProtocol,
    Verdict,
    Wait,
    judge,
    judge_setup,
    read_reply,
    sentence_of,
    setup_asked,
)
from server.store import Store

__all__ = ["DATABASE", "conduct"]

log = logging.getLogger("archipel.hub")

DATABASE = "hub.db"
"""The store, in the hub's home."""

_SHORTEST_ASK_S = 1.0
_NOBODY = "no site has enough patients for it"


class _RunFailedError(ArchipelError):
    """The run cannot go on; the message is its last word."""


def conduct(
    run_id: str,
    home: Path,
    exchange: Exchange,
    *,
    protocol: RoundProtocol = PLAIN_SUM,
    pacing: Pacing | None = None,
) -> None:
    """Conduct a run of the hub's store until it is done, stopped or failed.

    A run with a checkpoint goes on from it; a run that is done is left alone. While a site is missing under
    ``on_dropout = "pause"`` this waits. What came of the run stands in the store, not in an exception.

    Args:
        run_id: Of a run in the store of `home`.
        home: The hub's folder.
        exchange: What carries messages to the sites.
        protocol: How sums are formed.
        pacing: How often to look.

    Raises:
        UnknownRunError: When the store has no such run.
    """
    with Store(home / DATABASE) as store:
        if store.run(run_id).status == "done":
            return
        hold = store.claim(run_id)
        asker = Asker(store, hold, exchange, pacing or Pacing())
        try:
            _Conductor(store, hold, asker, protocol).run()
        except TakenOverError:
            log.warning("run %s is conducted by another process now; this one ends", run_id)
        except StopRequestedError:
            _end(
                asker, store, hold, "stopped", "info", "Stopped on request; `archipel runs resume` goes on from here."
            )
        except ArchipelError as error:
            _end(asker, store, hold, "failed", "error", str(error))
        except Exception as error:
            # Frames only: the text of an exception from numpy or a parser may quote what a site sent.
            frames = "".join(traceback.format_tb(error.__traceback__))
            log.error("run %s failed with %s\n%s", run_id, type(error).__name__, frames)
            text = (
                f"The hub could not go on ({type(error).__name__}); the place stands in the hub's log. "
                "`archipel runs resume` goes on from the last complete round."
            )
            _end(asker, store, hold, "failed", "error", text)


def _end(asker: Asker, store: Store, hold: Hold, status: Status, level: Level, text: str) -> None:
    try:
        store.record(hold, asker.cost())
        asker.show(status, text, level)
    except TakenOverError:
        log.warning("run %s is conducted by another process now; this one ends", hold.run_id)


class _Judge(Protocol):
    def __call__(self, hearing: Hearing, *, deadline_passed: bool) -> Verdict: ...


@dataclass(frozen=True)
class _Message:
    """One message to every site, set-up or round.

    Attributes:
        body: What one site is sent.
        keep: Called with who has answered so far and the bytes that were new.
    """

    asked: Asked
    body: Callable[[str], bytes]
    judge: _Judge
    keep: Callable[[Hearing, Mapping[str, bytes]], None]
    when_waiting: Status


class _Conductor:
    """One conduct of one run."""

    def __init__(self, store: Store, hold: Hold, asker: Asker, protocol: RoundProtocol) -> None:
        self.store = store
        self.hold = hold
        self.asker = asker
        self.protocol = protocol
        self.record = store.run(hold.run_id)
        self.plan = read_plan(self.record.plan)
        self.seq = 0

    def run(self) -> None:
        """Set up where that has not happened, then ask until nothing is left to ask."""
        if self.record.code_version != CODE_VERSION:
            raise _RunFailedError(
                f"The run was launched with Archipel {self.record.code_version} and this is {CODE_VERSION}: "
                "install that version to resume it, or launch the study again."
            )
        self.asker.heed()
        progress = self._set_up() if self.record.sites is None else self._resume()
        while (question := progress.question) is not None:
            self.asker.heed()
            self.asker.show("running", f"Running over {', '.join(self.record.remaining)}.")
            progress = self._round(progress, question)
        text = f"Done after {self.store.count_rounds(self.hold.run_id)} rounds."
        self.store.record(self.hold, self.asker.cost())
        self.store.finish(self.hold, progress.arrays, progress.skipped, text)
        self.asker.say(text)

    def _resume(self) -> Progress:
        checkpoint = self.store.checkpoint(self.hold.run_id)
        if checkpoint is None:
            raise _RunFailedError("No checkpoint of this run can be read: launch the study again.")
        self.seq = checkpoint.seq
        self.asker.say(f"Resumed after {self.store.count_rounds(self.hold.run_id)} complete rounds.")
        return Progress.from_bytes(self.plan, checkpoint.progress)

    # ------------------------------------------------------------ set-up
    def _set_up(self) -> Progress:
        """Tell every site the plan and the list until everybody on the list has agreed to that very list."""
        sites = tuple(sorted(self.record.invited))
        if not sites:
            raise _RunFailedError("No site was invited to this run.")
        left_out: dict[str, str] = {}
        self.asker.show("setting-up", f"Setting up with {', '.join(sites)}.")
        while declining := self._set_up_list(sites):
            for failure in declining:
                left_out[failure.site] = sentence_of(failure)
                self.asker.say(f"Left out: {sentence_of(failure)}", "warning")
            sites = tuple(site for site in sites if site not in left_out)
        progress = Progress.start(self.plan)
        self.store.record(self.hold, self.asker.cost())
        self.store.settle(self.hold, sites, left_out, _checkpoint(self.seq, progress))
        self.record = replace(self.record, sites=sites, left_out=left_out)
        return progress

    def _set_up_list(self, sites: tuple[str, ...]) -> tuple[Failure, ...]:
        """Return who declines; empty when everybody on the list has agreed to it."""
        run_id, content = self.hold.run_id, self.plan.content.decode()
        heard: dict[str, Mapping[str, Reply]] = {}
        for phase in self.protocol.setup_phases:

            def body(site: str, phase: str = phase) -> bytes:
                arrays = self.protocol.setup_arrays(phase, site, heard)
                return encode(SetupRequest(run_id, self.plan.hash, sites, content, phase, arrays))

            asked = setup_asked(run_id, phase, self.protocol.setup_releases(phase))
            message = _Message(asked, body, judge_setup, lambda _hearing, _bodies: None, "waiting")
            verdict = self._collect(Hearing(sites), message)
            if isinstance(verdict, LeaveOut):
                return verdict.without
            heard[phase] = verdict.replies
        return ()

    # ------------------------------------------------------------ a round
    def _round(self, progress: Progress, question: Question) -> Progress:
        """Ask one question of every site and store the state that follows from the sum."""
        tally = self._tally(question)
        part = progress.step.part(question.part)
        heard: dict[str, Mapping[str, Reply]] = {}
        for phase in self.protocol.phases:
            asked = Asked(self.hold.run_id, question.step, question.part, question.number, phase,
                          self.protocol.releases(phase, part))  # fmt: skip
            message = self._message(question, asked, heard, tally)
            hearing = Hearing(self.record.remaining).hear(tally.heard_before(asked))
            verdict = self._collect(hearing, message)
            if isinstance(verdict, Continue):
                progress = self._go_on_without(progress, verdict)
                tally.missing |= {failure.site for failure in verdict.without}
                if not _is_same(question, progress.question):
                    return progress
            heard[phase] = verdict.replies
        total = self.protocol.total(part, self.record.remaining, heard)
        after = progress.skip(_NOBODY) if total is None else progress.absorb(total)
        self._store_round(tally, heard[self.protocol.phases[-1]], after)
        return after

    def _tally(self, question: Question) -> _Tally:
        kept = self.store.kept_replies(self.hold.run_id, question.step, question.part, question.number)
        replies = {(reply.phase, reply.site): reply for reply in kept}
        return _Tally(question, datetime.datetime.now(datetime.UTC), self.asker.total(), replies)

    def _message(
        self, question: Question, asked: Asked, heard: Mapping[str, Mapping[str, Reply]], tally: _Tally
    ) -> _Message:
        # The settled list, also after a site has left: the same question is the same bytes for everybody.
        sites = tuple(sorted(self.record.sites or ()))
        last: list[tuple[Arrays, bytes]] = []

        def body(site: str) -> bytes:
            arrays = self.protocol.request_arrays(asked.phase, site, question, heard)
            if not (last and last[0][0] is arrays):  # a plain sum sends everybody one and the same
                request = RoundRequest(
                    asked.run_id, self.plan.hash, sites, asked.step, asked.part, asked.number, asked.phase, arrays
                )
                last[:] = [(arrays, encode(request))]
            return last[0][1]

        def keep(hearing: Hearing, bodies: Mapping[str, bytes]) -> None:
            new = [_kept(asked, site, hearing.replies[site].status, body) for site, body in bodies.items()]
            tally.replies |= {(reply.phase, reply.site): reply for reply in new}
            if hearing.missing or asked.phase != self.protocol.phases[-1]:
                self.store.record(self.hold, self.asker.cost(), new)

        def judge_now(hearing: Hearing, *, deadline_passed: bool) -> Verdict:
            policy = Policy(self.plan.study.on_dropout, has_dropped=bool(self.record.dropped))
            verdict = judge(hearing, policy, deadline_passed=deadline_passed)
            if isinstance(verdict, Wait) and verdict.paused:
                tally.missing |= {failure.site for failure in verdict.missing}
            return verdict

        return _Message(asked, body, judge_now, keep, "paused")

    def _go_on_without(self, progress: Progress, verdict: Continue) -> Progress:
        """Let sites go for the rest of the run, and store the state from which the rest goes on."""
        reasons = {failure.site: sentence_of(failure) for failure in verdict.without}
        try:
            shrunk = progress.shrink()
        except DivergedError as error:
            shrunk = progress.skip(str(error))
        self.seq += 1
        self.store.drop_sites(self.hold, reasons, _checkpoint(self.seq, shrunk))
        self.record = replace(self.record, dropped={**self.record.dropped, **reasons})
        text = f"Going on without {', '.join(reasons)} for the rest of the run. {' '.join(reasons.values())}"
        self.asker.say(text, "warning")
        return shrunk

    def _store_round(self, tally: _Tally, replies: Mapping[str, Reply], after: Progress) -> None:
        spent = self.asker.total() - tally.before
        self.seq += 1
        done = Round(
            step=tally.question.step,
            part=tally.question.part,
            number=tally.question.number,
            started_at=tally.started_at,
            seconds=spent.seconds,
            bytes_up=spent.bytes_up,
            bytes_down=spent.bytes_down,
            heard=_sites_with(replies, "ok"),
            silent=_sites_with(replies, "empty"),
            missing=tuple(sorted(tally.missing)),
        )
        checkpoint = _checkpoint(self.seq, after)
        self.store.complete_round(self.hold, done, list(tally.replies.values()), checkpoint, self.asker.cost())

    # ------------------------------------------------------------ one message
    def _collect(self, hearing: Hearing, message: _Message) -> Complete | Continue | LeaveOut:
        """Ask until there is a verdict other than to wait."""
        clock = self.asker.pacing.clock
        deadline_s = self.plan.study.deadline_s
        opened = clock()
        passed = False
        while isinstance(verdict := message.judge(hearing, deadline_passed=passed), Wait):
            if verdict.missing:
                self._wait(verdict, message)
            left_s = deadline_s if passed else max(_SHORTEST_ASK_S, deadline_s - (clock() - opened))
            outcomes = self.asker.ask({site: message.body(site) for site in hearing.missing}, left_s)
            read = {site: _read(site, outcome, message.asked) for site, outcome in outcomes.items()}
            hearing = hearing.hear(read)
            bodies = {site: body for site, body in outcomes.items() if isinstance(body, bytes)}
            message.keep(hearing, {site: body for site, body in bodies.items() if site in hearing.replies})
            # An exchange that calls a site late has waited until the deadline it was given.
            is_late = any(failure.reason == "late" for failure in hearing.failures.values())
            passed = passed or is_late or clock() - opened >= deadline_s
        if isinstance(verdict, Fail):
            raise _RunFailedError(verdict.sentence)
        return verdict

    def _wait(self, verdict: Wait, message: _Message) -> None:
        if verdict.paused:
            text = f"{verdict.sentence} The run goes on by itself with the missing answer."
            self.asker.show(message.when_waiting, text, "warning")
        self.asker.rest(self.asker.pacing.retry_s)


@dataclass
class _Tally:
    """What came in for one round.

    Attributes:
        before: What the conduct had cost when the round began.
        replies: By phase and site.
        missing: Sites that kept the round waiting or left the run in it.
    """

    question: Question
    started_at: datetime.datetime
    before: Cost
    replies: dict[tuple[str, str], KeptReply]
    missing: set[str] = field(default_factory=set)

    def heard_before(self, asked: Asked) -> dict[str, Reply | Failure]:
        """Return the answers that were kept when an earlier conduct ended within this round."""
        kept = {reply.site: reply.body for reply in self.replies.values() if reply.phase == asked.phase}
        return {site: read_reply(site, body, asked) for site, body in kept.items() if body is not None}


def _read(site: str, outcome: bytes | Failure, asked: Asked) -> Reply | Failure:
    return outcome if isinstance(outcome, Failure) else read_reply(site, outcome, asked)


def _kept(asked: Asked, site: str, status: str, body: bytes) -> KeptReply:
    return KeptReply(
        asked.step, asked.part, asked.number, asked.phase, site, status, len(body), sha256_hex(body), body
    )


def _checkpoint(seq: int, progress: Progress) -> Checkpoint:
    step = "" if progress.done else progress.step.name
    return Checkpoint(seq, step, progress.number, progress.to_bytes())


def _sites_with(replies: Mapping[str, Reply], status: str) -> tuple[str, ...]:
    return tuple(sorted(site for site, reply in replies.items() if reply.status == status))


def _is_same(before: Question, after: Question | None) -> bool:
    return after is not None and (before.step, before.part, before.number) == (after.step, after.part, after.number)
