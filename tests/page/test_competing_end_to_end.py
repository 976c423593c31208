"""A study with competing events over real processes: run, released, fetched, accepted, and a new patient's page."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser

from archipel.demo_page import prepare_page
from archipel.homes import utc_now
from archipel.local_federation import LocalFederation
from archipel.simulate import simulate
from archipel.trial import run_trial
from client.models import card_of, load_models, usable_model
from client.page.open_model import OpenModel, OpenModels
from client.page.patients import Patients
from client.page.rows import patient_of
from models.incidence_prediction import predict_incidence
from schemas.artefact import Artefact, read_artefact
from schemas.model_card import read_card
from tests.archipel.competing_study import write_competing_study
from tests.page.browser import Tab, tab
from tests.page.test_end_to_end import site_view

pytestmark = [pytest.mark.browser, pytest.mark.processes]


def test_from_a_run_with_competing_events_to_a_new_patient_s_incidence(tmp_path: Path, browser: Browser) -> None:
    study, tables = write_competing_study(tmp_path)
    study.write_text(re.sub(r"^folds = 5$", "folds = 0", study.read_text(), flags=re.MULTILINE))
    simulate(study, tables, tmp_path / "simulated")
    simulated = read_artefact((tmp_path / "simulated" / "model.safetensors").read_bytes())
    done: list[str] = []

    def on_done(federation: LocalFederation, run_id: str) -> None:
        ready = prepare_page(federation.hub, run_id, federation.site(next(iter(federation.sites))))
        key = next(iter(load_models(ready.home).by_hash))
        model = usable_model(ready.home, key, now=utc_now)
        _equals(model, simulated)
        card = read_card(card_of(ready.home, key))
        assert card.endpoint.endswith("before any of: other (15 events)")
        assert any("of the hazard of infection alone" in limit for limit in card.limits)
        with site_view(ready.home) as address, tab(browser, address) as one:
            one.sign_in(ready.account, ready.password)
            _page_has_the_model_s_numbers(one, ready.home, key, model, ready.patients)
            one.open(f"/model/{key}/card")
            assert "one model for the hazard of each kind of event" in one.page.inner_text("main")
            assert one.violations() == []
            assert one.errors == []
        done.append(key)

    run_trial(study, tables, tmp_path / "home", on_done=on_done)
    assert len(done) == 1


def _equals(model: Artefact, simulated: Artefact) -> None:
    """Masked sums of real sites make the model of the pooled ones."""
    assert set(model.arrays) == set(simulated.arrays)
    for name, array in simulated.arrays.items():
        np.testing.assert_allclose(model.arrays[name], array, rtol=1e-6, atol=1e-9, err_msg=name)
    assert model.manifest.causes == simulated.manifest.causes


def _page_has_the_model_s_numbers(one: Tab, home: Path, key: str, model: Artefact, patients: tuple[str, ...]) -> None:
    opened, shown = OpenModels(home).open(key), 0
    assert isinstance(opened, OpenModel)
    for patient in patients:
        one.find(patient)
        if one.page.locator("#refused").count():
            continue
        row = Patients(home).find(opened, patient)
        assert row is not None
        found = predict_incidence(model, patient_of(model, row), np.array(model.manifest.horizons))
        one.page.get_by_text("Show as a table").click()
        for i, horizon in enumerate(model.manifest.horizons):
            line = one.page.locator("#curve-table tbody tr").filter(has_text=f"{horizon:g} days")
            if line.count():
                cells = line.locator("td").all_inner_texts()
                assert cells[0] == f"{100 * found.incidence[0, 0, i]:.1f}"
                assert cells[2].startswith(f"{100 * found.incidence[1, 0, i]:.1f} (")
                shown += 1
    assert shown >= 3
