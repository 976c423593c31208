"""What the ledger says of an answer and of a refusal. Pure; the same answer gives the same entry after a crash."""

from __future__ import annotations

from client.answers import Kept
from client.questions import Asked, Request, round_of
from models.compile import CODE_VERSION
from privacy import gate
from privacy.budget import Charge
from privacy.gate import Floors
from privacy.ledger import Event, EventKind
from privacy.secure_protocol import Survivors
from schemas.canonical import sha256_hex
from schemas.codes import Code
from schemas.messages import SETUP, Reply, RoundRequest, decode_as
from schemas.plan import Plan

__all__ = ["refusal_entry", "release_entry"]


def release_entry(kept: Kept, asked: Asked, plan: Plan, floors: Floors, paid: Charge | None = None) -> Event:
    """Return the entry of an answer, from the bytes that leave, what was asked, and what the budget paid for it."""
    return Event(
        _kind(kept),
        run=kept.run_id,
        study=plan.study.name,
        plan_hash=plan.hash,
        step=kept.step,
        part=kept.part,
        number=kept.number,
        digest=sha256_hex(kept.reply),
        n_bytes=len(kept.reply),
        arrays=_arrays(kept, plan),
        n_patients=kept.n_patients if kept.phase in (gate.VALUE, gate.KEYS) else None,
        rule=_rule(kept, asked, plan, floors) + (", with noise" if paid is not None else ""),
        code_version=CODE_VERSION,
        dataset=paid.dataset if paid is not None else "",
        mu_squared=paid.mu_squared if paid is not None else 0.0,
    )


def refusal_entry(request: Request | None, plan: Plan | None, code: Code) -> Event:
    """Return the entry of a refusal."""
    step, part, number = round_of(request)
    return Event(
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


def _kind(kept: Kept) -> EventKind:
    if kept.step == SETUP:
        return "setup"
    return "release" if kept.phase == gate.VALUE else "shares"


def _arrays(kept: Kept, plan: Plan) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Return names and shapes of what left; of masked numbers, those that are in them."""
    if kept.step == SETUP or kept.phase != gate.VALUE:
        return ()
    if gate.is_masked(plan):
        return tuple(sorted((spec.name, spec.shape) for spec in plan.by_name[kept.step].part(kept.part).releases))
    reply = decode_as(kept.reply, Reply)
    return tuple((name, array.shape) for name, array in sorted(reply.arrays.items()))


def _rule(kept: Kept, asked: Asked, plan: Plan, floors: Floors) -> str:
    status = decode_as(kept.reply, Reply).status
    if kept.step == SETUP:
        if kept.phase in (gate.SHARES, gate.INBOX):
            return f"{status}: secure sum, {kept.phase}"
        required = max(plan.study.privacy.min_patients, floors.min_patients)
    elif isinstance(asked.request, RoundRequest) and kept.phase != gate.VALUE:
        survivors = Survivors.read(asked.request.blobs[gate.SURVIVORS])
        n = len(survivors.alive)
        return f"{status}: {kept.phase} for the sum over {n} of {n + len(survivors.dropped)} sites"
    else:
        required = gate.required_patients(plan.by_name[kept.step], floors)
    masked = ", masked" if gate.is_masked(plan) and kept.step != SETUP else ""
    return f"{status}: approved plan, at least {required} patients{masked}"
