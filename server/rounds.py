"""Decisions of a round: what an answer is worth, who is missing and why, and what to do about it.

Values in, verdicts out; no clock, no network, no store (those are in `server.conduct`). The rules:

- The list of sites is fixed for a run (docs of `on_dropout`: `schemas.study.Study`). Set-up settles it: a site
  that takes no part (too few patients, tables that do not pass) is left out before anybody was asked a summand.
- An answer is checked again at the hub: right run, step, number, part and phase, and exactly the arrays of the
  plan. A site that sends anything else is named and counts as missing.
- ``pause``: the same question is asked again of the missing sites alone until they answer. ``continue``: at the
  deadline the run goes on without them, at most once a run and not below three sites; otherwise it pauses.
- A refusal that no repetition can heal fails the run, with the sentence that names the site.
- Under the secure sum the list of sites is the roster that every site has approved, so nobody is left out: a site
  that declines fails the run. A sum is opened by shares of the threshold, for the one list that ``value`` has fixed;
  with too few of them the same list is asked again, and never another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from models.step import Arrays
from schemas.codes import SENTENCES, Code
from schemas.errors import IncompatibleVersionError, MessageError
from schemas.messages import SETUP, Reply, decode_as
from schemas.plan import ArraySpec
from server.exchange import Failure
from server.round_protocol import NOTHING, Expected

__all__ = [
    "MIN_SITES_LEFT",
    "Asked",
    "Complete",
    "Continue",
    "Fail",
    "Hearing",
    "LeaveOut",
    "Policy",
    "Verdict",
    "Wait",
    "judge",
    "judge_opening",
    "judge_setup",
    "read_reply",
    "sentence_of",
    "sentences_of",
    "setup_asked",
]

MIN_SITES_LEFT = 3
"""Fewer sites than this are never gone on with: their sum would say too much about each (privacy decision 5)."""

# What a person at the site can put right while the run waits. Every other code would come back for ever.
_HEALING = frozenset(
    {
        Code.MESSAGE_MALFORMED,  # damaged on the way; the same bytes are sent again
        Code.PLAN_NOT_APPROVED,
        Code.APPROVAL_EXPIRED,
        Code.APPROVAL_WITHDRAWN,
        Code.SITE_PAUSED,
        Code.STEP_FAILED,
        Code.STORAGE_FAILED,
        Code.ROSTER_NOT_APPROVED,
    }
)
_TAKES_NO_PART = frozenset({Code.TOO_FEW_PATIENTS, Code.TABLES_REFUSED})
_MALFORMED: dict[str, str] = {
    Code.MESSAGE_MALFORMED: "bytes that are not one of our messages",
    Code.ROUND_ANSWERED_OTHERWISE: "an answer to another question",
    Code.RELEASE_NOT_IN_PLAN: "other arrays than the plan lists",
    Code.RELEASE_WRONG_SHAPE: "an array of another shape than in the plan",
    Code.RELEASE_NOT_FINITE: "a value that is not a finite number",
    Code.RELEASE_TOO_LARGE: "a value beyond the plan's bounds",
}


# ---------------------------------------------------------------- one answer
@dataclass(frozen=True)
class Asked:
    """What one message to a site asked, as far as its answer must match.

    Attributes:
        expected: What the answer must carry.
    """

    run_id: str
    step: str
    part: str
    number: int
    phase: str = "value"
    expected: Expected = NOTHING


def setup_asked(run_id: str, phase: str, expected: Expected = NOTHING) -> Asked:
    """Return what a set-up message asks."""
    return Asked(run_id, SETUP, SETUP, 0, phase, expected)


def read_reply(site: str, body: bytes, asked: Asked) -> Reply | Failure:
    """Return a site's answer, or why it is none; hostile bytes never raise.

    A site that has too few patients for one step adds nothing to it, whichever of the two words it says it with.
    """
    try:
        reply = decode_as(body, Reply)
    except IncompatibleVersionError:
        return Failure(site, "refused", Code.OTHER_VERSION)
    except MessageError:
        return Failure(site, "malformed", Code.MESSAGE_MALFORMED)
    is_setup = asked.step == SETUP
    may_be_empty = not is_setup and not asked.expected.blobs  # under masks nobody can see who has nothing to add
    if (reply.run_id, reply.step, reply.number, reply.phase) != (asked.run_id, asked.step, asked.number, asked.phase):
        return Failure(site, "malformed", Code.ROUND_ANSWERED_OTHERWISE)
    if reply.part != asked.part and not is_setup:
        return Failure(site, "malformed", Code.ROUND_ANSWERED_OTHERWISE)
    if reply.status == "refused":
        if reply.code == Code.TOO_FEW_PATIENTS and may_be_empty:
            return replace(reply, status="empty", code="")
        return Failure(site, "refused", reply.code)
    if reply.status == "empty":
        return reply if may_be_empty else Failure(site, "malformed", Code.ROUND_ANSWERED_OTHERWISE)
    fault = _array_fault(reply.arrays, asked.expected.arrays) or _blob_fault(reply.blobs, asked.expected.blobs)
    return reply if fault is None else Failure(site, "malformed", fault)


def _array_fault(arrays: Arrays, specs: Sequence[ArraySpec]) -> Code | None:
    if set(arrays) != {spec.name for spec in specs}:
        return Code.RELEASE_NOT_IN_PLAN
    for spec in specs:
        array = arrays[spec.name]
        if array.shape != spec.shape:
            return Code.RELEASE_WRONG_SHAPE
        if not np.isfinite(array).all():
            return Code.RELEASE_NOT_FINITE
        if (np.abs(array) > spec.bound).any():
            return Code.RELEASE_TOO_LARGE
    return None


def _blob_fault(blobs: Mapping[str, bytes], expected: Mapping[str, int | None]) -> Code | None:
    if set(blobs) != set(expected):
        return Code.RELEASE_NOT_IN_PLAN
    if any(length not in (None, len(blobs[name])) for name, length in expected.items()):
        return Code.RELEASE_WRONG_SHAPE
    return None


def sentence_of(failure: Failure) -> str:
    """Return why a site is missing, in words that name it and say what to do."""
    site = failure.site
    if failure.reason == "late":
        return f"{site} did not answer before the deadline."
    if failure.reason == "offline":
        return f"{site} is offline."
    if failure.reason == "malformed":
        what = _MALFORMED.get(failure.code, _MALFORMED[Code.MESSAGE_MALFORMED])
        return f"{site} sent {what}; nothing of it was used."
    if failure.code in Code.__members__:
        return f"{site} refused: {SENTENCES[Code(failure.code)]}"
    return (
        f"{site} answered with the error {failure.code or 'unknown'}: its administrator finds the reason in the "
        "site's log."
    )


def sentences_of(failures: Sequence[Failure]) -> str:
    """Return why sites are missing; those with one reason share a sentence."""
    by_reason: dict[Failure, list[str]] = {}
    for failure in failures:
        by_reason.setdefault(replace(failure, site=""), []).append(failure.site)
    sentences = []
    for reason, sites in by_reason.items():
        names = " and ".join([", ".join(sites[:-1]), sites[-1]] if len(sites) > 1 else sites)
        sentence = sentence_of(replace(reason, site=names))
        sentences.append(sentence.replace(" is offline.", " are offline.") if len(sites) > 1 else sentence)
    return " ".join(sentences)


# ---------------------------------------------------------------- who has answered
@dataclass(frozen=True)
class Hearing:
    """Who has answered one message so far.

    Attributes:
        sites: Everybody who must answer.
        replies: By site; the first answer stands.
        failures: Why the others have not, as of the last time they were asked.
    """

    sites: tuple[str, ...]
    replies: Mapping[str, Reply] = field(default_factory=dict)
    failures: Mapping[str, Failure] = field(default_factory=dict)

    @property
    def missing(self) -> tuple[str, ...]:
        """Sites to ask (again), in the order of the list."""
        return tuple(site for site in self.sites if site not in self.replies)

    def hear(self, outcomes: Mapping[str, Reply | Failure]) -> Hearing:
        """Return the state after another time of asking; what comes from elsewhere is not heard."""
        replies = dict(self.replies)
        failures = dict(self.failures)
        for site in self.missing:
            outcome = outcomes.get(site)
            if isinstance(outcome, Reply):
                replies[site] = outcome
                failures.pop(site, None)
            elif outcome is not None:
                failures[site] = outcome
        return Hearing(self.sites, replies, failures)


# ---------------------------------------------------------------- verdicts
@dataclass(frozen=True)
class Complete:
    """Every site has answered."""

    replies: Mapping[str, Reply]


@dataclass(frozen=True)
class Wait:
    """Ask the missing sites again.

    Attributes:
        missing: Why, where it is known.
        paused: Whether somebody has to be told: the deadline has passed, or a site's administrator must act.
    """

    missing: tuple[Failure, ...]
    paused: bool

    @property
    def sentence(self) -> str:
        """Who is missing and why."""
        return sentences_of(self.missing)


@dataclass(frozen=True)
class Continue:
    """Go on without some sites for the rest of the run.

    Attributes:
        without: Who leaves, and why.
        replies: Of those who stay.
    """

    without: tuple[Failure, ...]
    replies: Mapping[str, Reply]


@dataclass(frozen=True)
class LeaveOut:
    """Set the run up again over a shorter list; no summand has been asked of anybody.

    Attributes:
        without: Who declines, and why.
        replies: Of those who agreed to the longer list.
    """

    without: tuple[Failure, ...]
    replies: Mapping[str, Reply]


@dataclass(frozen=True)
class Fail:
    """The run cannot go on."""

    sentence: str


Verdict = Complete | Wait | Continue | LeaveOut | Fail


@dataclass(frozen=True)
class Policy:
    """What the study says about missing sites, and what of it is used up.

    Attributes:
        has_dropped: Whether sites have left this run already.
        least_sites: Fewer are not gone on with.
    """

    on_dropout: Literal["pause", "continue"]
    has_dropped: bool = False
    least_sites: int = MIN_SITES_LEFT


def judge(hearing: Hearing, policy: Policy, *, deadline_passed: bool) -> Verdict:
    """Return what to do about a round as it stands."""
    failures = tuple(hearing.failures[site] for site in hearing.missing if site in hearing.failures)
    fatal = [failure for failure in failures if _is_fatal(failure)]
    if fatal:
        return Fail(sentences_of(fatal))
    if not hearing.missing:
        return Complete(hearing.replies)
    may_go_on = policy.on_dropout == "continue" and not policy.has_dropped
    # Only at the deadline, and only without sites that were asked and whose reason is known.
    is_time = deadline_passed and len(failures) == len(hearing.missing)
    if may_go_on and is_time and len(hearing.replies) >= policy.least_sites:
        return Continue(failures, hearing.replies)
    return _wait(failures, deadline_passed=deadline_passed)


def judge_opening(hearing: Hearing, threshold: int, *, deadline_passed: bool) -> Verdict:
    """Return what to do about a message that opens a sum: consents to its list, or shares for it.

    The answers of the threshold suffice, whoever they come from. The list stays as it is: with too few answers the
    missing sites are asked again for the same.
    """
    failures = tuple(hearing.failures[site] for site in hearing.missing if site in hearing.failures)
    fatal = [failure for failure in failures if _is_fatal(failure)]
    if fatal:
        return Fail(sentences_of(fatal))
    if not hearing.missing or len(hearing.replies) >= threshold:
        return Complete(hearing.replies)
    return _wait(failures, deadline_passed=deadline_passed)


def judge_setup(hearing: Hearing, *, deadline_passed: bool, fixed: bool = False) -> Verdict:
    """Return what to do about a set-up message as it stands.

    A site that is merely away is waited for whatever the study says about dropouts: nothing has been released
    yet, so whoever wants the run without it stops it and launches one that does not invite it.

    Args:
        hearing: Who has answered.
        deadline_passed: Whether the sites have had their time.
        fixed: The list is a roster that every site has approved: nobody is left out of it.
    """
    failures = tuple(hearing.failures[site] for site in hearing.missing if site in hearing.failures)
    declining = tuple(failure for failure in failures if _declines(failure))
    fatal = [failure for failure in failures if _is_fatal(failure) and failure not in declining]
    if fatal:
        return Fail(sentences_of(fatal))
    if declining and fixed:
        return Fail(_without_the_declining(hearing.sites, declining))
    if not hearing.missing:
        return Complete(hearing.replies)
    if len(failures) == len(declining) == len(hearing.missing):
        left = len(hearing.sites) - len(declining)
        if left < min(2, len(hearing.sites)):
            count = "No site" if left == 0 else "Only one site"
            return Fail(f"{count} can take part. " + sentences_of(declining))
        return LeaveOut(declining, hearing.replies)
    return _wait(failures, deadline_passed=deadline_passed)


def _without_the_declining(sites: Sequence[str], declining: Sequence[Failure]) -> str:
    gone = {failure.site for failure in declining}
    rest = [site for site in sites if site not in gone]
    said = sentences_of(declining)
    if len(rest) < MIN_SITES_LEFT:
        return f"{said} The sites that are left are too few for the secure sum, which needs {MIN_SITES_LEFT}."
    return (
        f"{said} The sites approved a roster that names every one of them, so a run without has a roster of its own: "
        f"`archipel launch STUDY --sites {','.join(rest)}`; each site then approves that one."
    )


def _wait(failures: tuple[Failure, ...], *, deadline_passed: bool) -> Wait:
    must_act = any(failure.reason == "refused" and not _declines(failure) for failure in failures)
    return Wait(failures, paused=bool(failures) and (deadline_passed or must_act))


def _is_fatal(failure: Failure) -> bool:
    # A refusal by a code that is not ours comes from the transport, where a restart may well help.
    is_ours = failure.reason == "refused" and failure.code in Code.__members__
    return is_ours and failure.code not in _HEALING


def _declines(failure: Failure) -> bool:
    return failure.reason == "refused" and failure.code in _TAKES_NO_PART
