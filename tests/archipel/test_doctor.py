"""The doctor names each thing that is wrong with a site, says what to do, and never hangs or shows a cell."""

from __future__ import annotations

import http.server
import json
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from archipel.doctor import diagnose
from archipel.homes import enrol_site, init_hub, init_site, join_site, revoke_site, utc_now
from archipel.local_federation import LocalFederation
from client import doctor, reach
from client.confinement import Support
from client.finding import Finding, looked_at
from client.hub_check import note_trouble
from client.state import SitePaths, ledger_path
from privacy.ledger import Event, Ledger
from schemas import health_checks
from schemas.headers import REASON_HEADER, TIME_HEADER
from server.hub_home import HubSettings, free_port
from tests.command_line import Run, runner

PATIENT = "Jeanne Moreau"


class Hub(http.server.BaseHTTPRequestHandler):
    behind_s: ClassVar[float] = 0.0
    status: ClassVar[int] = 200
    list_status: ClassVar[int] = 200

    def do_GET(self) -> None:
        self._answer(self.status, {TIME_HEADER: str(time.time() - self.behind_s)})

    def do_POST(self) -> None:
        self._answer(self.list_status, {REASON_HEADER: "not-enrolled"} if self.list_status == 401 else {})

    def _answer(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubSettings]:
    settings, _ = init_hub(tmp_path / "hub", public_port=0, internal_port=0)
    # Every address, so that 127.0.0.2 answers too: its name is in no certificate.
    server = http.server.ThreadingHTTPServer(("0.0.0.0", settings.public_port), Hub)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(settings.server_certificate, settings.server_key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield settings
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def site(tmp_path: Path, hub: HubSettings) -> Path:
    """A site that has joined and has a table."""
    home = tmp_path / "site"
    request = init_site(home, "lille", Path("tables"), utc_now())
    join_site(home, enrol_site(hub.home, request.to_json().encode(), utc_now()).to_json().encode(), utc_now())
    (home / "tables").mkdir()
    (home / "tables" / "clinical.csv").write_text(f"patient_id,age_years\n{PATIENT},39.5\nP2,40\n")
    return home


def lines(home: Path) -> dict[str, Finding]:
    return {finding.check: finding for finding in diagnose(home)}


def states(found: dict[str, Finding], *names: str) -> list[str]:
    return [found[name].state for name in names]


def test_a_site_in_order_has_no_problem(site: Path) -> None:
    found = lines(site)
    assert {name: one for name, one in found.items() if one.state != "ok"}.keys() == {"processes"}
    assert "archipel site up" in found["processes"].remedy
    assert "tried" in found["confinement"].found
    assert "valid until" in found["tls"].found
    assert "s ahead of the hub's" in found["clock"].found or "s behind the hub's" in found["clock"].found


def test_a_folder_that_is_no_site_is_one_problem_and_the_rest_is_looked_at(tmp_path: Path) -> None:
    found = lines(tmp_path / "nowhere")
    assert states(found, "settings", "folder", "keys", "kit") == ["problem"] * 4
    assert states(found, "tables", "clinical table", *reach.STATIONS) == ["not checked"] * (2 + len(reach.STATIONS))
    assert states(found, "versions", "Flower", "confinement") == ["ok"] * 3


def test_a_site_that_has_not_joined_is_told_how(tmp_path: Path) -> None:
    init_site(tmp_path / "site", "lille", Path("tables"), utc_now())
    found = lines(tmp_path / "site")
    assert "site join" in found["kit"].remedy
    assert states(found, *reach.STATIONS) == ["not checked"] * len(reach.STATIONS)


# ---------------------------------------------------------------- the way to the hub
def address(home: Path, where: str) -> None:
    path = home / "site.toml"
    text = [
        f'hub_address = "{where}"' if line.startswith("hub_address") else line
        for line in path.read_text().split("\n")
    ]
    path.write_text("\n".join(text))


def blocked_at(found: dict[str, Finding], station: str) -> Finding:
    """The finding of the station that fails; all before are well, all after say that they wait for it."""
    at = reach.STATIONS.index(station)
    assert states(found, *reach.STATIONS[:at]) == ["ok"] * at
    assert states(found, *reach.STATIONS[at + 1 :]) == ["not checked"] * (len(reach.STATIONS) - at - 1)
    assert all(f"`{station}`" in found[name].found for name in reach.STATIONS[at + 1 :])
    assert found[station].state == "problem"
    return found[station]


def test_a_name_that_no_server_knows(site: Path) -> None:
    address(site, "no-such-hub.invalid:443")
    assert "/etc/resolv.conf" in blocked_at(lines(site), "name").remedy


def test_a_port_on_which_nothing_listens(site: Path) -> None:
    address(site, f"127.0.0.1:{free_port()}")
    assert "firewall" in blocked_at(lines(site), "port").remedy


def test_a_port_that_speaks_no_tls(site: Path) -> None:
    plain = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=plain.serve_forever)
    thread.start()
    address(site, f"127.0.0.1:{plain.server_address[1]}")
    try:
        assert "does not speak TLS" in blocked_at(lines(site), "tls").found
    finally:
        plain.shutdown()
        thread.join()
        plain.server_close()


def test_a_port_that_accepts_and_says_nothing_ends_in_time(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "LIMIT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address(site, f"127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        assert blocked_at({one.check: one for one in reach.reach_findings(site, address_of(site))}, "tls")
        assert time.monotonic() - began < 5


def address_of(home: Path) -> str:
    settings, _ = doctor.settings_finding(home)
    assert settings is not None
    return settings.hub_address


def test_a_hub_of_another_authority(site: Path, tmp_path: Path) -> None:
    other, _ = init_hub(tmp_path / "other", public_port=0, internal_port=0)
    (site / "keys" / "hub-ca.crt").write_bytes(other.authority.read_bytes())
    assert "keys/hub-ca.crt" in blocked_at(lines(site), "tls").found


def test_a_certificate_for_another_name(site: Path, hub: HubSettings) -> None:
    address(site, f"127.0.0.2:{hub.public_port}")  # this machine too, and not in the certificate
    assert "another name" in blocked_at(lines(site), "tls").found


def test_a_missing_authority(site: Path) -> None:
    (site / "keys" / "hub-ca.crt").unlink()
    assert "site join" in blocked_at(lines(site), "tls").remedy


def test_a_certificate_that_soon_expires(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "_WARN_DAYS", 100_000)
    found = lines(site)["tls"]
    assert found.state == "warning"
    assert "--renew" in found.remedy


def test_what_answers_is_no_hub(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hub, "status", 404)
    assert "no Archipel hub" in blocked_at(lines(site), "hub").found


@pytest.mark.parametrize(
    ("behind_s", "state", "words"),
    [(3.0, "warning", "3 s ahead"), (9.0, "problem", "refuses its calls"), (-400.0, "problem", "400 s behind")],
)
def test_a_clock_that_is_off(
    site: Path, monkeypatch: pytest.MonkeyPatch, behind_s: float, state: str, words: str
) -> None:
    monkeypatch.setattr(Hub, "behind_s", behind_s)
    found = lines(site)
    assert (found["clock"].state, found["enrolment"].state) == (state, "ok")
    assert words in found["clock"].found
    assert "NTP" in found["clock"].found


def test_a_site_that_the_hub_does_not_know(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hub, "list_status", 401)
    found = lines(site)["enrolment"]
    assert found.state == "problem"
    assert "revoked" in found.found


def test_a_proxy_is_named_and_one_that_refuses_is_a_problem(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusing = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)  # knows no CONNECT
    thread = threading.Thread(target=refusing.serve_forever)
    thread.start()
    monkeypatch.setenv("HTTPS_PROXY", f"http://name:secret@127.0.0.1:{refusing.server_address[1]}")
    address(site, "hub.example.org:443")
    try:
        found = lines(site)
    finally:
        refusing.shutdown()
        thread.join()
        refusing.server_close()
    assert "CONNECT" in blocked_at(found, "tls").remedy
    assert f"127.0.0.1:{refusing.server_address[1]}" in found["proxy"].found
    assert "secret" not in str(found)


def test_a_proxy_that_cannot_be_one(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "socks5://127.0.0.1:1")
    address(site, "hub.example.org:443")
    assert "HTTPS_PROXY" in blocked_at(lines(site), "proxy").found


# ---------------------------------------------------------------- this machine
def broken(home: Path, *, how: str) -> None:
    """Do one thing wrong."""
    table, keys = home / "tables" / "clinical.csv", home / "keys"
    acts: dict[str, Callable[[], object]] = {
        "key open": lambda: (keys / "identity.key").chmod(0o644),
        "keys folder open": lambda: keys.chmod(0o755),
        "no node key": lambda: (keys / "node.key").unlink(),
        "old keys": lambda: os.utime(keys / "identity.key", (0, 0)),
        "home writable": lambda: home.chmod(0o777),
        "home listed": lambda: home.chmod(0o755),
        "no tables": lambda: (home / "tables").rename(home / "elsewhere"),
        "no clinical table": lambda: table.rename(home / "tables" / "labs.csv"),
        "table is a loop": lambda: (table.unlink(), table.symlink_to(table)),
        "two clinical tables": lambda: (home / "tables" / "clinical.parquet").write_bytes(b""),
        "semicolons": lambda: table.write_text(f"patient_id;age_years\n{PATIENT};39.5\n"),
        "not text": lambda: table.write_bytes(f"patient_id,name\n1,{PATIENT}\xe9\n".encode("latin-1")),
        "no identifier": lambda: table.write_text(f"name,age_years\n{PATIENT},39.5\n"),
        "opt-outs quoted": lambda: (home / "optout.txt").write_text(f'"{PATIENT}"\n'),
        "ledger changed": lambda: damage(ledger_path(home)),
        "wrong settings": lambda: (home / "site.toml").write_text('kind = "site"\nversion = 1\nname = 3\n'),
        "kit damaged": lambda: (keys / "hub.json").write_text("{"),
        "paused": lambda: (SitePaths(home).state.mkdir(parents=True), SitePaths(home).paused.touch()),
    }
    acts[how]()


def damage(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(path, utc_now)
    ledger.append(Event("pause", who="Dr. A"))
    ledger.append(Event("resume", who="Dr. A"))
    path.write_bytes(path.read_bytes().replace(b"Dr. A", b"Dr. B", 1))


@pytest.mark.parametrize(
    ("how", "check", "state", "words"),
    [
        ("key open", "keys", "problem", "chmod"),
        ("keys folder open", "keys", "problem", "chmod"),
        ("no node key", "keys", "problem", "site init"),
        ("old keys", "keys", "warning", "site rotate"),
        ("home writable", "folder", "problem", "chmod 700"),
        ("home listed", "folder", "warning", "chmod 700"),
        ("no tables", "tables", "problem", "site.toml"),
        ("no clinical table", "tables", "problem", "holds no clinical.csv"),
        ("table is a loop", "tables", "problem", "cannot be read"),
        ("two clinical tables", "clinical table", "problem", "keep one"),
        ("semicolons", "clinical table", "problem", "delimiter"),
        ("not text", "clinical table", "problem", "clinical.csv row 2"),
        ("no identifier", "clinical table", "problem", "clinical.csv row 1"),
        ("opt-outs quoted", "opt-outs", "problem", "line 1"),
        ("ledger changed", "ledger", "problem", "ledger"),
        ("wrong settings", "settings", "problem", "name"),
        ("kit damaged", "kit", "problem", "site join"),
        ("paused", "plans", "warning", "site resume"),
    ],
)
def test_each_fault_has_its_line_and_a_remedy(site: Path, how: str, check: str, state: str, words: str) -> None:
    broken(site, how=how)
    found = lines(site)
    assert found[check].state == state, found[check]
    assert words in f"{found[check].found} {found[check].remedy}", found[check]
    wrong = {name for name, one in found.items() if one.state == "problem"} - {check}
    assert wrong <= ({"enrolment"} if how == "no node key" else set()), "one fault is one problem"
    assert PATIENT not in str(found)
    assert "Moreau" not in str(found)


def test_a_full_disk(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(health_checks, "_write", full)
    found = lines(site)["disk"]
    assert (found.state, "No space left" in found.found) == ("problem", True)


def test_a_kernel_without_protection_is_a_warning(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "supported", lambda: Support(0, seccomp=False))
    found = lines(site)["confinement"]
    assert found.state == "warning"
    assert "could read this site's keys" in found.found


def test_a_confinement_that_does_not_confine_is_a_problem(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.confinement_trial.confine_step", lambda home, reads, pipe: None)
    found = lines(site)["confinement"]
    assert found.state == "problem"
    assert "read a key and make a connection" in found.found


def test_another_flower_than_the_pinned_one(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = doctor.metadata.version
    monkeypatch.setattr(doctor.metadata, "version", lambda name: "9.9" if name == "flwr" else known(name))
    assert "install flwr==" in lines(site)["Flower"].remedy


def test_a_check_that_hangs_or_fails_is_a_problem_of_its_own() -> None:
    def fails() -> list[Finding]:
        raise ValueError(PATIENT)

    (hung,) = looked_at("share", lambda: time.sleep(5) or [], limit_s=0.05)
    (failed,) = looked_at("share", fails)
    assert (hung.check, hung.state, failed.state) == ("share", "problem", "problem")
    assert "0.05 s" in hung.found
    assert PATIENT not in str(failed)


# ---------------------------------------------------------------- the command
@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(monkeypatch, capsys)


def test_exit_codes_and_json_are_for_monitoring(run: Run, site: Path) -> None:
    code, out, _ = run("site", "doctor", "--home", site)
    assert code == 0
    assert "0 problems, 1 warning" in out
    (site / "keys" / "node.key").chmod(0o644)
    code, out, _ = run("site", "doctor", "--home", site)
    assert code == 1
    assert "PROBLEM      keys:" in out
    code, out, _ = run("site", "doctor", "--home", site, "--json")
    record = json.loads(out)
    assert (code, record["kind"], record["version"], record["healthy"]) == (1, "doctor", 1, False)
    assert [one["check"] for one in record["findings"] if one["state"] == "problem"] == ["keys"]
    assert run("site", "doctor", "--what")[0] == 2


@pytest.mark.processes
def test_a_running_site_and_one_that_was_revoked(tmp_path: Path, run: Run) -> None:
    tables = tmp_path / "tables"
    tables.mkdir()
    (tables / "clinical.csv").write_text("patient_id,age_years\nP1,40\n")
    federation = LocalFederation(tmp_path / "federation", {"lille": tables})
    with federation:
        federation.wait_until_up()
        home = federation.site("lille")
        found = lines(home)
        assert {name for name, one in found.items() if one.state != "ok"} <= {"processes"}
        revoke_site(federation.hub, "lille")
        deadline = time.monotonic() + 10
        while (found := lines(home))["enrolment"].state == "ok":
            assert time.monotonic() < deadline
        assert "revoked" in found["enrolment"].found


def test_what_the_hub_refused_the_agent_for_is_shown(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("archipel.doctor.running_children", lambda home: {"agent": 1})
    note_trouble(site, "The hub still sees another process with this site's key.")
    assert "another process" in lines(site)["processes"].found
