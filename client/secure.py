"""This site's side of the secure sum, between the guard's questions and `privacy.secure_sum`.

Each method takes the stored state of a run and one question, and returns the next state with the answer; whoever
calls stores both in one transaction before the answer leaves (`client.answers.Answers.keep`). Every way in which the
protocol stops becomes a code; its sentence, which names sites and never a number, stays in this site's log.

    set-up   keys    plan and roster          -> this site's signed approval and keys
             shares  approvals, keys of all   -> a sealed box for every peer
             inbox   the boxes for this site  -> nothing
    round    value   as the plan says         -> the masked summand, signed where the plan has it verified
             consent a list that leaves somebody out -> this site's signature on it
             shares  the list (and the consents)     -> this site's shares
             verify  what the hub opened a verified sum with -> nothing (`client.verified`)
"""

from __future__ import annotations

import contextlib
import datetime
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.questions import RefusedError
from privacy import secure_sum
from privacy.approval import ApprovalError, verify_approvals
from privacy.fixed_point import (
    EncodingRefusedError,
    NotFiniteError,
    OutOfBoundError,
    WrongFormError,
    decode_arrays,
    encode_arrays,
)
from privacy.gate import CONSENT, INBOX, SURVIVORS
from privacy.secure_errors import MissingPeerError, SecureSumError, UnknownPeerError
from privacy.secure_protocol import SecureRun, Survivors
from privacy.secure_state import State, read_state, state_bytes
from privacy.storage import StorageError
from privacy.verified import PassedOn, is_verified, open_passed_on, signed_bytes
from schemas.codes import Code
from schemas.errors import IncompatibleVersionError, MessageError
from schemas.messages import SETUP, Arrays, Reply, RoundRequest, SetupRequest
from schemas.plan import PartSpec, Plan
from schemas.roster import Approval, Roster, read_approval

__all__ = ["APPROVAL", "BOX", "KEYS", "MASKED", "SIGNATURE", "SecureSite", "Turn", "run_of", "survivors_of"]

log = logging.getLogger("archipel.site")

APPROVAL, KEYS, BOX, MASKED, SIGNATURE, SHARES = "approval", "keys", "box", "masked", "signature", "shares"
"""Names of blobs; with a site's name behind them (``keys/lyon``) where several travel together."""


@dataclass(frozen=True)
class Turn:
    """One step of the protocol.

    Attributes:
        state: To be stored before `reply` leaves.
        reply: What leaves.
    """

    state: bytes
    reply: Reply


class SecureSite:
    """The site as the protocol knows it."""

    def __init__(self, name: str, identity: Callable[[], Ed25519PrivateKey]) -> None:
        """Keep who this site is.

        Args:
            name: In rosters.
            identity: Returns the site's key; StorageError where it cannot be read.
        """
        self.name = name
        self._identity = identity

    @property
    def public_key(self) -> bytes:
        """The 32 bytes of the public identity.

        Raises:
            StorageError: When it cannot be read.
        """
        return self._identity().public_key().public_bytes_raw()

    # ------------------------------------------------------------ set-up
    def announce(self, request: SetupRequest, plan: Plan, roster: Roster, approval: Approval) -> Turn:
        """Make this site's keys for every round of the plan (phase ``keys``).

        Raises:
            RefusedError: When the run cannot be.
        """
        with _coded():
            run = SecureRun(roster, plan.hash, request.run_id, roster.names, plan.max_rounds)
            state, message = secure_sum.begin(run, self.name, self._identity())
        return Turn(state_bytes(state), _setup_reply(request, {APPROVAL: approval.content, KEYS: message}))

    def set_up(self, request: SetupRequest, plan: Plan, content: bytes, today: datetime.date) -> Turn:
        """Answer phase ``shares`` or ``inbox``.

        Raises:
            RefusedError: `APPROVALS_MISSING`, or `SECURE_SUM_REFUSED`.
        """
        state = _read(content)
        with _coded():
            if request.phase == INBOX:
                if isinstance(state, secure_sum.Announced):
                    raise MissingPeerError("this site has not dealt its own shares yet")
                (boxes,) = _by_sender(request.blobs, BOX)
                return Turn(state_bytes(secure_sum.receive(state, boxes)), _setup_reply(request, {}))
            if isinstance(state, secure_sum.Ready):
                raise UnknownPeerError("this run is set up already")
            approvals, keys = _by_sender(request.blobs, APPROVAL, KEYS)
            verify_approvals(_read_approvals(approvals), state.run.roster, plan.hash, plan.terms_hash, today)
            dealt, sealed = secure_sum.deal(state, keys)
            blobs = {f"{BOX}/{peer}": box for peer, box in sealed.items()}
            return Turn(state_bytes(dealt), _setup_reply(request, blobs))

    # ------------------------------------------------------------ rounds
    def mask(self, request: RoundRequest, plan: Plan, part: PartSpec, summand: Arrays, content: bytes) -> Turn:
        """Mask this site's summand, which the gate has let pass (phase ``value``).

        Raises:
            RefusedError: `SUM_OVERFLOW` and its like, or `SECURE_SUM_REFUSED`.
        """
        state = _ready(content)
        with _coded():
            vector = encode_arrays(summand, part.releases, state.run.n_sites)
            number = plan.round_index(request.step, request.number)
            state, masked = secure_sum.mask(state, number, vector.astype(np.uint64))
            blobs = {MASKED: masked.astype("<u8").tobytes()}
            if is_verified(plan, part):
                blobs[SIGNATURE] = self._identity().sign(signed_bytes(state.run, number, blobs[MASKED]))
        return Turn(state_bytes(state), _round_reply(request, blobs))

    def open(self, request: RoundRequest, plan: Plan, content: bytes) -> Turn:
        """Give this site's consent or its shares for a list of survivors (phases ``consent`` and ``shares``).

        Raises:
            RefusedError: `SECURE_SUM_REFUSED`.
        """
        state = _ready(content)
        with _coded():
            number = plan.round_index(request.step, request.number)
            survivors, consents = survivors_of(request)
            if request.phase == CONSENT:
                if consents:
                    raise UnknownPeerError("a request for consent brings consents")
                state, message = secure_sum.consent(state, number, survivors, self._identity())
            else:
                state, message = secure_sum.reveal(state, number, survivors, consents)
        return Turn(state_bytes(state), _round_reply(request, {request.phase: message}))

    def open_sum(self, request: RoundRequest, plan: Plan, own: bytes, content: bytes) -> tuple[Turn, Arrays | None]:
        """Open the sum of a verified part with what the hub passes on (phase ``verify``).

        Args:
            request: Admitted.
            plan: Of the run.
            own: The masked vector that this site sent in the round.
            content: The stored state, which stays as it is.

        Returns:
            The bare yes, and the sum; None where nobody had anything to add.

        Raises:
            RefusedError: `SUM_NOT_VERIFIED`.
        """
        state = _ready(content)
        part = plan.by_name[request.step].part(request.part)
        try:
            number = plan.round_index(request.step, request.number)
            words = open_passed_on(state.run, number, state.site, own, passed_on_of(request))
        except SecureSumError as error:
            log.error("the sum of %s could not be verified: %s", request.step, error)
            raise RefusedError(Code.SUM_NOT_VERIFIED) from None
        arrays = decode_arrays(words, part.releases, state.run.n_sites) if words.any() else None
        return Turn(content, _round_reply(request, {})), arrays


def run_of(content: bytes) -> SecureRun:
    """Return the run that a stored state belongs to.

    Raises:
        StorageError: When it cannot be read.
    """
    return _read(content).run


def passed_on_of(request: RoundRequest) -> PassedOn:
    """Return what the hub passes on of a sum that this site shall open itself.

    Raises:
        SurvivorsError: When its list is none.
        UnknownPeerError: For anything else among the blobs.
    """
    others = {name: blob for name, blob in request.blobs.items() if name != SURVIVORS}
    found = _by_sender(others, KEYS, MASKED, SIGNATURE, SHARES)
    return PassedOn(Survivors.read(request.blobs[SURVIVORS]), *found)


def survivors_of(request: RoundRequest) -> tuple[Survivors, Mapping[str, bytes]]:
    """Return the list that a request is about, and the consents that it brings.

    Raises:
        SurvivorsError: When the list is none.
        UnknownPeerError: For anything else among the blobs.
    """
    others = {name: blob for name, blob in request.blobs.items() if name != SURVIVORS}
    (consents,) = _by_sender(others, CONSENT)
    return Survivors.read(request.blobs[SURVIVORS]), consents


def _by_sender(blobs: Mapping[str, bytes], *kinds: str) -> tuple[dict[str, bytes], ...]:
    """Return kind by kind the blobs ``kind/sender`` by sender; anything else among them is refused."""
    found: dict[str, dict[str, bytes]] = {kind: {} for kind in kinds}
    for name, blob in blobs.items():
        kind, _, sender = name.partition("/")
        if kind not in found or not sender:
            raise UnknownPeerError("the hub passes on something that is not part of this message")
        found[kind][sender] = blob
    return tuple(found[kind] for kind in kinds)


def _read_approvals(contents: Mapping[str, bytes]) -> list[Approval]:
    approvals = []
    for name, content in sorted(contents.items()):
        try:
            approval = read_approval(content)
        except (MessageError, ValueError):
            raise ApprovalError("an approval that the hub passes on cannot be read") from None
        if approval.site != name:
            raise ApprovalError("an approval comes under another site's name")
        approvals.append(approval)
    return approvals


def _read(content: bytes) -> State:
    try:
        return read_state(content)
    except (MessageError, IncompatibleVersionError) as error:
        raise StorageError(f"answers.sqlite: {error}") from None


def _ready(content: bytes) -> secure_sum.Ready:
    state = _read(content)
    if not isinstance(state, secure_sum.Ready):
        raise RefusedError(Code.RUN_UNKNOWN)
    return state


_ENCODING_CODES: dict[type[EncodingRefusedError], Code] = {
    NotFiniteError: Code.RELEASE_NOT_FINITE,
    OutOfBoundError: Code.SUM_OVERFLOW,
    WrongFormError: Code.RELEASE_WRONG_SHAPE,
}


def _setup_reply(request: SetupRequest, blobs: Mapping[str, bytes]) -> Reply:
    return Reply(request.run_id, SETUP, SETUP, 0, "ok", request.phase, blobs=blobs)


def _round_reply(request: RoundRequest, blobs: Mapping[str, bytes]) -> Reply:
    return Reply(request.run_id, request.step, request.part, request.number, "ok", request.phase, blobs=blobs)


@contextlib.contextmanager
def _coded() -> Iterator[None]:
    """Turn every way in which the protocol stops into its code."""
    try:
        yield
    except ApprovalError as error:
        log.error("approvals refused: %s", error)
        code = Code.APPROVALS_MISSING
    except SecureSumError as error:
        log.error("secure sum refused: %s", error)
        code = Code.SECURE_SUM_REFUSED
    except EncodingRefusedError as error:  # names the array, and no number of it
        log.error("held back before the masks: %s", error)
        code = _ENCODING_CODES[type(error)]
    else:
        return
    raise RefusedError(code)
