"""The gate: a table of attacks, each with the code it ends in, and laws for everything that is not in the table."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from models.compile import compile_plan
from privacy import gate
from privacy.gate import Floors
from schemas.codes import Code
from schemas.messages import Draft, Reply, RoundRequest, SetupRequest, decode, encode
from schemas.plan import Plan
from schemas.study import Evaluation
from tests.plans import small_dictionary, small_plan, small_study

PLAN = small_plan()
FLOORS = Floors()
BETA = np.array([0.1, -0.2])
GRADIENT = {"gradient": np.array([1.0, 2.0]), "hessian": np.array([[3.0, 0.0], [0.0, 4.0]])}


def ask(**changed: Any) -> RoundRequest:
    request = RoundRequest(
        run_id="run-1",
        plan_hash=PLAN.hash,
        sites=("A", "B", "C"),
        step="fit",
        part="gradient",
        number=1,
        arrays={"beta": BETA},
    )
    return replace(request, **changed)


def draft(**changed: Any) -> Draft:
    answer = Draft("run-1", "fit", "gradient", 1, n_patients=40, n_events=12, arrays=GRADIENT)
    return replace(answer, **changed)


def test_a_question_of_the_plan_is_admitted() -> None:
    assert gate.admit(ask(), PLAN) is None
    assert gate.admit(ask(number=4), PLAN) is None, "three gradients and two objectives, numbered from 0"


@pytest.mark.parametrize(
    ("situation", "request_", "code"),
    [
        ("unknown step", ask(step="rows"), Code.REQUEST_NOT_IN_PLAN),
        ("unknown part", ask(part="rows"), Code.REQUEST_NOT_IN_PLAN),
        ("part of another step", ask(step="moments"), Code.REQUEST_NOT_IN_PLAN),
        ("unknown phase", ask(phase="unmask"), Code.REQUEST_NOT_IN_PLAN),
        ("more rounds than the plan has", ask(number=5), Code.ROUNDS_EXHAUSTED),
        ("missing array", ask(arrays={}), Code.REQUEST_NOT_IN_PLAN),
        ("extra array", ask(arrays={"beta": BETA, "rows": BETA}), Code.REQUEST_NOT_IN_PLAN),
        ("renamed array", ask(arrays={"gamma": BETA}), Code.REQUEST_NOT_IN_PLAN),
        ("longer array", ask(arrays={"beta": np.zeros(3)}), Code.REQUEST_NOT_IN_PLAN),
        ("transposed shape", ask(arrays={"beta": np.zeros((2, 1))}), Code.REQUEST_NOT_IN_PLAN),
        ("float32", ask(arrays={"beta": BETA.astype(np.float32)}), Code.REQUEST_NOT_IN_PLAN),
        ("NaN", ask(arrays={"beta": np.array([0.0, np.nan])}), Code.REQUEST_NOT_FINITE),
        ("infinity", ask(arrays={"beta": np.array([-np.inf, 0.0])}), Code.REQUEST_NOT_FINITE),
        ("saturating weights", ask(arrays={"beta": np.array([0.0, -5e7])}), Code.REQUEST_TOO_LARGE),
    ],
)
def test_a_question_outside_the_plan_is_refused(situation: str, request_: RoundRequest, code: Code) -> None:
    assert gate.admit(request_, PLAN) is code, situation


GRID_PLAN = compile_plan(small_study(), small_dictionary())
BINS = np.asarray(GRID_PLAN.by_name["grid"].settings["bin_edges"])


def ask_on_grid(active: Any, n_intervals: float | None = None) -> RoundRequest:
    """The fit's first question on intervals that end at `active`, padded as an honest hub pads them."""
    edges = np.full(BINS.size, np.asarray(active, dtype=np.float64)[-1])
    edges[: len(active)] = active
    sent = {spec.name: np.ones(spec.shape) for spec in GRID_PLAN.by_name["fit"].part("newton").sends}
    grid = {"edges": edges, "n_intervals": np.array(float(len(active) if n_intervals is None else n_intervals))}
    return ask(plan_hash=GRID_PLAN.hash, part="newton", number=0, arrays={**sent, **grid})


@given(st.sets(st.integers(0, BINS.size - 1), min_size=1))
def test_a_grid_merged_from_the_plans_bins_is_admitted(chosen: set[int]) -> None:
    assert gate.admit(ask_on_grid(BINS[sorted(chosen)]), GRID_PLAN) is None


@pytest.mark.parametrize(
    ("situation", "request_"),
    [
        ("an interval around one patient's event", ask_on_grid([411.9, 412.1, BINS[-1]])),
        ("an edge a hair beside a bin's", ask_on_grid([np.nextafter(BINS[3], 0), BINS[-1]])),
        ("edges that fall", ask_on_grid([BINS[5], BINS[2]])),
        ("an edge twice", ask_on_grid([BINS[5], BINS[5]])),
        ("no interval", ask_on_grid(BINS, 0)),
        ("fewer than none", ask_on_grid(BINS, -3)),
        ("more intervals than edges", ask_on_grid(BINS, BINS.size + 1)),
        ("half an interval", ask_on_grid(BINS, 1.5)),
        ("padding with a message", replace(ask_on_grid(BINS), arrays={
            **ask_on_grid(BINS[:1]).arrays, "edges": np.r_[BINS[0], BINS[1:] + 0.5]})),
    ],
)  # fmt: skip
def test_a_grid_of_the_hubs_own_choice_is_refused(situation: str, request_: RoundRequest) -> None:
    assert gate.admit(request_, GRID_PLAN) is Code.REQUEST_NOT_IN_PLAN, situation


FOLDED_PLAN = compile_plan(small_study(evaluation=Evaluation(folds=3)), small_dictionary())


def ask_folds(**changed: Any) -> RoundRequest:
    """A folded fit's first question: two folds with a grid of their own, one that has none and stands idle."""
    part = FOLDED_PLAN.by_name["cv_fit"].part("newton")
    sent = {spec.name: np.zeros(spec.shape) for spec in part.sends}
    edges = np.vstack([np.r_[BINS[:2], np.full(BINS.size - 2, BINS[1])], BINS, np.zeros(BINS.size)])
    grid = {"edges": edges, "n_intervals": np.array([2.0, BINS.size, 0.0]), "asked": np.array([1.0, 1.0, 0.0])}
    return ask(plan_hash=FOLDED_PLAN.hash, step="cv_fit", part="newton", number=0, arrays={**sent, **grid, **changed})


def test_every_fold_has_a_grid_of_its_own_or_none() -> None:
    assert gate.admit(ask_folds(), FOLDED_PLAN) is None


@pytest.mark.parametrize(
    ("situation", "changed"),
    [
        ("an interval of the hub's own in one fold", {"edges": np.vstack([BINS, BINS + 0.5, np.zeros(BINS.size)])}),
        ("edges of a fold that has none", {"edges": np.vstack([BINS, BINS, BINS])}),
        ("intervals of a fold without edges", {"n_intervals": np.array([2.0, BINS.size, 3.0])}),
        ("half an interval", {"n_intervals": np.array([1.5, BINS.size, 0.0])}),
        ("half asked", {"asked": np.array([0.4, 1.0, 0.0])}),
        ("asked less than not at all", {"asked": np.array([-1.0, 1.0, 0.0])}),
    ],
)
def test_a_fold_is_asked_or_idle_and_on_a_merged_grid(situation: str, changed: dict[str, np.ndarray]) -> None:
    assert gate.admit(ask_folds(**changed), FOLDED_PLAN) is Code.REQUEST_NOT_IN_PLAN, situation


@pytest.mark.parametrize(
    "changed",
    [
        {"run_id": ""},
        {"run_id": "../../etc"},
        {"run_id": "a/b"},
        {"run_id": "r" * 81},
        {"run_id": "run\n1"},
        {"plan_hash": "abc"},
        {"plan_hash": "G" * 64},
        {"sites": ()},
        {"sites": ("A", "A")},
        {"sites": ("A\n",)},
        {"sites": ("\ud800",)},
        {"sites": tuple(str(i) for i in range(1001))},
        {"step": "x" * 61},
        {"step": "fit\n"},
        {"part": "<script>"},
        {"phase": ""},
    ],
)
def test_words_that_cannot_be_kept_are_not_well_formed(changed: dict[str, Any]) -> None:
    assert gate.is_well_formed(ask())
    assert not gate.is_well_formed(ask(**changed))


def test_a_summand_of_the_plan_leaves_and_nothing_else_does() -> None:
    reply = gate.release(draft(), ask(), PLAN, FLOORS)
    assert isinstance(reply, Reply)
    assert reply.status == "ok"
    assert (reply.run_id, reply.step, reply.part, reply.number, reply.phase) == (
        "run-1",
        "fit",
        "gradient",
        1,
        "value",
    )
    assert {name: array.tolist() for name, array in reply.arrays.items()} == {
        name: array.tolist() for name, array in GRADIENT.items()
    }


def test_what_leaves_is_a_copy_that_the_draft_cannot_change() -> None:
    mine = np.array([1.0, 2.0])
    reply = gate.release(draft(arrays={**GRADIENT, "gradient": mine}), ask(), PLAN, FLOORS)
    assert isinstance(reply, Reply)
    mine[:] = 77.0
    assert reply.arrays["gradient"].tolist() == [1.0, 2.0]


HESSIAN = GRADIENT["hessian"]


@pytest.mark.parametrize(
    ("situation", "answer", "code"),
    [
        ("extra array", draft(arrays={**GRADIENT, "rows": np.zeros((40, 2))}), Code.RELEASE_NOT_IN_PLAN),
        ("missing array", draft(arrays={"gradient": BETA}), Code.RELEASE_NOT_IN_PLAN),
        ("no array", draft(arrays={}), Code.RELEASE_NOT_IN_PLAN),
        ("longer array", draft(arrays={"gradient": np.zeros(40), "hessian": HESSIAN}), Code.RELEASE_WRONG_SHAPE),
        ("one axis more", draft(arrays={"gradient": np.zeros((1, 2)), "hessian": HESSIAN}), Code.RELEASE_WRONG_SHAPE),
        (
            "float32",
            draft(arrays={"gradient": BETA.astype(np.float32), "hessian": HESSIAN}),
            Code.RELEASE_WRONG_DTYPE,
        ),
        ("integers", draft(arrays={"gradient": np.array([1, 2]), "hessian": HESSIAN}), Code.RELEASE_WRONG_DTYPE),
        ("complex", draft(arrays={"gradient": BETA * 1j, "hessian": HESSIAN}), Code.RELEASE_WRONG_DTYPE),
        ("NaN", draft(arrays={"gradient": np.array([np.nan, 1]), "hessian": HESSIAN}), Code.RELEASE_NOT_FINITE),
        ("infinity", draft(arrays={"gradient": np.array([np.inf, 1]), "hessian": HESSIAN}), Code.RELEASE_NOT_FINITE),
        ("norm x 1e6", draft(arrays={**GRADIENT, "hessian": np.full((2, 2), 1e12)}), Code.RELEASE_TOO_LARGE),
        ("nine patients", draft(n_patients=9), Code.TOO_FEW_PATIENTS),
        ("one patient", draft(n_patients=1), Code.TOO_FEW_PATIENTS),
        ("draft of another run", draft(run_id="run-2"), Code.RELEASE_NOT_IN_PLAN),
        ("draft of another step", draft(step="moments"), Code.RELEASE_NOT_IN_PLAN),
        ("draft of another part", draft(part="objective"), Code.RELEASE_NOT_IN_PLAN),
        ("draft of another round", draft(number=2), Code.RELEASE_NOT_IN_PLAN),
        ("the step failed", draft(code="STEP_FAILED", arrays={}), Code.STEP_FAILED),
        ("the step failed and left its arrays", draft(code="TABLES_CHANGED"), Code.TABLES_CHANGED),
        ("failed in an empty site", draft(code="STEP_FAILED", n_patients=0), Code.STEP_FAILED),
    ],
)
def test_a_draft_outside_the_plan_stays(situation: str, answer: Draft, code: Code) -> None:
    assert gate.release(answer, ask(), PLAN, FLOORS) is code, situation


def test_a_site_without_patients_adds_nothing_and_shows_nothing() -> None:
    reply = gate.release(draft(n_patients=0), ask(), PLAN, FLOORS)
    assert isinstance(reply, Reply)
    assert (reply.status, dict(reply.arrays)) == ("empty", {})


@pytest.mark.parametrize(("in_plan", "at_site", "patients", "leaves"), [
    (10, 10, 10, True), (10, 20, 19, False), (10, 20, 20, True), (30, 10, 29, False), (30, 10, 30, True),
])  # fmt: skip
def test_the_higher_floor_of_plan_and_site_holds(in_plan: int, at_site: int, patients: int, leaves: bool) -> None:
    plan = small_plan(min_patients=in_plan)
    verdict = gate.release(draft(n_patients=patients), ask(), plan, Floors(min_patients=at_site))
    assert isinstance(verdict, Reply) == leaves
    assert leaves or verdict is Code.TOO_FEW_PATIENTS


@pytest.mark.parametrize("lower", [{"min_patients": 9}, {"min_events_per_interval": 4}])
def test_a_site_cannot_lower_the_floors(lower: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="floors"):
        Floors(**lower)


@pytest.mark.parametrize(("counted", "leaves"), [(40.0, True), (39.0, False), (40.5, False)])
def test_the_count_that_leaves_is_the_count_under_the_floor(counted: float, leaves: bool) -> None:
    request = ask(step="moments", part="sums", arrays={})
    arrays = {"n_patients": np.array(counted), "total": BETA}
    verdict = gate.release(draft(step="moments", part="sums", arrays=arrays), request, PLAN, FLOORS)
    assert isinstance(verdict, Reply) == leaves
    assert leaves or verdict is Code.RELEASE_NOT_IN_PLAN


SETUP_REQUEST = SetupRequest("run-1", PLAN.hash, ("A", "B", "C"), PLAN.content.decode())
SETUP_DRAFT = Draft("run-1", "setup", "setup", 0, n_patients=40, n_events=12)


def test_a_setup_says_yes_and_carries_no_number() -> None:
    assert gate.admit_setup(SETUP_REQUEST, PLAN) is None
    assert gate.release_setup(SETUP_DRAFT, SETUP_REQUEST, PLAN, FLOORS) == Reply("run-1", "setup", "setup", 0, "ok")


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (replace(SETUP_DRAFT, arrays={"n": np.array(40.0)}), Code.RELEASE_NOT_IN_PLAN),
        (replace(SETUP_DRAFT, number=1), Code.RELEASE_NOT_IN_PLAN),
        (replace(SETUP_DRAFT, run_id="run-2"), Code.RELEASE_NOT_IN_PLAN),
        (replace(SETUP_DRAFT, code="TABLES_REFUSED"), Code.TABLES_REFUSED),
        (replace(SETUP_DRAFT, n_patients=9), Code.TOO_FEW_PATIENTS),
        (replace(SETUP_DRAFT, n_patients=0), Code.TOO_FEW_PATIENTS),
    ],
)
def test_a_setup_that_is_more_than_a_yes_is_refused(answer: Draft, code: Code) -> None:
    assert gate.release_setup(answer, SETUP_REQUEST, PLAN, FLOORS) is code


@pytest.mark.parametrize(
    "changed", [{"phase": "keys"}, {"arrays": {"beta": BETA}}, {"roster": "{}"}, {"blobs": {"keys/A": b"k"}}]
)
def test_a_setup_of_another_form_is_refused(changed: dict[str, Any]) -> None:
    assert gate.admit_setup(replace(SETUP_REQUEST, **changed), PLAN) is Code.REQUEST_NOT_IN_PLAN


MASKED_PLAN = small_plan(secure_sum=True)
LIST = {"survivors": b"{}"}


@pytest.mark.parametrize(
    ("situation", "changed", "code"),
    [
        ("plan and roster", {"phase": "keys", "roster": "{}"}, None),
        ("keys of all", {"phase": "shares", "blobs": {"keys/A": b"k"}}, None),
        ("boxes", {"phase": "inbox", "blobs": {"box/B": b"b"}}, None),
        ("the plain protocol", {}, Code.SECURE_SUM_REQUIRED),
        ("the plain protocol with a roster", {"roster": "{}"}, Code.SECURE_SUM_REQUIRED),
        ("keys that bring something", {"phase": "keys", "blobs": {"keys/A": b"k"}}, Code.REQUEST_NOT_IN_PLAN),
        ("no keys", {"phase": "shares"}, Code.REQUEST_NOT_IN_PLAN),
        ("no boxes", {"phase": "inbox"}, Code.REQUEST_NOT_IN_PLAN),
        ("arrays", {"phase": "keys", "arrays": {"beta": BETA}}, Code.REQUEST_NOT_IN_PLAN),
        ("a message of a round", {"phase": "consent", "blobs": LIST}, Code.REQUEST_NOT_IN_PLAN),
    ],
)
def test_a_masked_run_is_set_up_in_three_messages(situation: str, changed: dict[str, Any], code: Code | None) -> None:
    assert gate.admit_setup(replace(SETUP_REQUEST, **changed), MASKED_PLAN) is code, situation


@pytest.mark.parametrize(
    ("situation", "plan", "changed", "code"),
    [
        ("a masked value", MASKED_PLAN, {}, None),
        ("a list to consent to", MASKED_PLAN, {"phase": "consent", "arrays": {}, "blobs": LIST}, None),
        ("a list to open", MASKED_PLAN, {"phase": "shares", "arrays": {}, "blobs": LIST}, None),
        ("no list", MASKED_PLAN, {"phase": "shares", "arrays": {}, "blobs": {"keys/A": b"k"}},
         Code.REQUEST_NOT_IN_PLAN),
        ("a list and numbers", MASKED_PLAN, {"phase": "shares", "blobs": LIST}, Code.REQUEST_NOT_IN_PLAN),
        ("a value and a list", MASKED_PLAN, {"blobs": LIST}, Code.REQUEST_NOT_IN_PLAN),
        ("a message of the set-up", MASKED_PLAN, {"phase": "keys"}, Code.REQUEST_NOT_IN_PLAN),
        ("shares of a plain sum", PLAN, {"phase": "shares", "arrays": {}, "blobs": LIST}, Code.REQUEST_NOT_IN_PLAN),
        ("a plain value with a list", PLAN, {"blobs": LIST}, Code.REQUEST_NOT_IN_PLAN),
        ("a round beyond the plan", MASKED_PLAN, {"phase": "shares", "number": 99, "arrays": {}, "blobs": LIST},
         Code.ROUNDS_EXHAUSTED),
    ],
)  # fmt: skip
def test_a_round_has_the_messages_of_its_sum(
    situation: str, plan: Plan, changed: dict[str, Any], code: Code | None
) -> None:
    assert gate.admit(ask(**changed), plan) is code, situation


shapes = st.lists(st.integers(0, 3), max_size=2).map(tuple)
arrays_of_anything = st.dictionaries(
    st.sampled_from(["gradient", "hessian", "rows"]),
    shapes.flatmap(lambda shape: hnp.arrays(np.float64, shape, elements=st.floats(width=64))),
    max_size=3,
)


@given(arrays=arrays_of_anything, n_patients=st.integers(0, 20), code=st.sampled_from(["", "STEP_FAILED"]))
def test_whatever_is_drafted_only_the_plans_arrays_leave(
    arrays: dict[str, np.ndarray], n_patients: int, code: str
) -> None:
    verdict = gate.release(draft(arrays=arrays, n_patients=n_patients, code=code), ask(), PLAN, FLOORS)
    if isinstance(verdict, Code):
        return
    if verdict.status == "empty":
        assert n_patients == 0
        assert not verdict.arrays
        return
    assert n_patients >= 10
    assert not code
    assert {name: array.shape for name, array in verdict.arrays.items()} == {"gradient": (2,), "hessian": (2, 2)}
    assert all(np.isfinite(array).all() and (np.abs(array) <= 1e6).all() for array in verdict.arrays.values())
    assert decode(encode(verdict)).KIND == "reply"
