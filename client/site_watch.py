"""What a site's supervisor tells of it: health, and figures for Prometheus, both computed when somebody asks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from client.ledger_figures import LedgerFigures
from client.run_notes import last_heard, storage_refusals
from client.settings import load_settings
from client.site_health import SITE_CERTIFICATE, SiteHealth
from client.state import SitePaths
from schemas.codes import Code
from schemas.health import Finding, Health
from schemas.metrics import certificate_ends, common_figures, expose, figure, key_ages
from schemas.processes import ChildState

if TYPE_CHECKING:
    from prometheus_client.core import Metric

__all__ = ["SiteWatch"]


class SiteWatch:
    """Watches one site."""

    def __init__(self, home: Path, states: Callable[[], Sequence[ChildState]]) -> None:
        """Keep where to look.

        Args:
            home: The site's folder.
            states: Of the supervised processes.
        """
        self._home = home
        self._paths = SitePaths(home)
        self._states = states
        self._ledger = LedgerFigures(self._paths.ledger)
        self._health = SiteHealth(home, states, self._ledger)

    def look(self) -> Sequence[Finding]:
        """Return every finding of now."""
        return self._health.look()

    def exposition(self, health: Health) -> bytes:
        """Return the site's figures."""
        return expose(
            [
                lambda: common_figures(health, self._states(), self._home),
                self._of_ledger,
                self._of_storage,
                self._of_hub,
                self._of_keys,
                self._of_budget,
            ]
        )

    def _of_ledger(self) -> list[Metric]:
        found = self._ledger.read()
        rules = {str(code): 0 for code in Code} | dict(found.refusals)
        return [
            figure("archipel_site_ledger_entries_total", "Entries of the ledger", found.entries),
            figure("archipel_site_rounds_total", "Summands that left this site", found.rounds),
            figure("archipel_site_sent_bytes_total", "Bytes of answers that left this site", found.bytes_up),
            figure("archipel_site_refusals_total", "Refused questions, by rule", rules, "rule"),
        ]

    def _of_storage(self) -> list[Metric]:
        found = storage_refusals(self._home)
        return [
            figure("archipel_site_storage_failures_total", "Answers refused for want of a working disk", found.count),
            figure(
                "archipel_site_storage_failure_timestamp_seconds",
                "When the last of them was refused, since 1970; 0: none",
                found.last,
            ),
        ]

    def _of_hub(self) -> list[Metric]:
        heard = last_heard(self._home)
        return [
            figure(
                "archipel_site_hub_heard_timestamp_seconds",
                "When the hub last answered this site, since 1970; 0: never",
                heard or 0.0,
            ),
            figure("archipel_site_paused", "1 while this site releases nothing", float(self._paths.paused.exists())),
        ]

    def _of_keys(self) -> list[Metric]:
        keys = self._home / "keys"
        return [
            key_ages({"node": keys / "node.key", "identity": keys / "identity.key"}),
            certificate_ends({"authority": self._home / SITE_CERTIFICATE}),
        ]

    def _of_budget(self) -> list[Metric]:
        """Return the account that the settings name; its name is the hospital's own word and stays here."""
        from privacy.budget import Budget, Limit, account

        settings = load_settings(self._home).budget
        if settings is None:
            return []
        limit = Limit(settings.epsilon, settings.delta)
        if self._paths.budget.exists():  # and looking must not make it
            budget = Budget(self._paths.budget)
            try:
                left = budget.left(settings.dataset, limit)
            finally:
                budget.close()
        else:
            left = account(0.0, 0, limit)
        return [
            figure("archipel_site_budget_epsilon", "Epsilon that this site allows over all studies", limit.epsilon),
            figure("archipel_site_budget_spent_epsilon", "Epsilon of all releases so far", left.spent_epsilon),
            figure("archipel_site_budget_left_epsilon", "Epsilon of the largest study that fits", left.left_epsilon),
            figure("archipel_site_budget_releases_total", "Releases that the budget paid for", left.releases),
        ]
