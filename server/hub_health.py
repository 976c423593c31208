"""How a running hub is: what its supervisor looks at when somebody asks (`schemas.health`).

Looked at is the real thing each time: processes, both listeners asked over TLS, a query of the database, a file
written and flushed, certificates, settings.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from pathlib import Path

import sqlalchemy as sa

from schemas.errors import ArchipelError, FaultsError
from schemas.health import Finding
from schemas.health_checks import certificate_finding, disk_finding, process_findings
from schemas.processes import ChildState
from server.database import DATABASE, open_database, runs
from server.hub_home import read_sites
from server.hub_process import answers
from server.hub_settings import HubSettings, load_hub_settings

__all__ = ["HubHealth"]


class HubHealth:
    """Looks at one hub, again and again."""

    def __init__(self, home: Path, states: Callable[[], Sequence[ChildState]]) -> None:
        """Keep where to look.

        Args:
            home: The hub's folder.
            states: Of the supervised processes.
        """
        self._home = home
        self._states = states

    def look(self) -> list[Finding]:
        """Return every finding of now."""
        found = [*process_findings(self._states()), disk_finding(self._home), self._database()]
        try:
            settings = load_hub_settings(self._home)
        except FaultsError as error:
            return [*found, *(Finding("settings", "error", str(fault)) for fault in error.faults)]
        now = datetime.datetime.now(datetime.UTC)
        return [
            *found,
            self._listener("sites", settings, settings.public_port),
            self._listener("own processes", settings, settings.internal_port),
            certificate_finding("the server", settings.server_certificate, "`archipel hub init --renew`", now),
            certificate_finding("the authority", settings.authority, "make a new hub; every site joins it anew", now),
            *_sites(settings),
        ]

    def _listener(self, name: str, settings: HubSettings, port: int) -> Finding:
        check = f"listener for {name}"
        if answers(settings, port):
            return Finding(check, "ok", f"answers on port {port}")
        return Finding(check, "error", f"does not answer on port {port}; the log of superlink says why")

    def _database(self) -> Finding:
        path = self._home / DATABASE
        if not path.exists():  # and looking must not make it
            return Finding("database", "ok", "not made yet")
        try:
            reader, _ = open_database(path)
            try:
                with reader.begin() as connection:
                    count = connection.execute(sa.select(sa.func.count()).select_from(runs)).scalar_one()
            finally:
                reader.dispose()
        except ArchipelError as error:
            return Finding("database", "error", str(error))
        except (sa.exc.SQLAlchemyError, OSError) as error:
            cause = getattr(error, "orig", None) or error
            return Finding(
                "database", "error", f"{DATABASE} does not answer ({cause}): check the disk, or restore it"
            )
        return Finding("database", "ok", f"answers ({count} run{'' if count == 1 else 's'})")


def _sites(settings: HubSettings) -> list[Finding]:
    try:
        read_sites(settings)
    except (OSError, ValueError, KeyError, TypeError):
        return [Finding("sites.json", "error", "is not a list of sites: restore it from backup")]
    return []
