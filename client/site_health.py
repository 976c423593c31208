"""How a running site is: what its supervisor looks at when somebody asks (`schemas.health`).

Looked at is the real thing each time: processes, a file written and flushed, what was appended to the ledger since
the last look (all of it at the first), certificate, settings. That the hub is not heard is a warning: a restart of
the site would not help.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from client.hub_check import trouble
from client.ledger_figures import LedgerFigures
from client.run_notes import last_heard, storage_refusals
from client.settings import SiteSettings, load_settings
from client.site_process import missing_files
from client.state import SitePaths
from privacy.ledger import LedgerBrokenError
from privacy.storage import StorageError
from schemas.errors import ArchipelError, FaultsError
from schemas.health import Finding
from schemas.health_checks import certificate_finding, disk_finding, process_findings
from schemas.processes import ChildState

__all__ = ["SITE_CERTIFICATE", "SiteHealth"]

SITE_CERTIFICATE = Path("keys") / "hub-ca.crt"
_SILENT_S = 60.0
_REFUSED_S = 60.0


class SiteHealth:
    """Looks at one site, again and again."""

    def __init__(
        self, home: Path, states: Callable[[], Sequence[ChildState]], ledger: LedgerFigures | None = None
    ) -> None:
        """Keep where to look.

        Args:
            home: The site's folder.
            states: Of the supervised processes.
            ledger: Follows the site's ledger; whoever else asks what it adds up to shares it.
        """
        self._home = home
        self._states = states
        self._ledger = ledger or LedgerFigures(SitePaths(home).ledger)
        self._since = time.time()

    def look(self) -> list[Finding]:
        """Return every finding of now."""
        home = self._home
        now = datetime.datetime.now(datetime.UTC)
        renew = "ask the hub for a new kit (`archipel hub enrol`), then `archipel site join`"
        settings, of_settings = self._settings()
        return [
            *self._processes(),
            *self._storage(),
            *self._budget(settings),
            certificate_finding("the hub's authority", home / SITE_CERTIFICATE, renew, now),
            *of_settings,
            self._hub(),
        ]

    def _processes(self) -> list[Finding]:
        """An agent that ends because the hub refuses it is the hub's trouble, and stands there."""
        refused = trouble(self._home)
        found = process_findings(self._states())
        return [
            Finding(one.check, "warning", one.text) if refused and one.check == "process agent" and one.level != "ok"
            else one
            for one in found
        ]  # fmt: skip

    def _storage(self) -> list[Finding]:
        try:
            found = self._ledger.read()
        except (LedgerBrokenError, StorageError) as error:
            return [self._disk(0.0), Finding("ledger", "error", str(error))]
        entries = f"{found.entries} entr{'y' if found.entries == 1 else 'ies'}, sound"
        return [self._disk(found.last_left), Finding("ledger", "ok", entries)]

    def _disk(self, last_left: float) -> Finding:
        """Return how the disk is; an answer that it failed counts until another has left, or for a while."""
        state = SitePaths(self._home).state
        found = disk_finding(state if state.is_dir() else self._home)
        refused = storage_refusals(self._home)
        if found.level == "error" or refused.count == 0:
            return found
        when = f"{datetime.datetime.fromtimestamp(refused.last, datetime.UTC):%Y-%m-%d %H:%M:%S} UTC"
        if last_left <= refused.last and 0 <= time.time() - refused.last < _REFUSED_S:
            return Finding("disk", "error", f"an answer was refused at {when}, since the disk did not take it")
        return Finding("disk", found.level, f"{found.text}; the last answer was refused for it at {when}")

    def _budget(self, settings: SiteSettings | None) -> list[Finding]:
        path = SitePaths(self._home).budget
        if settings is None or settings.budget is None or not path.exists():  # and looking must not make it
            return []
        from privacy.budget import Budget

        try:
            Budget(path).close()
        except ArchipelError as error:
            return [Finding("privacy budget", "error", str(error))]
        return [Finding("privacy budget", "ok", "sound")]

    def _settings(self) -> tuple[SiteSettings | None, list[Finding]]:
        try:
            settings = load_settings(self._home)
        except FaultsError as error:
            return None, [Finding("settings", "error", str(fault)) for fault in error.faults]
        return settings, [Finding("keys", "error", str(fault)) for fault in missing_files(self._home)]

    def _hub(self) -> Finding:
        refused = trouble(self._home)
        if refused:
            return Finding("hub", "warning", refused)
        heard = last_heard(self._home)
        silent_s = time.time() - max(heard or 0.0, self._since)
        if silent_s < _SILENT_S and heard is None:
            return Finding("hub", "ok", "not heard yet")
        if silent_s >= _SILENT_S:
            when = (
                "never"
                if heard is None
                else f"{datetime.datetime.fromtimestamp(heard, datetime.UTC):%Y-%m-%d %H:%M} UTC"
            )
            return Finding(
                "hub", "warning", f"not heard for {silent_s:.0f} s (last: {when}): `archipel site status` says why"
            )
        return Finding("hub", "ok", "heard")
