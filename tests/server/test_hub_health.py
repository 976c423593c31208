"""A running hub tells how it is: processes, listeners, database, disk, certificates."""

from __future__ import annotations

from pathlib import Path

import pytest

from archipel.health import show_health
from schemas.health import Finding, HealthSocket, Report
from schemas.processes import ChildState
from server import hub_health
from server.database import DATABASE
from server.hub_health import HubHealth
from server.hub_home import HubSettings, hub_init
from server.store import Store

RUNS = ChildState("superlink", 1, 0, 0, None, True)


@pytest.fixture
def hub(tmp_path: Path) -> HubSettings:
    return hub_init(tmp_path / "hub", public_port=0, internal_port=0)


def look(hub: HubSettings) -> dict[str, Finding]:
    return {one.check: one for one in HubHealth(hub.home, lambda: (RUNS,)).look()}


def test_a_hub_whose_listeners_are_silent_is_red(hub: HubSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = look(hub)
    assert {name for name, one in silent.items() if one.level == "error"} == {
        "listener for sites", "listener for own processes",
    }  # fmt: skip
    monkeypatch.setattr(hub_health, "answers", lambda settings, port: True)
    assert {one.level for one in look(hub).values()} == {"ok"}


def test_the_database_is_asked_and_looking_makes_none(hub: HubSettings) -> None:
    path = hub.home / DATABASE
    assert look(hub)["database"].text == "not made yet"
    assert not path.exists()
    Store(path).close()
    assert look(hub)["database"].text == "answers (0 runs)"
    path.write_bytes(b"no database at all, whatever SQLite says of it " * 200)
    found = look(hub)["database"]
    assert found.level == "error"
    assert "hub.db does not answer" in found.text


def test_spoilt_settings_and_sites_are_red(hub: HubSettings) -> None:
    hub.sites_file.write_text("{")
    assert look(hub)["sites.json"].level == "error"
    (hub.home / "hub.toml").write_text("kind = 3\n")
    assert look(hub)["settings"].level == "error"


def test_the_command_ends_with_0_where_the_home_is_healthy_and_with_1_where_it_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert show_health(tmp_path, "hub", as_json=False) == 1
    assert "Start it with `archipel hub up`" in capsys.readouterr().err
    findings = [Finding("disk", "warning", "little room")]
    answering = HealthSocket(tmp_path, Report("hub", lambda: findings))
    try:
        assert show_health(tmp_path, "hub", as_json=False) == 0
        assert capsys.readouterr().out.splitlines() == ["warning  disk: little room", "The hub is healthy."]
        assert show_health(tmp_path, "site", as_json=False) == 1
        assert "is a hub's folder" in capsys.readouterr().err
    finally:
        answering.close()
    findings.append(Finding("process superlink", "error", "ended (1)"))
    answering = HealthSocket(tmp_path, Report("hub", lambda: findings))
    try:
        assert show_health(tmp_path, "hub", as_json=True) == 1
        assert '"healthy": false' in capsys.readouterr().out
    finally:
        answering.close()
