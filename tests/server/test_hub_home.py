"""A hub's folder: private what is secret, every fault named at once, renewed without disturbing the sites."""

from __future__ import annotations

import datetime
import ipaddress
import socket
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from schemas.errors import FaultsError
from server import hub_home
from server.hub_home import HubSettings, check_hub, free_port, hub_init, load_hub_settings


@pytest.fixture
def hub(tmp_path: Path) -> HubSettings:
    return hub_init(tmp_path / "hub", public_port=0, internal_port=0, names=("hub.example", "10.1.2.3"))


def test_a_fresh_hub_has_no_fault_and_closed_secrets(hub: HubSettings) -> None:
    assert check_hub(hub) == []
    assert load_hub_settings(hub.home) == hub
    for path in (hub.server_key, hub.superexec_secret, hub.control_token, hub.home / "keys" / "hub-ca.key"):
        assert path.stat().st_mode & 0o077 == 0
    for folder in ("keys", "run", "logs"):
        assert (hub.home / folder).stat().st_mode & 0o077 == 0
    assert hub.superexec_secret.read_bytes() != hub.control_token.read_bytes()


def test_the_certificate_names_the_hub_and_loopback(hub: HubSettings) -> None:
    certificate = x509.load_pem_x509_certificate(hub.server_certificate.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["hub.example", "localhost"]
    assert set(names.get_values_for_type(x509.IPAddress)) == {
        ipaddress.ip_address(text) for text in ("127.0.0.1", "10.1.2.3", "::1")
    }
    authority = x509.load_pem_x509_certificate(hub.authority.read_bytes())
    certificate.verify_directly_issued_by(authority)


def test_making_it_twice_changes_nothing_and_renewing_keeps_the_authority(hub: HubSettings) -> None:
    def contents() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (hub.home / "keys").iterdir()}

    before = contents()
    hub_init(hub.home, public_port=1, internal_port=2)
    assert contents() == before
    hub_init(hub.home, renew=True)
    changed = {name for name, content in contents().items() if content != before[name]}
    assert changed == {"server.crt", "server.key"}


def test_all_faults_of_the_folder_are_named_at_once(hub: HubSettings) -> None:
    hub.server_key.chmod(0o644)
    hub.control_token.unlink()
    hub.sites_file.write_text('{"not": "a list"}')
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", hub.internal_port))
        taken.listen()
        faults = "\n".join(str(fault) for fault in check_hub(hub))
    assert "server.key: can be read by other users -> chmod 600" in faults
    assert "control.token: is missing" in faults
    assert "sites.json: is not a list of sites" in faults
    assert "internal_port" in faults
    assert len(faults.splitlines()) == 4


def test_an_expired_certificate_is_named_with_its_day(hub: HubSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    key = serialization.load_pem_private_key((hub.home / "keys" / "hub-ca.key").read_bytes(), None)
    old = x509.load_pem_x509_certificate(hub.server_certificate.read_bytes())
    end = datetime.datetime(2024, 5, 6, tzinfo=datetime.UTC)
    expired = (
        x509.CertificateBuilder()
        .subject_name(old.subject)
        .issuer_name(old.issuer)
        .public_key(old.public_key())
        .serial_number(1)
        .not_valid_before(end - datetime.timedelta(days=9))
        .not_valid_after(end)
        .sign(key, hashes.SHA256())  # type: ignore[arg-type]
    )
    hub.server_certificate.write_bytes(expired.public_bytes(serialization.Encoding.PEM))
    faults = [str(fault) for fault in check_hub(hub)]
    assert len(faults) == 1
    assert "expired on 2024-05-06" in faults[0]
    assert "--renew" in faults[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, ["is missing"]),
        ("kind = ", ["is not TOML"]),
        (
            'kind = "site"\nversion = 2\nhost = 3\npublic_port = 0\ninternal_port = "8000"\nportt = 1\n',
            [
                "host: is not text",
                "listen: is missing",
                "internal_port: is not a number",
                "portt",
                "kind",
                "0 is no port",
            ],
        ),
        (
            'kind = "hub"\nversion = 1\nhost = "h"\nlisten = "::"\npublic_port = 9\ninternal_port = 9\n',
            ["are the same"],
        ),
    ],
)
def test_all_faults_of_the_settings_are_named_at_once(tmp_path: Path, text: str | None, expected: list[str]) -> None:
    if text is not None:
        (tmp_path / "hub.toml").write_text(text)
    with pytest.raises(FaultsError) as caught:
        load_hub_settings(tmp_path)
    assert len(caught.value.faults) == len(expected)
    for words in expected:
        assert words in str(caught.value)


def test_a_private_file_replaces_a_public_one(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("old")
    path.chmod(0o644)
    hub_home.write_private(path, b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(("host", "listen"), [("127.0.0.1", "127.0.0.1"), ("hub.example", "0.0.0.0")])
def test_a_loopback_hub_listens_on_loopback_only(tmp_path: Path, host: str, listen: str) -> None:
    assert hub_init(tmp_path / "hub", host, free_port(), free_port()).listen == listen
