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
from server.hub_process import verify_hub


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
        ("kind = ", ["is not valid TOML"]),
        (
            'kind = "site"\nversion = 2\nhost = 3\npublic_port = 0\ninternal_port = "8000"\nportt = 1\nlogs = "x"\n',
            [
                "line 1: `kind`: must be 'hub'",
                "line 2: `version`: must be 1",
                "line 3: `host`: must be text",
                "`listen` is missing",
                "line 4: `public_port`: must be at least 1",
                "line 5: `internal_port`: must be a whole number",
                "line 6: `portt` is not a known key",
                "line 7: `logs`: must be 'files' or 'stdout'",
            ],
        ),
        (
            'kind = "hub"\nversion = 1\nhost = "h"\nlisten = "::"\npublic_port = 9\ninternal_port = 9\n'
            "metrics_port = 9\n",
            ["line 6: `internal_port`: is the same as `public_port`", "line 7: `metrics_port`: is the same as"],
        ),
        (
            'kind = "hub"\nversion = 1\nhost = "https://h"\nlisten = "::"\npublic_port = 8\ninternal_port = 9\n',
            ["line 3: `host`: is no host name and no address: write it without https://"],
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


def test_a_free_port_is_one_that_no_outgoing_call_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        drawn = iter([taken.getsockname()[1], 20_777])
        monkeypatch.setattr(hub_home.secrets, "choice", lambda ports: next(drawn))
        assert free_port() == 20_777
    monkeypatch.undo()
    assert all(1024 < free_port() < 32_768 for _ in range(20))  # where Linux begins, unless it is told otherwise


def test_the_environment_wins_and_its_faults_stand_beside_those_of_the_file(tmp_path: Path) -> None:
    hub = hub_init(tmp_path / "hub", public_port=0, internal_port=0)
    found = load_hub_settings(hub.home, {"ARCHIPEL_HUB__PUBLIC_PORT": "9443", "ARCHIPEL_HUB__LOGS": "stdout"})
    assert (found.public_port, found.logs, found.home) == (9443, "stdout", hub.home)
    (hub.home / "hub.toml").write_text('kind = "hub"\nversion = 1\nhost = "h"\nlisten = 4\npublic_port = 8\n')
    wrong = {"ARCHIPEL_HUB__INTERNAL_PORT": "many", "ARCHIPEL_HUB__PORT": "1", "ARCHIPEL_SITE__NAME": "not ours"}
    with pytest.raises(FaultsError) as caught:
        load_hub_settings(hub.home, wrong)
    assert {fault.where for fault in caught.value.faults} == {
        "hub.toml line 4", "variable ARCHIPEL_HUB__INTERNAL_PORT", "variable ARCHIPEL_HUB__PORT",
    }  # fmt: skip


def test_a_taken_port_for_metrics_is_a_fault_at_start(hub: HubSettings) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        settings = load_hub_settings(hub.home, {"ARCHIPEL_HUB__METRICS_PORT": str(port)})
        assert ["metrics_port" in str(fault) for fault in check_hub(settings)] == [True]


def test_the_example_settings_load(tmp_path: Path) -> None:
    example = Path(__file__).parents[2] / "configs" / "hub.example.toml"
    (tmp_path / "hub.toml").write_text(example.read_text("utf-8"), "utf-8")
    settings = load_hub_settings(tmp_path, {})
    assert (settings.host, settings.logs, settings.metrics_port) == ("hub.example.org", "files", 0)


def test_a_start_names_faults_of_settings_and_folder_together(
    hub: HubSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert verify_hub(hub.home) == hub
    hub.server_key.chmod(0o644)
    monkeypatch.setenv("ARCHIPEL_HUB__PUBLIC_PORT", "none")
    with pytest.raises(FaultsError) as caught:
        verify_hub(hub.home)
    assert [fault.where for fault in caught.value.faults] == [
        "variable ARCHIPEL_HUB__PUBLIC_PORT", str(hub.server_key),
    ]  # fmt: skip
    with pytest.raises(FaultsError, match="this folder is no hub's") as caught:
        verify_hub(hub.home / "keys")
    assert len(caught.value.faults) == 1
