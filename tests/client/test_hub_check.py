"""Why a site cannot reach its hub, in a sentence that says what to do."""

from __future__ import annotations

import http.server
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from client.hub_check import check_hub, clock_sentence, split_address
from schemas.headers import TIME_HEADER
from server.hub_home import HubSettings, free_port, hub_init


class Handler(http.server.BaseHTTPRequestHandler):
    behind_s: ClassVar[float] = 0.0
    status: ClassVar[int] = 200

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header(TIME_HEADER, str(time.time() - self.behind_s))
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubSettings]:
    settings = hub_init(tmp_path / "hub", public_port=0, internal_port=0)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", settings.public_port), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(settings.server_certificate, settings.server_key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield settings
    server.shutdown()
    thread.join()
    server.server_close()


def address(settings: HubSettings, host: str = "127.0.0.1") -> str:
    return f"{host}:{settings.public_port}"


def test_a_hub_that_answers_with_the_same_clock_is_well(hub: HubSettings) -> None:
    state = check_hub(address(hub), hub.authority)
    assert state.reachable
    assert state.sentence == ""
    assert abs(state.clock_s) < 1


@pytest.mark.parametrize(
    ("behind_s", "words"), [(4.0, "4 s ahead"), (9.0, "refuses its calls"), (-400.0, "400 s behind")]
)
def test_clocks_that_differ_are_named(
    hub: HubSettings, monkeypatch: pytest.MonkeyPatch, behind_s: float, words: str
) -> None:
    monkeypatch.setattr(Handler, "behind_s", behind_s)
    state = check_hub(address(hub), hub.authority)
    assert state.reachable
    assert words in state.sentence
    assert "NTP" in state.sentence


def test_another_authority_is_named(hub: HubSettings, tmp_path: Path) -> None:
    other = hub_init(tmp_path / "other", public_port=0, internal_port=0)
    state = check_hub(address(hub), other.authority)
    assert (state.reachable, state.lasting) == (False, True)
    assert "keys/hub-ca.crt" in state.sentence


def test_a_certificate_for_another_name_is_named(hub: HubSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    # 127.0.0.2 is this machine too, and not in the certificate.
    server = check_hub(address(hub, "127.0.0.2"), hub.authority)
    assert not server.reachable
    assert "hub_address" in server.sentence


def test_silence_and_strangers_are_told_apart(hub: HubSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = check_hub(f"127.0.0.1:{free_port()}", hub.authority)
    assert (silent.reachable, silent.lasting) == (False, False)
    assert "firewall" in silent.sentence
    monkeypatch.setattr(Handler, "status", 404)
    stranger = check_hub(address(hub), hub.authority)
    assert (stranger.reachable, stranger.lasting) == (False, True)


def test_a_missing_authority_is_named(tmp_path: Path) -> None:
    state = check_hub("127.0.0.1:1", tmp_path / "absent.crt")
    assert state.lasting
    assert "start-up kit" in state.sentence


def test_a_close_clock_needs_no_sentence() -> None:
    assert clock_sentence(1.0) == clock_sentence(-1.0) == ""


def test_addresses_are_split() -> None:
    assert split_address("hub.example:8443") == ("hub.example", 8443)
    assert split_address("[::1]:8443") == ("::1", 8443)
