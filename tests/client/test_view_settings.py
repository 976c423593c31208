"""Where the patient page may listen: on this machine, or anywhere with a certificate."""

from __future__ import annotations

import datetime
import socket
import ssl
import threading
from ipaddress import ip_address
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import ValidationError

from client.page import serve
from client.page.serve import PageStartError, serve_page
from client.view_settings import ViewSettings
from tests.page.site_kit import ready_site


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "localhost", "[::1]"])
def test_this_machine_needs_no_certificate(host: str) -> None:
    assert ViewSettings(host=host).host == host


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "10.1.2.3", "page.hospital.example", "127.0.0.1.evil.example"])
def test_any_other_address_is_refused_without_a_certificate(host: str) -> None:
    with pytest.raises(ValidationError, match="reached from other machines"):
        ViewSettings(host=host)
    assert ViewSettings(host=host, tls_certificate=Path("c"), tls_key=Path("k")).host == host


def test_certificate_and_key_belong_together() -> None:
    with pytest.raises(ValidationError, match="belong together"):
        ViewSettings(tls_certificate=Path("page.pem"))


def _certificate(folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "page")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    certificate, private = folder / "page.pem", folder / "page.key"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate, private


def test_with_a_certificate_the_page_answers_by_tls_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, _ = ready_site(tmp_path)
    certificate, key = _certificate(tmp_path)
    settings = home / "site.toml"
    settings.write_text(settings.read_text() + f'tls_certificate = "{certificate}"\ntls_key = "{key}"\n')
    servers, ready = list[serve._Server](), threading.Event()
    address: list[str] = []

    class Kept(serve._Server):
        def run(self, sockets: list[socket.socket] | None = None) -> None:
            servers.append(self)
            super().run(sockets)

    monkeypatch.setattr(serve, "_Server", Kept)

    def told(where: str) -> None:
        address.append(where)
        ready.set()

    thread = threading.Thread(target=serve_page, args=(home,), kwargs={"port": 0, "on_ready": told}, daemon=True)
    thread.start()
    assert ready.wait(30)
    try:
        assert address[0].startswith("https://127.0.0.1:")
        trusted = ssl.create_default_context(cafile=str(certificate))
        with httpx.Client(verify=trusted) as client:
            answer = client.get(address[0] + "sign-in")
            assert answer.status_code == 200
            assert "max-age" in answer.headers["strict-transport-security"]
            assert all("Secure" in one for one in answer.headers.get_list("set-cookie"))
        with pytest.raises(httpx.HTTPError):
            httpx.get(address[0].replace("https://", "http://") + "sign-in")
    finally:
        servers[0].should_exit = True
        thread.join(15)


def test_a_certificate_that_cannot_be_read_starts_nothing(tmp_path: Path) -> None:
    home, _ = ready_site(tmp_path)
    settings = home / "site.toml"
    settings.write_text(settings.read_text() + 'tls_certificate = "none.pem"\ntls_key = "none.key"\n')
    with pytest.raises(PageStartError, match="certificate or the key of the page cannot be read"):
        serve_page(home, port=0, on_ready=lambda _: None)


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    home, _ = ready_site(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(PageStartError, match="choose another port"):
            serve_page(home, port=taken.getsockname()[1], on_ready=lambda _: None)
