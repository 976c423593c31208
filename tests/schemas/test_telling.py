"""The port for a monitoring system: health and figures, and nothing else."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator

import pytest

from schemas.health import Finding, Health, Report
from schemas.telling import TellingServer


class Told:
    """A server whose findings a test changes."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.server = TellingServer("127.0.0.1", 0, Report("site", lambda: list(self.findings)), self.figures)

    def figures(self, health: Health) -> bytes:
        return f"healthy {int(health.is_healthy)}\n".encode()

    def ask(self, path: str, method: str = "GET") -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=10)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


@pytest.fixture
def told() -> Iterator[Told]:
    made = Told()
    yield made
    made.server.close()


def test_health_is_200_or_503_with_the_findings(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("schemas.health._FRESH_S", 0.0)
    told.findings = [Finding("hub", "warning", "not heard")]
    status, body = told.ask("/health")
    assert (status, json.loads(body)["healthy"]) == (200, True)
    told.findings.append(Finding("disk", "error", "full"))
    status, body = told.ask("/health")
    assert (status, json.loads(body)["findings"][1]["text"]) == (503, "full")
    assert told.ask("/metrics") == (200, b"healthy 0\n")


@pytest.mark.parametrize(
    ("path", "method", "status"), [("/", "GET", 404), ("/metrics", "POST", 501), ("/x/../health", "GET", 404)]
)
def test_nothing_else_is_served(told: Told, path: str, method: str, status: int) -> None:
    assert told.ask(path, method)[0] == status


def test_callers_who_say_nothing_do_not_keep_others_out_for_good(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = [socket.create_connection(("127.0.0.1", told.server.port)) for _ in range(4)]
    try:
        with pytest.raises((http.client.HTTPException, OSError)):
            told.ask("/health")
    finally:
        for connection in silent:
            connection.close()
    for _ in range(100):
        try:
            assert told.ask("/health")[0] == 200
        except (http.client.HTTPException, OSError):
            continue
        return
    pytest.fail("nobody was answered again")
