"""Keys rotated, a site and a hub lost and put back, over real processes: a hub and five sites on demo tables."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path

import pytest

from archipel import runs
from archipel.alive import descendants, is_alive
from archipel.demo import CONFIGS, make_sites
from archipel.hub_status import hub_status
from archipel.local_federation import LocalFederation, find_sites
from archipel.studies import compile_study
from client.heads import load_countersigned, verify_held
from client.hub_post import hub_post
from client.peers import forget_peer
from client.restored import load_restored
from client.state import SitePaths
from privacy.ledger import entries, verify_ledger
from schemas.canonical import sha256_hex
from schemas.codes import SENTENCES, Code
from schemas.ledger_head import HEAD_PATH
from schemas.plan import Plan
from server.launcher import online_sites
from server.records import RunExistsError
from tests.command_line import Run, runner
from tests.ledger_heads import truncate
from tests.live_runs import child_of, count_rounds, finish, held_still, record_of, wait_until

pytestmark = pytest.mark.processes

LOST, ROTATED, SLOW = "nih", "amsterdam", "univ-of-zurich"


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    tables = tmp_path_factory.mktemp("tables")
    make_sites("cgd", tables)
    with LocalFederation(tmp_path_factory.mktemp("federation"), find_sites(tables)) as running:
        running.wait_until_up()
        wait_until(lambda: online_sites(running.hub) == set(running.sites), "all sites online")
        yield running


@pytest.fixture
def plan_of(tmp_path: Path) -> Callable[[str], Plan]:
    def compiled(name: str) -> Plan:
        text = (CONFIGS / "cgd" / "study.toml").read_text()
        for key, value in {"name": f'"{name}"', "folds": 0, "deadline_s": 6}.items():
            text = re.sub(rf"^{key} = .*$", f"{key} = {value}", text, count=1, flags=re.MULTILINE)
        folder = tmp_path / name
        folder.mkdir()
        (folder / "study.toml").write_text(text)
        (folder / "dictionary.toml").write_text((CONFIGS / "cgd" / "dictionary.toml").read_text())
        return compile_study(folder / "study.toml")

    return compiled


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(monkeypatch, capsys)


def test_every_sites_ledger_is_countersigned_while_a_study_runs(
    federation: LocalFederation, plan_of: Callable[[str], Plan], run: Run
) -> None:
    plan = plan_of("countersigned")
    federation.approve(plan)
    run_id = runs.launch_plan(federation.hub, plan)
    finish(federation, run_id)
    for name in federation.sites:
        home = federation.site(name)
        wait_until(functools.partial(_is_countersigned, home), f"the whole ledger of {name} to be countersigned")
        assert "The hub has countersigned all of it" in run("site", "ledger", "verify", "--home", home)[1]
    found = hub_status(federation.hub)
    assert found.alarms == ()
    assert {one.name: one.ledger_entries for one in found.sites} == {
        name: verify_ledger(SitePaths(federation.site(name)).ledger).head.count for name in federation.sites
    }
    _copy_with_its_end_cut_off_is_found(federation.site(LOST), run)


def _copy_with_its_end_cut_off_is_found(home: Path, run: Run) -> None:
    copy = home.with_name("copy")
    shutil.copytree(home, copy, ignore=shutil.ignore_patterns("run", "logs"))
    truncate(copy, 4)
    code, _, err = run("site", "ledger", "verify", "--home", copy)
    assert code == 1
    assert "it holds 4 entries, and the hub has countersigned" in err
    shutil.rmtree(copy)


def test_a_site_rotates_its_keys_in_a_running_federation_and_the_old_ones_are_refused(
    federation: LocalFederation, plan_of: Callable[[str], Plan], run: Run, tmp_path: Path
) -> None:
    home = federation.site(ROTATED)
    old = hub_post(home)
    assert old(HEAD_PATH, b"", 100).status == HTTPStatus.BAD_REQUEST  # known, and no head
    assert run("site", "rotate", "--home", home, "--by", "A")[0] == 0
    assert ROTATED in online_sites(federation.hub)
    kit = tmp_path / "kit.json"
    code, said, _ = run("hub", "enrol", home / "request.json", "--home", federation.hub, "--out", kit)
    assert (code, "is enrolled" in said) == (0, True)
    assert old(HEAD_PATH, b"", 100).status == HTTPStatus.UNAUTHORIZED
    assert run("site", "join", kit, "--home", home, "--yes")[0] == 0
    # Nobody starts anything: the agent that the hub refused comes back with the new key.
    wait_until(lambda: ROTATED in online_sites(federation.hub), "the site to come back with its new key", 90)
    assert old(HEAD_PATH, b"", 100).status == HTTPStatus.UNAUTHORIZED
    wait_until(lambda: _is_countersigned(home), "the line of heads to go on")
    _forget_everywhere(federation, ROTATED)
    plan = plan_of("rotated")
    federation.approve(plan)
    finish(federation, runs.launch_plan(federation.hub, plan))
    assert hub_status(federation.hub).alarms == ()


def test_a_lost_site_is_put_back_from_a_backup_of_the_middle_of_a_run(
    federation: LocalFederation, plan_of: Callable[[str], Plan], run: Run, tmp_path: Path
) -> None:
    plan = plan_of("open-at-backup")
    federation.approve(plan)
    open_run = runs.launch_plan(federation.hub, plan)
    wait_until(lambda: count_rounds(federation, open_run) >= 3, "three rounds")
    backup = tmp_path / "backup.tar"
    with held_still(child_of(federation.site(SLOW), "agent")):  # so that the run is not over before it is stopped
        assert run("site", "backup", backup, "--home", federation.site(LOST))[0] == 0
        runs.stop(federation.hub, open_run)
        wait_until(lambda: record_of(federation, open_run).status in ("stopped", "failed"), "the run to stop", 90)
    later = plan_of("after-backup")  # what the backup does not know
    federation.approve(later)
    finish(federation, runs.launch_plan(federation.hub, later))
    wait_until(lambda: _is_countersigned(federation.site(LOST)), "the last head")
    before = [entry.hash for entry in entries(SitePaths(federation.site(LOST)).ledger)]

    _lose(federation, LOST, federation.site(LOST))
    home = federation.site(LOST)
    said = run("site", "restore", backup, "--home", home, "--by", "A")[1]
    assert "runs from before are refused for good" in said
    enrol = ("hub", "enrol", home / "request.json", "--home", federation.hub, "--out", tmp_path / "kit.json")
    assert "enrol it with `--replace`" in run(*enrol)[2]
    assert run(*enrol, "--replace")[0] == 0
    code, said, _ = run("site", "join", tmp_path / "kit.json", "--home", home, "--yes")
    assert (code, "were written after the backup and are lost" in said) == (0, True)
    found = load_restored(SitePaths(home))
    assert found is not None
    assert (found.history, found.lost) == ("lost", len(before) - found.count)
    assert open_run in found.runs
    kept = list(entries(SitePaths(home).ledger))
    assert [entry.hash for entry in kept[: found.count]] == before[: found.count]
    assert kept[found.count].event.kind == "restore"

    federation.start_process(f"site {LOST}", "site", home)
    wait_until(lambda: LOST in online_sites(federation.hub), "the restored site online", 90)
    runs.resume(federation.hub, open_run)
    wait_until(lambda: _says(federation, open_run, Code.RUN_BEFORE_RESTORE), "the open run to be refused", 90)
    runs.stop(federation.hub, open_run)
    _forget_everywhere(federation, LOST)
    again = plan_of("after-restoration")
    federation.approve(again)
    run_id = runs.launch_plan(federation.hub, again)
    wait_until(lambda: _says(federation, run_id, Code.HISTORY_LOST), "exact sums to be refused", 90)
    assert run("site", "accept-loss", "--home", home, "--by", "Dr. Weiss", "--yes")[0] == 0
    assert "accepted by Dr. Weiss" in run("site", "status", "--home", home)[1]
    if record_of(federation, run_id).status in ("failed", "stopped"):
        run_id = runs.launch_plan(federation.hub, again)
    finish(federation, run_id)
    wait_until(lambda: _is_countersigned(home), "the new line of heads")
    assert hub_status(federation.hub).alarms == ()


def test_sites_come_back_by_themselves_to_a_hub_that_was_put_back(
    federation: LocalFederation, plan_of: Callable[[str], Plan], run: Run, tmp_path: Path
) -> None:
    plan = plan_of("open-at-hub-backup")
    federation.approve(plan)
    open_run = runs.launch_plan(federation.hub, plan)
    wait_until(lambda: count_rounds(federation, open_run) >= 3, "three rounds")
    with held_still(child_of(federation.site(SLOW), "agent")):
        assert run("hub", "backup", tmp_path / "hub.tar", "--home", federation.hub)[0] == 0
        _lose(federation, "hub", federation.hub)
    code, said, _ = run("hub", "restore", tmp_path / "hub.tar", "--home", federation.hub)
    assert (code, "runs that were not done are ended" in said) == (0, True)
    federation.start_process("hub", "hub", federation.hub)
    federation.wait_until_up()
    wait_until(lambda: online_sites(federation.hub) == set(federation.sites), "all sites to come back", 120)
    assert record_of(federation, open_run).status == "failed"
    with pytest.raises(RunExistsError, match="restored from a backup"):
        runs.resume(federation.hub, open_run)
    again = plan_of("after-hub-restoration")
    federation.approve(again)
    finish(federation, runs.launch_plan(federation.hub, again))
    for name in federation.sites:
        wait_until(functools.partial(_is_countersigned, federation.site(name)), f"the head of {name}")
    assert hub_status(federation.hub).alarms == ()


# ---------------------------------------------------------------- helpers
def _is_countersigned(home: Path) -> bool:
    found = verify_held(home)
    known = load_countersigned(SitePaths(home))
    return found.head.count > 0 and found.count == found.head.count and known is not None


def _forget_everywhere(federation: LocalFederation, name: str) -> None:
    for other in federation.sites:
        if other != name:
            forget_peer(federation.site(other), name, who="A")


def _lose(federation: LocalFederation, name: str, home: Path) -> None:
    """Kill everything of a home and take its folder away, as a broken disk does."""
    supervisor = federation.supervisor(name)
    pids = {supervisor, *descendants(supervisor)}
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not any(is_alive(pid) for pid in pids), f"the end of {name}")
    home.rename(home.with_name(f"lost-{name}-{sha256_hex(os.urandom(8))[:6]}"))


def _says(federation: LocalFederation, run_id: str, code: Code) -> bool:
    return SENTENCES[code] in record_of(federation, run_id).message
