from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from archipel.local_run import run_plan
from models.compile import build_step, compile_plan
from models.progress import Progress
from models.step import DivergedError, combine
from schemas.cohort import Cohort, Layer
from schemas.dictionary import load_dictionary
from schemas.errors import FaultsError, MessageError
from schemas.plan import Plan, read_plan
from schemas.study import load_study
from tests.schemas.test_study import DICTIONARY, STUDY


def plan_of(tmp_path: Path, extra: str = "", method: str = "cox") -> Plan:
    (tmp_path / "dictionary.toml").write_text(DICTIONARY)
    (tmp_path / "study.toml").write_text(
        STUDY.replace("[model]", f'[model]\nmethod = "{method}"')
        .replace('"sex", "TP53"', '"sex"')
        .replace(", rna = 10", "")
        + extra
    )
    return compile_plan(*load_study(tmp_path / "study.toml"))


def cohort(seed: int, n: int = 60, *, held_out: bool = False) -> Cohort:
    rng = np.random.default_rng(seed)
    age, female = rng.normal(50, 10, n), rng.integers(0, 2, n).astype(float)
    time = np.ceil(rng.exponential(150 * np.exp(-0.05 * (age - 50)), n)).clip(1, 400)
    values = np.column_stack([age, female, np.zeros(n)])
    mask = np.zeros(n, dtype=bool)
    mask[: n // 4] = held_out
    return Cohort(
        patient_ids=tuple(f"p{seed}-{i}" for i in range(n)),
        time=time,
        event=(rng.random(n) < 0.7) & (time < 400),
        entry=np.zeros(n),
        layers={"clinical": Layer(("age", "sex[female]", "sex[intersex]"), values)},
        held_out=mask,
        fold_of=np.arange(n) % 5,
        site=f"site-{seed}",
    )


def sites(*, held_out: bool = True) -> dict[str, Cohort]:
    return {f"site-{seed}": cohort(seed, held_out=held_out) for seed in range(3)}


def total_of(progress: Progress, cohorts: dict[str, Cohort]) -> dict[str, np.ndarray]:
    question = progress.question
    assert question is not None
    step = build_step(progress.plan, question.step)
    return combine(
        [step.local(question.part, question.arrays, c.part(progress.step.cohort)) for c in cohorts.values()]
    )


def test_a_plan_survives_its_own_bytes(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    assert read_plan(plan.content) == plan
    assert read_plan(plan.content).hash == plan.hash


def test_a_plan_of_any_other_byte_has_another_hash_or_is_refused(tmp_path: Path) -> None:
    content = plan_of(tmp_path).content
    with pytest.raises(MessageError):
        read_plan(content + b" ")
    with pytest.raises(MessageError):
        read_plan(content.replace(b'"kind":"plan"', b'"kind":"plot"'))


def test_one_study_compiles_to_one_hash(tmp_path: Path) -> None:
    assert plan_of(tmp_path).hash == plan_of(tmp_path).hash
    assert plan_of(tmp_path).hash != plan_of(tmp_path, "[privacy]\nmin_patients = 11\n").hash


def test_exact_times_do_not_compile_for_real_sites(tmp_path: Path) -> None:
    with pytest.raises(FaultsError, match="exact event times"):
        plan_of(tmp_path, "[privacy]\nmin_events_per_interval = 1\n")


def test_the_time_column_needs_a_range_for_the_common_grid(tmp_path: Path) -> None:
    study, dictionary = plan_of(tmp_path).study, DICTIONARY.replace("max = 400\n", "")
    (tmp_path / "dictionary.toml").write_text(dictionary)
    with pytest.raises(FaultsError, match="no `max`"):
        compile_plan(study, load_dictionary(tmp_path / "dictionary.toml"))


def test_every_release_is_exactly_what_the_plan_lists(tmp_path: Path) -> None:
    in_clear = "[privacy]\nsecure_sum = false\n"
    for method, extra in (("cox", ""), ("cox-stratified", ""), ("hazard", ""), ("hazard", in_clear)):
        plan, cohorts = plan_of(tmp_path, extra, method), sites()
        progress = Progress.start(plan)
        while (question := progress.question) is not None:
            total = total_of(progress, cohorts)
            specs = {spec.name: spec.shape for spec in progress.step.part(question.part).releases}
            assert {name: array.shape for name, array in total.items()} == specs, (method, question.step)
            sent = {spec.name: spec.shape for spec in progress.step.part(question.part).sends}
            assert {name: np.shape(array) for name, array in question.arrays.items()} == sent
            assert all(
                np.abs(array).max(initial=0) <= spec.bound
                for spec in progress.step.part(question.part).sends
                for array in [question.arrays[spec.name]]
            )
            progress = progress.absorb(total)
        assert progress.skipped == {}


def test_a_run_resumed_from_any_checkpoint_ends_the_same(tmp_path: Path) -> None:
    plan, cohorts = plan_of(tmp_path), sites()
    straight = run_plan(plan, cohorts).progress
    progress = Progress.start(plan)
    while not progress.done:
        progress = Progress.from_bytes(plan, progress.absorb(total_of(progress, cohorts)).to_bytes())
    assert progress.arrays.keys() == straight.arrays.keys()
    assert all(np.array_equal(progress.arrays[name], straight.arrays[name]) for name in straight.arrays)


def test_a_checkpoint_of_another_plan_or_damaged_is_refused(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    data = Progress.start(plan).to_bytes()
    with pytest.raises(MessageError, match="another plan"):
        Progress.from_bytes(plan_of(tmp_path, "[privacy]\nmin_patients = 11\n"), data)
    with pytest.raises(MessageError):
        Progress.from_bytes(plan, data[:-9])
    with pytest.raises(MessageError):
        Progress.from_bytes(plan, b"nothing")


def test_a_number_is_never_used_for_two_questions(tmp_path: Path) -> None:
    plan, cohorts = plan_of(tmp_path), sites()
    asked: dict[tuple[str, int], bytes] = {}
    progress = Progress.start(plan)
    while (question := progress.question) is not None:
        key = (question.step, question.number)
        assert key not in asked
        asked[key] = b""
        progress = progress.absorb(total_of(progress, cohorts))


def test_without_held_out_patients_the_model_stands_and_the_evaluation_says_why(tmp_path: Path) -> None:
    run = run_plan(plan_of(tmp_path, "[privacy]\nsecure_sum = false\n"), sites(held_out=False))
    assert "fit.beta" in run.progress.arrays
    assert set(run.progress.skipped) == {
        "held_out_concordance",
        "held_out_site_only",
        "held_out_brier",
        "held_out_slope",
    }


def test_what_the_model_needs_cannot_be_skipped(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match="no site"):
        Progress.start(plan_of(tmp_path)).skip("no site has patients")


def test_a_step_that_depends_on_a_skipped_one_is_skipped(tmp_path: Path) -> None:
    plan, cohorts = plan_of(tmp_path), sites()
    progress = Progress.start(plan)
    while progress.step.name != "risk_groups":
        progress = progress.absorb(total_of(progress, cohorts))
    after = progress.skip("for this test")
    assert set(after.skipped) == {"risk_groups", "kaplan_meier", "population"}
    assert after.step.name == "cv_moments"


def test_when_a_site_leaves_the_fit_is_that_of_the_others(tmp_path: Path) -> None:
    for method in ("hazard", "cox", "cox-stratified"):
        plan, cohorts = plan_of(tmp_path, "[evaluation]\nfolds = 0\n", method=method), sites()
        progress = Progress.start(plan)
        rest = {name: c for name, c in cohorts.items() if name != "site-1"}
        for _ in range(4):
            progress = progress.absorb(total_of(progress, cohorts))
        assert progress.step.name == "fit"
        progress = progress.shrink()
        while progress.step.name == "fit":
            progress = progress.absorb(total_of(progress, rest))
        start = Progress.start(plan)
        given = {name: array for name, array in progress.arrays.items() if not name.startswith("fit.")}
        fresh = replace(start, arrays=given, step_index=1)._next_step()
        while fresh.step.name == "fit":
            fresh = fresh.absorb(total_of(fresh, rest))
        assert np.allclose(progress.arrays["fit.beta"], fresh.arrays["fit.beta"], atol=1e-9, rtol=0), method
