"""The decisions of a round, as tables of (situation, verdict); no clock, no network, no store."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.progress import Question
from models.step import Arrays
from schemas.codes import SENTENCES, Code
from schemas.messages import SETUP, Reply, RoundRequest, encode
from schemas.plan import ArraySpec, PartSpec
from server.exchange import Failure
from server.round_protocol import PLAIN_SUM, Expected, Heard
from server.rounds import (
    Asked,
    Complete,
    Continue,
    Fail,
    Hearing,
    LeaveOut,
    Policy,
    Wait,
    judge,
    judge_opening,
    judge_setup,
    read_reply,
    sentence_of,
    sentences_of,
    setup_asked,
)

SPECS = (
    ArraySpec(name="n_patients", shape=(), meaning="patients"),
    ArraySpec(name="total", shape=(2,), meaning="sums", bound=100.0),
)
ASKED = Asked("run", "moments", "sums", 3, "value", Expected(SPECS))
GOOD = Reply("run", "moments", "sums", 3, "ok", arrays={"n_patients": np.array(20.0), "total": np.array([1.0, 2.0])})
SITES = ("a", "b", "c", "d", "e")
PAUSE = Policy("pause")
CONTINUE = Policy("continue")


def with_total(total: Any, **arrays: Any) -> Reply:
    return replace(GOOD, arrays={**GOOD.arrays, "total": np.asarray(total, dtype=np.float64), **arrays})


def hearing(**failures: Failure) -> Hearing:
    """Everybody has answered but those that are named with a failure."""
    replies = {site: GOOD for site in SITES if site not in failures}
    return Hearing(SITES, replies, failures)


def refused(site: str, code: Code) -> Failure:
    return Failure(site, "refused", code)


# ---------------------------------------------------------------- one answer
def test_a_true_answer_is_read() -> None:
    reply = read_reply("a", encode(GOOD), ASKED)
    assert isinstance(reply, Reply)
    assert np.array_equal(reply.arrays["total"], [1.0, 2.0])


LIES = [
    ("another run", replace(GOOD, run_id="other"), Code.ROUND_ANSWERED_OTHERWISE),
    ("another step", replace(GOOD, step="fit"), Code.ROUND_ANSWERED_OTHERWISE),
    ("another part", replace(GOOD, part="gradient"), Code.ROUND_ANSWERED_OTHERWISE),
    ("a stale round", replace(GOOD, number=2), Code.ROUND_ANSWERED_OTHERWISE),
    ("another phase", replace(GOOD, phase="shares"), Code.ROUND_ANSWERED_OTHERWISE),
    ("an extra array", with_total([1, 2], extra=np.zeros(1)), Code.RELEASE_NOT_IN_PLAN),
    ("a missing array", replace(GOOD, arrays={"total": np.zeros(2)}), Code.RELEASE_NOT_IN_PLAN),
    ("no array", replace(GOOD, arrays={}), Code.RELEASE_NOT_IN_PLAN),
    ("a longer array", with_total([1, 2, 3]), Code.RELEASE_WRONG_SHAPE),
    ("a number for a list", with_total(1.0), Code.RELEASE_WRONG_SHAPE),
    ("NaN", with_total([np.nan, 2]), Code.RELEASE_NOT_FINITE),
    ("infinity", with_total([1, -np.inf]), Code.RELEASE_NOT_FINITE),
    ("beyond the bound", with_total([1, -100.1]), Code.RELEASE_TOO_LARGE),
]


@pytest.mark.parametrize(("lie", "code"), [lie[1:] for lie in LIES], ids=[lie[0] for lie in LIES])
def test_a_lie_is_named_and_used_for_nothing(lie: Reply, code: Code) -> None:
    assert read_reply("a", encode(lie), ASKED) == Failure("a", "malformed", code)


@given(st.binary(max_size=200))
def test_no_bytes_make_the_hub_raise(body: bytes) -> None:
    assert read_reply("a", body, ASKED) == Failure("a", "malformed", Code.MESSAGE_MALFORMED)


@given(st.integers(0, len(encode(GOOD)) - 1), st.integers(1, 255))
def test_a_flipped_byte_is_a_number_within_bounds_or_a_named_failure(position: int, flip: int) -> None:
    body = bytearray(encode(GOOD))
    body[position] ^= flip
    outcome = read_reply("a", bytes(body), ASKED)
    if isinstance(outcome, Reply):
        assert np.isfinite(outcome.arrays["total"]).all() if outcome.status == "ok" else not outcome.arrays
    else:
        assert outcome.site == "a"


@pytest.mark.parametrize("cut", [0, 7, 8, 100, len(encode(GOOD)) - 1])
def test_a_truncated_answer_is_malformed(cut: int) -> None:
    assert read_reply("a", encode(GOOD)[:cut], ASKED) == Failure("a", "malformed", Code.MESSAGE_MALFORMED)


def test_trailing_bytes_are_malformed() -> None:
    assert isinstance(read_reply("a", encode(GOOD) + b"\0", ASKED), Failure)


def test_a_request_sent_back_is_malformed() -> None:
    mirror = encode(RoundRequest("run", "0" * 64, SITES, "moments", "sums", 3))
    assert read_reply("a", mirror, ASKED) == Failure("a", "malformed", Code.MESSAGE_MALFORMED)


def test_another_version_is_said_to_be_one() -> None:
    body = encode(GOOD).replace(rb"\"version\": \"1\"", rb"\"version\": \"2\"")
    assert read_reply("a", body, ASKED) == Failure("a", "refused", Code.OTHER_VERSION)


def test_too_few_patients_for_one_step_adds_nothing_and_at_set_up_takes_no_part() -> None:
    in_a_round = Reply("run", "moments", "sums", 3, "refused", code=Code.TOO_FEW_PATIENTS)
    assert read_reply("a", encode(in_a_round), ASKED) == Reply("run", "moments", "sums", 3, "empty")
    at_setup = Reply("run", SETUP, SETUP, 0, "refused", code=Code.TOO_FEW_PATIENTS)
    assert read_reply("a", encode(at_setup), setup_asked("run", "value")) == refused("a", Code.TOO_FEW_PATIENTS)


def test_a_set_up_cannot_be_answered_with_numbers_or_with_nothing() -> None:
    asked = setup_asked("run", "value")
    yes = Reply("run", SETUP, SETUP, 0, "ok")
    assert read_reply("a", encode(yes), asked) == yes
    for wrong in (replace(yes, arrays={"n": np.zeros(1)}), replace(yes, status="empty"), replace(yes, number=1)):
        assert isinstance(read_reply("a", encode(wrong), asked), Failure)


def test_every_way_of_missing_names_the_site_and_every_code_has_its_sentence() -> None:
    for reason in ("late", "offline", "malformed", "refused"):
        assert sentence_of(Failure("lyon", reason)).startswith("lyon ")
    for code in Code:
        assert sentence_of(refused("lyon", code)) == f"lyon refused: {SENTENCES[code]}"
    assert "error 102" in sentence_of(Failure("lyon", "refused", "102"))


def test_sites_that_are_missing_for_one_reason_share_a_sentence() -> None:
    code = Code.PLAN_NOT_APPROVED
    why = SENTENCES[code]
    missing = (refused("brest", code), Failure("dijon", "late"), refused("lyon", code), refused("nice", code))
    assert sentences_of(missing) == (f"brest, lyon and nice refused: {why} dijon did not answer before the deadline.")
    assert sentences_of((Failure("brest", "offline"), Failure("lyon", "offline"))) == "brest and lyon are offline."
    assert sentences_of(missing[:1]) == sentence_of(missing[0])


# ---------------------------------------------------------------- who has answered
def test_the_first_answer_stands_and_strangers_are_not_heard() -> None:
    first = Hearing(("a", "b")).hear({"a": GOOD, "b": Failure("b", "late"), "z": GOOD})
    assert first.missing == ("b",)
    assert set(first.replies) == {"a"}
    second = first.hear({"a": with_total([9, 9]), "b": GOOD})
    assert second.replies["a"] is GOOD
    assert (second.missing, second.failures) == ((), {})


# ---------------------------------------------------------------- verdicts of a round
LATE, OFFLINE = Failure("a", "late"), Failure("b", "offline")
LIE = Failure("a", "malformed", Code.RELEASE_NOT_FINITE)
PAUSED = refused("a", Code.SITE_PAUSED)

SITUATIONS: list[tuple[str, Hearing, Policy, bool, type]] = [
    ("all have answered", hearing(), PAUSE, False, Complete),
    ("all have answered at the deadline", hearing(), CONTINUE, True, Complete),
    ("one is offline and there is time", hearing(b=OFFLINE), CONTINUE, False, Wait),
    ("one is late, pause", hearing(a=LATE), PAUSE, True, Wait),
    ("one is late, continue", hearing(a=LATE), CONTINUE, True, Continue),
    ("one lies, pause", hearing(a=LIE), PAUSE, True, Wait),
    ("one lies, continue", hearing(a=LIE), CONTINUE, True, Continue),
    ("one has paused, continue", hearing(a=PAUSED), CONTINUE, True, Continue),
    ("two missing, three left", hearing(a=LATE, b=OFFLINE), CONTINUE, True, Continue),
    ("three missing, two left", hearing(a=LATE, b=OFFLINE, c=Failure("c", "late")), CONTINUE, True, Wait),
    ("a second dropout", hearing(a=LATE), Policy("continue", has_dropped=True), True, Wait),
    ("one cannot heal", hearing(a=refused("a", Code.RUN_CHANGED)), CONTINUE, True, Fail),
    ("one cannot heal, in time", hearing(a=refused("a", Code.TABLES_CHANGED), b=OFFLINE), PAUSE, False, Fail),
    ("nobody was asked yet", Hearing(SITES), CONTINUE, True, Wait),
]


@pytest.mark.parametrize(
    ("heard", "policy", "passed", "expected"), [s[1:] for s in SITUATIONS], ids=[s[0] for s in SITUATIONS]
)
def test_verdict_of_a_round(heard: Hearing, policy: Policy, passed: bool, expected: type) -> None:
    verdict = judge(heard, policy, deadline_passed=passed)
    assert type(verdict) is expected
    if isinstance(verdict, Continue):
        assert {failure.site for failure in verdict.without} == set(heard.missing)
        assert set(verdict.replies) == set(heard.replies)
    if isinstance(verdict, Fail):
        assert verdict.sentence.startswith("a refused: ")


HEALING = {
    Code.MESSAGE_MALFORMED, Code.PLAN_NOT_APPROVED, Code.APPROVAL_EXPIRED, Code.APPROVAL_WITHDRAWN, Code.SITE_PAUSED,
    Code.STEP_FAILED, Code.STORAGE_FAILED, Code.ROSTER_NOT_APPROVED,
}  # fmt: skip


@pytest.mark.parametrize("code", list(Code))
def test_what_a_person_can_put_right_pauses_and_the_rest_fails(code: Code) -> None:
    verdict = judge(hearing(a=refused("a", code)), PAUSE, deadline_passed=False)
    assert type(verdict) is (Wait if code in HEALING else Fail)
    if isinstance(verdict, Wait):
        assert verdict.paused
        assert SENTENCES[code] in verdict.sentence


def test_an_error_of_the_transport_pauses() -> None:
    assert judge(hearing(a=Failure("a", "refused", "102")), PAUSE, deadline_passed=True) == Wait(
        (Failure("a", "refused", "102"),), paused=True
    )


def test_a_site_that_is_away_is_not_spoken_of_before_the_deadline() -> None:
    assert judge(hearing(b=OFFLINE), PAUSE, deadline_passed=False) == Wait((OFFLINE,), paused=False)
    verdict = judge(hearing(b=OFFLINE), PAUSE, deadline_passed=True)
    assert isinstance(verdict, Wait)
    assert (verdict.paused, verdict.sentence) == (True, "b is offline.")


@given(st.sets(st.sampled_from(SITES)), st.booleans(), st.booleans())
def test_never_fewer_than_three_sites_and_never_twice(missing: set[str], dropped: bool, passed: bool) -> None:
    verdict = judge(
        hearing(**{site: Failure(site, "late") for site in missing}),
        Policy("continue", has_dropped=dropped),
        deadline_passed=passed,
    )
    if isinstance(verdict, Continue):
        assert len(verdict.replies) >= 3
        assert passed
        assert not dropped


# ---------------------------------------------------------------- verdicts of a set-up
TOO_FEW = refused("a", Code.TOO_FEW_PATIENTS)
UNCHECKED = refused("b", Code.TABLES_REFUSED)

SETUPS: list[tuple[str, Hearing, type]] = [
    ("all agree", hearing(), Complete),
    ("one has too few patients", hearing(a=TOO_FEW), LeaveOut),
    ("two decline", hearing(a=TOO_FEW, b=UNCHECKED), LeaveOut),
    ("one declines, one is away", hearing(a=TOO_FEW, b=OFFLINE), Wait),
    ("one has not approved", hearing(a=refused("a", Code.PLAN_NOT_APPROVED)), Wait),
    ("one is of another version", hearing(a=refused("a", Code.OTHER_VERSION)), Fail),
    ("one would compile another plan", hearing(a=refused("a", Code.PLAN_NOT_OURS), b=OFFLINE), Fail),
    ("only one is left", Hearing(("a", "c"), {"c": GOOD}, {"a": TOO_FEW}), Fail),
    ("nobody is left", Hearing(("a",), {}, {"a": TOO_FEW}), Fail),
    ("one site alone", Hearing(("a",), {"a": GOOD}), Complete),
]


@pytest.mark.parametrize(("heard", "expected"), [s[1:] for s in SETUPS], ids=[s[0] for s in SETUPS])
def test_verdict_of_a_set_up(heard: Hearing, expected: type) -> None:
    assert type(judge_setup(heard, deadline_passed=True)) is expected


def test_set_up_waits_for_an_absent_site_whatever_the_study_says() -> None:
    assert judge_setup(hearing(b=OFFLINE), deadline_passed=True) == Wait((OFFLINE,), paused=True)


def test_a_declining_site_alone_is_no_reason_to_alarm() -> None:
    assert judge_setup(hearing(a=TOO_FEW, b=OFFLINE), deadline_passed=False) == Wait((TOO_FEW, OFFLINE), paused=False)


def test_from_an_approved_roster_nobody_is_left_out() -> None:
    verdict = judge_setup(hearing(a=TOO_FEW, b=OFFLINE), deadline_passed=False, fixed=True)
    assert isinstance(verdict, Fail)
    assert verdict.sentence.startswith("a refused: ")
    assert "`archipel launch STUDY --sites b,c,d,e`" in verdict.sentence
    few = judge_setup(Hearing(("a", "b", "c"), {}, {"a": TOO_FEW}), deadline_passed=False, fixed=True)
    assert isinstance(few, Fail)
    assert "too few" in few.sentence


# ---------------------------------------------------------------- verdicts of what opens a sum
OPENINGS: list[tuple[str, Hearing, bool, type]] = [
    ("all have answered", hearing(), False, Complete),
    ("nobody was asked yet", Hearing(SITES), False, Wait),
    ("the threshold has answered", hearing(a=LATE), True, Complete),
    ("one below the threshold", hearing(a=LATE, b=OFFLINE), True, Wait),
    ("one has paused", hearing(a=PAUSED), False, Complete),
    ("one breaks off", hearing(a=refused("a", Code.SECURE_SUM_REFUSED)), False, Fail),
]


@pytest.mark.parametrize(("heard", "passed", "expected"), [o[1:] for o in OPENINGS], ids=[o[0] for o in OPENINGS])
def test_verdict_of_what_opens_a_sum(heard: Hearing, passed: bool, expected: type) -> None:
    assert type(judge_opening(heard, 4, deadline_passed=passed)) is expected


# ---------------------------------------------------------------- answers under masks
MASKED = Asked("run", "moments", "sums", 3, "value", Expected(blobs={"masked": 24}))
VECTOR = Reply("run", "moments", "sums", 3, "ok", blobs={"masked": bytes(24)})


def test_a_masked_vector_is_read() -> None:
    assert read_reply("a", encode(VECTOR), MASKED) == VECTOR


@pytest.mark.parametrize(
    ("lie", "code"),
    [
        (replace(VECTOR, blobs={"masked": bytes(16)}), Code.RELEASE_WRONG_SHAPE),
        (replace(VECTOR, blobs={}), Code.RELEASE_NOT_IN_PLAN),
        (replace(VECTOR, blobs={**VECTOR.blobs, "more": b""}), Code.RELEASE_NOT_IN_PLAN),
        (replace(VECTOR, arrays={"n_patients": np.array(20.0)}), Code.RELEASE_NOT_IN_PLAN),
        (Reply("run", "moments", "sums", 3, "empty"), Code.ROUND_ANSWERED_OTHERWISE),
    ],
    ids=["shorter", "none", "another", "in clear", "empty"],
)
def test_a_lie_under_masks_is_named(lie: Reply, code: Code) -> None:
    assert read_reply("a", encode(lie), MASKED) == Failure("a", "malformed", code)


def test_too_few_patients_under_masks_is_a_refusal_as_nobody_may_see_who_is_empty() -> None:
    refusal = Reply("run", "moments", "sums", 3, "refused", code=Code.TOO_FEW_PATIENTS)
    assert read_reply("a", encode(refusal), MASKED) == refused("a", Code.TOO_FEW_PATIENTS)


# ---------------------------------------------------------------- the sum
PART = PartSpec(name="sums", sends=(), releases=SPECS, times=1)


def plain_total(heard: Heard) -> Arrays | None:
    return PLAIN_SUM.total(Question("moments", "sums", 3, {}), PART, heard).arrays


@given(st.permutations(SITES), st.lists(st.floats(-100, 100), min_size=5, max_size=5))
def test_order_of_arrival_does_not_change_a_bit_of_the_total(order: list[str], values: list[float]) -> None:
    terms = {site: with_total([value, 1.0]) for site, value in zip(SITES, values, strict=True)}
    expected = plain_total({"value": terms})
    arrived = plain_total({"value": {site: terms[site] for site in order}})
    assert expected is not None
    assert arrived is not None
    assert arrived["total"].tobytes() == expected["total"].tobytes()


def test_an_empty_site_adds_zero_and_only_empty_sites_are_no_sum() -> None:
    nothing = Reply("run", "moments", "sums", 3, "empty")
    total = plain_total({"value": {"a": GOOD, "b": nothing}})
    assert total is not None
    assert np.array_equal(total["total"], GOOD.arrays["total"])
    assert plain_total({"value": {"a": nothing, "b": nothing}}) is None


def test_one_empty_shape_is_that_of_the_plan() -> None:
    nothing = Reply("run", "moments", "sums", 3, "empty")
    total = plain_total({"value": {"a": nothing, "b": GOOD}})
    assert total is not None
    assert {name: array.shape for name, array in total.items()} == {"n_patients": (), "total": (2,)}
