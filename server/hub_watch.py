"""What a hub's supervisor tells of it: health, and figures for Prometheus, both computed when somebody asks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import sqlalchemy as sa

from schemas.health import Finding, Health
from schemas.metrics import certificate_ends, common_figures, expose, figure, key_ages
from schemas.processes import ChildState
from server import database as db
from server.hub_health import HubHealth
from server.hub_home import read_sites
from server.hub_settings import load_hub_settings
from server.online import read_online
from server.records import Status

if TYPE_CHECKING:
    from prometheus_client.core import Metric

__all__ = ["HubWatch"]

_BUCKETS_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)


class HubWatch:
    """Watches one hub."""

    def __init__(self, home: Path, states: Callable[[], Sequence[ChildState]]) -> None:
        """Keep where to look.

        Args:
            home: The hub's folder.
            states: Of the supervised processes.
        """
        self._home = home
        self._states = states
        self._health = HubHealth(home, states)

    def look(self) -> Sequence[Finding]:
        """Return every finding of now."""
        return self._health.look()

    def exposition(self, health: Health) -> bytes:
        """Return the hub's figures."""
        return expose(
            [
                lambda: common_figures(health, self._states(), self._home),
                self._of_runs,
                self._of_sites,
                self._of_keys,
            ]
        )

    def _of_runs(self) -> list[Metric]:
        found: dict[str, float] = dict.fromkeys(get_args(Status), 0.0)
        counts: list[float] = [0.0] * (len(_BUCKETS_S) + 2)
        up = down = 0.0
        path = self._home / db.DATABASE
        if path.exists():  # and looking must not make it
            reader, _ = db.open_database(path)
            try:
                with reader.begin() as connection:
                    by_status = sa.select(db.runs.c.status, sa.func.count()).group_by(db.runs.c.status)
                    found |= {str(status): float(count) for status, count in connection.execute(by_status)}
                    sums = sa.select(sa.func.sum(db.runs.c.bytes_up), sa.func.sum(db.runs.c.bytes_down))
                    up, down = (float(value or 0) for value in connection.execute(sums).one())
                    counts = [float(value or 0) for value in connection.execute(_round_seconds()).one()]
            finally:
                reader.dispose()
        return [
            figure("archipel_hub_runs", "Runs, by state", found, "state"),
            figure("archipel_hub_received_bytes_total", "Bytes of answers from sites", up),
            figure("archipel_hub_sent_bytes_total", "Bytes of questions to sites", down),
            figure("archipel_hub_rounds_total", "Complete rounds", counts[-2]),
            _histogram(counts),
        ]

    def _of_sites(self) -> list[Metric]:
        enrolled = read_sites(load_hub_settings(self._home))
        is_up = any(state.name == "superlink" and state.pid is not None for state in self._states())
        online = read_online(self._home) if is_up else 0
        return [
            figure("archipel_hub_sites_enrolled", "Enrolled sites", len(enrolled)),
            figure("archipel_hub_sites_online", "Sites that are connected now", online),
        ]

    def _of_keys(self) -> list[Metric]:
        keys = self._home / "keys"
        return [
            key_ages(
                {
                    "identity": keys / "identity.key",
                    "models": keys / "models.key",
                    "authority": keys / "hub-ca.key",
                    "server": keys / "server.key",
                }
            ),
            certificate_ends({"authority": keys / "hub-ca.crt", "server": keys / "server.crt"}),
        ]


def _round_seconds() -> sa.Select[tuple[float, ...]]:
    """Return the query of how many rounds took at most so long, of how many there are, and of their seconds."""
    seconds = db.rounds.c.seconds
    within = [sa.func.sum(sa.case((seconds <= limit, 1), else_=0)) for limit in _BUCKETS_S]
    return sa.select(*within, sa.func.count(), sa.func.sum(seconds))


def _histogram(counts: Sequence[float]) -> Metric:
    from prometheus_client.core import HistogramMetricFamily

    *within, total, seconds = counts
    buckets = [(str(limit), count) for limit, count in zip(_BUCKETS_S, within, strict=True)]
    family = HistogramMetricFamily(
        "archipel_hub_round_seconds", "Seconds from a round's first question to its sum, all waiting included"
    )
    family.add_metric([], buckets=[*buckets, ("+Inf", total)], sum_value=seconds)
    return family
