"""One browser for all tests of the page, and the page with made-up patients."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from client.page.app import make_app
from tests.page.browser import ChromiumMissingError, Tab, chromium_path, served, started_browser, tab
from tests.page.made_up_desk import MadeUpDesk

HOSTS = frozenset({"127.0.0.1"})


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    try:
        chromium_path()
    except ChromiumMissingError as missing:
        pytest.fail(str(missing), pytrace=False)
    with started_browser() as one:
        yield one


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    with served(make_app(MadeUpDesk(), hosts=HOSTS, over_tls=False)) as one:
        yield one


@pytest.fixture
def visitor(browser: Browser, address: str) -> Iterator[Tab]:
    """A tab of nobody; at the end its console is empty and it has asked this server alone."""
    with tab(browser, address) as one:
        yield one
        assert one.errors == []
        assert one.hosts == {address.removeprefix("http://")}


@pytest.fixture
def clinician(visitor: Tab) -> Tab:
    """A tab of somebody who has signed in."""
    visitor.sign_in()
    return visitor
