"""How a home is: told over its socket, by real looks at disk, processes and certificates."""

from __future__ import annotations

import datetime
import errno
import json
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from schemas import health_checks
from schemas.health import Finding, Health, HealthSocket, Report, UnansweredHealthError, ask_health, read_health
from schemas.health_checks import FEW_BYTES, FEWEST_BYTES, certificate_finding, disk_finding, process_findings
from schemas.processes import ChildState

NOW = datetime.datetime(2026, 11, 20, 12, tzinfo=datetime.UTC)
FINDINGS = st.lists(st.builds(Finding, st.text(), st.sampled_from(["ok", "warning", "error"]), st.text()))


# ---------------------------------------------------------------- values and the socket
@given(FINDINGS)
def test_health_reads_as_it_was_written_and_only_an_error_is_unhealthy(findings: list[Finding]) -> None:
    health = Health("site", "2026-11-20T12:00:00+00:00", tuple(findings))
    assert read_health(json.dumps(health.to_dict()).encode()) == health
    assert health.is_healthy == ("error" not in {one.level for one in findings})


@given(st.binary(max_size=60) | st.sampled_from([b"[]", b'{"kind": "health", "version": 2}', b"null"]))
def test_anything_else_on_the_socket_is_said_to_be_no_archipel(content: bytes) -> None:
    with pytest.raises(UnansweredHealthError, match="no Archipel"):
        read_health(content)


def test_a_home_deeper_than_a_socket_path_answers_all_the_same(tmp_path: Path) -> None:
    home = tmp_path / ("deep" * 30) / ("er" * 30)
    looks = []
    report = Report("site", lambda: looks.append(1) or [Finding("disk", "warning", "little")])
    answering = HealthSocket(home, report)
    try:
        assert (home / "run" / "health.sock").stat().st_mode & 0o777 == 0o600
        found = ask_health(home)
        assert (found.role, found.is_healthy, found.findings) == (
            "site",
            True,
            (Finding("disk", "warning", "little"),),
        )
        ask_health(home)
        assert len(looks) == 1, "whoever asks every millisecond gets the same look"
    finally:
        answering.close()
    with pytest.raises(UnansweredHealthError, match="missing"):
        ask_health(home)


def test_a_socket_that_a_killed_supervisor_left_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "run" / "health.sock"))
    with pytest.raises(UnansweredHealthError, match="does not answer"):
        ask_health(tmp_path)
    answering = HealthSocket(tmp_path, Report("hub", list))
    try:
        assert ask_health(tmp_path).is_healthy
    finally:
        answering.close()


def test_a_check_that_hangs_is_no_answer_and_one_that_raises_is_an_error(tmp_path: Path) -> None:
    go_on = threading.Event()

    def hang() -> list[Finding]:
        go_on.wait(60)
        raise ValueError("patient 4711")

    answering = HealthSocket(tmp_path, Report("site", hang))
    try:
        with pytest.raises(UnansweredHealthError, match=r"within 0\.2 s"):
            ask_health(tmp_path, 0.2)
        go_on.set()
        found = ask_health(tmp_path)
        assert not found.is_healthy
        assert found.findings[0].text == "the check itself failed (ValueError)"
    finally:
        answering.close()


# ---------------------------------------------------------------- processes
@pytest.mark.parametrize(
    ("state", "level", "words"),
    [
        (ChildState("agent", 7, 0, 0, None, False), "ok", "process 7"),
        (ChildState("agent", 7, 2, 2, 1, False), "ok", "started again 2 times"),
        (ChildState("agent", 7, 9, 40, -9, True), "ok", "started again 40 times"),
        (ChildState("agent", 7, 3, 3, 1, False), "error", "keeps ending: 3 times in a row"),
        (ChildState("agent", None, 1, 0, -9, False), "error", r"ended (-9)"),
        (ChildState("agent", None, 0, 0, None, False), "error", "not started"),
        (ChildState("agent", None, 0, 0, None, False, "Cannot allocate memory"), "error", "Cannot allocate memory"),
    ],
)
def test_a_process_that_does_not_run_is_an_error(state: ChildState, level: str, words: str) -> None:
    (found,) = process_findings([state])
    assert (found.check, found.level) == ("process agent", level)
    assert words in found.text


# ---------------------------------------------------------------- disk
def full_after(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk takes so many bytes more, as write(2) has it: a part first, then ENOSPC."""
    left = [room]
    real = os.write

    def write(descriptor: int, content: bytes) -> int:
        if not left[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = real(descriptor, bytes(content)[: left[0]])
        left[0] -= taken
        return taken

    monkeypatch.setattr(health_checks.os, "write", write)


@pytest.mark.parametrize("room", [0, 4096])
def test_a_full_disk_is_red_and_green_when_there_is_room_again(
    tmp_path: Path, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as full:
        full_after(room, full)
        found = disk_finding(tmp_path)
        assert found.level == "error"
        assert "No space left on device" in found.text
    assert disk_finding(tmp_path).level != "error"
    assert list(tmp_path.iterdir()) == [], "what was written to try is gone"


def test_a_disk_that_does_not_flush_is_red(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(health_checks.os, "fsync", fail)
    assert disk_finding(tmp_path).level == "error"


@pytest.mark.parametrize(
    ("free", "level"),
    [(FEWEST_BYTES - 4096, "error"), (FEW_BYTES - 4096, "warning"), (FEW_BYTES, "ok")],
)
def test_room_is_looked_at_before_it_is_gone(
    tmp_path: Path, free: int, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.statvfs(tmp_path)
    room = os.statvfs_result((4096, 4096, *real[2:4], free // 4096, *real[5:]))
    monkeypatch.setattr(health_checks.os, "statvfs", lambda path: room)
    assert disk_finding(tmp_path).level == level


def test_a_folder_that_is_gone_is_red(tmp_path: Path) -> None:
    assert disk_finding(tmp_path / "volume").level == "error"


# ---------------------------------------------------------------- certificates
def certificate(days: int) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hub")])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW - datetime.timedelta(days=900))
        .not_valid_after(NOW + datetime.timedelta(days=days, hours=1))
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.PEM)
    )


@pytest.mark.parametrize(
    ("content", "level", "words"),
    [
        (lambda: certificate(400), "ok", "until 2027-12-25"),
        (lambda: certificate(29), "warning", "in 29 days: do this"),
        (lambda: certificate(-2), "error", "expired on 2026-11-18: do this"),
        (lambda: b"no certificate", "error", "do this"),
        (None, "error", "is missing"),
    ],
)
def test_a_certificate_is_named_before_and_after_its_last_day(
    tmp_path: Path, content: Callable[[], bytes] | None, level: str, words: str
) -> None:
    path = tmp_path / "server.crt"
    if content is not None:
        path.write_bytes(content())
    found = certificate_finding("the server", path, "do this", NOW)
    assert (found.check, found.level) == ("certificate of the server", level)
    assert words in found.text
