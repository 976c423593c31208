"""No honest fit is refused, on any cohort; and each rule of the inbound check refuses what it is there for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

from models.compile import build_step, step_context
from models.folded import Folded
from models.progress import Progress
from models.registry import METHODS as METHOD_OF
from models.step import combine, sent_arrays
from privacy import gate
from privacy.inbound import Limits, Seen, judge, learned, risk_sets_fault
from schemas.codes import Code
from schemas.cohort import Cohort
from schemas.messages import RoundRequest
from schemas.plan import Plan
from schemas.study import Differential
from tests.attacks.federation import plan_over, request_of
from tests.attacks.tables import bundled, shared
from tests.models.synthetic import COLUMNS, patients

COHORTS = ("cgd", "rhdnase_cf", "ncctg_lung", "fed_tcga_brca", "tcga_gbmlgg")
METHODS = ("hazard", "cox", "cox-stratified")
PENALTIES = (0.0, 1.0, 10.0, 100.0)


def honest_run(plan: Plan, sites: Sequence[Cohort], limits: Limits | None = None) -> list[Seen]:
    """Run a plan with the inbound check of every site, and return what each remembers at the end."""
    seen = [Seen() for _ in sites]
    progress = Progress.start(plan)
    while (question := progress.question) is not None:
        request = request_of(plan, question.part, question.arrays, question.step, question.number)
        assert gate.admit(request, plan) is None
        code = build_step(plan, question.step)
        terms = []
        for index, site in enumerate(sites):
            judged = judge(request, plan, seen[index], limits)
            assert isinstance(judged, Seen), f"{judged} in {question.step}.{question.part} {question.number}"
            terms.append(code.local(question.part, question.arrays, site))
            seen[index] = Seen.decode(learned(judged, request, terms[-1]).encode())
        progress = progress.absorb(combine(terms))
    return seen


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", COHORTS)
def test_every_honest_newton_path_passes(name: str, method: str, cohorts: Path) -> None:
    sites, columns = shared(name, cohorts)
    for penalty in PENALTIES[name == "fed_tcga_brca" :]:  # without a penalty that one has no finite coefficients
        honest_run(plan_over(sites, columns, method, penalty=penalty), sites)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("table", ["gbsg2", "whas500", "veterans"])
def test_honest_paths_pass_on_bundled_tables_also_in_original_units(table: str, method: str) -> None:
    bundle = bundled(table)
    sites = bundle.sites([bundle.pooled.n_patients // 4] * 4, seed=1)
    for standardise in (True, False):
        honest_run(plan_over(sites, bundle.columns, method, standardise=standardise), sites)


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_honest_cox_sums_pass_with_either_ties(ties: str) -> None:
    sites = [patients(40, seed, delayed=False) for seed in range(3)]
    honest_run(plan_over(sites, COLUMNS, "cox", ties=ties), sites)


@pytest.mark.parametrize("method", METHODS)
def test_honest_folds_in_one_message_pass_and_each_fold_is_held_to_its_own_path(method: str) -> None:
    n_folds = 3
    sites = [patients(90, seed, delayed=False) for seed in range(3)]
    sites = [replace(site, fold_of=np.arange(site.n_patients) % n_folds) for site in sites]
    plan, seen = plan_over(sites, COLUMNS, method), Seen()
    folds, steps = {}, []
    for step in plan.steps[:3]:
        settings = {**step.settings, "n_folds": n_folds, "look_at": "training"}
        folds[step.name] = Folded(step_context(plan.study, plan.dictionary, settings), METHOD_OF[step.method])
        steps.append(step.model_copy(update={"parts": folds[step.name].parts(), "settings": settings}))
    plan = plan.model_copy(update={"steps": tuple(steps)})
    found: dict[str, np.ndarray] = {}
    for step in plan.steps:
        inputs = {name: found[source] for name, source in step.inputs.items() if source in found}
        turn, number = folds[step.name].begin(inputs), 0
        while turn.ask is not None:
            sent = sent_arrays(step.part(turn.ask), turn.state, inputs)
            request = request_of(plan, turn.ask, sent, step.name, number)
            judged = judge(request, plan, seen)
            assert isinstance(judged, Seen), f"{judged} in {step.name}.{turn.ask} {number}"
            if "beta" in sent:
                asked = int(np.flatnonzero(sent["asked"])[0])
                far = {**sent, "beta": np.where(np.arange(n_folds)[:, None] == asked, 9.0, sent["beta"])}
                assert judge(request_of(plan, turn.ask, far, step.name), plan, seen) in (
                    Code.REQUEST_TOO_FAR, Code.REQUEST_CONTRADICTS,
                )  # fmt: skip
            terms = [folds[step.name].local(turn.ask, sent, site) for site in sites]
            seen, number = learned(judged, request, terms[0]), number + 1
            turn = folds[step.name].finish(turn.ask, turn.state, inputs, combine(terms))
        found |= {f"{step.name}.{name}": array for name, array in turn.state.items()}
    assert set(seen.points) == {f"fit/{fold}" for fold in range(n_folds)}


# ---------------------------------------------------------------- each rule
SITES = [patients(60, seed, delayed=False) for seed in range(3)]
PLANS = {method: plan_over(SITES, COLUMNS, method) for method in METHODS}


def after(method: str, n_questions: int) -> tuple[Plan, Seen, dict[str, np.ndarray], Progress]:
    """Return the first site's memory after so many questions of the fit, and the arrays of the next one."""
    plan, seen = PLANS[method], Seen()
    progress = Progress.start(plan)
    while (question := progress.question) is not None:
        if question.step == "fit" and question.number >= n_questions:
            return plan, seen, dict(question.arrays), progress
        request = request_of(plan, question.part, question.arrays, question.step, question.number)
        terms = [build_step(plan, question.step).local(question.part, question.arrays, site) for site in SITES]
        judged = judge(request, plan, seen)
        assert isinstance(judged, Seen)
        seen = learned(judged, request, terms[0])
        progress = progress.absorb(combine(terms))
    raise AssertionError("the run ended before")


def asked(plan: Plan, progress: Progress, arrays: dict[str, np.ndarray]) -> RoundRequest:
    assert progress.ask is not None
    return request_of(plan, progress.ask, arrays, "fit", progress.number)


Change = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]
FAULTS: dict[str, tuple[int, Change, Code]] = {
    "coefficients too large": (0, lambda a: a | {"beta": np.full(4, 1.6)}, Code.REQUEST_TOO_FAR),
    "a tiny unit makes small coefficients large": (
        0, lambda a: a | {"scale": a["scale"] / 100, "beta": np.full(4, 0.1)}, Code.REQUEST_TOO_FAR,
    ),
    "baseline hazard beyond any": (0, lambda a: a | {"alpha": a["alpha"] + 40}, Code.REQUEST_TOO_FAR),
    "a step from one end to the other": (2, lambda a: a | {"beta": -3 * a["beta"] / np.linalg.norm(a["beta"])},
                                         Code.REQUEST_TOO_FAR),
    "means outside the dictionary": (0, lambda a: a | {"mean": a["mean"] + 100}, Code.REQUEST_CONTRADICTS),
    "a unit larger than half the range": (0, lambda a: a | {"scale": a["scale"] * 100}, Code.REQUEST_CONTRADICTS),
    "a negative unit": (0, lambda a: a | {"scale": -a["scale"]}, Code.REQUEST_CONTRADICTS),
    "other means in a later round": (1, lambda a: a | {"mean": a["mean"] + 1e-9}, Code.REQUEST_CONTRADICTS),
    "another grid in a later round": (
        1, lambda a: a | {"edges": np.full(a["edges"].size, a["edges"][-1]), "n_intervals": np.array(1.0)},
        Code.REQUEST_CONTRADICTS,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FAULTS)
def test_a_question_that_no_honest_hub_asks_is_refused(case: str) -> None:
    n_questions, change, code = FAULTS[case]
    plan, seen, arrays, progress = after("hazard", n_questions)
    assert isinstance(judge(asked(plan, progress, arrays), plan, seen), Seen)
    changed = asked(plan, progress, change(arrays))
    assert gate.admit(changed, plan) is None, "the gate alone would let it in"
    assert judge(changed, plan, seen, Limits(step=2.0)) == code


def test_under_differential_privacy_any_question_may_be_asked() -> None:
    plan = plan_over(SITES, COLUMNS, differential=Differential(epsilon=3.0))
    part = plan.by_name["fit"].parts[0]
    far = {spec.name: np.full(spec.shape, 14.0) for spec in part.sends}
    assert judge(request_of(plan, part.name, far), plan, Seen()) == Seen()


def test_weak_penalties_on_nearly_as_many_covariates_as_patients_are_refused() -> None:
    source = bundled("breast")
    sites = source.sites([33] * 6, 0)
    with pytest.raises(AssertionError, match="REQUEST_TOO_FAR"):
        honest_run(plan_over(sites, source.columns, penalty=1.0), sites)
    honest_run(plan_over(sites, source.columns, penalty=10.0), sites)


def test_a_fit_is_asked_at_no_more_points_than_allowed() -> None:
    plan, seen, arrays, progress = after("hazard", 1)
    limits = Limits(points=5)
    verdict: Seen | Code = seen
    for n in range(5):  # one point is used already
        assert isinstance(verdict, Seen)
        verdict = judge(asked(plan, progress, arrays | {"beta": np.full(4, 0.1 * n + 0.05)}), plan, verdict, limits)
        if isinstance(verdict, Seen):
            again = judge(asked(plan, progress, arrays | {"beta": np.full(4, 0.1 * n + 0.05)}), plan, verdict, limits)
            assert isinstance(again, Seen), "the same point again is no new one"
            assert again.points == verdict.points
    assert verdict == Code.ROUNDS_EXHAUSTED


COX_FAULTS: dict[str, Change] = {
    "S0 rises": lambda a: a | {"s0": a["s0"][::-1].copy()},
    "S0 below the site's own": lambda a: a | {"s0": a["s0"] * 0.1},
    "S0 that leaves one interval alone": lambda a: a | {"s0": np.where(np.arange(a["s0"].size) == 2, a["s0"], 1e9)},
    "no deaths left for others": lambda a: a | {"d0": a["d0"] * 0},
    "half a death": lambda a: a | {"events": a["events"] + 0.5},
    "sums of another point": lambda a: a | {"beta": a["beta"] + 0.1},
}


@pytest.mark.parametrize("case", COX_FAULTS)
def test_sums_over_risk_sets_that_cannot_hold_the_sites_own_are_refused(case: str) -> None:
    plan, seen, arrays, progress = after("cox", 1)
    assert progress.ask == "weights"
    assert isinstance(judge(asked(plan, progress, arrays), plan, seen), Seen)
    assert judge(asked(plan, progress, COX_FAULTS[case](arrays)), plan, seen) == Code.REQUEST_CONTRADICTS


def test_weights_without_sums_before_them_are_refused() -> None:
    plan, _, arrays, progress = after("cox", 1)
    assert judge(asked(plan, progress, arrays), plan, Seen()) == Code.REQUEST_CONTRADICTS


@drawn(
    others=st.lists(st.tuples(st.floats(0, 1e3), st.floats(0, 1e3), st.integers(0, 5)), min_size=3, max_size=3),
    own=st.lists(st.tuples(st.floats(0, 1e3), st.floats(0, 1e3), st.integers(0, 5)), min_size=3, max_size=3),
)
def test_a_true_sum_over_risk_sets_is_never_refused(
    others: list[tuple[float, float, int]], own: list[tuple[float, float, int]]
) -> None:
    def sums(site: list[tuple[float, float, int]]) -> dict[str, np.ndarray]:
        leaving, dying, count = (np.array(column, dtype=np.float64) for column in zip(*site, strict=True))
        dying = np.where(count > 0, dying, 0.0)
        return {"s0": np.cumsum((leaving + dying)[::-1])[::-1], "d0": dying, "events": count}

    mine, theirs = sums(own), sums(others)
    total = {name: mine[name] + theirs[name] for name in mine}
    assert not risk_sets_fault(total, mine, delayed=False)
    assert not risk_sets_fault(total, mine, delayed=True)


@drawn(st.dictionaries(st.sampled_from(["fit.beta", "grid.edges"]), st.lists(st.floats(-9, 9), max_size=4)))
def test_what_a_site_remembers_is_the_same_after_the_disk(arrays: dict[str, list[float]]) -> None:
    named = {name: np.array(values, dtype=np.float64) for name, values in arrays.items()}
    seen = Seen(given=named, searched=named, own=named, points={"fit/0": frozenset({"a", "b"})})
    back = Seen.decode(seen.encode())
    assert back.points == seen.points
    for kind in ("given", "searched", "own"):
        for name, array in named.items():
            np.testing.assert_array_equal(getattr(back, kind)[name], array)
