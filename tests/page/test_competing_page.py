"""A model of competing events in a browser, on a real site's files: numbers, lines, languages, JSON."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from playwright.sync_api import Browser, expect

from client.page.accounts import Accounts
from client.page.app import make_app
from client.page.open_model import OpenModel, OpenModels
from client.page.patients import Patients
from client.page.rows import patient_of
from client.page.site_desk import SiteDesk
from client.settings import load_settings
from models.incidence_prediction import Incidence, predict_incidence
from schemas.artefact import ArtefactCause, Manifest
from tests.client.page.page_kit import competing_model
from tests.page.browser import served, tab
from tests.page.conftest import HOSTS
from tests.page.made_up_desk import HOSTILE
from tests.page.site_kit import ACCOUNT, PASSWORD, ready_site, write_small_tables

pytestmark = pytest.mark.browser

PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    home, key = ready_site(tmp_path_factory.mktemp("competing"), competing_model().artefact)
    write_small_tables(home)
    return home, key


@pytest.fixture(scope="module")
def competing_address(site: tuple[Path, str]) -> Iterator[str]:
    app = make_app(SiteDesk(site[0], load_settings(site[0])), hosts=HOSTS, over_tls=False)
    with served(app) as address:
        yield address


def predicted(site: tuple[Path, str], patient: str = "P-1") -> Incidence:
    """What the site's own file says of a patient at three and five years."""
    model = OpenModels(site[0]).open(site[1])
    assert isinstance(model, OpenModel)
    row = Patients(site[0]).find(model, patient)
    assert row is not None
    return predict_incidence(model.artefact, patient_of(model.artefact, row), np.array([1095.0, 1825.0]))


def test_the_numbers_on_the_page_are_those_of_the_model_file(
    browser: Browser, competing_address: str, site: tuple[Path, str]
) -> None:
    expected = predicted(site)
    assert expected.lower is not None
    assert expected.upper is not None
    with tab(browser, competing_address) as one:
        one.sign_in(ACCOUNT, PASSWORD)
        one.find("P-1")
        n, rest = round(100 * expected.incidence[0, 0, 1]), round(100 * expected.free[0, 1])
        expect(one.page.locator("#lead")).to_contain_text(f"about {n} are expected to have had “Relapse” at 5 years")
        expect(one.page.locator("#lead")).to_contain_text(f"(death, event 3), and {rest} none of these")
        one.page.get_by_text("Show as a table").click()
        for h, horizon in enumerate(("3 years", "5 years")):
            line = one.page.locator("#curve-table tbody tr").filter(has_text=horizon)
            cells = line.locator("td").all_inner_texts()
            first, ends, death, third, free = cells
            assert first == f"{100 * expected.incidence[0, 0, h]:.1f}"
            low, high = 100 * expected.lower[0, 0, h], 100 * expected.upper[0, 0, h]
            assert ends == f"{low:.1f} to {high:.1f}"
            assert death.startswith(f"{100 * expected.incidence[1, 0, h]:.1f} (")
            assert third.startswith(f"{100 * expected.incidence[2, 0, h]:.1f} (")
            assert free.startswith(f"{100 * expected.free[0, h]:.1f} (")
        people = one.page.locator("svg.people:visible")
        assert people.locator("g.yes").count() == rest
        assert people.locator("g.no").count() == n
        assert people.locator("g.else").count() == 100 - n - rest
        labels = [text.text_content() for text in one.page.locator("svg.wide-only text.lab").all()]
        assert labels == ["Relapse", "death", "event 3"]
        assert "Under each treatment" in one.page.inner_text("#arms")
        assert "Difference in “Relapse”" in one.page.inner_text("#arms")
        assert "death 45" in one.page.inner_text("#facts")
        one.page.get_by_role("link", name="3 years", exact=True).click()
        expect(one.page.locator("#lead")).to_contain_text("at 3 years")
        assert one.errors == []
        assert one.hosts == {competing_address.removeprefix("http://")}


def test_from_a_later_day_on(browser: Browser, competing_address: str) -> None:
    with tab(browser, competing_address) as one:
        one.sign_in(ACCOUNT, PASSWORD)
        one.find("P-1")
        one.page.fill("#since", "365")
        one.page.get_by_role("button", name="Show from then on").click()
        expect(one.page.locator("#lead")).to_contain_text("from then on")
        assert "free of all these events until then" in one.page.inner_text("#risk")
        assert one.errors == []


@pytest.mark.parametrize("language", ["en-GB", "fr-FR"])
@pytest.mark.parametrize("viewport", [{"width": 1280, "height": 900}, PHONE], ids=["desk", "phone"])
def test_the_page_of_competing_events_breaks_no_rule_of_wcag(
    browser: Browser, competing_address: str, language: str, viewport: dict[str, int], tmp_path: Path
) -> None:
    folder = Path(os.environ.get("ARCHIPEL_SCREENSHOTS", str(tmp_path)))
    with tab(browser, competing_address, locale=language, viewport=viewport) as one:
        one.sign_in(ACCOUNT, PASSWORD)
        one.find("P-1")
        assert one.violations() == []
        assert one.page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
        text = one.page.inner_text("main")
        assert ("expected to have had" in text) == (language == "en-GB")
        if language == "fr-FR":
            assert "devraient avoir eu « Relapse »" in text
            assert "Qui aura eu" in text
        if (language, viewport) == ("en-GB", {"width": 1280, "height": 900}):
            one.picture(folder / "patient-competing.png")
        if "ARCHIPEL_LOOK" in os.environ:
            one.picture(Path(os.environ["ARCHIPEL_LOOK"]) / f"competing-{language}-{viewport['width']}.png")


def test_without_scripts_and_on_paper(browser: Browser, competing_address: str) -> None:
    with tab(browser, competing_address, java_script_enabled=False) as one:
        one.sign_in(ACCOUNT, PASSWORD)
        one.find("P-3")
        assert "something else first" in one.page.inner_text("#lead")
        one.page.get_by_role("link", name="3 years", exact=True).click()
        assert "at 3 years" in one.page.inner_text("#lead")
    with tab(browser, competing_address) as one:
        one.sign_in(ACCOUNT, PASSWORD)
        one.find("P-1")
        one.page.emulate_media(media="print")
        table = one.page.locator("#curve-table")
        assert table.evaluate("one => one.checkVisibility({contentVisibilityAuto: true})")
        assert len(one.page.pdf()) > 10_000


def test_a_hostile_name_of_an_event_is_inert(browser: Browser, tmp_path: Path) -> None:
    model = competing_model()
    first, _, third = model.artefact.manifest.causes
    causes = (first, ArtefactCause(code=HOSTILE), third)
    manifest = Manifest(**{**dict(model.artefact.manifest), "causes": causes, "endpoint": HOSTILE})
    home, _ = ready_site(tmp_path, replace(model.artefact, manifest=manifest))
    write_small_tables(home)
    app = make_app(SiteDesk(home, load_settings(home)), hosts=HOSTS, over_tls=False)
    with served(app) as address, tab(browser, address) as one:
        one.page.on("dialog", lambda dialog: one.errors.append(f"a dialog: {dialog.message}"))
        one.sign_in(ACCOUNT, PASSWORD)
        one.find("P-1")
        assert HOSTILE in one.page.inner_text("#lead")
        assert one.page.locator("main script, main img").count() == 0
        assert one.errors == []


def test_the_same_numbers_as_json(competing_address: str, site: tuple[Path, str]) -> None:
    expected = predicted(site)
    headers = {"Authorization": f"Bearer {Accounts(site[0]).add_token('records')}"}
    with httpx.Client(base_url=competing_address, headers=headers) as client:
        answer = client.post("/api/v1/prognosis", json={"model": site[1], "patient_id": "P-1"}).json()
    assert answer["status"] == "prognosis"
    assert [kind["event"] for kind in answer["kinds"]] == ["Relapse", "death", "3"]
    assert [kind["of_interest"] for kind in answer["kinds"]] == [True, False, False]
    for c, kind in enumerate(answer["kinds"]):
        assert [one["incidence"] for one in kind["horizons"]] == pytest.approx(expected.incidence[c, 0].tolist())
    for i, one in enumerate(answer["horizons"]):
        total = one["survival"] + sum(kind["horizons"][i]["incidence"] for kind in answer["kinds"])
        assert total == pytest.approx(1.0)
    assert len(answer["arms"][1]["incidence_difference"]) == 2
    assert re.fullmatch("[0-9a-f]{64}", answer["model"])
