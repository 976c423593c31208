"""The common time grid as this site makes it itself, from the sum that it opened itself (`privacy.verified`).

The hub passes on what it opened the sum of a verified part with. This site opens it again (`client.secure`), takes
the step that the hub takes from there with the same installed code, and remembers what comes out beside its answer,
on the disk: from then on questions are held to it (`privacy.verified.verdict`), through restarts too.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from client.answers import Kept
from client.questions import RefusedError
from client.secure import MASKED, SecureSite, Turn
from models.compile import build_step
from models.step import Arrays, DivergedError
from privacy.gate import Floors
from privacy.inbound import Seen
from schemas.codes import Code
from schemas.messages import Reply, RoundRequest, decode_as
from schemas.plan import Plan

__all__ = ["verify_sum"]

_EVENTS, _N_INTERVALS = "events", "n_intervals"


def verify_sum(
    site: SecureSite, request: RoundRequest, plan: Plan, floors: Floors, own: Kept | None, state: bytes, seen: Seen
) -> tuple[Turn, Seen]:
    """Open the sum of a round and return the bare yes with what this site knows from then on.

    Args:
        site: Who this is.
        request: Phase `privacy.gate.VERIFY`, admitted.
        plan: Of the run.
        floors: The site's own.
        own: What this site answered to the round's ``value``, if anything.
        state: Of the secure sum.
        seen: Of the run so far.

    Raises:
        RefusedError: `SUM_NOT_VERIFIED`, or `INTERVAL_BELOW_FLOOR`.
        StorageError: When the state cannot be read.
    """
    if own is None or own.part != request.part:
        raise RefusedError(Code.SUM_NOT_VERIFIED)
    masked = decode_as(own.reply, Reply).blobs[MASKED]
    turn, total = site.open_sum(request, plan, masked, state)
    found = _finished(plan, request, total) if total is not None else {}
    least = max(plan.study.privacy.min_events_per_interval, floors.min_events_per_interval)
    if _has_small_interval(found, least):
        raise RefusedError(Code.INTERVAL_BELOW_FLOOR)
    given = {f"{request.step}.{name}": np.asarray(array, dtype=np.float64) for name, array in found.items()}
    return turn, replace(seen, given={**seen.given, **given})


def _finished(plan: Plan, request: RoundRequest, total: Arrays) -> Arrays:
    """Return what the step makes of the sum, as at the hub; nothing where it finds no estimate.

    A step with a verified part has that part alone and no inputs (`schemas.plan.PlanStep`), so its state before the
    sum is that of its beginning.
    """
    step = build_step(plan, request.step)
    try:
        turn = step.finish(request.part, step.begin({}).state, {}, total)
    except DivergedError:  # the hub's own run ends here, or goes on without an optional step
        return {}
    return turn.state


def _has_small_interval(found: Arrays, least: int) -> bool:
    """Whether an interval in use holds fewer events than it must; one row a fold where there are folds."""
    if not {_EVENTS, _N_INTERVALS} <= set(found):
        return False
    events = np.atleast_2d(found[_EVENTS])
    in_use = np.arange(events.shape[1]) < np.atleast_1d(found[_N_INTERVALS])[:, None]
    return bool((in_use & (events < least)).any())
