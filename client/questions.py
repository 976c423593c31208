"""What the hub asks, read from bytes; and a refusal, in words that can be kept.

Everything that is read here was written by others. What does not decode ends in a code, never in an exception's text.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from privacy import gate
from schemas.canonical import sha256_hex
from schemas.codes import Code
from schemas.errors import ArrayTypeError, IncompatibleVersionError, MessageError
from schemas.messages import SETUP, Draft, Reply, RoundRequest, SetupRequest, decode, decode_as, encode
from schemas.plan import Plan, read_plan
from schemas.roster import Roster, read_roster

__all__ = [
    "Asked", "RefusedError", "Request", "read_draft", "read_request", "read_sent_plan", "read_sent_roster", "refusal",
    "refuse_if", "round_of",
]  # fmt: skip

Request = SetupRequest | RoundRequest


@dataclass(frozen=True)
class Asked:
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
        return round_of(self.request)


class RefusedError(Exception):
    """Ends a judgement with a code; the guard makes a refusal of it."""

    def __init__(self, code: Code) -> None:
        super().__init__(code)
        self.code = code


def refuse_if(code: Code | None) -> None:
    """End the judgement where there is a reason to.

    Raises:
        RefusedError: With that reason.
    """
    if code is not None:
        raise RefusedError(code)


def read_request(body: bytes) -> Asked:
    """Read a question.

    Raises:
        RefusedError: When the bytes are none.
    """
    try:
        message = decode(body)
    except IncompatibleVersionError:
        raise RefusedError(Code.OTHER_VERSION) from None
    except MessageError:
        raise RefusedError(Code.MESSAGE_MALFORMED) from None
    if not isinstance(message, SetupRequest | RoundRequest) or not gate.is_well_formed(message):
        raise RefusedError(Code.MESSAGE_MALFORMED)
    return Asked(message, sha256_hex(encode(message)))


def read_sent_plan(request: SetupRequest) -> Plan:
    """Read the plan of a set-up.

    Raises:
        RefusedError: When it is none, or another than its hash says.
    """
    try:
        plan = read_plan(request.plan.encode())
    except (MessageError, ValueError, RecursionError):
        raise RefusedError(Code.MESSAGE_MALFORMED) from None
    if plan.hash != request.plan_hash:
        raise RefusedError(Code.MESSAGE_MALFORMED)
    return plan


def read_sent_roster(request: SetupRequest) -> Roster:
    """Read the roster of a set-up.

    Raises:
        RefusedError: When it is none.
    """
    try:
        return read_roster(request.roster.encode())
    except (MessageError, ValueError, RecursionError):
        raise RefusedError(Code.ROSTER_WRONG) from None


def read_draft(body: bytes | None) -> Draft:
    """Read what the runner made.

    Raises:
        RefusedError: When it made nothing that can be read.
    """
    if body is None:
        raise RefusedError(Code.STEP_FAILED)
    try:
        return decode_as(body, Draft)
    except ArrayTypeError:
        raise RefusedError(Code.RELEASE_WRONG_DTYPE) from None
    except (MessageError, IncompatibleVersionError):
        raise RefusedError(Code.STEP_FAILED) from None


def round_of(request: Request | None) -> tuple[str, str, int]:
    """Return step, part and number of a question; empty words where it could not be read."""
    if request is None:
        return "", "", 0
    if isinstance(request, SetupRequest):
        return SETUP, SETUP, 0
    return request.step, request.part, request.number


def refusal(request: Request | None, code: Code) -> bytes:
    """Return the bytes of a refusal."""
    step, part, number = round_of(request)
    reply = Reply(request.run_id if request is not None else "", step, part, number, "refused", code=code)
    return encode(reply if request is None else replace(reply, phase=request.phase))
