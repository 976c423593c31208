"""The guard: what may leave a site leaves once and is written down; everything else ends in a code."""

from __future__ import annotations

import datetime
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client import guard as guard_module
from client.approvals import pause, resume
from client.guard_protocol import Answer, Run
from privacy.inbound import Limits
from privacy.ledger import Ledger, LedgerBrokenError, verify_ledger
from privacy.storage import StorageError
from schemas.canonical import sha256_hex
from schemas.codes import Code
from schemas.messages import Draft, Reply, decode_as, encode
from schemas.plan import Noise, Plan, read_plan
from tests.guards import GRADIENT, GuardedSite
from tests.plans import small_plan


@pytest.fixture
def site(tmp_path: Path) -> GuardedSite:
    return GuardedSite(tmp_path)


@pytest.fixture
def ready(site: GuardedSite) -> GuardedSite:
    assert site.set_up().status == "ok"
    return site


# ---------------------------------------------------------------- the way of an honest run
def test_a_setup_of_an_approved_plan_is_answered_without_a_number(site: GuardedSite) -> None:
    reply = site.set_up()
    assert (reply.status, reply.step, reply.part, reply.number, dict(reply.arrays)) == ("ok", "setup", "setup", 0, {})


def test_a_summand_leaves_after_its_entry(ready: GuardedSite) -> None:
    reply = ready.answer(ready.ask(), ready.draft())
    assert reply.status == "ok"
    assert {name: array.tolist() for name, array in reply.arrays.items()} == {
        name: array.tolist() for name, array in GRADIENT.items()
    }
    event = ready.ledger()[-1].event
    assert event.kind == "release"
    assert (event.run, event.step, event.part, event.number) == ("run-1", "fit", "gradient", 0)
    assert event.arrays == (("gradient", (2,)), ("hessian", (2, 2)))
    assert event.n_patients == 40
    assert event.digest == sha256_hex(encode(reply))
    assert event.n_bytes == len(encode(reply))


def test_the_ledger_holds_no_value_of_a_release(ready: GuardedSite) -> None:
    secret = 314159.265358
    ready.answer(ready.ask(), ready.draft(arrays={**GRADIENT, "gradient": np.array([secret, -secret])}))
    assert b"314159" not in ready.paths.ledger.read_bytes()


def test_a_site_without_patients_for_a_step_says_empty(ready: GuardedSite) -> None:
    reply = ready.answer(ready.ask(), ready.draft(n_patients=0, arrays={}))
    assert (reply.status, dict(reply.arrays)) == ("empty", {})
    assert ready.events()[-1][0] == "release"


def test_an_unknown_plan_waits_for_a_person(site: GuardedSite) -> None:
    assert site.answer(site.setup(), None).code == Code.PLAN_NOT_APPROVED
    assert read_plan(site.paths.plan(site.plan.hash).read_bytes()) == site.plan
    site.decide()
    assert site.set_up().status == "ok"


def test_a_run_is_the_same_after_a_restart_of_the_agent(ready: GuardedSite) -> None:
    first = ready.answer(ready.ask(), ready.draft())
    ready.open()
    assert encode(ready.answer(ready.ask(), None)) == encode(first)
    assert ready.answer(ready.ask(1), ready.draft(1)).status == "ok"


# ---------------------------------------------------------------- attacks: situation, what is asked, code
Attack = Callable[[GuardedSite], Reply]


def _other_plan(site: GuardedSite) -> Reply:
    other = small_plan(title="Another question")
    return site.answer(site.ask(plan_hash=other.hash), site.draft())


def _second_plan_in_the_run(site: GuardedSite) -> Reply:
    site.plan = small_plan(title="Another question")
    site.decide()
    return site.answer(site.setup(), None)


def _withdrawn(site: GuardedSite) -> Reply:
    site.decide(withdrawn_at=site.now)
    return site.answer(site.ask(), site.draft())


def _expired(site: GuardedSite) -> Reply:
    site.decide(expires=site.now.date())
    assert site.answer(site.ask(), site.draft()).status == "ok"
    site.now += datetime.timedelta(days=1)
    return site.answer(site.ask(1), site.draft(1))


def _paused(site: GuardedSite) -> Reply:
    pause(site.home, who="Dr. Weiß")
    return site.answer(site.ask(), site.draft())


def _asked_otherwise(site: GuardedSite) -> Reply:
    assert site.answer(site.ask(), site.draft()).status == "ok"
    return site.answer(site.ask(arrays={"beta": np.array([9.0, 9.0])}), site.draft())


def _stale(site: GuardedSite) -> Reply:
    assert site.answer(site.ask(2), site.draft(2)).status == "ok"
    return site.answer(site.ask(1), site.draft(1))


def _earlier_step(site: GuardedSite) -> Reply:
    assert site.answer(site.ask(), site.draft()).status == "ok"
    return site.answer(site.ask(step="moments", part="sums", number=0, arrays={}), None)


def _exhausted(site: GuardedSite) -> Reply:
    for number in range(3):
        assert site.answer(site.ask(number), site.draft(number)).status == "ok"
    return site.answer(site.ask(3), site.draft(3))


ATTACKS: list[tuple[str, Attack, Code]] = [
    ("unknown plan", _other_plan, Code.PLAN_UNKNOWN),
    ("second plan under the same run", _second_plan_in_the_run, Code.RUN_CHANGED),
    ("unknown run", lambda s: s.answer(s.ask(run_id="run-2"), s.draft()), Code.RUN_UNKNOWN),
    ("one site fewer", lambda s: s.answer(s.ask(sites=("A", "B")), s.draft()), Code.RUN_CHANGED),
    ("sites in another order", lambda s: s.answer(s.ask(sites=("C", "B", "A")), s.draft()), Code.RUN_CHANGED),
    ("approval withdrawn in the run", _withdrawn, Code.APPROVAL_WITHDRAWN),
    ("approval expired in the run", _expired, Code.APPROVAL_EXPIRED),
    ("paused in the run", _paused, Code.SITE_PAUSED),
    ("the same round, another question", _asked_otherwise, Code.ROUND_ANSWERED_OTHERWISE),
    ("a round that was passed over", _stale, Code.ROUND_STALE),
    ("a step before the current one", _earlier_step, Code.ROUND_STALE),
    ("more gradients than the plan has", _exhausted, Code.ROUNDS_EXHAUSTED),
    ("unknown step", lambda s: s.answer(s.ask(step="rows"), s.draft()), Code.REQUEST_NOT_IN_PLAN),
    ("unknown part", lambda s: s.answer(s.ask(part="rows"), s.draft()), Code.REQUEST_NOT_IN_PLAN),
    ("unknown phase", lambda s: s.answer(s.ask(phase="keys"), s.draft()), Code.REQUEST_NOT_IN_PLAN),
    ("NaN sent", lambda s: s.answer(s.ask(arrays={"beta": np.full(2, np.nan)}), None), Code.REQUEST_NOT_FINITE),
    ("weights x 1e6", lambda s: s.answer(s.ask(arrays={"beta": np.full(2, 5e7)}), None), Code.REQUEST_TOO_LARGE),
    ("folder as run id", lambda s: s.answer(s.ask(run_id="../../tmp"), None), Code.MESSAGE_MALFORMED),
    ("a reply as request", lambda s: s.answer(encode(Reply("run-1", "fit", "x", 0, "ok")), None),
     Code.MESSAGE_MALFORMED),
    ("a draft as request", lambda s: s.answer(s.draft(), None), Code.MESSAGE_MALFORMED),
    ("another version", lambda s: s.answer(s.ask().replace(b'version\\": \\"1', b'version\\": \\"2'), None),
     Code.OTHER_VERSION),
    ("noise", lambda s: s.answer(b"\x00" * 100, None), Code.MESSAGE_MALFORMED),
    ("nothing", lambda s: s.answer(b"", None), Code.MESSAGE_MALFORMED),
    ("runner failed", lambda s: s.answer(s.ask(), None), Code.STEP_FAILED),
    ("runner sent a reply", lambda s: s.answer(s.ask(), encode(Reply("run-1", "fit", "gradient", 0, "ok"))),
     Code.STEP_FAILED),
    ("runner sent text", lambda s: s.answer(s.ask(), b"ValueError: Jane Doe"), Code.STEP_FAILED),
    ("runner found other tables", lambda s: s.answer(s.ask(), s.draft(code="TABLES_CHANGED", arrays={})),
     Code.TABLES_CHANGED),
    ("extra array", lambda s: s.answer(s.ask(), s.draft(arrays={**GRADIENT, "rows": np.zeros(3)})),
     Code.RELEASE_NOT_IN_PLAN),
    ("missing array", lambda s: s.answer(s.ask(), s.draft(arrays={})), Code.RELEASE_NOT_IN_PLAN),
    ("wrong shape", lambda s: s.answer(s.ask(), s.draft(arrays={**GRADIENT, "gradient": np.zeros(40)})),
     Code.RELEASE_WRONG_SHAPE),
    ("NaN drafted", lambda s: s.answer(s.ask(), s.draft(arrays={**GRADIENT, "gradient": np.full(2, np.nan)})),
     Code.RELEASE_NOT_FINITE),
    ("infinity drafted", lambda s: s.answer(s.ask(), s.draft(arrays={**GRADIENT, "gradient": np.full(2, np.inf)})),
     Code.RELEASE_NOT_FINITE),
    ("1e6 times the bound", lambda s: s.answer(s.ask(), s.draft(arrays={**GRADIENT, "gradient": np.full(2, 1e12)})),
     Code.RELEASE_TOO_LARGE),
    ("nine patients", lambda s: s.answer(s.ask(), s.draft(n_patients=9)), Code.TOO_FEW_PATIENTS),
    ("draft of another run", lambda s: s.answer(s.ask(), s.draft(run_id="run-2")), Code.RELEASE_NOT_IN_PLAN),
    ("draft of another step", lambda s: s.answer(s.ask(), s.draft(step="moments")), Code.RELEASE_NOT_IN_PLAN),
    ("draft of another part", lambda s: s.answer(s.ask(), s.draft(part="objective")), Code.RELEASE_NOT_IN_PLAN),
    ("draft of another round", lambda s: s.answer(s.ask(), s.draft(1)), Code.RELEASE_NOT_IN_PLAN),
]  # fmt: skip


@pytest.mark.parametrize(("attack", "code"), [a[1:] for a in ATTACKS], ids=[a[0].replace(" ", "-") for a in ATTACKS])
def test_an_attack_ends_in_its_code_and_nothing_leaves(ready: GuardedSite, attack: Attack, code: Code) -> None:
    reply = attack(ready)
    assert (reply.status, reply.code, dict(reply.arrays)) == ("refused", code, {})
    event = ready.ledger()[-1].event
    assert (event.kind, event.rule, event.digest) == ("refusal", code, "")
    assert verify_ledger(ready.paths.ledger).torn_bytes == 0


@pytest.mark.parametrize("kind", ["float32", "int64"])
def test_a_draft_in_another_type_is_held_back(ready: GuardedSite, kind: str) -> None:
    body = ready.draft().replace(b'"dtype":"F64"', {"float32": b'"dtype":"F32"', "int64": b'"dtype":"I64"'}[kind])
    if kind == "float32":  # half the width: as many elements again
        body = body.replace(b'"shape":[2]', b'"shape":[4]').replace(b'"shape":[2,2]', b'"shape":[2,4]')
    assert ready.answer(ready.ask(), body).code == Code.RELEASE_WRONG_DTYPE


SETUP_ATTACKS: list[tuple[str, dict[str, Any], Code]] = [
    ("another hash", {"plan_hash": "0" * 64}, Code.MESSAGE_MALFORMED),
    ("plan is no plan", {"plan": "{}"}, Code.MESSAGE_MALFORMED),
    ("plan in another writing", {"plan": json.dumps(json.loads(small_plan().content))}, Code.MESSAGE_MALFORMED),
    ("nested too deep", {"plan": "[" * 100_000}, Code.MESSAGE_MALFORMED),
    ("arrays", {"arrays": {"beta": np.zeros(2)}}, Code.REQUEST_NOT_IN_PLAN),
    ("phase of another protocol", {"phase": "keys"}, Code.REQUEST_NOT_IN_PLAN),
    ("no sites", {"sites": ()}, Code.MESSAGE_MALFORMED),
    ("run id that is a path", {"run_id": "a/../b"}, Code.MESSAGE_MALFORMED),
]


@pytest.mark.parametrize(
    ("changed", "code"), [a[1:] for a in SETUP_ATTACKS], ids=[a[0].replace(" ", "-") for a in SETUP_ATTACKS]
)
def test_a_setup_that_is_not_one_is_refused(site: GuardedSite, changed: dict[str, Any], code: Code) -> None:
    site.decide()
    assert site.answer(site.setup(**changed), None).code == code
    assert site.guard.admit(site.ask()) != Run()


@pytest.mark.parametrize("code", [Code.PLAN_NOT_OURS, Code.PLAN_BELOW_FLOOR, Code.OTHER_VERSION])
def test_a_plan_that_this_installation_does_not_stand_by_is_not_even_kept(site: GuardedSite, code: Code) -> None:
    site.decide()
    site.guard._approved._judge_plan = lambda plan, floors: code
    assert site.answer(site.setup(), None).code == code
    assert not site.paths.plan(site.plan.hash).exists()


@pytest.mark.parametrize("code", [Code.TOO_FEW_PATIENTS, Code.TABLES_REFUSED])
def test_a_site_that_cannot_take_part_says_so_and_may_be_asked_again(site: GuardedSite, code: Code) -> None:
    site.decide()
    assert site.answer(site.setup(), encode(Draft("run-1", "setup", "setup", 0, 0, 0, code=code))).code == code
    assert site.answer(site.ask(), site.draft()).code == Code.RUN_UNKNOWN
    site.tables = "corrected tables"
    assert site.set_up().status == "ok"
    run = site.guard._answers.run("run-1")
    assert run is not None
    assert run.source_digest == "corrected tables"


def test_a_small_site_takes_no_part_whatever_its_runner_says(site: GuardedSite) -> None:
    site.decide()
    draft = encode(Draft("run-1", "setup", "setup", 0, n_patients=9, n_events=9))
    assert site.answer(site.setup(), draft).code == Code.TOO_FEW_PATIENTS


# ---------------------------------------------------------------- parameters of an honest fit
def at(site: GuardedSite, beta: tuple[float, float], number: int, run_id: str = "run-1") -> str:
    """Ask for a gradient at some coefficients; return the code."""
    request = site.ask(number, run_id=run_id, arrays={"beta": np.array(beta)})
    return site.answer(request, site.draft(number, run_id=run_id)).code


def test_coefficients_that_are_too_long_or_too_far_from_the_last_are_refused(ready: GuardedSite) -> None:
    assert at(ready, (4.0, 0.0), 0) == Code.REQUEST_TOO_FAR
    assert at(ready, (2.0, 0.0), 0) == ""
    ready.open()
    assert at(ready, (-2.0, 0.0), 1) == Code.REQUEST_TOO_FAR
    assert at(ready, (0.0, 1.0), 1) == ""
    assert [event for event in ready.events() if event[3] == Code.REQUEST_TOO_FAR] != []


def test_a_fit_is_asked_at_few_different_coefficients_over_all_runs_of_a_plan(ready: GuardedSite) -> None:
    points = Limits().points
    for n in range(points):
        run_id = f"run-{n // 3}"
        ready.answer(ready.setup(run_id=run_id), encode(Draft(run_id, "setup", "setup", 0, 40, 12)))
        assert at(ready, (0.1 * n, 0.0), n % 3, run_id) == ""
    run_id = "run-last"
    ready.answer(ready.setup(run_id=run_id), encode(Draft(run_id, "setup", "setup", 0, 40, 12)))
    assert at(ready, (0.05, 0.0), 0, run_id) == Code.ROUNDS_EXHAUSTED
    assert at(ready, (0.1, 0.0), 0, run_id) == "", "an honest second run asks at the same ones"


def test_what_is_refused_is_not_remembered(ready: GuardedSite) -> None:
    request = ready.ask(0, arrays={"beta": np.array([2.0, 0.0])})
    assert ready.answer(request, ready.draft(n_patients=9)).code == Code.TOO_FEW_PATIENTS
    assert at(ready, (-2.0, 0.0), 0) == "", "nothing was answered at the coefficients before"


# ---------------------------------------------------------------- one question, one answer
def test_an_identical_request_gets_identical_bytes_and_one_entry(ready: GuardedSite) -> None:
    first = ready.answer(ready.ask(), ready.draft())
    n_entries = len(ready.ledger())
    for other in (ready.draft(arrays={**GRADIENT, "gradient": np.zeros(2)}), None):
        verdict = ready.guard.admit(ready.ask())
        assert isinstance(verdict, Answer)
        assert verdict.body == encode(first) == ready.guard.release(ready.ask(), other)
    assert len(ready.ledger()) == n_entries


def _padded(body: bytes) -> bytes:
    """The same message with blanks in its header, which safetensors allows."""
    (length,) = struct.unpack("<Q", body[:8])
    return struct.pack("<Q", length + 8) + body[8 : 8 + length] + b" " * 8 + body[8 + length :]


def test_the_same_question_in_another_writing_gets_the_same_bytes(ready: GuardedSite) -> None:
    first = ready.answer(ready.ask(), ready.draft())
    padded = _padded(ready.ask())
    assert padded != ready.ask()
    verdict = ready.guard.admit(padded)
    assert isinstance(verdict, Answer)
    assert verdict.body == encode(first)


def test_what_rides_on_a_drafts_header_does_not_leave(ready: GuardedSite) -> None:
    padded = _padded(ready.draft())
    body = ready.guard.release(ready.ask(), padded)
    assert body == encode(decode_as(body, Reply))
    assert len(body) < len(padded) + 200
    draft = ready.draft(1)
    (length,) = struct.unpack("<Q", draft[:8])
    header = json.loads(draft[8 : 8 + length])
    header["__metadata__"]["note"] = "Jane Doe"
    text = json.dumps(header).encode()
    carrying = struct.pack("<Q", len(text)) + text + draft[8 + length :]
    assert b"Jane" not in ready.guard.release(ready.ask(1), carrying)


def test_a_refusal_is_no_answer(ready: GuardedSite) -> None:
    assert ready.answer(ready.ask(), ready.draft(code="STEP_FAILED", arrays={})).status == "refused"
    assert ready.answer(ready.ask(), ready.draft()).status == "ok"


def test_releases_go_on_after_a_pause(ready: GuardedSite) -> None:
    pause(ready.home, who="Dr. Weiß")
    assert ready.answer(ready.ask(), ready.draft()).code == Code.SITE_PAUSED
    resume(ready.home, who="Dr. Weiß")
    assert ready.answer(ready.ask(), ready.draft()).status == "ok"
    assert [event.kind for event in (entry.event for entry in ready.ledger())][-4:] == [
        "pause", "refusal", "resume", "release",
    ]  # fmt: skip


@pytest.mark.parametrize("stop", ["pause", "withdraw"])
def test_a_no_while_the_runner_works_holds(ready: GuardedSite, stop: str) -> None:
    assert isinstance(ready.guard.admit(ready.ask()), Run)
    if stop == "pause":
        pause(ready.home, who="Dr. Weiß")
    else:
        ready.decide(withdrawn_at=ready.now)
    reply = decode_as(ready.guard.release(ready.ask(), ready.draft()), Reply)
    assert reply.code == (Code.SITE_PAUSED if stop == "pause" else Code.APPROVAL_WITHDRAWN)


def test_an_answer_given_is_not_given_again_after_a_withdrawal(ready: GuardedSite) -> None:
    ready.answer(ready.ask(), ready.draft())
    ready.decide(withdrawn_at=ready.now)
    assert ready.answer(ready.ask(), None).code == Code.APPROVAL_WITHDRAWN


def test_a_release_that_was_not_admitted_is_judged_all_the_same(site: GuardedSite) -> None:
    assert decode_as(site.guard.release(site.ask(), site.draft()), Reply).code == Code.PLAN_UNKNOWN
    site.decide()
    assert decode_as(site.guard.release(site.setup(), site.draft()), Reply).code == Code.RUN_UNKNOWN


def test_a_site_may_answer_fewer_rounds_than_the_plan_has(tmp_path: Path) -> None:
    site = GuardedSite(tmp_path, max_rounds=1)
    site.set_up()
    assert site.answer(site.ask(), site.draft()).status == "ok"
    assert site.answer(site.ask(1), site.draft(1)).code == Code.ROUNDS_EXHAUSTED


def test_equal_refusals_in_a_row_are_entered_once(site: GuardedSite) -> None:
    for _ in range(5):
        site.answer(site.setup(), None)
    assert site.events() == [("refusal", "setup", 0, Code.PLAN_NOT_APPROVED)]


# ---------------------------------------------------------------- the list of sites
def test_a_run_may_be_set_up_again_over_other_sites_until_the_first_summand(ready: GuardedSite) -> None:
    draft = encode(Draft("run-1", "setup", "setup", 0, 40, 12))
    assert ready.answer(ready.setup(sites=("A", "B")), draft).status == "ok"
    assert ready.answer(ready.ask(), ready.draft()).code == Code.RUN_CHANGED, "the first list counts no more"
    assert ready.answer(ready.ask(sites=("A", "B")), ready.draft()).status == "ok"
    assert ready.answer(ready.setup(sites=("A", "B", "C")), draft).code == Code.RUN_CHANGED
    assert ready.answer(ready.setup(sites=("A", "B")), draft).status == "ok"


def test_opt_outs_are_frozen_for_the_run(site: GuardedSite) -> None:
    (site.home / "optout.txt").write_text("P-17\n")
    site.set_up()
    (site.home / "optout.txt").write_text("P-17\nP-18\n")
    site.answer(site.ask(), site.draft())
    site.answer(site.setup(), None)
    assert site.paths.frozen_optout("run-1").read_text() == "P-17\n"


def test_what_the_plan_lets_out_with_noise_alone_does_not_leave_without(tmp_path: Path) -> None:
    plan = small_plan()
    fit = plan.by_name["fit"]
    gradient = fit.parts[0].model_copy(update={"noise": Noise(sensitivity=1.0, share=0.5)})
    noisy = plan.model_copy(
        update={"steps": (plan.steps[0], fit.model_copy(update={"parts": (gradient, *fit.parts[1:])}))}
    )
    site = GuardedSite(tmp_path, read_plan(Plan.model_validate_json(noisy.model_dump_json()).content))
    assert site.set_up().status == "ok"
    assert site.answer(site.ask(), site.draft()).code == Code.RELEASE_NOT_IN_PLAN


# ---------------------------------------------------------------- hostile bytes
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(data=st.data())
def test_a_damaged_request_neither_raises_nor_releases_something_else(
    ready: GuardedSite, data: st.DataObject
) -> None:
    kept = ready.answer(ready.ask(), ready.draft())
    damaged = bytearray(data.draw(st.sampled_from([ready.ask(), ready.setup()])))
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    reply = decode_as(ready.guard.release(bytes(damaged), ready.draft()), Reply)
    assert reply.status == "refused" or encode(reply) == encode(kept) or reply.step == "setup"
    assert reply.code in ("", *Code.__members__)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(data=st.data())
def test_a_damaged_draft_leaves_as_the_plans_arrays_or_not_at_all(site: GuardedSite, data: st.DataObject) -> None:
    site.set_up()
    run_id = f"run-{data.draw(st.integers(0, 10**8))}"
    site.answer(site.setup(run_id=run_id), encode(Draft(run_id, "setup", "setup", 0, 40, 12)))
    damaged = bytearray(site.draft(run_id=run_id))
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    body = site.guard.release(site.ask(run_id=run_id), bytes(damaged))
    reply = decode_as(body, Reply)
    assert encode(reply) == body
    if reply.status == "ok":
        assert {name: array.shape for name, array in reply.arrays.items()} == {"gradient": (2,), "hessian": (2, 2)}
        assert all((np.abs(array) <= 1e6).all() for array in reply.arrays.values())
        assert site.ledger()[-1].event.digest == sha256_hex(body) or site.guard._answers.find(
            run_id, "fit", 0, "value"
        )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=300), draft=st.none() | st.binary(max_size=300))
def test_noise_ends_in_a_refusal(ready: GuardedSite, body: bytes, draft: bytes | None) -> None:
    assert isinstance(ready.guard.admit(body), Answer)
    assert decode_as(ready.guard.release(body, draft), Reply).status == "refused"


# ---------------------------------------------------------------- the disk
def test_without_a_ledger_entry_nothing_leaves(ready: GuardedSite, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(ledger: Ledger, event: object) -> None:
        raise StorageError("ledger.jsonl cannot be read or written (No space left on device)")

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "append", full)
        reply = ready.answer(ready.ask(), ready.draft())
        assert (reply.status, reply.code, reply.run_id, reply.number) == ("refused", "STORAGE_FAILED", "run-1", 0)
        assert ready.answer(ready.ask(), None).code == Code.STORAGE_FAILED, "kept, but not entered"
    assert ready.answer(ready.ask(), None).status == "ok"
    assert [event.kind for event in (entry.event for entry in ready.ledger())].count("release") == 1


def test_a_broken_ledger_stops_the_site(ready: GuardedSite) -> None:
    content = ready.paths.ledger.read_bytes()
    ready.paths.ledger.write_bytes(content[: len(content) // 2])
    assert ready.answer(ready.ask(), ready.draft()).code == Code.STORAGE_FAILED
    with pytest.raises(LedgerBrokenError):
        ready.open()


def test_damaged_approvals_are_no_approval(ready: GuardedSite) -> None:
    ready.paths.approvals.write_text("{")
    assert ready.answer(ready.ask(), ready.draft()).code == Code.STORAGE_FAILED


def test_a_changed_plan_file_is_not_the_approved_plan(ready: GuardedSite) -> None:
    path = ready.paths.plan(ready.plan.hash)
    path.write_bytes(path.read_bytes().replace(b'"shape":[2]', b'"shape":[9]'))
    ready.open()
    assert ready.answer(ready.ask(), ready.draft()).code == Code.PLAN_UNKNOWN


def test_an_error_of_our_own_is_a_refusal_without_its_text(
    ready: GuardedSite, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("Jane Doe, born 1971")

    monkeypatch.setattr(guard_module.gate, "release", fail)
    body = ready.guard.release(ready.ask(), ready.draft())
    assert decode_as(body, Reply).code == Code.STEP_FAILED
    assert b"Jane" not in body + ready.paths.ledger.read_bytes()
    assert "Jane" not in caplog.text
    assert "ValueError at" in caplog.text
