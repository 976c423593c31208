"""The pictures in docs/, taken by the tests so that they show the page as it is.

ARCHIPEL_SCREENSHOTS=docs make test PYTEST="tests/page/test_screenshots.py" writes them; a plain run only takes them.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.page.browser import tab

pytestmark = pytest.mark.browser

PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 900}
PICTURES = {
    "patient-desk.png": ("P0042", "en-GB", DESK),
    "patient-phone.png": ("P0042", "en-GB", PHONE),
    "patient-refused.png": ("P0077", "en-GB", DESK),
    "patient-french.png": ("P0042", "fr-FR", DESK),
}


@pytest.mark.parametrize("name", PICTURES)
def test_the_page_as_it_looks(browser: Browser, address: str, tmp_path: Path, name: str) -> None:
    patient, language, viewport = PICTURES[name]
    folder = Path(os.environ.get("ARCHIPEL_SCREENSHOTS", str(tmp_path)))
    with tab(browser, address, locale=language, viewport=viewport) as one:
        one.sign_in()
        one.find(patient)
        picture = one.picture(folder / name)
    assert picture.startswith(b"\x89PNG")
    assert (folder / name).stat().st_size > 10_000
