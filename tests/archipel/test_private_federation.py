"""Studies under differential privacy over real processes: five sites, their budgets, kills in the middle."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from archipel import runs
from archipel.alive import descendants
from archipel.demo import CONFIGS, make_sites
from archipel.local_federation import LocalFederation, find_sites
from archipel.report import render_report
from archipel.site_folders import read_sites
from archipel.studies import compile_study
from client.approvals import ApprovalError
from client.state import SitePaths
from privacy.accountant import mu_of, plan_delta, plan_mu_squared
from privacy.budget import Budget, Charge, Limit
from privacy.ledger import entries, verify_ledger
from schemas.artefact import read_artefact
from schemas.plan import Plan
from server.launcher import online_sites
from server.runs import list_rounds
from tests.command_line import runner

pytestmark = pytest.mark.processes

KILLED = "nih"
LIMIT = Limit(epsilon=9.0, delta=1e-5)
ROUNDS = 5


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    tables = tmp_path_factory.mktemp("tables")
    make_sites("cgd", tables)
    with LocalFederation(tmp_path_factory.mktemp("federation"), find_sites(tables), LIMIT) as running:
        running.wait_until_up()
        _until(lambda: online_sites(running.hub) == set(running.sites), "all sites online")
        yield running


def private_study(folder: Path, name: str, *, epsilon: float, honest_sites: int = 2, **changed: object) -> Plan:
    text = (CONFIGS / "cgd" / "study.toml").read_text()
    for key, value in {"name": f'"{name}"', "folds": 0, "deadline_s": 30, **changed}.items():
        text, found = re.subn(rf"^{key} = .*$", f"{key} = {value}", text, count=1, flags=re.MULTILINE)
        assert found == 1
    text += f"\n[privacy.differential]\nepsilon = {epsilon}\nrounds = {ROUNDS}\nhonest_sites = {honest_sites}\n"
    folder.mkdir()
    (folder / "study.toml").write_text(text)
    (folder / "dictionary.toml").write_text((CONFIGS / "cgd" / "dictionary.toml").read_text())
    return compile_study(folder / "study.toml")


def test_a_private_study_runs_pays_once_a_release_and_the_next_one_over_the_budget_is_refused(
    federation: LocalFederation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = private_study(tmp_path / "first", "private-first", epsilon=8.0)
    second = private_study(tmp_path / "second", "private-second", epsilon=4.0)
    federation.approve(plan)
    federation.approve(second)  # each fits by itself, so a person may approve both
    run_id = runs.launch_plan(federation.hub, plan)
    _until(lambda: _rounds(federation, run_id) >= 2, "two rounds")
    _kill_site(federation, KILLED)
    _finish(federation, run_id)

    _assert_paid_once_and_entered(federation, run_id, plan)
    _assert_result_carries_noise_and_says_so(federation, run_id, plan)

    refused = runs.launch_plan(federation.hub, second)
    _until(lambda: _record(federation, refused).status == "failed", "the refusal")
    assert "privacy budget does not suffice" in _record(federation, refused).message
    third = private_study(tmp_path / "third", "private-third", epsilon=4.0)
    with pytest.raises(ApprovalError, match="privacy budget does not suffice"):
        federation.approve(third)
    assert all(refused not in {charge.run for charge in _charges(federation, name)} for name in federation.sites)

    run = runner(monkeypatch, capsys)
    home = federation.site(KILLED)
    status = run("site", "status", "--home", home)[1]
    n = len(_charges(federation, KILLED))
    assert re.search(
        rf"Privacy budget of {KILLED}: epsilon 8(\.\d+)? of 9 spent \(at delta 1e-05, {n} releases\)", status
    )
    shown = run("site", "ledger", "show", "--home", home, "--last", 0)[1]
    assert shown.count(f"paid from {KILLED}: mu squared") == n
    assert "BUDGET_EXCEEDED" in shown


def test_a_run_that_loses_a_site_whose_noise_it_counts_on_ends(federation: LocalFederation, tmp_path: Path) -> None:
    """Five sites, of which one may help the hub: of the four that are left three are honest, and it asks for four."""
    plan = private_study(
        tmp_path / "short", "private-short", epsilon=0.5, honest_sites=4, deadline_s=6, on_dropout='"continue"'
    )
    federation.approve(plan)
    run_id = runs.launch_plan(federation.hub, plan)
    _until(lambda: _rounds(federation, run_id) >= 2, "two rounds")
    supervisor = federation.supervisor(KILLED)
    os.kill(supervisor, signal.SIGSTOP)  # or it would be back within the deadline
    try:
        _kill_site(federation, KILLED)
        _until(lambda: _record(federation, run_id).status == "failed", "the end of the run")
    finally:
        os.kill(supervisor, signal.SIGCONT)
    assert "counts on the noise of more honest sites" in _record(federation, run_id).message
    _until(lambda: KILLED in online_sites(federation.hub), "the site to come back")


# ---------------------------------------------------------------- oracles
def _assert_paid_once_and_entered(federation: LocalFederation, run_id: str, plan: Plan) -> None:
    rounds = [("baseline", 0), *(("fit", number) for number in range(ROUNDS)), ("grid", 0), ("moments", 0)]
    for name in federation.sites:
        charges = [charge for charge in _charges(federation, name) if charge.run == run_id]
        assert [(charge.step, charge.number) for charge in charges] == rounds, name
        assert sum(charge.mu_squared for charge in charges) == pytest.approx(plan_mu_squared(plan), rel=1e-12)
        path = SitePaths(federation.site(name)).ledger
        verify_ledger(path)
        entered = [entry.event for entry in entries(path) if entry.event.dataset and entry.event.run == run_id]
        assert sorted((e.step, e.number, e.mu_squared) for e in entered) == [
            (charge.step, charge.number, charge.mu_squared) for charge in charges
        ]


def _assert_result_carries_noise_and_says_so(federation: LocalFederation, run_id: str, plan: Plan) -> None:
    result = runs.result_of(federation.hub, run_id)
    assert result.sums_masked
    assert result.differential is not None
    assert (result.differential.epsilon, result.differential.delta) == (8.0, plan_delta(plan))
    page = render_report(result, plan=plan)
    assert "What each patient is promised" in page
    assert "one patient more or less" in page
    with runs.open_store(federation.hub) as store:
        arrays = store.final_arrays(run_id)
    tables = read_sites(federation.sites[KILLED].parent, plan.study, plan.dictionary)
    exact = sum(cohort.n_patients for cohort in tables.cohorts.values())
    noise = plan.by_name["moments"].parts[0].noise
    assert noise is not None
    # Each of five sites adds what suffices where two do.
    std = noise.sensitivity * (5 / 2) ** 0.5 / (mu_of(8.0, LIMIT.delta) * noise.share**0.5)
    found = float(arrays["moments.n_patients"])
    assert found % 1 != 0, "no noise"
    assert abs(found - exact) < 8 * std
    manifest = read_artefact(runs.model_of(federation.hub, result)).manifest
    assert (manifest.epsilon, manifest.delta) == (8.0, plan_delta(plan))


# ---------------------------------------------------------------- doing things to a federation
def _charges(federation: LocalFederation, name: str) -> tuple[Charge, ...]:
    budget = Budget(SitePaths(federation.site(name)).budget)
    with contextlib.closing(budget):
        return budget.charges(name)


def _record(federation: LocalFederation, run_id: str):
    with runs.open_store(federation.hub) as store:
        return store.run(run_id)


def _rounds(federation: LocalFederation, run_id: str) -> int:
    with runs.open_store(federation.hub) as store:
        return len(list_rounds(store, run_id))


def _finish(federation: LocalFederation, run_id: str) -> None:
    def is_over() -> bool:
        record = _record(federation, run_id)
        assert record.status not in ("failed", "stopped"), record.message
        return record.status == "done"

    _until(is_over, f"{run_id} to be done", 120)


def _kill_site(federation: LocalFederation, name: str) -> None:
    for pid in descendants(federation.supervisor(name)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _until(condition: Callable[[], bool], what: str, within_s: float = 60) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {within_s} s in vain for {what}"
        time.sleep(0.05)
