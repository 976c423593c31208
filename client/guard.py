"""The guard: everything that must hold before a question is worked on and before an answer leaves, in one order.

    admit:   decode -> words -> run not from before a restoration -> plan is ours -> roster
             -> both approved, not paused -> history whole -> run unchanged -> gate
             -> answered before? -> order of rounds -> parameters of an honest fit
    release: all of that again -> gate on the draft -> under differential privacy: debit, noise -> mask
             -> keep the bytes and the state -> ledger (fsync) -> mark as entered -> return

It decides little itself: `privacy.gate` judges messages, `privacy.inbound` parameters, `client.approvals` plans,
`client.peers` rosters, `client.answers` the order of rounds, `client.secure` the protocol of the secure sum,
`client.noising` what differential privacy costs. What it adds is the sequence, and that whatever goes wrong ends in
a refusal with a code. Bytes that leave are always encoded here, so no header or padding of a request or a draft
travels on.

Messages of the secure sum that need no table (shares, boxes, consents) are answered in `admit`; the runner sees none.

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

import numpy as np

from client.answers import Answers, Change, Kept, RunRecord, order_verdict
from client.approvals import gate_floors, load_approvals, verify_plan
from client.approved import Approved, JudgePlan
from client.entries import refusal_entry, release_entry
from client.guard_protocol import Answer, Run
from client.heads import verify_held
from client.held import log_held
from client.members import closeness, load_members
from client.noising import Noising, honest_verdict
from client.peers import load_identity
from client.questions import (
    Asked,
    RefusedError,
    Request,
    read_draft,
    read_request,
    refusal,
    refuse_if,
)
from client.received import load_roster
from client.restored import load_restored, restored_verdict, run_verdict
from client.run_notes import note_storage_refusal
from client.secure import SecureSite, run_of, survivors_of
from client.settings import DatasetBudget, load_settings
from client.state import SitePaths, TablesDigest, freeze_optout, place_of, source_digest
from client.verified import verify_sum
from privacy import gate, inbound, verified
from privacy.budget import BudgetBrokenError
from privacy.gate import Floors
from privacy.inbound import Seen
from privacy.ledger import Event, Ledger, LedgerBrokenError, rounded_count
from privacy.storage import StorageError
from schemas.canonical import sha256_hex
from schemas.codes import Code
from schemas.messages import SETUP, Arrays, Draft, Reply, RoundRequest, SetupRequest, encode
from schemas.plan import Plan

__all__ = ["SiteGuard", "open_guard"]

log = logging.getLogger("archipel.site")

_V = TypeVar("_V", bound=Run | Answer)


@dataclass(frozen=True)
class _Judged:
    """A question that may be worked on.

    Attributes:
        plan: Approved.
        roster_hash: Of the run, approved too; None under a plain sum.
        kept: The answer that it has already, if any.
        seen: What the run's questions are held to from this one on; None for a message without parameters.
    """

    plan: Plan
    roster_hash: str | None
    kept: Kept | None
    seen: Seen | None = None


class SiteGuard:
    """The gate of a site as its agent sees it (`client.guard_protocol.Guard`); never raises."""

    def __init__(
        self,
        paths: SitePaths,
        *,
        site: SecureSite,
        floors: Floors,
        source: Callable[[], str],
        max_rounds: int | None = None,
        now: Callable[[], datetime.datetime] | None = None,
        judge_plan: JudgePlan = verify_plan,
        budget: DatasetBudget | None = None,
    ) -> None:
        """Open the site's ledger, answers and privacy budget.

        Args:
            paths: Of the site's state.
            site: Who the site is to its peers.
            floors: The site's own.
            source: Returns the digest of what a cohort is made from at this moment (`client.state.source_digest`).
            max_rounds: That the site answers in one run; None: as many as the plan says.
            now: The clock.
            judge_plan: Why this installation does not stand by a plan, or None.
            budget: For studies under differential privacy; None: they are refused.

        Raises:
            LedgerBrokenError: When the ledger is not what this site wrote.
            StorageError: When the state cannot be opened.
        """
        self._paths = paths
        self._site = site
        self._floors = floors
        self._source = source
        self._max_rounds = max_rounds
        self._now = now or (lambda: datetime.datetime.now(datetime.UTC))
        self._last_refusal: Event | None = None
        self._ledger = Ledger(paths.ledger, self._now)
        self._answers = Answers(paths.answers)
        self._noising = Noising(paths, budget, self._now)
        self._approved = Approved(paths, site, floors, judge_plan, self._answers)

    def close(self) -> None:
        """Close the files."""
        self._answers.close()
        self._noising.close()

    def admit(self, request: bytes) -> Run | Answer:
        """Judge a request before anything of it reaches the runner."""
        return self._guarded(request, self._admit)

    def release(self, request: bytes, draft: bytes | None) -> bytes:
        """Return the only bytes that may leave in answer to `request`."""
        return self._guarded(request, lambda asked: Answer(self._release(asked, draft))).body

    # ------------------------------------------------------------ the sequence
    def _admit(self, asked: Asked) -> Run | Answer:
        judged = self._judge(asked)
        if judged.kept is not None:
            return Answer(judged.kept.reply)
        if not _needs_runner(asked.request):
            return Answer(self._answer_alone(asked, judged))
        if isinstance(asked.request, SetupRequest):
            self._noising.verify_affordable(judged.plan)
            self._begin(asked.request)
        return Run()

    def _release(self, asked: Asked, draft_body: bytes | None) -> bytes:
        judged = self._judge(asked)  # again: an approval may have been withdrawn while the runner worked
        if judged.kept is not None:
            return judged.kept.reply
        if not _needs_runner(asked.request):
            return self._answer_alone(asked, judged)
        draft = read_draft(draft_body)
        if isinstance(asked.request, SetupRequest):
            return self._release_setup(asked, asked.request, judged, draft)
        return self._release_round(asked, asked.request, judged, draft)

    def _release_setup(self, asked: Asked, request: SetupRequest, judged: _Judged, draft: Draft) -> bytes:
        if self._answers.run(request.run_id) is None:
            raise RefusedError(Code.RUN_UNKNOWN)
        plan, change = judged.plan, Change()
        reply = gate.release_setup(draft, request, plan, self._floors)
        if isinstance(reply, Code):
            raise RefusedError(reply)
        self._refuse_close(request.run_id)
        if judged.roster_hash is None:
            refuse_if(honest_verdict(plan, None))
        else:
            roster = load_roster(self._paths, plan.hash, judged.roster_hash)
            approval = load_approvals(self._paths).signed(plan.hash, judged.roster_hash)
            if roster is None or approval is None:
                raise RefusedError(Code.ROSTER_NOT_APPROVED)
            refuse_if(honest_verdict(plan, roster))
            turn = self._site.announce(request, plan, roster, approval)
            reply, change = turn.reply, Change(judged.roster_hash, turn.state)
        return self._send(asked, judged, reply, change, draft.n_patients)

    def _release_round(self, asked: Asked, request: RoundRequest, judged: _Judged, draft: Draft) -> bytes:
        plan = judged.plan
        part = plan.by_name[request.step].part(request.part)
        reply = gate.release(draft, request, plan, self._floors)
        log_held(draft, part, reply)
        if reply is Code.TOO_FEW_PATIENTS and judged.roster_hash is not None:
            # Said aloud it would say something about this site alone; under the masks it adds nothing, unnoticed.
            reply = Reply(request.run_id, request.step, request.part, request.number, "empty", request.phase)
        if isinstance(reply, Code):
            raise RefusedError(reply)
        if not self._answers.has_summand(request.run_id):
            self._refuse_close(request.run_id)  # again: another run may have released since this one was set up
        is_empty = reply.status == "empty"
        summand: Arrays = {s.name: np.zeros(s.shape) for s in part.releases} if is_empty else reply.arrays
        known = judged.seen or Seen()
        if part.noise is None:
            known = inbound.learned(known, request, summand)
        elif judged.roster_hash is not None or not is_empty:  # under masks the others count on this site's noise too
            summand = self._noising.add(request, plan, part, summand)
            reply = replace(reply, arrays=summand)
        seen = known.encode()
        change = Change(seen=seen)
        if judged.roster_hash is not None:
            turn = self._site.mask(request, plan, part, summand, self._secure_state(request))
            reply, change = turn.reply, Change(judged.roster_hash, turn.state, seen)
        return self._send(asked, judged, reply, change, 0 if is_empty else draft.n_patients)

    def _answer_alone(self, asked: Asked, judged: _Judged) -> bytes:
        """Answer a message of the secure sum that needs no table."""
        request, plan, state = asked.request, judged.plan, self._secure_state(asked.request)
        if isinstance(request, RoundRequest) and request.phase == gate.VERIFY:
            return self._verify(asked, request, judged, state)
        if isinstance(request, SetupRequest):
            turn = self._site.set_up(request, plan, state, self._now().date())
        else:
            turn = self._site.open(request, plan, state)
            if plan.study.privacy.differential is not None:
                refuse_if(honest_verdict(plan, run_of(state).roster, len(survivors_of(request)[0].alive)))
        reply = self._send(asked, judged, turn.reply, Change(judged.roster_hash or "", turn.state), 0)
        if request.phase == gate.SHARES:
            self._answers.forget_past()
        return reply

    def _verify(self, asked: Asked, request: RoundRequest, judged: _Judged, state: bytes) -> bytes:
        """Open a verified sum, and keep what follows from it with the answer."""
        plan, of_run = judged.plan, (request.run_id, judged.plan.hash, judged.roster_hash)
        own = self._answers.find(request.run_id, request.step, request.number, gate.VALUE)
        turn, seen = verify_sum(self._site, request, plan, self._floors, own, state, self._answers.seen_in(*of_run))
        change = Change(judged.roster_hash or "", turn.state, seen.encode())
        return self._send(asked, judged, turn.reply, change, 0)

    def _send(self, asked: Asked, judged: _Judged, reply: Reply, change: Change, n_patients: int) -> bytes:
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
        self._answers.keep(kept, change)
        self._enter(kept, asked, judged.plan)
        self._answers.mark_ledgered(kept)
        return kept.reply

    def _judge(self, asked: Asked) -> _Judged:
        """Return a question that may be worked on, with the answer that it has already, if any.

        Raises:
            RefusedError: With the code of the first rule that it breaks.
        """
        request = asked.request
        restored = load_restored(self._paths)
        refuse_if(run_verdict(restored, request.run_id))
        plan, roster_hash = self._approved.of(request, self._now().date())
        refuse_if(restored_verdict(restored, plan))
        if isinstance(request, RoundRequest):
            refuse_if(gate.admit(request, plan))
        run = self._answers.run(request.run_id)
        if run is not None and not self._fits(run, request):
            raise RefusedError(Code.RUN_CHANGED)
        last = gate.last_setup_phase(plan)
        is_set_up = run is not None and self._answers.find(request.run_id, SETUP, 0, last) is not None
        if isinstance(request, RoundRequest) and not is_set_up:
            raise RefusedError(Code.RUN_UNKNOWN)
        kept = self._answered_before(asked, plan)
        if kept is not None or isinstance(request, SetupRequest):
            return _Judged(plan, roster_hash, kept)
        return _Judged(plan, roster_hash, None, self._judge_round(request, plan, roster_hash))

    def _judge_round(self, request: RoundRequest, plan: Plan, roster_hash: str | None) -> Seen | None:
        """Judge a round that has no answer yet against those that have."""
        if request.phase != gate.VALUE:
            summand = self._answers.find(request.run_id, request.step, request.number, gate.VALUE)
            if summand is not None and summand.part != request.part:
                raise RefusedError(Code.ROUND_ANSWERED_OTHERWISE)
            return None  # the order of the secure sum's own messages is kept by its state
        answered = self._answers.answered(request.run_id)
        refuse_if(order_verdict(request, plan, answered, self._max_rounds))
        known = self._answers.seen_in(request.run_id, plan.hash, roster_hash)
        refuse_if(verified.verdict(request, plan, known))
        seen = inbound.judge(request, plan, known)
        if isinstance(seen, Code):
            raise RefusedError(seen)
        return seen

    def _fits(self, run: RunRecord, request: Request) -> bool:
        """Whether a run is still the one that was set up.

        Its list of sites is fixed from the first summand on, and under the secure sum from the first message on.
        Until then the hub may set it up again over another list, since it leaves out who takes no part.
        """
        if run.plan_hash != request.plan_hash:
            return False
        is_begun = self._answers.roster_hash(run.run_id) is not None or self._answers.has_summand(run.run_id)
        return run.sites == request.sites or (isinstance(request, SetupRequest) and not is_begun)

    def _answered_before(self, asked: Asked, plan: Plan) -> Kept | None:
        step, _, number = asked.round
        kept = self._answers.find(asked.request.run_id, step, number, asked.request.phase)
        if kept is None:
            return None
        if kept.request_digest != asked.digest:
            if isinstance(asked.request, SetupRequest) and not gate.is_masked(plan):
                return None  # over another list of sites, which `_fits` has let pass
            raise RefusedError(Code.ROUND_ANSWERED_OTHERWISE)
        if not kept.ledgered:  # a crash, or a full disk, after the bytes were kept: nothing has left yet
            if not self._ledger.holds_release(sha256_hex(kept.reply)):
                self._enter(kept, asked, plan)
            self._answers.mark_ledgered(kept)
        return kept

    def _enter(self, kept: Kept, asked: Asked, plan: Plan) -> None:
        paid = self._noising.paid_for(kept, plan)
        self._ledger.append(release_entry(kept, asked, plan, self._floors, paid))

    # ------------------------------------------------------------ runs
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

    def _refuse_close(self, run_id: str) -> None:
        """Refuse a run whose patients or sites differ by too few from those of a run that has released sums."""
        released = [other for other in self._answers.released_runs() if other != run_id]
        previous = [load_members(self._paths, other) for other in released]
        refuse_if(closeness(load_members(self._paths, run_id), previous))

    def _secure_state(self, request: Request) -> bytes:
        found = self._answers.secure(request.run_id)
        if found is None:
            raise RefusedError(Code.RUN_UNKNOWN)
        return found[1]

    # ------------------------------------------------------------ refusals
    def _guarded(self, body: bytes, decide: Callable[[Asked], _V]) -> _V | Answer:
        """Turn every way of failing into a refusal; text of an exception goes nowhere, it may quote a cell."""
        request: Request | None = None
        try:
            asked = read_request(body)
            request = asked.request
            return decide(asked)
        except RefusedError as refused:
            code = refused.code
        except (StorageError, LedgerBrokenError) as error:  # their sentences are ours, without values
            log.error("%s", error)
            note_storage_refusal(self._paths.home)
            code = Code.STORAGE_FAILED
        except BudgetBrokenError as error:
            log.error("%s", error)
            code = Code.BUDGET_BROKEN
        except Exception as error:
            log.error("the guard failed: %s at %s", type(error).__name__, place_of(error))
            code = Code.STEP_FAILED
        self._enter_refusal(request, code)
        return Answer(refusal(request, code))

    def _enter_refusal(self, request: Request | None, code: Code) -> None:
        plan = self._approved.stood_by(request)
        event = refusal_entry(request, plan, code)
        if event == self._last_refusal:  # a hub that waits for an approval asks again and again
            return
        try:
            self._ledger.append(event)
            self._last_refusal = event
        except (StorageError, LedgerBrokenError) as error:  # a code may leave without an entry, numbers may not
            log.error("%s", error)


def open_guard(home: Path) -> SiteGuard:
    """Open the guard of the site at `home`.

    Raises:
        FaultsError: When `site.toml` has faults.
        LedgerBrokenError: When the ledger is not what this site wrote; the site then does not start.
        StorageError: When the site's state cannot be opened.
    """
    settings = load_settings(home)
    digests = TablesDigest()
    paths = SitePaths(home)
    verify_held(home)
    return SiteGuard(
        paths,
        site=SecureSite(settings.name, lambda: load_identity(paths)),
        floors=gate_floors(settings),
        source=lambda: source_digest(load_settings(home), digests),
        max_rounds=settings.max_rounds,
        budget=settings.budget,
    )


def _needs_runner(request: Request) -> bool:
    """Whether tables have to be looked at: for a summand, and for whether the site can take part at all."""
    return request.phase == gate.VALUE or (isinstance(request, SetupRequest) and request.phase == gate.KEYS)
