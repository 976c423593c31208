"""From launch to refusal over real processes, nothing handed over by file: a model's whole life, in Chromium."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, expect

from archipel.demo import CONFIGS, make_sites
from archipel.demo_page import prepare_page
from archipel.homes import utc_now
from archipel.local_federation import LocalFederation
from archipel.models import withdraw
from archipel.trial import run_trial
from client.model_fetch import fetch_models
from client.models import load_models, usable_model
from client.page.access_log import read_access_log
from client.page.open_model import OpenModels
from client.page.patients import Patients
from client.page.rows import patient_of
from models.prediction import predict
from privacy.ledger import entries
from tests.page.browser import Tab, tab

pytestmark = [pytest.mark.browser, pytest.mark.processes]


@contextlib.contextmanager
def site_view(home: Path) -> Iterator[str]:
    """Run `archipel site view` and yield the address that it prints."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "archipel.cli", "site", "view", "--home", str(home), "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        assert process.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
        assert found is not None
        yield found.group()
    finally:
        process.terminate()
        process.wait(15)
        if process.stdout is not None:
            process.stdout.close()


def test_from_launch_to_a_new_patient_s_curve_and_to_its_refusal(tmp_path: Path, browser: Browser) -> None:
    study = tmp_path / "study.toml"
    text = (CONFIGS / "cgd" / "study.toml").read_text()
    study.write_text(re.sub(r"^folds = 5$", "folds = 0", text, flags=re.MULTILINE))
    (tmp_path / "dictionary.toml").write_text((CONFIGS / "cgd" / "dictionary.toml").read_text())
    tables = tmp_path / "tables"
    tables.mkdir()
    make_sites("cgd", tables)
    for name in ("amsterdam", "scripps-institute"):
        shutil.rmtree(tables / name)  # three sites of the five are a federation too, and start sooner
    done: list[str] = []

    def on_done(federation: LocalFederation, run_id: str) -> None:
        name = next(iter(federation.sites))
        ready = prepare_page(federation.hub, run_id, federation.site(name))
        with site_view(ready.home) as address, tab(browser, address) as one:
            one.sign_in(ready.account, ready.password)
            _new_patient_has_the_model_s_numbers(one, ready.home, ready.patients)
            _training_patient_is_refused(one, federation.sites[name], ready.home)
            key = next(iter(load_models(ready.home).by_hash))
            one.find(ready.patients[0])
            withdraw(federation.hub, key, "wrong units", who="Dr. Chef")
            fetch_models(ready.home)
            one.page.reload()
            expect(one.page.locator("#refused")).to_contain_text("wrong units")
            assert one.page.locator("#lead, svg").count() == 0
            one.open("/")
            assert "No model may be used here now" in one.page.inner_text("main")
            assert one.errors == []
            assert one.hosts == {address.removeprefix("http://")}
        done.append(key)
        views = [line.view for line in read_access_log(ready.home / "state" / "access.jsonl")]
        assert {"sign-in", "view"} <= {view.kind for view in views}
        assert not any(patient in str(views) for patient in ready.patients)
        said = [entry.event.rule for entry in entries(ready.home / "state" / "ledger.jsonl")]
        assert any("withdrawn by the hub: wrong units" in rule for rule in said)

    run_trial(study, tables, tmp_path / "home", on_done=on_done)
    assert len(done) == 1


def _new_patient_has_the_model_s_numbers(one: Tab, home: Path, patients: tuple[str, ...]) -> None:
    key = next(iter(load_models(home).by_hash))
    model = OpenModels(home).open(key)
    shown = 0
    for patient in patients:
        one.find(patient)
        if one.page.locator("#refused").count():
            continue
        row = Patients(home).find(model, patient)  # type: ignore[arg-type]
        assert row is not None
        artefact = usable_model(home, key, now=utc_now)
        curve = predict(artefact, patient_of(artefact, row), np.array(artefact.manifest.horizons))
        one.page.get_by_text("Show as a table").click()
        for i, horizon in enumerate(artefact.manifest.horizons):
            line = one.page.locator("#curve-table tbody tr").filter(has_text=f"{horizon:g} days")
            if line.count():
                assert line.locator("td").first.inner_text() == f"{100 * curve.survival[0, i]:.1f}"
                shown += 1
    assert shown >= 3


def _training_patient_is_refused(one: Tab, tables: Path, home: Path) -> None:
    own = (tables / "clinical.csv").read_text("utf-8").splitlines()
    column = own[0].split(",").index("patient_id")
    current = home / "current" / "clinical.csv"
    with current.open("a", encoding="utf-8") as file:
        file.write(own[1] + "\n")
    one.find(own[1].split(",")[column])
    assert "one of those who trained the model" in one.page.inner_text("#refused")
