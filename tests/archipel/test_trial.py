"""A trial ends with a result or a sentence, and never leaves a process behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from archipel import demo as demo_module
from archipel.alive import descendants, is_alive
from archipel.cli_common import StoppedError
from archipel.demo import CONFIGS, make_sites
from archipel.local_federation import LocalFederation, find_sites, read_dialect
from archipel.runs import LaunchError
from archipel.trial import TrialError, ended_on_signals, run_trial, temporary_home
from client.settings import load_settings
from schemas.errors import ArchipelError
from tests.demo_files import verify_demo

STUDY = CONFIGS / "cgd" / "study.toml"


@pytest.fixture
def tables(tmp_path):
    make_sites("cgd", tmp_path / "tables")
    return tmp_path / "tables"


# ---------------------------------------------------------------- without processes
def test_two_sites_cannot_hide_from_each_other_so_nothing_is_started(tables, tmp_path, monkeypatch):
    pair = tmp_path / "pair"
    pair.mkdir()
    for name in ("nih", "amsterdam"):
        (tables / name).rename(pair / name)
    monkeypatch.setattr(LocalFederation, "set_up", lambda self: pytest.fail("was set up"))
    with pytest.raises(LaunchError, match=r"at least 3 sites, and there are 2 \(amsterdam, nih\)"):
        run_trial(STUDY, pair, tmp_path / "home")


def test_site_that_cannot_take_part_is_named_before_anything_is_trained(tables, tmp_path, monkeypatch):
    table = tables / "amsterdam" / "clinical.csv"
    table.write_text(table.read_text().replace("rIFN-g", "interferon"))
    monkeypatch.setattr(LocalFederation, "start", lambda self: None)
    with pytest.raises(TrialError, match=r"amsterdam:(.|\n)*column treatment(.|\n)*: no") as caught:
        run_trial(STUDY, tables, tmp_path / "home")
    assert "interferon" not in str(caught.value)
    assert "zurich" not in str(caught.value)


def test_list_of_opt_outs_that_cannot_be_read_is_named_with_its_site(tables, tmp_path, monkeypatch):
    (tables / "nih" / "optout.txt").write_bytes(b"\xff\xfe")
    monkeypatch.setattr(LocalFederation, "start", lambda self: None)
    with pytest.raises(TrialError, match=r"nothing was run(.|\n)*nih:\noptout.txt: 1 fault"):
        run_trial(STUDY, tables, tmp_path / "home")


@pytest.mark.parametrize(("names", "sentence"), [([], "holds no site"), (["only"], "needs two or more")])
def test_federation_needs_two_sites(tables, tmp_path, names, sentence):
    folder = tmp_path / "few"
    folder.mkdir()
    for name in names:
        (tables / "nih").rename(folder / name)
    with pytest.raises(ArchipelError, match=sentence):
        find_sites(folder)


def test_homes_are_closed_to_others_and_gone_afterwards():
    with temporary_home() as home:
        assert home.stat().st_mode & 0o077 == 0
        (home / "deep").mkdir()
    assert not home.exists()


class _Swallows:
    """At whose end a signal falls, so that Python ignores what the signal's handler raises."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        signal.raise_signal(self.number)


@pytest.mark.parametrize(("number", "stopped"), [(signal.SIGTERM, StoppedError), (signal.SIGINT, KeyboardInterrupt)])
def test_a_signal_that_falls_into_a_callback_of_the_garbage_collector_ends_it_all_the_same(number, stopped):
    def go_on_after_it() -> None:
        ending = _Swallows(number)
        del ending
        time.sleep(20)

    with pytest.raises(stopped), ended_on_signals():
        go_on_after_it()


def test_trial_site_gets_dialect_and_optout_of_its_tables(tables, tmp_path):
    (tables / "nih" / "site.toml").write_text('[csv]\ndelimiter = ";"\ndecimal = ","\nencoding = "cp1252"\n')
    (tables / "nih" / "optout.txt").write_text("CGD-001\n")
    federation = LocalFederation(tmp_path / "home", find_sites(tables))
    federation.set_up()
    settings = load_settings(federation.site("nih"))
    assert settings.dialect.model_dump() == read_dialect(tables / "nih").model_dump()
    assert (settings.dialect.delimiter, settings.dialect.encoding) == (";", "cp1252")
    assert (federation.site("nih") / "optout.txt").read_text() == "CGD-001\n"
    assert load_settings(federation.site("amsterdam")).dialect.delimiter == ","


def test_time_of_zero_is_found_by_the_check_and_left_out_by_name(tmp_path):
    dealt = make_sites("acc", tmp_path)
    (sentence,) = dealt.left_out
    assert "site-a: error: clinical.csv row 35, column time_days" in sentence
    assert "ACC-086" not in (tmp_path / "site-a" / "clinical.csv").read_text()
    assert sum(len(share.rows) for share in dealt.shares) == 91


def test_report_is_served_on_loopback_alone(tmp_path):
    page = tmp_path / "report.html"
    page.write_text("<p>the report</p>")
    (tmp_path / "secret.txt").write_text("not for the browser")
    with demo_module.serving_report(page) as address:
        assert address.startswith("http://127.0.0.1:")
        assert urllib.request.urlopen(address).read() == b"<p>the report</p>"
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{address}secret.txt")


# ---------------------------------------------------------------- with processes
def _start_trial(tables: Path, temporary: Path) -> subprocess.Popen[str]:
    temporary.mkdir()
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "archipel.cli", "trial", str(STUDY), "--sites", str(tables)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
    )


@pytest.mark.processes
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_nothing_is_left_behind_whatever_ends_a_trial(tables, tmp_path, number, code):
    for name in ("amsterdam", "scripps-institute"):
        shutil.rmtree(tables / name)  # with three sites of the five it is under way sooner
    trial = _start_trial(tables, tmp_path / "temporary")
    deadline = time.monotonic() + 120
    # Two supervisors for three processes each at least: the trial is well under way, and not yet done.
    while len(started := descendants(trial.pid)) < 8:
        assert trial.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    trial.send_signal(number)
    trial.communicate(timeout=60)
    assert trial.returncode == code
    deadline = time.monotonic() + 30
    while [pid for pid in started if is_alive(pid)]:
        assert time.monotonic() < deadline, "processes are left behind"
        time.sleep(0.05)
    if number != signal.SIGKILL:  # nobody can tidy up after that one
        assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.processes
def test_demo_ends_with_its_files_and_its_times(tmp_path):
    """Of the other cohort than `make demo` by itself, at whose end CI looks by the same `verify_demo`."""
    out = tmp_path / "out"
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "archipel.cli", "demo", "--cohort", "cgd", "--no-serve", "--out", out],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    verify_demo(out, found.stdout, is_simulated_split=False)
