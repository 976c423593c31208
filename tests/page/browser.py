"""Debian's Chromium under Playwright, and the page under uvicorn, for the tests."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, sync_playwright
from playwright.sync_api import Error as PlaywrightError
from starlette.types import ASGIApp

AXE = Path(__file__).parent / "vendor" / "axe.min.js"
WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
_ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run",
]  # fmt: skip
MISSING = (
    "The browser tests need Chromium and found none. On Debian: `apt-get update && apt-get install chromium` as "
    "root; elsewhere name one with ARCHIPEL_CHROMIUM=/path/to/chromium. To run the other tests alone: "
    "make test PYTEST='-m \"not browser\"'"
)


class ChromiumMissingError(Exception):
    """There is no browser to test with."""


def chromium_path() -> str:
    """Return where Chromium is.

    Raises:
        ChromiumMissingError: With what to do, when there is none.
    """
    named = os.environ.get("ARCHIPEL_CHROMIUM")
    found = named or shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None or not Path(found).exists():
        raise ChromiumMissingError(MISSING)
    return found


@contextlib.contextmanager
def started_browser() -> Iterator[Browser]:
    """Run one Chromium."""
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium_path(), args=_ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def served(app: ASGIApp) -> Iterator[str]:
    """Serve an application on a free port of loopback and yield its address."""
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", server_header=False, ws="none")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)


@dataclass
class Tab:
    """One tab in a browser of its own, and everything that it said and asked for.

    Attributes:
        errors: What stood in the console as an error, and every exception of a script.
        hosts: Every host that was asked.
        addresses: Every address that was asked.
    """

    page: Page
    address: str
    errors: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)
    addresses: list[str] = field(default_factory=list)

    def open(self, path: str) -> int:
        """Go somewhere and return the status."""
        response = self.page.goto(self.address + path)
        return 0 if response is None else response.status

    def sign_in(self, account: str = "dr.weiss", password: str = "correct horse") -> None:
        """Sign in as a person does."""
        self.open("/sign-in")
        self.page.fill("#account", account)
        self.page.fill("#password", password)
        self.page.click("main button")

    def find(self, patient: str) -> None:
        """Search for a patient as a person does."""
        self.open("/")
        self.page.fill("#patient", patient)
        self.page.click("main button")

    def picture(self, path: Path) -> bytes:
        """Take a picture of the whole page.

        Chromium without a screen now and then says that it cannot yet ("Unable to capture screenshot"): asked again a
        moment later it does.
        """
        self.page.wait_for_load_state("load")
        deadline = time.monotonic() + 15
        while True:
            try:
                return self.page.screenshot(path=str(path), full_page=True)
            except PlaywrightError as error:
                if "Unable to capture" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.3)

    def violations(self) -> list[tuple[str, str]]:
        """Return what axe-core finds against WCAG 2.2 AA, on the page as it is."""
        # `evaluate` is not subject to the page's content policy, so axe runs under the real one.
        self.page.evaluate(AXE.read_text(encoding="utf-8") + ";0")
        found = self.page.evaluate(f"axe.run(document, {{runOnly: {WCAG!r}}})")
        return [(one["id"], one["nodes"][0]["html"][:160]) for one in found["violations"]]


@contextlib.contextmanager
def tab(browser: Browser, address: str, **settings: object) -> Iterator[Tab]:
    """Open a tab in a fresh profile, in English unless told otherwise."""
    wanted = {"viewport": {"width": 1280, "height": 900}, "locale": "en-GB", **settings}
    context: BrowserContext = browser.new_context(**wanted)  # type: ignore[arg-type]
    page = context.new_page()
    page.set_default_timeout(20_000)
    one = Tab(page, address)

    def heard(message: ConsoleMessage) -> None:
        if message.type == "error":
            one.errors.append(message.text)

    page.on("console", heard)
    page.on("pageerror", lambda error: one.errors.append(str(error)))
    page.on("request", lambda request: one.hosts.add(request.url.split("/")[2]))
    page.on("request", lambda request: one.addresses.append(request.url))
    try:
        yield one
    finally:
        context.close()
