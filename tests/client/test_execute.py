"""The runner's child: a request becomes a draft for the gate, and whatever goes wrong becomes a code."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client import execute as execute_module
from client.approvals import approve
from client.execute import execute, warm
from client.guard import open_guard
from client.guard_protocol import Answer, Run
from client.state import SitePaths, fold_key
from models.compile import compile_plan
from models.progress import Progress
from models.step import combine
from privacy.ledger import entries, verify_ledger
from schemas.codes import Code
from schemas.errors import MessageError
from schemas.messages import Draft, Reply, RoundRequest, SetupRequest, decode_as, encode
from schemas.plan import Plan
from schemas.study import Evaluation, Model, Privacy
from tests.plans import small_dictionary, small_study

SITES = {"A": 60, "B": 45, "C": 24}
PLAN = compile_plan(
    small_study(
        model=Model(covariates=("age_years", "sex"), penalty=0.1),
        evaluation=Evaluation(folds=3),
        privacy=Privacy(secure_sum=False),
    ),
    small_dictionary(),
)


def write_tables(home: Path, n: int, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    age = rng.uniform(20, 80, n)
    time = np.minimum(rng.exponential(600 / (1 + age / 40), n), 900).round() + 1
    folder = home / "tables"
    folder.mkdir(exist_ok=True)
    with (folder / "clinical.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["patient_id", "time_days", "relapse", "age_years", "sex"])
        for i in range(n):
            sex = rng.choice(["female", "male"])
            table.writerow([f"P{i:03d}", f"{time[i]:.0f}", int(rng.random() < 0.7), f"{age[i]:.1f}", sex])


def make_site(home: Path, name: str = "A", n: int = 60, plan: Plan = PLAN) -> Path:
    home.mkdir(exist_ok=True)
    (home / "site.toml").write_text(
        f'kind = "site"\nversion = 1\nname = "{name}"\nhub_address = "hub.example:9092"\ntables = "tables"\n'
    )
    write_tables(home, n, seed=n)
    (home / "plan.json").write_bytes(plan.content)
    approve(home, home / "plan.json", approver="Dr. Weiß")
    return home


def setup_request(plan: Plan = PLAN, run_id: str = "run-1") -> bytes:
    return encode(SetupRequest(run_id, plan.hash, tuple(SITES), plan.content.decode()))


def moments_request(**changed: Any) -> bytes:
    part = PLAN.steps[0].parts[0]
    return encode(
        replace(RoundRequest("run-1", PLAN.hash, tuple(SITES), PLAN.steps[0].name, part.name, 0), **changed)
    )


def drafted(home: Path, request: bytes) -> Draft:
    return decode_as(execute(home, request), Draft)


def begin(home: Path, request: bytes) -> None:
    """Let the guard fix a run, as it does before the runner hears of it."""
    guard = open_guard(home)
    assert guard.admit(request) == Run()
    guard.close()


@pytest.fixture(autouse=True)
def _cold() -> None:
    execute_module._cohorts.clear()
    execute_module._plans.clear()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A site with an approved plan and a run that the guard has begun."""
    made = make_site(tmp_path / "A")
    begin(made, setup_request())
    return made


def test_a_setup_is_drafted_with_the_cohorts_counts_and_no_array(home: Path) -> None:
    draft = drafted(home, setup_request())
    assert (draft.step, draft.part, draft.number, draft.code, dict(draft.arrays)) == ("setup", "setup", 0, "", {})
    assert draft.n_patients == 60
    assert 20 < draft.n_events < 60


def test_a_step_is_drafted_with_the_plans_arrays(home: Path) -> None:
    draft = drafted(home, moments_request())
    assert draft.code == ""
    assert {name: array.shape for name, array in draft.arrays.items()} == {
        spec.name: spec.shape for spec in PLAN.steps[0].parts[0].releases
    }


def ask_site(home: Path, request: bytes) -> Reply:
    """Guard, runner, guard: what the agent does."""
    guard = open_guard(home)
    verdict = guard.admit(request)
    body = verdict.body if isinstance(verdict, Answer) else guard.release(request, execute(home, request))
    guard.close()
    return decode_as(body, Reply)


def test_a_whole_run_through_three_sites_ends_in_every_estimate(tmp_path: Path) -> None:
    homes = [make_site(tmp_path / name, name, n) for name, n in SITES.items()]
    assert [ask_site(home, setup_request()).status for home in homes] == ["ok"] * 3
    progress = Progress.start(PLAN)
    empty: dict[str, set[str]] = {}
    n_rounds = 0
    while (question := progress.question) is not None:
        asked = (question.step, question.part, question.number)
        request = encode(RoundRequest("run-1", PLAN.hash, tuple(SITES), *asked, arrays=question.arrays))
        replies = {home.name: ask_site(home, request) for home in homes}
        assert {reply.code for reply in replies.values()} == {""}, asked
        empty.setdefault(question.step, {name for name, reply in replies.items() if reply.status == "empty"})
        progress = progress.absorb(combine([reply.arrays for reply in replies.values() if reply.status == "ok"]))
        n_rounds += 1
    assert not progress.skipped
    assert progress.arrays["fit.beta"].shape == (2,)
    assert progress.arrays["fit.beta"][0] > 0, "the table was made so that age raises the hazard"
    judging = {step.name for step in PLAN.steps if step.cohort in ("held_out", "split")}
    assert judging
    for name, sites in empty.items():  # a third of A's and B's patients is ten or more; of C's 24 it is ten of 24
        assert sites == set(), name
    for home in homes:
        events = [entry.event.kind for entry in entries(home / "state" / "ledger.jsonl")]
        assert events == ["approval", "setup", *["release"] * n_rounds]
        assert verify_ledger(home / "state" / "ledger.jsonl").torn_bytes == 0


def test_a_site_too_small_to_hold_out_trains_with_all_and_judges_nobody(tmp_path: Path) -> None:
    home = make_site(tmp_path / "A", n=19)
    ask_site(home, setup_request())
    judged = next(step for step in PLAN.steps if step.cohort == "held_out")
    trained = next(step for step in PLAN.steps if step.cohort == "training")

    def draft_of(step: str, part: str) -> Draft:
        request = RoundRequest("run-1", PLAN.hash, tuple(SITES), step, part, 0)
        return drafted(home, encode(request))

    assert draft_of(trained.name, trained.parts[0].name).n_patients == 19
    assert (draft_of(judged.name, judged.parts[0].name).n_patients, judged.optional) == (0, True)


def test_the_same_patients_are_held_out_in_every_run(home: Path) -> None:
    begin(home, setup_request(run_id="run-2"))
    trained = next(step for step in PLAN.steps if step.cohort == "training")
    drafts = []
    for run_id in ("run-1", "run-2"):
        execute_module._cohorts.clear()
        request = RoundRequest(run_id, PLAN.hash, tuple(SITES), trained.name, trained.parts[0].name, 0)
        drafts.append(drafted(home, encode(request)))
    assert 30 < drafts[0].n_patients < 60
    for name in drafts[0].arrays:
        np.testing.assert_array_equal(drafts[0].arrays[name], drafts[1].arrays[name])


def test_the_two_fits_never_differ_by_few_patients_of_a_covariate(tmp_path: Path) -> None:
    home = make_site(tmp_path / "A")  # folds = 3: 20 of 60 are held out
    paths = SitePaths(home)
    fold_key(paths)
    paths.fold_key.write_bytes(bytes(range(32)))  # with one key in 300 none of the 14 below is held out
    table = home / "tables" / "clinical.csv"
    head, *lines = table.read_text().splitlines()
    rows = [line.split(",") for line in lines]
    # Age is known of 14 patients: of a few held-out ones, so it counts as missing in training and in judging.
    rows = [[*row[:3], row[3] if i < 14 else "", row[4]] for i, row in enumerate(rows)]
    table.write_text("\n".join([head, *(",".join(row) for row in rows), ""]))
    begin(home, setup_request())
    known = {}
    for step in ("moments", "training_moments"):
        request = RoundRequest("run-1", PLAN.hash, tuple(SITES), step, "sums", 0)
        known[step] = drafted(home, encode(request)).arrays["n_observed"].tolist()
    assert known == {"moments": [14.0, 60.0], "training_moments": [0.0, 40.0]}


# ---------------------------------------------------------------- what goes wrong
def test_too_few_patients_are_a_code(tmp_path: Path) -> None:
    home = make_site(tmp_path / "A", n=9)
    assert ask_site(home, setup_request()).code == Code.TOO_FEW_PATIENTS


def test_tables_that_do_not_pass_are_a_code(tmp_path: Path) -> None:
    home = make_site(tmp_path / "A")
    table = home / "tables" / "clinical.csv"
    table.write_text(table.read_text().replace("age_years", "alter"))
    assert ask_site(home, setup_request()).code == Code.TABLES_REFUSED


def test_an_unreadable_opt_out_list_is_a_code(tmp_path: Path) -> None:
    home = make_site(tmp_path / "A")
    (home / "optout.txt").write_bytes(b"\xff\xfe\x00")
    assert ask_site(home, setup_request()).code == Code.TABLES_REFUSED


def test_opted_out_patients_are_left_out_from_the_next_run_on(home: Path) -> None:
    assert drafted(home, setup_request()).n_patients == 60
    (home / "optout.txt").write_text("P000\nP001\n")
    assert drafted(home, moments_request()).n_patients == 60
    begin(home, setup_request(run_id="run-2"))
    assert drafted(home, setup_request(run_id="run-2")).n_patients == 58


@pytest.mark.parametrize("is_warm", [True, False])
def test_tables_that_change_in_a_run_are_refused(home: Path, is_warm: bool) -> None:
    assert drafted(home, setup_request()).code == ""
    write_tables(home, 61)
    if not is_warm:
        execute_module._cohorts.clear()
    draft = drafted(home, moments_request())
    assert (draft.code, draft.n_patients, dict(draft.arrays)) == (Code.TABLES_CHANGED, 0, {})


def test_tables_that_change_while_they_are_read_are_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = execute_module.cohort_from_tables

    def read_slowly(*arguments: Any, **named: Any) -> Any:
        cohort = read(*arguments, **named)
        write_tables(home, 61)
        return cohort

    monkeypatch.setattr(execute_module, "cohort_from_tables", read_slowly)
    assert drafted(home, moments_request()).code == Code.TABLES_CHANGED


def test_settings_that_change_in_a_run_are_a_change_of_the_tables(home: Path) -> None:
    with (home / "site.toml").open("a") as file:
        file.write('[csv]\nmissing = ["", "NA", "?"]\n')
    assert drafted(home, moments_request()).code == Code.TABLES_CHANGED


def test_a_failing_step_gives_a_code_and_no_word_of_its_text(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Leaky:
        def local(self, *_: object) -> None:
            raise KeyError("Jane Doe, born 1971")

    monkeypatch.setattr(execute_module, "build_step", lambda plan, name: Leaky())
    body = execute(home, moments_request())
    assert decode_as(body, Draft).code == Code.STEP_FAILED
    assert b"Jane" not in body
    assert "Jane" not in caplog.text
    assert "KeyError at test_execute.py" in caplog.text


def test_a_step_that_answers_in_float32_fails(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Narrow:
        def local(self, *_: object) -> dict[str, np.ndarray]:
            return {"n_patients": np.zeros((), dtype=np.float32)}

    monkeypatch.setattr(execute_module, "build_step", lambda plan, name: Narrow())
    assert drafted(home, moments_request()).code == Code.STEP_FAILED


def test_a_run_that_was_not_set_up_fails(home: Path) -> None:
    assert drafted(home, moments_request(run_id="run-9")).code == Code.STEP_FAILED


def test_a_step_below_the_sites_floor_is_not_computed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execute_module, "_floor", lambda step, settings: 61)
    draft = drafted(home, moments_request())
    assert (draft.code, draft.n_patients, dict(draft.arrays)) == (Code.TOO_FEW_PATIENTS, 60, {})


def test_state_that_cannot_be_read_is_a_code(home: Path) -> None:
    (home / "state" / "answers.sqlite").write_bytes(b"no database" * 1000)
    assert drafted(home, moments_request()).code == Code.STORAGE_FAILED


@pytest.mark.parametrize("message", [Draft("run-1", "fit", "x", 0, 40, 12), Reply("run-1", "fit", "x", 0, "empty")])
def test_only_requests_are_worked_on(home: Path, message: Draft | Reply) -> None:
    with pytest.raises(MessageError):
        execute(home, encode(message))


# ---------------------------------------------------------------- warm
def test_what_was_warmed_is_not_read_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warm(home)
    expected = execute(home, moments_request())

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the tables were read again")

    monkeypatch.setattr(execute_module, "cohort_from_tables", refuse)
    warm(home)
    assert execute(home, moments_request()) == expected
    write_tables(home, 61)
    warm(home)
    assert drafted(home, moments_request()).code == Code.TABLES_CHANGED


def test_tables_that_do_not_pass_are_not_tried_again_and_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "optout.txt").write_text("".join(f"P{i:03d}\n" for i in range(55)))
    begin(home, setup_request(run_id="run-2"))
    reads = []
    read = execute_module.cohort_from_tables
    monkeypatch.setattr(execute_module, "cohort_from_tables", lambda *a, **k: (reads.append(1), read(*a, **k))[1])
    for _ in range(3):
        warm(home)
    assert len(reads) == 1
    assert drafted(home, setup_request(run_id="run-2")).code == Code.TOO_FEW_PATIENTS


def test_warming_a_site_without_runs_does_nothing(tmp_path: Path) -> None:
    warm(make_site(tmp_path / "A"))
    assert execute_module._cohorts == {}


def test_few_cohorts_are_kept(home: Path) -> None:
    for n in range(4):
        (home / "optout.txt").write_text(f"P{n:03d}\n")
        begin(home, setup_request(run_id=f"run-{n + 5}"))
        warm(home)
    assert len(execute_module._cohorts) == 2
