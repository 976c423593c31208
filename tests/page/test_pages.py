"""The pages in a browser: found, read, refused, in French, on a phone, on paper, by keyboard, without scripts."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from client.page.app import make_app
from client.page.guarding import CONTENT_POLICY
from tests.page.browser import Tab, served, tab
from tests.page.conftest import HOSTS
from tests.page.made_up_desk import FAILURES, HOSTILE, KEY, OLD, FailingDesk, MadeUpDesk, prognosis

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def failing() -> Iterator[str]:
    """The page of a site where some patients make the page fail."""
    with served(make_app(FailingDesk(), hosts=HOSTS, over_tls=False)) as one:
        yield one


def test_search_leads_to_the_result(clinician: Tab) -> None:
    clinician.find("P0042")
    page = clinician.page
    at_five = prognosis().horizons[-1]
    assert f"about {round(100 * at_five.survival)} are expected to be alive at 5 years" in page.inner_text("#lead")
    assert "Research use only" in page.inner_text("body")
    page.get_by_role("link", name="1 year").click()
    page.wait_for_url("**horizon=365")
    expect(page.locator("#lead")).to_contain_text("1 year")
    assert page.locator("h1").count() == 1  # htmx has swapped the inside alone
    page.get_by_text("Show as a table").click()
    shares = page.locator("#curve-table tbody tr").filter(has_text="5 years").locator("td").first.inner_text()
    assert shares == f"{100 * at_five.survival:.1f}"
    assert page.locator("svg.people:visible g.yes").count() == round(100 * prognosis().horizons[0].survival)


def test_no_address_holds_a_patient_and_no_storage_is_used(clinician: Tab) -> None:
    clinician.find("P0042")
    clinician.page.get_by_role("link", name="3 years").click()
    clinician.page.wait_for_url("**horizon=1095")
    assert not [one for one in clinician.addresses if "P0042" in one]
    assert clinician.page.title() == "Prognosis"  # a title stays in the browser's history
    kept = clinician.page.evaluate("[{...localStorage}, {...sessionStorage}]")
    # htmx remembers on which address it stands, while the tab is open; there is a random handle in it.
    assert kept[0] == {}
    assert set(kept[1]) <= {"htmx-current-path-for-history"}
    assert "P0042" not in str(kept)
    cookies = clinician.page.context.cookies()
    assert all(one["httpOnly"] and one["sameSite"] == "Strict" for one in cookies)


def test_until_when_a_patient_is_free_of_the_event_stands_in_no_address(clinician: Tab) -> None:
    clinician.find("P0042")
    page = clinician.page
    page.fill("#since", "417")
    page.get_by_role("button", name="Show from then on").click()
    expect(page.locator("#risk")).to_contain_text("The curve starts 417 days after that start")
    page.get_by_role("link", name="1 year", exact=True).click()
    page.wait_for_url("**horizon=365")
    expect(page.locator("#lead")).to_contain_text("1 year from then on")
    assert page.input_value("#since") == "417"
    assert not [one for one in clinician.addresses if "417" in one]
    page.fill("#since", "")
    page.get_by_role("button", name="Show from then on").click()
    expect(page.locator("#risk")).not_to_contain_text("The curve starts")
    # Where there is nothing to show from then on, the way back is on the page.
    page.fill("#since", "1824.5")
    page.get_by_role("button", name="Show from then on").click()
    page.locator("#refused").get_by_role("button", name="Show from the start").click()
    expect(page.locator("#lead")).to_contain_text("alive")


def test_after_signing_out_the_back_button_shows_no_patient(clinician: Tab) -> None:
    clinician.find("P0042")
    clinician.page.get_by_role("button", name=re.compile("Sign out")).click()
    clinician.page.wait_for_url("**/sign-in")
    clinician.page.go_back()
    clinician.page.wait_for_load_state()
    assert "P0042" not in clinician.page.content()
    assert clinician.page.locator("#lead").count() == 0


def test_a_missing_layer_is_named(clinician: Tab) -> None:
    clinician.find("P0042")
    assert "Nothing of the layer “rna” is known" in clinician.page.inner_text("#warnings")
    assert "missing: average used" in clinician.page.inner_text("#moved tr.missing")


def test_out_of_range_shows_a_reason_and_no_number(clinician: Tab) -> None:
    clinician.find("P0077")
    assert "lies outside what the model learned from (18 to 80.5 years)" in clinician.page.inner_text("#refused")
    assert clinician.page.locator("#lead, svg, #moved").count() == 0


def test_a_handle_of_another_session_opens_nothing(clinician: Tab, browser: Browser) -> None:
    clinician.find("P0042")
    path = clinician.page.url.removeprefix(clinician.address)
    with tab(browser, clinician.address) as other:
        other.sign_in()
        assert other.open(path) == 404
    with tab(browser, clinician.address) as nobody:
        nobody.open(path)
        assert nobody.page.url.endswith("/sign-in")


def test_signing_out_closes_what_was_open(clinician: Tab) -> None:
    clinician.find("P0042")
    path = clinician.page.url.removeprefix(clinician.address)
    clinician.page.get_by_role("button", name=re.compile("Sign out")).click()
    clinician.open(path)
    assert clinician.page.url.endswith("/sign-in")


def test_french_page_with_french_numbers_and_dates(browser: Browser, address: str) -> None:
    with tab(browser, address, locale="fr-FR") as one:
        one.sign_in()
        one.find("P0042")
        text = one.page.inner_text("body")
        assert one.page.get_attribute("html", "lang") == "fr"
        assert "Sur 100 personnes comme ce patient" in text
        assert "+18,3" in text
        assert "21 nov. 2026" in text
        one.page.get_by_role("button", name="English").click()
        assert "Of 100 people like this patient" in one.page.inner_text("#lead")
        assert one.errors == []


def test_everything_works_without_scripts_on_a_phone(browser: Browser, address: str) -> None:
    with tab(browser, address, java_script_enabled=False, viewport={"width": 390, "height": 844}) as one:
        one.sign_in()
        one.find("P0042")
        one.page.get_by_role("link", name="1 year", exact=True).click()
        assert "at 1 year" in one.page.inner_text("#lead")
        one.page.get_by_text("Show as a table").click()
        assert one.page.locator("#curve-table").is_visible()
        one.open(f"/form/{KEY}")
        one.page.fill("#f1", "44")
        one.page.click("main button")
        assert "Typed in; not stored" in one.page.inner_text("main")


def test_paper_shows_the_result_without_buttons(clinician: Tab) -> None:
    clinician.find("P0042")
    clinician.page.emulate_media(media="print")
    assert clinician.page.locator("#lead").is_visible()
    assert clinician.page.get_by_text("Patient P0042").first.is_visible()
    assert clinician.page.locator(".banner").is_visible()
    table = clinician.page.locator("#curve-table")
    assert table.evaluate("one => one.checkVisibility({contentVisibilityAuto: true})")  # opened on paper
    for gone in (".top", ".choice", "#since"):
        assert not clinician.page.locator(gone).first.is_visible(), gone
    assert len(clinician.page.pdf()) > 10_000


def test_keyboard_alone_reaches_the_result(visitor: Tab) -> None:
    visitor.open("/sign-in")
    keys = visitor.page.keyboard
    visitor.page.focus("#account")
    keys.type("dr.weiss")
    keys.press("Tab")
    keys.type("correct horse")
    keys.press("Enter")
    visitor.page.wait_for_selector("#patient")
    for _ in range(20):
        if visitor.page.evaluate("document.activeElement.id") == "patient":
            break
        keys.press("Tab")
    keys.type("P0042")
    keys.press("Enter")
    visitor.page.wait_for_selector("#lead")
    keys.press("Tab")
    assert visitor.page.evaluate("document.activeElement.className") == "skip"
    for _ in range(30):
        if visitor.page.evaluate("document.activeElement.textContent") == "1 year":
            break
        keys.press("Tab")
    assert visitor.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    keys.press("Enter")
    expect(visitor.page.locator("#lead")).to_contain_text("1 year")


def test_typed_values_are_asked_for_again_when_one_is_wrong(browser: Browser, address: str) -> None:
    with tab(browser, address) as one:
        one.sign_in()
        one.open(f"/form/{KEY}")
        one.page.fill("#f1", "old")
        one.page.click("main button")
        assert "is not a number" in one.page.inner_text("[role=alert]")
        assert one.page.input_value("#f1") == "old"


def test_hostile_names_are_inert(browser: Browser) -> None:
    with (
        served(make_app(MadeUpDesk(title_text=HOSTILE), hosts=HOSTS, over_tls=False)) as address,
        tab(browser, address) as one,
    ):
        one.page.on("dialog", lambda dialog: one.errors.append(f"a dialog: {dialog.message}"))
        one.sign_in()
        one.find(HOSTILE)
        assert HOSTILE in one.page.inner_text("main")
        assert one.page.locator("main script, main img").count() == 0
        for path in (f"/form/{KEY}", "/models", "/?x=<script>alert(1)</script>"):
            one.open(path)
            assert one.page.locator("main script, main img").count() == 0, path
        assert one.errors == []


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("language", ["en-GB", "fr-FR"])
def test_no_page_breaks_wcag_22_aa(browser: Browser, failing: str, language: str, width: int) -> None:
    """Every page and every error, on a desk and on a phone; nothing is wider than the phone."""
    with tab(browser, failing, locale=language, viewport={"width": width, "height": 844}) as one:
        found, wide, seen = {}, [], set[int]()

        def look(name: str, status: int = 200) -> None:
            found[name] = one.violations()
            if one.page.evaluate("document.documentElement.scrollWidth") > width:
                wide.append(name)
            assert one.page.get_attribute("html", "lang") == language[:2], name
            assert one.page.locator("h1").count() == 1, name
            assert one.page.locator(".banner").is_visible(), name
            seen.add(status)

        for account in ("stranger", "locked"):
            one.sign_in(account)
            look(f"sign-in of {account}")
        for path in ("/sign-in", "/help"):
            one.open(path)
            look(path)
        one.sign_in()
        for path in ("/", f"/form/{KEY}", "/models", f"/model/{KEY}", f"/model/{OLD}", f"/model/{KEY}/card", "/help"):
            assert one.open(path) == 200, path
            look(path)
        for path, status in (("/nothing", 404), ("/patient/closed", 404), (f"/form/{'e' * 64}", 404)):
            assert one.open(path) == status
            look(path, status)
        for patient, status in (("P0042", 200), ("P0077", 200), ("nobody", 404), *FAILURES.items()):
            with one.page.expect_response(lambda answer: "/patient" in answer.url and answer.status != 303) as answer:
                one.find(patient)
            assert answer.value.status == status, patient
            look(patient, status)
        one.find("P0042")
        one.page.get_by_text("Show as a table" if language == "en-GB" else "Montrer en tableau").click()
        look("table")
        one.page.fill("#since", "300")
        one.page.locator("form[action$=since] button").click()
        look("from a later day on")
        one.open(f"/form/{KEY}")
        one.page.fill("#f1", "old")
        one.page.click("main button")
        look("form with a fault")
        one.page.evaluate("document.querySelector('main [name=csrf]').value = 'x'")
        with one.page.expect_response(lambda answer: "/form" in answer.url) as answer:
            one.page.click("main button")
        assert answer.value.status == 403
        look("forged form", 403)
        assert seen == {200, 403, 404, 429, 500, 503}
        assert not {name: what for name, what in found.items() if what}
        assert wide == []


def test_every_answer_carries_the_strict_headers(clinician: Tab) -> None:
    clinician.find("P0042")
    for path in ("/", clinician.page.url.removeprefix(clinician.address), "/help", "/static/page.css"):
        answer = clinician.page.request.get(clinician.address + path)
        assert answer.headers["content-security-policy"] == CONTENT_POLICY, path
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert ("no-store" in answer.headers["cache-control"]) == (not path.startswith("/static"))
        assert "server" not in answer.headers
