"""Laws of a real federation: a hub and five sites in processes of their own, on the demo's tables.

What must be hit in the middle of a run is held still from outside (SIGSTOP of the processes concerned), never by a
wait in the product.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from archipel import Study, runs
from archipel.alive import descendants, is_alive
from archipel.demo import CONFIGS, make_sites
from archipel.fold_fits import fit
from archipel.homes import enrol_site, init_hub, init_site, join_site, list_sites, revoke_site, utc_now
from archipel.local_federation import LocalFederation, find_sites
from archipel.local_run import run_plan
from archipel.report import read_result
from archipel.site_folders import read_sites
from archipel.studies import compile_study
from client.approvals import approve
from client.state import SitePaths, fold_key
from models.compile import build_step, compile_plan
from models.concordance import c_index, harrell
from models.folds import deal
from models.moments import original_scale
from models.progress import Progress
from models.step import combine
from schemas.cohort import Cohort
from schemas.design import design_columns
from schemas.plan import Plan
from schemas.result import Scores
from schemas.shown import rounded
from schemas.study import load_study
from server.launcher import online_sites
from tests.command_line import runner
from tests.live_runs import child_of, count_rounds, finish, held_still, record_of, wait_until

pytestmark = pytest.mark.processes

LEAVER = "univ-of-zurich"
STEPS_BEFORE_FIT = {"moments", "grid"}


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    make_sites("cgd", folder)
    return folder


@pytest.fixture(scope="module")
def federation(tables: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    running = LocalFederation(tmp_path_factory.mktemp("federation"), find_sites(tables))
    with running:
        running.wait_until_up()
        wait_until(lambda: online_sites(running.hub) == set(running.sites), "all sites online", 60)
        seen = running.processes()
        yield running
        seen |= running.processes()
    assert [pid for pid in seen if is_alive(pid)] == []


@pytest.fixture(scope="module")
def undisturbed(federation: LocalFederation, study: Callable[..., Path]) -> dict[str, float]:
    """Coefficients of a run that nothing happened to."""
    run_id = _launch(federation, compile_study(study("undisturbed")))
    finish(federation, run_id)
    return runs.result_of(federation.hub, run_id).coefficients


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The demo's study without evaluation, under another name and with other terms."""

    def write(
        name: str, *, deadline_s: float = 30, on_dropout: str = "pause", folds: int = 0, secure_sum: bool = True
    ) -> Path:
        folder = tmp_path_factory.mktemp(name)
        text = (CONFIGS / "cgd" / "study.toml").read_text()
        for key, value in (
            ("name", f'"{name}"'),
            ("deadline_s", deadline_s),
            ("on_dropout", f'"{on_dropout}"'),
            ("folds", folds),
        ):
            text, found = re.subn(rf"^{key} = .*$", f"{key} = {value}", text, count=1, flags=re.MULTILINE)
            assert found == 1
        text += "" if secure_sum else "secure_sum = false\n"
        (folder / "study.toml").write_text(text)
        (folder / "dictionary.toml").write_text((CONFIGS / "cgd" / "dictionary.toml").read_text())
        return folder / "study.toml"

    return write


# ---------------------------------------------------------------- the laws
def test_real_processes_find_what_the_simulation_finds(federation, study, tables, tmp_path):
    path = study("equals-simulate", folds=5)
    notebook = Study(path, hub=federation.hub)
    federation.approve(notebook.plan())
    run_id = notebook.launch()
    views = []
    assert notebook.watch(run_id, views.append).status == "done"
    real = notebook.result(run_id)
    simulated = notebook.simulate(tables, tmp_path)
    assert [view.standing.rounds_done for view in views] == sorted(view.standing.rounds_done for view in views)
    assert {run.run_id for run in notebook.runs()} == {run_id}
    assert (real.n, real.events, real.grid_intervals) == (simulated.n, simulated.events, simulated.grid_intervals)
    for quantity in ("coefficients", "standard_errors"):
        found, expected = getattr(real, quantity), getattr(simulated, quantity)
        assert found.keys() == expected.keys()
        np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=0, atol=1e-9)
    assert real.log_likelihood == pytest.approx(simulated.log_likelihood, abs=1e-9)
    assert real.plan_hash == simulated.plan_hash
    assert real.sums_masked
    plan = notebook.plan()
    _assert_cross_validation(federation, run_id, plan, tables)
    _assert_c_index_by_hand(real.evaluation["federated"], federation, plan, tables)
    _assert_nothing_of_one_site_is_stored(federation, run_id, plan, tables)


def test_masked_and_plain_sums_find_the_same(federation, study, undisturbed):
    plan = compile_study(study("in-clear", secure_sum=False))
    run_id = _launch(federation, plan)
    finish(federation, run_id)
    result = runs.result_of(federation.hub, run_id)
    assert not result.sums_masked
    assert "the sums were not masked" in result.warnings[0]
    _assert_equal(undisturbed, result.coefficients, 1e-9)


def test_two_sites_are_refused_unless_the_study_gives_masks_up(federation, study):
    two = ["nih", "amsterdam"]
    with pytest.raises(runs.LaunchError, match="secure_sum = false"):
        runs.launch_plan(federation.hub, compile_study(study("masked-pair")), two)


def test_killed_server_app_is_resumed_to_the_same_coefficients(federation, study, undisturbed):
    run_id = _launch(federation, compile_study(study("killed-server-app")))
    wait_until(lambda: count_rounds(federation, run_id) >= 3, "three rounds")
    with held_still(child_of(federation.site(LEAVER), "agent")):
        # The round that waits for this agent cannot complete, so the kill falls into a round.
        server_app = int((federation.hub / "run" / "serverapp.pid").read_text())
        os.kill(server_app, signal.SIGKILL)
        wait_until(lambda: not is_alive(server_app), "the server app's end")
        before = count_rounds(federation, run_id)
        assert record_of(federation, run_id).status != "done"
    runs.resume(federation.hub, run_id)
    finish(federation, run_id)
    after = runs.result_of(federation.hub, run_id)
    assert after.rounds > before
    assert [found.number for found in after.round_log if found.step == "fit"] == sorted(
        {found.number for found in after.round_log if found.step == "fit"}
    )
    _assert_equal(after.coefficients, undisturbed, 1e-12)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_hub_that_went_down_in_a_run_goes_on_with_it_by_itself(federation, study, undisturbed, number):
    run_id = _launch(federation, compile_study(study(f"hub-{number.name.lower()}")))
    wait_until(lambda: count_rounds(federation, run_id) >= 3, "three rounds")
    supervisor = federation.supervisor("hub")
    of_the_hub = {supervisor, *descendants(supervisor)}
    with held_still(child_of(federation.site(LEAVER), "agent")):
        # The round that waits for this agent cannot complete, so the hub goes down in a round.
        for pid in of_the_hub if number == signal.SIGKILL else {supervisor}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        wait_until(lambda: not any(is_alive(pid) for pid in of_the_hub), "the hub's end", 15)
        before = count_rounds(federation, run_id)
        assert record_of(federation, run_id).status not in ("done", "failed", "stopped")
    federation.start_process("hub", "hub", federation.hub)
    # From here on nobody does anything: neither at a site nor at the hub.
    finish(federation, run_id)
    result = runs.result_of(federation.hub, run_id)
    assert result.rounds > before
    _assert_equal(result.coefficients, undisturbed, 1e-12)


def test_killed_site_is_named_waited_for_and_the_run_ends_the_same(federation, study, undisturbed):
    run_id = _launch(federation, compile_study(study("killed-site", deadline_s=6)))
    wait_until(lambda: count_rounds(federation, run_id) >= 3, "three rounds")
    with held_still(federation.supervisor(LEAVER)):
        _kill_site(federation, LEAVER)
        # On a loaded machine another site may be late for a moment too.
        wait_until(lambda: _is_paused_for(federation, run_id, LEAVER), "the pause")
        stuck = count_rounds(federation, run_id)
    # From here on its supervisor works again, and nobody else does anything.
    finish(federation, run_id, 120)
    result = runs.result_of(federation.hub, run_id)
    assert result.rounds > stuck
    assert [site.status for site in result.sites] == ["took part"] * len(federation.sites)
    _assert_equal(result.coefficients, undisturbed, 1e-12)


def test_run_that_goes_on_without_a_site_ends_as_the_fit_on_the_others(federation, study, tables):
    path = study("continued", deadline_s=6, on_dropout="continue")
    plan = compile_study(path)
    run_id = _launch(federation, plan)
    wait_until(lambda: count_rounds(federation, run_id) >= 3, "three rounds")
    with held_still(federation.supervisor(LEAVER)):
        _kill_site(federation, LEAVER)
        finish(federation, run_id)
    record = record_of(federation, run_id)
    assert set(record.dropped) == {LEAVER}
    result = runs.result_of(federation.hub, run_id)
    assert {site.name for site in result.sites if site.status == "dropped"} == {LEAVER}
    expected = _fit_without(plan, tables, LEAVER)
    _assert_equal(result.coefficients, expected, 1e-9)
    n = sum(cohort.n_patients for name, cohort in _cohorts(plan, tables).items() if name != LEAVER)
    assert result.n == rounded(n)
    wait_until(lambda: LEAVER in online_sites(federation.hub), "the site to come back", 90)


def test_plan_that_a_site_has_not_approved_waits_for_it_and_says_what_to_do(federation, study):
    plan = compile_study(study("not-approved", deadline_s=6))
    willing = [name for name in federation.sites if name != LEAVER]
    run_id = _launch(federation, plan, approved_by=willing)
    wait_until(lambda: "archipel site approve" in record_of(federation, run_id).message, "the sentence")
    wait_until(lambda: LEAVER in record_of(federation, run_id).message, "the site's name")
    assert count_rounds(federation, run_id) == 0
    approve(federation.site(LEAVER), plan.hash[:12], approver="a person at the site")
    finish(federation, run_id)
    assert LEAVER in record_of(federation, run_id).remaining


def test_strangers_are_told_what_to_do(federation, tmp_path):
    revoked, misled = tmp_path / "revoked", tmp_path / "misled"
    other_hub = tmp_path / "other-hub"
    for name, home in (("revoked", revoked), ("misled", misled)):
        request = init_site(home, name, tmp_path, utc_now()).to_json().encode()
        join_site(home, enrol_site(federation.hub, request, utc_now()).to_json().encode(), utc_now())
    revoke_site(federation.hub, "revoked")
    init_hub(other_hub, public_port=0, internal_port=0)
    (misled / "keys" / "hub-ca.crt").write_bytes((other_hub / "keys" / "hub-ca.crt").read_bytes())
    strangers = LocalFederation(tmp_path / "strangers", {})
    try:
        for name, sentence in (
            ("revoked", "The hub does not know this site's key"),
            ("misled", "was not issued by this site's keys/hub-ca.crt"),
        ):
            strangers.start_process(f"site {name}", "site", tmp_path / name)
            log = tmp_path / name / "logs" / "agent.log"
            wait_until(lambda log=log, sentence=sentence: log.exists() and sentence in log.read_text(), sentence, 60)
        assert not {"revoked", "misled"} & online_sites(federation.hub)
    finally:
        strangers.stop()
        revoke_site(federation.hub, "misled")
    assert {site.name for site in list_sites(federation.hub)} == set(federation.sites)


def test_nothing_is_reached_but_loopback_and_nothing_reports_home(federation, undisturbed):
    pids = federation.processes()
    assert len(pids) >= 3 * (1 + len(federation.sites))
    sockets = [address for pid in pids for address in _inet_sockets(pid)]
    assert len(sockets) > len(federation.sites)
    assert {address for address in sockets if not address.startswith(("127.", "::1"))} == set()
    looked_at = 0
    for pid in pids:
        environment = _environment(pid)
        if is_alive(pid):  # the process of a run that is just over ends while we look
            assert {b"FLWR_TELEMETRY_ENABLED=0", b"FLWR_DISABLE_UPDATE_CHECK=1"} <= environment
            looked_at += 1
    assert looked_at >= 3 * (1 + len(federation.sites))


def test_commands_tell_about_runs(federation, undisturbed, tmp_path, monkeypatch, capsys):
    run = runner(monkeypatch, capsys)
    hub = ("--hub", federation.hub)
    code, out, _ = run("runs", "list", *hub, "--json")
    (run_id,) = [found["run_id"] for found in json.loads(out) if found["study"] == "undisturbed"]
    assert code == 0
    assert f"{run_id} " in run("runs", "list", *hub)[1]
    code, out, _ = run("runs", "show", "undisturbed", *hub)
    assert code == 0
    assert "Done after" in out
    assert f"masked, roster {runs.roster_of(federation.hub, list(federation.sites)).fingerprint}" in out
    code, out, _ = run("runs", "watch", run_id, *hub)
    assert code == 0
    assert f"{run_id}: done." in out
    code, out, _ = run("runs", "report", run_id, *hub, "--out", tmp_path)
    assert code == 0
    assert read_result(tmp_path / "result.json").coefficients == undisturbed
    code, out, _ = run("runs", "compare", run_id, tmp_path / "result.json", *hub, "--out", tmp_path / "page.html")
    assert code == 0
    assert "Log hazard ratios" in out
    assert "<table" in (tmp_path / "page.html").read_text()
    assert "is over already (done)" in run("runs", "stop", run_id, *hub)[1]
    code, _, err = run("runs", "resume", run_id, *hub)
    assert code == 1
    assert "launch the study again" in err
    code, out, _ = run("hub", "status", "--home", federation.hub, "--json")
    status = json.loads(out)
    assert {site["name"] for site in status["sites"] if site["online"]} == set(federation.sites)
    assert all(site["last_answer"] for site in status["sites"])
    home = ("--home", federation.site("nih"))
    assert "approved" in run("site", "plans", *home)[1]
    assert "fit newton" in run("site", "ledger", "show", *home)[1]
    assert "sound" in run("site", "ledger", "verify", *home)[1]
    assert "running (agent" in run("site", "status", *home)[1]


def test_a_notebook_stops_a_run_resumes_it_and_reports_and_compares(federation, study, undisturbed, tmp_path):
    notebook = Study(study("stopped"), hub=federation.hub)
    federation.approve(notebook.plan())
    run_id = notebook.launch()
    wait_until(lambda: count_rounds(federation, run_id) >= 3, "three rounds")
    with held_still(child_of(federation.site(LEAVER), "agent")):  # or it could be done before it hears
        assert "goes on from its last complete round" in notebook.stop(run_id)
        wait_until(lambda: record_of(federation, run_id).status == "stopped", "the stop")
        stuck = count_rounds(federation, run_id)
    notebook.resume(run_id)
    assert notebook.watch(run_id).status == "done"
    result = notebook.result(run_id)
    assert result.rounds > stuck
    _assert_equal(result.coefficients, undisturbed, 1e-12)
    assert "</html>" in notebook.report(run_id, tmp_path).read_text()
    compared = notebook.compare(run_id, str(tmp_path / "result.json"))
    assert not [row for row in (*compared.scores, *compared.coefficients) if row.differs]


# ---------------------------------------------------------------- oracles
def _dealt(federation: LocalFederation, plan: Plan, tables: Path) -> dict[str, Cohort]:
    """The cohorts with the folds that each site has dealt by its own key, which here lies on the same machine."""
    return {
        name: replace(
            cohort,
            fold_of=deal(
                cohort.event,
                cohort.group,
                plan.study.evaluation.folds,
                fold_key(SitePaths(federation.site(name))),
                0,
                cohort.patient_ids,
            ),
        )
        for name, cohort in _cohorts(plan, tables).items()
    }


def _assert_cross_validation(federation: LocalFederation, run_id: str, plan: Plan, tables: Path) -> None:
    """Every array that the real run found, evaluation included, is what plain sums over the same folds give."""
    expected = run_plan(plan, _dealt(federation, plan, tables)).progress
    with runs.open_store(federation.hub) as store:
        found = store.final_arrays(run_id)
        assert store.skipped_steps(run_id) == expected.skipped
    assert found.keys() == expected.arrays.keys()
    assert {"cv_concordance.c_index", "cv_brier.ibs", "cv_slope.slope"} <= found.keys()
    for name, array in expected.arrays.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-9, atol=1e-9, err_msg=name)


def _assert_c_index_by_hand(scores: Scores, federation: LocalFederation, plan: Plan, tables: Path) -> None:
    """The slow obvious version: per fold a fit on the others, then Harrell's pairs inside each site, and over all."""
    cohorts = _dealt(federation, plan, tables)
    study, dictionary = plan.study, plan.dictionary
    every = []
    for fold, found in enumerate(scores.c_index_within.per_fold):
        train = {name: cohort.take(cohort.fold_of != fold) for name, cohort in cohorts.items()}
        test = {name: cohort.take(cohort.fold_of == fold) for name, cohort in cohorts.items()}
        model = fit(study, dictionary, train)
        counts = np.sum([harrell(one.time, one.event, model.log_hazard(one)) for one in test.values()], axis=0)
        assert found == pytest.approx(c_index(*counts), abs=1e-9), fold
        time, event, score = (
            np.concatenate(each)
            for each in zip(*((one.time, one.event, model.log_hazard(one)) for one in test.values()), strict=True)
        )
        every.append(c_index(*harrell(time, event, score)))
    # From a summed histogram: of some 150 pairs a fold the bins hide the order of a few, in folds that are dealt by
    # keys of this run, so other ones each time; its accuracy at usual sizes is held in tests/models/test_ranking.py.
    assert scores.c_index.mean == pytest.approx(np.mean(every), abs=0.025)


def _assert_nothing_of_one_site_is_stored(federation: LocalFederation, run_id: str, plan: Plan, tables: Path) -> None:
    """The hub's folder holds what the sums of all sites gave, and the summand of none."""
    stored = b"".join(path.read_bytes() for path in federation.hub.rglob("*") if path.is_file())
    with runs.open_store(federation.hub) as store:
        assert store.kept_replies(run_id, "moments", "sums", 0) == []
        mean = store.final_arrays(run_id)["moments.mean"]
    assert mean.tobytes() in stored, "the search can find"
    question = Progress.start(plan).question
    step = build_step(plan, question.step)
    looked_for = 0
    for cohort in _cohorts(plan, tables).values():
        for name, array in step.local(question.part, question.arrays, cohort).items():
            # Sums of whole numbers are small counts, whose bytes are everywhere.
            for value in np.ravel(array)[np.ravel(array) % 1 != 0]:
                assert np.float64(value).tobytes() not in stored, name
                looked_for += 1
    assert looked_for >= 15


def _cohorts(plan: Plan, tables: Path):
    return read_sites(tables, plan.study, plan.dictionary).cohorts


def _fit_without(plan: Plan, tables: Path, leaver: str) -> dict[str, float]:
    """The slow obvious version: scale and grid of everybody, then the fit on the others' patients alone."""
    everybody = _cohorts(plan, tables)
    others = {name: cohort for name, cohort in everybody.items() if name != leaver}
    progress = Progress.start(plan)
    while (question := progress.question) is not None:
        step = build_step(plan, question.step)
        asked = everybody if question.step in STEPS_BEFORE_FIT else others
        progress = progress.absorb(
            combine([step.local(question.part, question.arrays, cohort) for cohort in asked.values()])
        )
    arrays = progress.arrays
    coefficients, _ = original_scale(arrays["fit.beta"], arrays["fit.covariance"], arrays["moments.scale"])
    names = [column.name for column in design_columns(plan.study, plan.dictionary)]
    return dict(zip(names, coefficients, strict=True))


def test_oracle_without_a_leaver_is_the_simulation(study, tables):
    plan = compile_plan(*load_study(study("oracle")))
    whole = run_plan(plan, _cohorts(plan, tables)).progress.arrays
    alone = _fit_without(plan, tables, "nobody")
    np.testing.assert_allclose(list(alone.values()), whole["fit.beta"] / whole["moments.scale"], atol=1e-12)


def _assert_equal(found: dict[str, float], expected: dict[str, float], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    np.testing.assert_allclose([found[name] for name in expected], list(expected.values()), rtol=0, atol=tolerance)


# ---------------------------------------------------------------- doing things to a federation
def _launch(federation: LocalFederation, plan: Plan, *, approved_by: list[str] | None = None) -> str:
    federation.approve(plan, approved_by)
    return runs.launch_plan(federation.hub, plan)


def _is_paused_for(federation: LocalFederation, run_id: str, site: str) -> bool:
    record = record_of(federation, run_id)
    return record.status == "paused" and site in record.message


def _kill_site(federation: LocalFederation, name: str) -> None:
    for pid in descendants(federation.supervisor(name)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _environment(pid: int) -> set[bytes]:
    with contextlib.suppress(OSError):
        return set(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    return set()


def _inet_sockets(pid: int) -> list[str]:
    """Every address that a process listens on or is connected to; none of one that has ended."""
    inodes = set()
    folder = Path(f"/proc/{pid}")
    with contextlib.suppress(OSError):
        descriptors = list((folder / "fd").iterdir())
        tables = [(folder / "net" / table).read_text() for table in ("tcp", "tcp6", "udp", "udp6")]
    if not is_alive(pid):
        return []
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            target = os.readlink(descriptor)
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    found = []
    for table in tables:
        for line in table.splitlines()[1:]:
            words = line.split()
            if words[9] in inodes:
                found += [_address(words[1])]
                if not words[2].endswith(":0000"):
                    found.append(_address(words[2]))
    return found


def _address(text: str) -> str:
    raw = bytes.fromhex(text.partition(":")[0])
    words = b"".join(raw[i : i + 4][::-1] for i in range(0, len(raw), 4))
    address = ipaddress.ip_address(words)
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)
