"""Conducting a run: asks the sites, writes down what came, and asks on until the plan is done.

The effects around `server.rounds` (what to do) and `models.progress` (what to ask): `server.asking` carries bytes,
the store remembers. After every complete round the state is stored before the next question is asked, so a run
conducted again, after whatever crash, goes on from its last complete round and asks the very same bytes; sites
answer those with the bytes they already sent.
"""

from __future__ import annotations

import datetime
import functools
import logging
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from sqlalchemy.exc import OperationalError

from models.compile import CODE_VERSION
from models.progress import Progress, Question
from models.step import DivergedError
from schemas.errors import ArchipelError
from schemas.messages import SETUP, Reply, RoundRequest, SetupRequest, encode
from schemas.plan import PartSpec, read_plan
from server.asking import Asker, Pacing, StopRequestedError
from server.database import DATABASE, is_passing
from server.exchange import Exchange, Failure
from server.records import Checkpoint, Hold, KeptReply, Level, Round, Status, TakenOverError
from server.round_protocol import Heard, RoundProtocol
from server.rounds import (
    MIN_SITES_LEFT,
    Asked,
    Complete,
    Continue,
    Fail,
    Hearing,
    LeaveOut,
    Policy,
    Verdict,
    Wait,
    judge,
    judge_opening,
    judge_setup,
    read_reply,
    sentence_of,
    setup_asked,
)
from server.secure_rounds import protocol_of
from server.store import Store
from server.tally import Tally, keep_reply

__all__ = ["DATABASE", "conduct"]

log = logging.getLogger("archipel.hub")

_SHORTEST_ASK_S = 1.0
_NOBODY = "no site has enough patients for it"
_VALUE = "value"


class _RunFailedError(ArchipelError):
    """The run cannot go on; the message is its last word."""


def conduct(
    run_id: str,
    home: Path,
    exchange: Exchange,
    *,
    protocol: RoundProtocol | None = None,
    pacing: Pacing | None = None,
) -> None:
    """Conduct a run of the hub's store until it is done, stopped or failed.

    A run with a checkpoint goes on from it; a run that is done is left alone. While a site is missing under
    ``on_dropout = "pause"`` this waits, and so it does while the disk takes no writes: nothing was asked that is not
    written down, so it goes on from its last complete round. What came of the run stands in the store, not in an
    exception.

    Args:
        run_id: Of a run in the store of `home`.
        home: The hub's folder.
        exchange: What carries messages to the sites.
        protocol: How sums are formed; by default as the run's plan says.
        pacing: How often to look.

    Raises:
        UnknownRunError: When the store has no such run.
    """
    pace = pacing or Pacing()
    hold: Hold | None = None
    is_said = False
    while True:
        try:
            with Store(home / DATABASE) as store:
                if store.run(run_id).status == "done":
                    return
                hold = hold or store.claim(run_id)
                _conduct(store, hold, Asker(store, hold, exchange, pace), protocol)
                return
        except OperationalError as error:
            if not is_passing(error):
                raise
            if not is_said:
                log.error("run %s waits: %s cannot be written; it goes on when there is room", run_id, DATABASE)
            is_said = True
            pace.sleep(pace.retry_s)


def _conduct(store: Store, hold: Hold, asker: Asker, protocol: RoundProtocol | None) -> None:
    run_id = hold.run_id
    try:
        _Conductor(store, hold, asker, protocol).run()
    except TakenOverError:
        log.warning("run %s is conducted by another process now; this one ends", run_id)
    except StopRequestedError:
        _end(asker, store, hold, "stopped", "info", "Stopped on request; `archipel runs resume` goes on from here.")
    except ArchipelError as error:
        _end(asker, store, hold, "failed", "error", str(error))
    except Exception as error:
        if is_passing(error):
            raise
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
        asked: Of one site.
        body: What one site is sent.
        keep: Called with who has answered so far and the bytes that were new.
    """

    asked: Callable[[str], Asked]
    body: Callable[[str], bytes]
    judge: _Judge
    keep: Callable[[Hearing, Mapping[str, bytes]], None]
    when_waiting: Status


class _Conductor:
    """One conduct of one run."""

    def __init__(self, store: Store, hold: Hold, asker: Asker, protocol: RoundProtocol | None) -> None:
        self.store = store
        self.hold = hold
        self.asker = asker
        self.record = store.run(hold.run_id)
        self.plan = read_plan(self.record.plan)
        self.protocol: RoundProtocol = protocol_of(self.record, self.plan) if protocol is None else protocol
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
        self._remember_setup()
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
        while isinstance(outcome := self._set_up_list(sites), LeaveOut):
            for failure in outcome.without:
                left_out[failure.site] = sentence_of(failure)
                self.asker.say(f"Left out: {sentence_of(failure)}", "warning")
            sites = tuple(site for site in sites if site not in left_out)
        progress = Progress.start(self.plan)
        self.store.record(self.hold, self.asker.cost())
        self.store.settle(self.hold, sites, left_out, _checkpoint(self.seq, progress), outcome)
        self.record = replace(self.record, sites=sites, left_out=left_out)
        return progress

    def _set_up_list(self, sites: tuple[str, ...]) -> LeaveOut | list[KeptReply]:
        """Ask everybody on the list in every phase; return who declines, or what a resumed run needs to know."""
        run_id, content, protocol = self.hold.run_id, self.plan.content.decode(), self.protocol
        heard: dict[str, Mapping[str, Reply]] = {}
        kept: list[KeptReply] = []
        for phase in protocol.setup_phases:

            def asked(site: str, phase: str = phase) -> Asked:
                return setup_asked(run_id, phase, protocol.setup_expected(phase, site))

            def body(site: str, phase: str = phase) -> bytes:
                sent = protocol.setup_content(phase, site, heard)
                head = SetupRequest(run_id, self.plan.hash, sites, content, phase, roster=protocol.roster)
                return encode(replace(head, arrays=sent.arrays, blobs=sent.blobs))

            def keep(hearing: Hearing, bodies: Mapping[str, bytes], phase: str = phase) -> None:
                if phase in protocol.phases_to_keep:
                    kept.extend(keep_reply(asked(site, phase), site, "ok", body) for site, body in bodies.items())

            # A list that the sites' approvals name is as it is; without one, who declines is left out.
            judge_now = functools.partial(judge_setup, fixed=bool(protocol.roster))
            verdict = self._collect(Hearing(sites), _Message(asked, body, judge_now, keep, "waiting"))
            if isinstance(verdict, LeaveOut):
                return verdict
            heard[phase] = verdict.replies
            if (
                phase in protocol.phases_to_keep[-1:]
            ):  # at once, so that keys that do not hold are passed on to nobody
                self.protocol = protocol.after_setup(heard)
        return kept

    def _remember_setup(self) -> None:
        """Give the protocol of a resumed run what the set-up has told."""
        heard: dict[str, dict[str, Reply]] = {phase: {} for phase in self.protocol.phases_to_keep}
        for kept in self.store.kept_replies(self.hold.run_id, SETUP, SETUP, 0):
            asked = setup_asked(self.hold.run_id, kept.phase, self.protocol.setup_expected(kept.phase, kept.site))
            reply = read_reply(kept.site, kept.body or b"", asked)
            if isinstance(reply, Reply):
                heard[kept.phase][kept.site] = reply
        self.protocol = self.protocol.after_setup(heard)

    # ------------------------------------------------------------ a round
    def _round(self, progress: Progress, question: Question) -> Progress:
        """Ask one question of every site and store the state that follows from the sum."""
        tally = self._tally(question)
        part = progress.step.part(question.part)
        heard: dict[str, Mapping[str, Reply]] = {}
        verdict = self._ask(question, part, _VALUE, heard, tally, self._judge_value(tally))
        if isinstance(verdict, Continue):
            progress = self._go_on_without(progress, verdict)
            tally.missing |= {failure.site for failure in verdict.without}
            if not _is_same(question, progress.question):
                return progress
        heard[_VALUE] = verdict.replies
        for phase in self.protocol.opening_phases(self.record.remaining):
            heard[phase] = self._ask(question, part, phase, heard, tally, self._judge_opening(tally)).replies
        total = self.protocol.total(question, part, heard)
        for remark in total.remarks:
            self.asker.say(remark, "warning")
        leaving = None
        for phase in self.protocol.closing_phases(part):
            closed = self._ask(question, part, phase, heard, tally, self._judge_value(tally))
            leaving = closed if isinstance(closed, Continue) else leaving
        after = progress.skip(_NOBODY) if total.arrays is None else progress.absorb(total.arrays)
        self._store_round(tally, heard[_VALUE], after)
        # Who has not checked this sum would refuse what follows from it: it leaves as one that did not answer.
        return after if leaving is None else self._go_on_without(after, leaving)

    def _ask(
        self, question: Question, part: PartSpec, phase: str, heard: Heard, tally: Tally, judge_now: _Judge
    ) -> Complete | Continue | LeaveOut:
        """Send one message of a round to every remaining site and return what came of it."""
        self.asker.show("running", f"Running over {', '.join(self.record.remaining)}.")
        asked = Asked(self.hold.run_id, question.step, question.part, question.number, phase,
                      self.protocol.expected(phase, part))  # fmt: skip
        hearing = Hearing(self.record.remaining).hear(tally.heard_before(asked))
        return self._collect(hearing, self._message(question, asked, heard, tally, judge_now))

    def _tally(self, question: Question) -> Tally:
        kept = self.store.kept_replies(self.hold.run_id, question.step, question.part, question.number)
        replies = {(reply.phase, reply.site): reply for reply in kept}
        return Tally(question, datetime.datetime.now(datetime.UTC), self.asker.total(), replies)

    def _message(self, question: Question, asked: Asked, heard: Heard, tally: Tally, judge_now: _Judge) -> _Message:
        # The settled list, also after a site has left: the same question is the same bytes for everybody.
        sites = tuple(sorted(self.record.sites or ()))
        # The answers of a round that is then complete are digested with it, in one transaction.
        closing = self.protocol.closing_phases(self.plan.by_name[asked.step].part(asked.part))
        is_last = asked.phase == (_VALUE, *self.protocol.opening_phases(self.record.remaining), *closing)[-1]

        @functools.cache
        def encoded() -> bytes:
            sent = self.protocol.content(asked.phase, question, heard)
            where = (asked.step, asked.part, asked.number, asked.phase)
            head = RoundRequest(asked.run_id, self.plan.hash, sites, *where)
            return encode(replace(head, arrays=sent.arrays, blobs=sent.blobs))

        def keep(hearing: Hearing, bodies: Mapping[str, bytes]) -> None:
            new = [keep_reply(asked, site, hearing.replies[site].status, body) for site, body in bodies.items()]
            tally.replies |= {(reply.phase, reply.site): reply for reply in new}
            if hearing.missing or not is_last:
                self.store.record(self.hold, self.asker.cost(), new)

        return _Message(lambda _site: asked, lambda _site: encoded(), judge_now, keep, "paused")

    def _judge_value(self, tally: Tally) -> _Judge:
        def judge_now(hearing: Hearing, *, deadline_passed: bool) -> Verdict:
            least = max(MIN_SITES_LEFT, self.protocol.threshold)
            policy = Policy(self.plan.study.on_dropout, bool(self.record.dropped), least)
            return tally.noting(judge(hearing, policy, deadline_passed=deadline_passed))

        return judge_now

    def _judge_opening(self, tally: Tally) -> _Judge:
        def judge_now(hearing: Hearing, *, deadline_passed: bool) -> Verdict:
            return tally.noting(judge_opening(hearing, self.protocol.threshold, deadline_passed=deadline_passed))

        return judge_now

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

    def _store_round(self, tally: Tally, replies: Mapping[str, Reply], after: Progress) -> None:
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
            read = {site: _read(site, outcome, message.asked(site)) for site, outcome in outcomes.items()}
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


def _read(site: str, outcome: bytes | Failure, asked: Asked) -> Reply | Failure:
    return outcome if isinstance(outcome, Failure) else read_reply(site, outcome, asked)


def _checkpoint(seq: int, progress: Progress) -> Checkpoint:
    step = "" if progress.done else progress.step.name
    return Checkpoint(seq, step, progress.number, progress.to_bytes())


def _sites_with(replies: Mapping[str, Reply], status: str) -> tuple[str, ...]:
    return tuple(sorted(site for site, reply in replies.items() if reply.status == status))


def _is_same(before: Question, after: Question | None) -> bool:
    return after is not None and (before.step, before.part, before.number) == (after.step, after.part, after.number)
