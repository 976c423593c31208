"""Figures for Prometheus that hub and site have alike, and their text format.

Everything is computed when somebody asks, from what lies on the disk, so a restart loses nothing. A label names one
of our own words (a process, a rule, a state, a key) and never a patient, a hospital, a study, a run or a dataset.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from schemas.health import Health
from schemas.processes import ChildState

if TYPE_CHECKING:  # imported where figures are asked for, and nowhere else
    from prometheus_client.core import Metric

__all__ = ["certificate_ends", "common_figures", "expose", "figure", "key_ages"]

log = logging.getLogger("archipel.supervisor")


def figure(name: str, help_text: str, value: float | Mapping[str, float], label: str = "") -> Metric:
    """Return one figure; a name that ends in `_total` is a counter.

    Args:
        name: As Prometheus shows it.
        help_text: What it counts, with its unit.
        value: A number, or one for each value of the label.
        label: Name of the label, where there are several.
    """
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
    family: Metric = kind(name, help_text, labels=[label] if label else [])
    for key, number in value.items() if isinstance(value, Mapping) else [("", value)]:
        family.add_metric([key] if label else [], number)  # type: ignore[attr-defined]
    return family


def expose(groups: Iterable[Callable[[], Iterable[Metric]]]) -> bytes:
    """Return figures in Prometheus's text format; a group that cannot be computed now is left out."""
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.registry import Collector

    families: list[Metric] = []
    left_out = 0
    for group in groups:
        try:
            families += list(group())
        except Exception as error:  # the disk is full, the ledger damaged: health says so, the others are told
            left_out += 1
            log.debug("figures left out (%s)", type(error).__name__)
    families.append(
        figure("archipel_figures_left_out", "Groups of figures that could not be computed for this answer", left_out)
    )

    class Once(Collector):
        def collect(self) -> Iterable[Metric]:
            return families

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Once())
    return generate_latest(registry)


def common_figures(health: Health, states: Sequence[ChildState], folder: Path) -> list[Metric]:
    """Return version, health, processes and free room."""
    levels = [finding.level for finding in health.findings]
    room = os.statvfs(folder)
    return [
        figure("archipel_build_info", "1, under the version that runs", {_version(): 1.0}, "version"),
        figure("archipel_healthy", "1 where nothing found is an error, else 0", float(health.is_healthy)),
        figure(
            "archipel_findings",
            "What a look at the home found, by level",
            {level: levels.count(level) for level in ("ok", "warning", "error")},
            "level",
        ),
        figure(
            "archipel_process_running",
            "1 where a supervised process runs, else 0",
            {state.name: float(state.pid is not None) for state in states},
            "process",
        ),
        figure(
            "archipel_process_restarts_total",
            "Starts after the first since the supervisor started",
            {state.name: state.restarts for state in states},
            "process",
        ),
        figure("archipel_free_bytes", "Room that is left where state is kept", room.f_bavail * room.f_frsize),
    ]


def key_ages(keys: Mapping[str, Path]) -> Metric:
    """Return how old each key is that exists, by the time its file was written."""
    now = time.time()
    ages = {name: max(0.0, now - path.stat().st_mtime) for name, path in keys.items() if path.exists()}
    return figure("archipel_key_age_seconds", "Seconds since a key was made", ages, "key")


def certificate_ends(certificates: Mapping[str, Path]) -> Metric:
    """Return the last moment of each certificate that exists."""
    from cryptography import x509

    ends = {
        name: x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc.timestamp()
        for name, path in certificates.items()
        if path.exists()
    }
    return figure(
        "archipel_certificate_expiry_timestamp_seconds", "When a certificate expires, since 1970", ends, "certificate"
    )


def _version() -> str:
    return importlib.metadata.version("archipel")
