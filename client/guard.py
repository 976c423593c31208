"""The guard: everything that must hold before a question is worked on and before an answer leaves, in one order.

    admit:   decode -> words -> plan is ours and approved, not paused -> run unchanged -> gate -> answered before?
    release: all of that again -> gate on the draft -> keep the bytes -> ledger (fsync) -> mark -> return

It decides little itself: `privacy.gate` judges messages, `client.approvals` plans, `client.answers` the order of
rounds. What it adds is the sequence, and that whatever goes wrong ends in a refusal with a code. Bytes that leave
are always encoded here, so no header or padding of a request or a draft travels on.

A refusal is entered in the ledger too, but it is no answer: the same round may be answered later, once the plan
is approved or the disk has space again.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from client.answers import Answers, Kept, RunRecord, order_verdict
from client.approvals import current_verdict, gate_floors, load_plan, receive_plan, verify_plan
from client.guard_protocol import Answer, Run
from client.settings import load_settings
from client.state import SitePaths, TablesDigest, freeze_optout, place_of, source_digest
from models.compile import CODE_VERSION
from privacy import gate
from privacy.gate import Floors
from privacy.ledger import Event, Ledger, LedgerBrokenError, rounded_count
from privacy.storage import StorageError
from schemas.canonical import sha256_hex
from schemas.codes import Code
from schemas.errors import ArrayTypeError, IncompatibleVersionError, MessageError
from schemas.messages import (
    SETUP,
    Draft,
    Reply,
    RoundRequest,
    SetupRequest,
    decode,
    decode_as,
    encode,
)
from schemas.plan import Plan, read_plan

__all__ = ["SiteGuard", "open_guard"]

log = logging.getLogger("archipel.site")

Request = SetupRequest | RoundRequest
Judge = Callable[[Plan, Floors], Code | None]
_V = TypeVar("_V", bound=Run | Answer)


@dataclass(frozen=True)
class _Asked:
    """A decoded question.

    Attributes:
        request: In words that can be kept.
        digest: SHA-256 of its canonical form.
    """

    request: Request
    digest: str

    @property
    def round(self) -> tuple[str, str, int]:
        """Step, part and number."""
        return _round(self.request)


class _RefusedError(Exception):
    """Ends a judgement with a code; never leaves this module."""

    def __init__(self, code: Code) -> None:
        super().__init__(code)
        self.code = code


class SiteGuard:
    """The gate of a site as its agent sees it (`client.guard_protocol.Guard`); never raises."""

    def __init__(
        self,
        paths: SitePaths,
        *,
        floors: Floors,
        source: Callable[[], str],
        max_rounds: int | None = None,
        now: Callable[[], datetime.datetime] | None = None,
        judge_plan: Judge = verify_plan,
    ) -> None:
        """Open the site's ledger and answers.

        Args:
            paths: Of the site's state.
            floors: The site's own.
            source: Returns the digest of what a cohort is made from at this moment (`client.state.source_digest`).
            max_rounds: That the site answers in one run; None: as many as the plan says.
            now: The clock.
            judge_plan: Why this installation does not stand by a plan, or None.

        Raises:
            LedgerBrokenError: When the ledger is not what this site wrote.
            StorageError: When the state cannot be opened.
        """
        self._paths = paths
        self._floors = floors
        self._source = source
        self._max_rounds = max_rounds
        self._now = now or (lambda: datetime.datetime.now(datetime.UTC))
        self._judge_plan = judge_plan
        self._stood_by: dict[str, Plan] = {}
        self._last_refusal: Event | None = None
        self._ledger = Ledger(paths.ledger, self._now)
        self._answers = Answers(paths.answers)

    def close(self) -> None:
        """Close the files."""
        self._answers.close()

    def admit(self, request: bytes) -> Run | Answer:
        """Judge a request before anything of it reaches the runner."""
        return self._guarded(request, self._admit)

    def release(self, request: bytes, draft: bytes | None) -> bytes:
        """Return the only bytes that may leave in answer to `request`."""
        return self._guarded(request, lambda asked: Answer(self._release(asked, draft))).body

    # ------------------------------------------------------------ the sequence
    def _admit(self, asked: _Asked) -> Run | Answer:
        _, kept = self._judge(asked)
        if kept is not None:
            return Answer(kept.reply)
        if isinstance(asked.request, SetupRequest):
            self._begin(asked.request)
        return Run()

    def _release(self, asked: _Asked, draft_body: bytes | None) -> bytes:
        plan, kept = self._judge(asked)  # again: an approval may have been withdrawn while the runner worked
        if kept is not None:
            return kept.reply
        draft = _read_draft(draft_body)
        if isinstance(asked.request, SetupRequest):
            if self._answers.run(asked.request.run_id) is None:
                raise _RefusedError(Code.RUN_UNKNOWN)
            cleared = gate.release_setup(draft, asked.request, plan, self._floors)
        else:
            cleared = gate.release(draft, asked.request, plan, self._floors)
        if isinstance(cleared, Code):
            raise _RefusedError(cleared)
        return self._send(asked, plan, cleared, draft.n_patients)

    def _send(self, asked: _Asked, plan: Plan, reply: Reply, n_patients: int) -> bytes:
        """Keep, enter and mark an answer, in this order; only then may it leave."""
        step, part, number = asked.round
        kept = Kept(
            run_id=asked.request.run_id,
            step=step,
            number=number,
            phase=asked.request.phase,
            part=part,
            request_digest=asked.digest,
            n_patients=rounded_count(n_patients),
            reply=encode(reply),
        )
        self._answers.keep(kept)
        self._ledger.append(self._release_event(kept, plan))
        self._answers.mark_ledgered(kept)
        return kept.reply

    def _judge(self, asked: _Asked) -> tuple[Plan, Kept | None]:
        """Return the plan of a question that may be worked on, and the answer that it has already, if any.

        Raises:
            _RefusedError: With the code of the first rule that it breaks.
        """
        request = asked.request
        plan = self._approved_plan(request)
        if isinstance(request, RoundRequest):
            _refuse_if(gate.admit(request, plan))
        run = self._answers.run(request.run_id)
        if run is not None and not self._fits(run, request):
            raise _RefusedError(Code.RUN_CHANGED)
        is_set_up = run is not None and self._answers.find(request.run_id, SETUP, 0, request.phase) is not None
        if isinstance(request, RoundRequest) and not is_set_up:
            raise _RefusedError(Code.RUN_UNKNOWN)
        kept = self._answered_before(asked, plan)
        if kept is None and isinstance(request, RoundRequest):
            answered = self._answers.answered(request.run_id)
            _refuse_if(order_verdict(request, plan, answered, self._max_rounds))
        return plan, kept

    def _fits(self, run: RunRecord, request: Request) -> bool:
        """Whether a run is still the one that was set up.

        Its list of sites is fixed from the first summand on. Until then the hub may set it up again over another
        list, since it leaves out who takes no part.
        """
        if run.plan_hash != request.plan_hash:
            return False
        may_change = isinstance(request, SetupRequest) and not self._answers.has_summand(run.run_id)
        return run.sites == request.sites or may_change

    def _answered_before(self, asked: _Asked, plan: Plan) -> Kept | None:
        step, _, number = asked.round
        kept = self._answers.find(asked.request.run_id, step, number, asked.request.phase)
        if kept is None:
            return None
        if kept.request_digest != asked.digest:
            if isinstance(asked.request, SetupRequest):  # over another list of sites, which `_fits` has let pass
                return None
            raise _RefusedError(Code.ROUND_ANSWERED_OTHERWISE)
        if not kept.ledgered:  # a crash, or a full disk, after the bytes were kept: nothing has left yet
            if not self._ledger.holds_release(sha256_hex(kept.reply)):
                self._ledger.append(self._release_event(kept, plan))
            self._answers.mark_ledgered(kept)
        return kept

    # ------------------------------------------------------------ plans and runs
    def _approved_plan(self, request: Request) -> Plan:
        plan, code = self._known_plan(request)
        _refuse_if(code)
        if isinstance(request, SetupRequest):
            _refuse_if(gate.admit_setup(request))
            receive_plan(self._paths, plan)
        _refuse_if(current_verdict(self._paths, plan, self._now().date()))
        return plan

    def _known_plan(self, request: Request) -> tuple[Plan, Code | None]:
        """Return the plan and why this installation does not stand by it; judged once, since neither changes."""
        known = self._stood_by.get(request.plan_hash)
        if known is not None and (isinstance(request, RoundRequest) or request.plan == known.content.decode()):
            return known, None
        plan = _read_plan(request) if isinstance(request, SetupRequest) else load_plan(self._paths, request.plan_hash)
        if plan is None:
            raise _RefusedError(Code.PLAN_UNKNOWN)
        code = self._judge_plan(plan, self._floors)
        if code is None:
            self._stood_by[plan.hash] = plan
        return plan, code

    def _begin(self, request: SetupRequest) -> None:
        """Fix a run's sites, tables and opt-outs; anew as long as nothing was answered in it."""
        record = RunRecord(
            run_id=request.run_id,
            plan_hash=request.plan_hash,
            sites=request.sites,
            source_digest=self._source(),
            optout=freeze_optout(self._paths, request.run_id),
            started=self._now().isoformat(),
        )
        self._answers.begin(record)

    # ------------------------------------------------------------ refusals
    def _guarded(self, body: bytes, decide: Callable[[_Asked], _V]) -> _V | Answer:
        """Turn every way of failing into a refusal; text of an exception goes nowhere, it may quote a cell."""
        request: Request | None = None
        try:
            asked = _read_request(body)
            request = asked.request
            return decide(asked)
        except _RefusedError as refused:
            code = refused.code
        except (StorageError, LedgerBrokenError) as error:  # their sentences are ours, without values
            log.error("%s", error)
            code = Code.STORAGE_FAILED
        except Exception as error:
            log.error("the guard failed: %s at %s", type(error).__name__, place_of(error))
            code = Code.STEP_FAILED
        self._enter_refusal(request, code)
        return Answer(_refusal(request, code))

    def _enter_refusal(self, request: Request | None, code: Code) -> None:
        step, part, number = _round(request)
        plan = self._stood_by.get(request.plan_hash) if request is not None else None
        event = Event(
            "refusal",
            run=request.run_id if request is not None else "",
            study=plan.study.name if plan is not None else "",
            plan_hash=request.plan_hash if request is not None else "",
            step=step,
            part=part,
            number=number,
            rule=code,
            code_version=CODE_VERSION,
        )
        if event == self._last_refusal:  # a hub that waits for an approval asks again and again
            return
        try:
            self._ledger.append(event)
            self._last_refusal = event
        except (StorageError, LedgerBrokenError) as error:  # a code may leave without an entry, numbers may not
            log.error("%s", error)

    def _release_event(self, kept: Kept, plan: Plan) -> Event:
        reply = decode_as(kept.reply, Reply)
        is_setup = kept.step == SETUP
        required = (
            max(plan.study.privacy.min_patients, self._floors.min_patients)
            if is_setup
            else gate.required_patients(plan.by_name[kept.step], self._floors)
        )
        return Event(
            "setup" if is_setup else "release",
            run=kept.run_id,
            study=plan.study.name,
            plan_hash=plan.hash,
            step=kept.step,
            part=kept.part,
            number=kept.number,
            digest=sha256_hex(kept.reply),
            n_bytes=len(kept.reply),
            arrays=tuple((name, array.shape) for name, array in sorted(reply.arrays.items())),
            n_patients=kept.n_patients,
            rule=f"{reply.status}: approved plan, at least {required} patients",
            code_version=CODE_VERSION,
        )


def open_guard(home: Path) -> SiteGuard:
    """Open the guard of the site at `home`.

    Raises:
        FaultsError: When `site.toml` has faults.
        LedgerBrokenError: When the ledger is not what this site wrote; the site then does not start.
        StorageError: When the site's state cannot be opened.
    """
    settings = load_settings(home)
    digests = TablesDigest()
    return SiteGuard(
        SitePaths(home),
        floors=gate_floors(settings),
        source=lambda: source_digest(load_settings(home), digests),
        max_rounds=settings.max_rounds,
    )


def _refuse_if(code: Code | None) -> None:
    if code is not None:
        raise _RefusedError(code)


def _read_request(body: bytes) -> _Asked:
    try:
        message = decode(body)
    except IncompatibleVersionError:
        raise _RefusedError(Code.OTHER_VERSION) from None
    except MessageError:
        raise _RefusedError(Code.MESSAGE_MALFORMED) from None
    if not isinstance(message, SetupRequest | RoundRequest) or not gate.is_well_formed(message):
        raise _RefusedError(Code.MESSAGE_MALFORMED)
    return _Asked(message, sha256_hex(encode(message)))


def _read_plan(request: SetupRequest) -> Plan:
    try:
        plan = read_plan(request.plan.encode())
    except (MessageError, ValueError, RecursionError):
        raise _RefusedError(Code.MESSAGE_MALFORMED) from None
    if plan.hash != request.plan_hash:
        raise _RefusedError(Code.MESSAGE_MALFORMED)
    return plan


def _read_draft(body: bytes | None) -> Draft:
    if body is None:
        raise _RefusedError(Code.STEP_FAILED)
    try:
        return decode_as(body, Draft)
    except ArrayTypeError:
        raise _RefusedError(Code.RELEASE_WRONG_DTYPE) from None
    except (MessageError, IncompatibleVersionError):
        raise _RefusedError(Code.STEP_FAILED) from None


def _round(request: Request | None) -> tuple[str, str, int]:
    if request is None:
        return "", "", 0
    if isinstance(request, SetupRequest):
        return SETUP, SETUP, 0
    return request.step, request.part, request.number


def _refusal(request: Request | None, code: Code) -> bytes:
    step, part, number = _round(request)
    reply = Reply(request.run_id if request is not None else "", step, part, number, "refused", code=code)
    return encode(reply if request is None else replace(reply, phase=request.phase))
