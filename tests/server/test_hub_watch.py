"""A hub's figures: right, computed from its database and folder, and with no identifier among them."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import get_args

import pytest
from prometheus_client.parser import text_string_to_metric_families

from schemas.health import Health
from schemas.processes import ChildState
from server.database import DATABASE
from server.hub_home import HubSettings, hub_init
from server.hub_watch import HubWatch
from server.online import note_online, read_online
from server.records import Checkpoint, Cost, Round, Status
from server.store import Store
from tests.plans import small_plan

HEALTH = Health("hub", "2026-11-20T12:00:00+00:00", ())
UP = (ChildState("superlink", 1, 0, 0, None, True), ChildState("launcher", 2, 0, 1, 0, True))
DOWN = (ChildState("superlink", None, 1, 0, 1, False), UP[1])


@pytest.fixture
def hub(tmp_path: Path) -> HubSettings:
    return hub_init(tmp_path / "hub", public_port=0, internal_port=0)


def figures(hub: HubSettings, states: tuple[ChildState, ...] = UP) -> dict[tuple[str, str], float]:
    text = HubWatch(hub.home, lambda: states).exposition(HEALTH).decode()
    return {
        (sample.name, ",".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def conduct(hub: HubSettings, seconds: list[float]) -> None:
    with Store(hub.home / DATABASE) as store:
        store.create_run("run-of-dupont", small_plan(), ["chu-secret"])
        hold = store.claim("run-of-dupont")
        for number, took in enumerate(seconds):
            done = Round(
                "fit", "gradient", number, datetime.datetime.now(datetime.UTC), took, 5, 7, ("chu-secret",), ()
            )
            store.complete_round(hold, done, [], Checkpoint(number, "fit", number, b"x"), Cost(took, 5, 7))
        store.set_status(hold, "running", "goes on")


def test_rounds_their_seconds_bytes_and_runs_come_from_the_database(hub: HubSettings) -> None:
    conduct(hub, [0.05, 0.2, 4.0, 4000.0])
    found = figures(hub)
    expected = {
        ("archipel_hub_runs", "running"): 1.0,
        ("archipel_hub_runs", "done"): 0.0,
        ("archipel_hub_received_bytes_total", ""): 20.0,
        ("archipel_hub_sent_bytes_total", ""): 28.0,
        ("archipel_hub_rounds_total", ""): 4.0,
        ("archipel_hub_round_seconds_bucket", "0.1"): 1.0,
        ("archipel_hub_round_seconds_bucket", "0.25"): 2.0,
        ("archipel_hub_round_seconds_bucket", "5.0"): 3.0,
        ("archipel_hub_round_seconds_bucket", "1800.0"): 3.0,
        ("archipel_hub_round_seconds_bucket", "+Inf"): 4.0,
        ("archipel_hub_round_seconds_count", ""): 4.0,
        ("archipel_hub_round_seconds_sum", ""): 4004.25,
        ("archipel_figures_left_out", ""): 0.0,
    }
    assert expected.items() <= found.items()


def test_a_fresh_hub_has_figures_and_looking_makes_no_database(hub: HubSettings) -> None:
    found = figures(hub)
    assert found["archipel_hub_rounds_total", ""] == 0.0
    assert found["archipel_hub_sites_enrolled", ""] == 0.0
    assert found["archipel_figures_left_out", ""] == 0.0
    assert not (hub.home / DATABASE).exists()


def test_sites_are_counted_and_a_dead_superlink_has_none(hub: HubSettings) -> None:
    assert read_online(hub.home) == 0
    note_online(hub.home, 3)
    assert figures(hub)["archipel_hub_sites_online", ""] == 3.0
    assert figures(hub, DOWN)["archipel_hub_sites_online", ""] == 0.0


def test_no_identifier_is_in_any_label(hub: HubSettings) -> None:
    conduct(hub, [1.0])
    text = HubWatch(hub.home, lambda: UP).exposition(HEALTH).decode()
    ours = {
        "state": set(get_args(Status)),
        "process": {"superlink", "launcher"},
        "level": {"ok", "warning", "error"},
        "key": {"identity", "models", "authority", "server"},
        "certificate": {"authority", "server"},
    }
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            for name, value in sample.labels.items():
                assert name in ("le", "version") or value in ours[name]
    for word in ("run-of-dupont", "chu-secret", small_plan().study.name, small_plan().hash):
        assert word not in text
