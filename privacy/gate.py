"""The gate: which questions a site takes, and which numbers may leave it. Denied by default, pure, no IO.

`admit` judges what the hub asks, `release` what the site's own runner drafted; both against the plan that the site
approved, and `release` trusts the runner no more than the hub. What passes is built anew from the plan's own words
and the checked arrays (an update shortened to the plan's norm, `privacy.clip`), so nothing can ride along. (The
attacks that decided these rules are the table in `tests/privacy/test_gate.py`.)

The secure sum stands between `release` and the ledger (`client.secure`): it takes the `Reply` that passed here,
whose arrays are the summand in clear, and makes the masked `Reply` of it. Which messages the two ways of summing
have is decided here: a plan that asks for masks is never answered in clear.

What the gate does not decide: whether the plan is approved (`client.approvals`), whether the round was answered
before (`client.answers`), and whether parameters of the right form belong to an honest fit (`privacy.inbound`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from privacy.clip import clipped
from schemas.codes import Code
from schemas.messages import SETUP, Arrays, Draft, Reply, RoundRequest, SetupRequest
from schemas.plan import ArraySpec, PartSpec, Plan, PlanStep
from schemas.study import MIN_EVENTS_FLOOR, MIN_PATIENTS_FLOOR

VALUE = "value"
"""The message of a round that brings a summand, in clear or masked; and the one message that sets up a plain sum."""
KEYS, SHARES, INBOX = "keys", "shares", "inbox"
"""Messages that set up a secure sum, in this order."""
CONSENT = "consent"
"""Message of a secure round in which a site is missing, between `VALUE` and `SHARES`."""
VERIFY = "verify"
"""Message of a secure round after `SHARES`: what the sum of a verified part was opened with (`privacy.verified`)."""
SURVIVORS = "survivors"
"""Blob of a request: the list of sites whose masked vectors are in the sum."""
N_PATIENTS = "n_patients"
EDGES, N_INTERVALS, BIN_EDGES = "edges", "n_intervals", "bin_edges"
FOLDS_ASKED = "asked"
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}")
_HASH = re.compile(r"[0-9a-f]{64}")
_IDENTIFIER = re.compile(r"[a-z][a-z0-9_]{0,59}")
_SITE = re.compile(r"[^\x00-\x1f\ud800-\udfff]{1,200}")
_MAX_SITES = 1000


@dataclass(frozen=True)
class Floors:
    """What a site never goes below, whatever a plan says; a site may raise them and not lower them.

    Attributes:
        min_patients: Patients behind a summand.
        min_events_per_interval: Events of the federation in an interval of the common time grid.
    """

    min_patients: int = MIN_PATIENTS_FLOOR
    min_events_per_interval: int = MIN_EVENTS_FLOOR

    def __post_init__(self) -> None:
        """Refuse floors below the house's own."""
        if self.min_patients < MIN_PATIENTS_FLOOR or self.min_events_per_interval < MIN_EVENTS_FLOOR:
            raise ValueError(
                f"a site's floors are at least {MIN_PATIENTS_FLOOR} patients and "
                f"{MIN_EVENTS_FLOOR} events an interval"
            )


def is_well_formed(request: SetupRequest | RoundRequest) -> bool:
    """Return whether the request's words can be kept: they become ledger lines, keys and a folder's name."""
    named = (
        _RUN_ID.fullmatch(request.run_id) is not None
        and _HASH.fullmatch(request.plan_hash) is not None
        and 0 < len(request.sites) <= _MAX_SITES
        and len(set(request.sites)) == len(request.sites)
        and all(_SITE.fullmatch(site) for site in request.sites)
    )
    words = (request.phase,) if isinstance(request, SetupRequest) else (request.step, request.part, request.phase)
    return named and all(_IDENTIFIER.fullmatch(word) for word in words)


def admit_setup(request: SetupRequest, plan: Plan) -> Code | None:
    """Judge the form of a set-up; whether its plan is ours and approved is decided elsewhere.

    Returns:
        Why it is refused, or None.
    """
    if request.arrays:
        return Code.REQUEST_NOT_IN_PLAN
    if not is_masked(plan):
        is_plain = request.phase == VALUE and not request.roster and not request.blobs
        return None if is_plain else Code.REQUEST_NOT_IN_PLAN
    if request.phase == VALUE:
        return Code.SECURE_SUM_REQUIRED
    if request.phase not in (KEYS, SHARES, INBOX) or (request.phase == KEYS) != (not request.blobs):
        return Code.REQUEST_NOT_IN_PLAN
    return None


def is_masked(plan: Plan) -> bool:
    """Return whether the sums of a plan leave a site under masks alone."""
    return plan.study.privacy.secure_sum


def last_setup_phase(plan: Plan) -> str:
    """Return the message after whose answer a site is set up."""
    return INBOX if is_masked(plan) else VALUE


def admit(request: RoundRequest, plan: Plan) -> Code | None:
    """Judge what the hub asks in a round, before anything is computed.

    Weights chosen by a hub can make a sum show single rows (saturated hazards), so what it sends is held to the
    plan as strictly as what leaves.

    Returns:
        Why it is refused, or None.
    """
    part = _part(plan, request.step, request.part)
    if part is None or request.phase not in _phases(plan, part):
        return Code.REQUEST_NOT_IN_PLAN
    if request.number >= sum(spec.times for spec in plan.by_name[request.step].parts):  # numbered from 0 in each step
        return Code.ROUNDS_EXHAUSTED
    if request.phase != VALUE:  # opens a sum: a list of survivors, with what belongs to it, and no number
        has_list = not request.arrays and SURVIVORS in request.blobs
        return None if has_list else Code.REQUEST_NOT_IN_PLAN
    if request.blobs:
        return Code.REQUEST_NOT_IN_PLAN
    if not _has_form(request.arrays, part.sends):
        return Code.REQUEST_NOT_IN_PLAN
    if not _is_finite(request.arrays):
        return Code.REQUEST_NOT_FINITE
    if not _is_bounded(request.arrays, part.sends):
        return Code.REQUEST_TOO_LARGE
    if FOLDS_ASKED in request.arrays and not np.isin(request.arrays[FOLDS_ASKED], (0.0, 1.0)).all():
        return Code.REQUEST_NOT_IN_PLAN  # half asked would be asked for the step and idle for `privacy.inbound`
    if EDGES in request.arrays and not _is_merged_grid(request.arrays, plan):
        return Code.REQUEST_NOT_IN_PLAN
    return None


def _phases(plan: Plan, part: PartSpec) -> tuple[str, ...]:
    """Return the messages of a round of this part."""
    if not is_masked(plan):
        return (VALUE,)
    return (VALUE, CONSENT, SHARES, VERIFY) if part.verified else (VALUE, CONSENT, SHARES)


def release(draft: Draft, request: RoundRequest, plan: Plan, floors: Floors) -> Reply | Code:
    """Judge the runner's answer to an admitted request.

    Returns:
        The reply that may leave (``ok`` with the summand, or ``empty``), or why nothing leaves.
    """
    part = _part(plan, request.step, request.part)
    if part is None or not _answers(draft, request.run_id, request.step, request.part, request.number):
        return Code.RELEASE_NOT_IN_PLAN
    if draft.code:
        return Code(draft.code)
    if draft.n_patients == 0:  # says only that the site adds nothing; what the draft holds besides stays here
        return Reply(request.run_id, request.step, request.part, request.number, "empty", request.phase)
    if draft.n_patients < required_patients(plan.by_name[request.step], floors):
        return Code.TOO_FEW_PATIENTS
    fault = _form_fault(draft, part.releases)
    if fault is not None:
        return fault
    summand = clipped({spec.name: np.array(draft.arrays[spec.name]) for spec in part.releases}, part)
    if not _is_bounded(summand, part.releases):
        return Code.RELEASE_TOO_LARGE
    if not _counts_agree(draft):
        return Code.RELEASE_NOT_IN_PLAN
    return Reply(request.run_id, request.step, request.part, request.number, "ok", request.phase, arrays=summand)


def release_setup(draft: Draft, request: SetupRequest, plan: Plan, floors: Floors) -> Reply | Code:
    """Judge the runner's answer to a set-up: whether this site can take part, and no number at all.

    Returns:
        The reply ``ok`` without arrays, or why the site takes no part.
    """
    if draft.arrays or not _answers(draft, request.run_id, SETUP, SETUP, 0):
        return Code.RELEASE_NOT_IN_PLAN
    if draft.code:
        return Code(draft.code)
    if draft.n_patients < max(plan.study.privacy.min_patients, floors.min_patients):
        return Code.TOO_FEW_PATIENTS
    return Reply(request.run_id, SETUP, SETUP, 0, "ok", request.phase)


def required_patients(step: PlanStep, floors: Floors) -> int:
    """Return how many patients must stand behind a summand of this step at this site."""
    return max(step.min_patients, floors.min_patients)


def _part(plan: Plan, step: str, part: str) -> PartSpec | None:
    found = plan.by_name.get(step)
    return next((spec for spec in found.parts if spec.name == part), None) if found is not None else None


def _answers(draft: Draft, run_id: str, step: str, part: str, number: int) -> bool:
    return (draft.run_id, draft.step, draft.part, draft.number) == (run_id, step, part, number)


def _form_fault(draft: Draft, specs: Sequence[ArraySpec]) -> Code | None:
    if set(draft.arrays) != {spec.name for spec in specs}:
        return Code.RELEASE_NOT_IN_PLAN
    if any(draft.arrays[spec.name].dtype != np.dtype(spec.dtype) for spec in specs):
        return Code.RELEASE_WRONG_DTYPE
    if not _has_form(draft.arrays, specs):
        return Code.RELEASE_WRONG_SHAPE
    return None if _is_finite(draft.arrays) else Code.RELEASE_NOT_FINITE


def _has_form(arrays: Arrays, specs: Sequence[ArraySpec]) -> bool:
    return set(arrays) == {spec.name for spec in specs} and all(
        arrays[spec.name].shape == spec.shape and arrays[spec.name].dtype == np.dtype(spec.dtype) for spec in specs
    )


def _is_finite(arrays: Arrays) -> bool:
    return all(bool(np.isfinite(array).all()) for array in arrays.values())


def _is_bounded(arrays: Arrays, specs: Sequence[ArraySpec]) -> bool:
    return all(bool((np.abs(arrays[spec.name]) <= spec.bound).all()) for spec in specs)


def _is_merged_grid(arrays: Arrays, plan: Plan) -> bool:
    """Whether the intervals sent are bins of the plan, merged.

    With edges of its own choice a hub could close an interval around one patient's event, and sums over risk sets at
    exact event times give away most rows (privacy decision 6). That each interval holds enough events of the
    federation, and that these are the intervals, a site finds itself under the secure sum (`privacy.verified`).
    """
    bins = {float(edge) for step in plan.steps for edge in step.settings.get(BIN_EDGES, ())}
    edges, counts = arrays[EDGES], arrays.get(N_INTERVALS, np.zeros(()))
    if edges.ndim == 1:
        return _is_merged(edges, counts, bins)
    # One row a fold; a fold that has no grid (too few events without it) stands idle and says so with zeros.
    return edges.shape[0] == counts.size and all(
        _is_merged(row, count, bins) or not (count or row.any())
        for row, count in zip(edges, counts.ravel(), strict=True)
    )


def _is_merged(edges: NDArray[np.float64], count: NDArray[np.float64] | np.float64, bins: Collection[float]) -> bool:
    n = float(count)
    if not (n.is_integer() and 1 <= n <= edges.size):
        return False
    active, padding = edges[: int(n)], edges[int(n) :]
    is_ascending = bool((np.diff(active) > 0).all())
    return is_ascending and set(active.tolist()) <= set(bins) and bool((padding == active[-1]).all())


def _counts_agree(draft: Draft) -> bool:
    """Whether the count that leaves is the count that the floor was applied to."""
    counted: NDArray[np.float64] | None = draft.arrays.get(N_PATIENTS)
    return counted is None or counted.shape != () or float(counted) == draft.n_patients
