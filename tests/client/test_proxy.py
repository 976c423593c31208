"""Every call of a site takes the hospital's proxy, Flower's as ours, and TLS stays with the hub."""

from __future__ import annotations

import http.server
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from flwr.supercore.protobuf.client import ProtobufClient

from client.hub_check import check_hub
from client.proxy import Proxy, ProxyError, proxy_for
from server.hub_home import HubSettings, hub_init
from tests.client.test_hub_check import Handler

NAMES = ("https_proxy", "all_proxy", "http_proxy", "no_proxy")


class Tunnel(http.server.BaseHTTPRequestHandler):
    """A proxy that knows CONNECT alone, and keeps what it was asked."""

    asked: ClassVar[list[tuple[str, str | None]]] = []
    refuses: ClassVar[bool] = False

    def do_CONNECT(self) -> None:
        self.asked.append((self.path, self.headers.get("Proxy-Authorization")))
        if self.refuses:
            self.send_error(403)
            return
        host, _, port = self.path.rpartition(":")
        with socket.create_connection((host, int(port))) as beyond:
            self.send_response(200)
            self.end_headers()
            ends = {self.connection: beyond, beyond: self.connection}
            threads = [threading.Thread(target=_carry, args=pair) for pair in ends.items()]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


def _carry(source: socket.socket, sink: socket.socket) -> None:
    try:
        while content := source.recv(65536):
            sink.sendall(content)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # the other end has closed, as it may


@pytest.fixture(autouse=True)
def nothing_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(Tunnel, "asked", [])
    monkeypatch.setattr(Tunnel, "refuses", False)


@pytest.fixture
def proxy() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Tunnel) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubSettings]:
    settings = hub_init(tmp_path / "hub", public_port=0, internal_port=0)
    with http.server.ThreadingHTTPServer(("127.0.0.1", settings.public_port), Handler) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(settings.server_certificate, settings.server_key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield settings
        server.shutdown()
        thread.join()


def address(hub: HubSettings) -> str:
    return f"127.0.0.1:{hub.public_port}"


def test_without_a_proxy_in_the_environment_the_hub_is_reached_directly() -> None:
    assert proxy_for("hub.example.org") is None


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
def test_the_proxy_of_the_environment_is_taken(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "http://proxy.example.org:3128")
    assert proxy_for("hub.example.org") == Proxy("proxy.example.org", 3128)


def test_a_proxy_for_plain_http_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example.org:3128")
    assert proxy_for("hub.example.org") is None


def test_what_no_proxy_names_is_reached_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example.org:3128")
    monkeypatch.setenv("NO_PROXY", "localhost,.example.org")
    assert proxy_for("hub.example.org") is None
    assert proxy_for("hub.example.com") is not None


def test_name_and_password_go_to_the_proxy_and_not_into_what_people_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://site:p%40ss@proxy.example.org:3128")
    found = proxy_for("hub.example.org")
    assert found is not None
    assert found.authorization == "Basic c2l0ZTpwQHNz"
    assert found.address == "proxy.example.org:3128"


@pytest.mark.parametrize(
    "url", ["https://proxy.example.org:443", "socks5://proxy:1080", "http://:3128", "http://p:x"]
)
def test_an_address_that_is_no_http_proxy_is_a_fault_that_says_so(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", url)
    with pytest.raises(ProxyError, match="HTTPS_PROXY"):
        proxy_for("hub.example.org")


def test_the_look_at_the_hub_goes_through_the_proxy(
    hub: HubSettings, proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://site:word@{proxy}")
    assert check_hub(address(hub), hub.authority).reachable
    assert Tunnel.asked == [(address(hub), "Basic c2l0ZTp3b3Jk")]


def test_a_proxy_that_refuses_is_named_in_the_sentence(
    hub: HubSettings, proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://site:word@{proxy}")
    monkeypatch.setattr(Tunnel, "refuses", True)
    state = check_hub(address(hub), hub.authority)
    assert not state.reachable
    assert proxy in state.sentence
    assert "word" not in state.sentence


def test_behind_a_proxy_another_certificate_is_still_refused(
    hub: HubSettings, proxy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy}")
    other = hub_init(tmp_path / "other", public_port=0, internal_port=0)
    state = check_hub(address(hub), other.authority)
    assert not state.reachable
    assert "not issued by this site's" in state.sentence


def test_flowers_own_connection_takes_the_same_way(
    hub: HubSettings, proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://site:word@{proxy}")
    client = ProtobufClient.from_server_address(address(hub), False, hub.authority.read_bytes(), interceptors=[])
    assert client._client.get(f"https://{address(hub)}/health").status_code == 200
    client.close()
    assert Tunnel.asked == [(address(hub), "Basic c2l0ZTp3b3Jk")]
