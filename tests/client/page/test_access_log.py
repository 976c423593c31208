"""The access log: every view stands in it, nobody changes it unseen, and it names no patient by itself."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from threading import Thread

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.page.access_log import AccessLog, AccessLogBrokenError, read_access_log


def filled(home: Path, n: int = 4) -> Path:
    log = AccessLog(home)
    for i in range(n):
        log.write("view", "mh", patient_id=f"P-{i}", model="a" * 64, shown="prognosis")
    return home / "state" / "access.jsonl"


def test_a_view_is_on_the_disk_with_account_time_and_what(tmp_path: Path) -> None:
    lines = list(read_access_log(filled(tmp_path)))
    assert [line.index for line in lines] == [0, 1, 2, 3]
    assert {(line.view.kind, line.view.account, line.view.shown) for line in lines} == {("view", "mh", "prognosis")}
    assert all(line.time.endswith("+00:00") for line in lines)


def test_the_file_names_no_patient_unless_the_settings_say_so(tmp_path: Path) -> None:
    file = filled(tmp_path)
    assert "P-1" not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [line.index for line in AccessLog(tmp_path).views_of("P-1")] == [1]
    assert AccessLog(tmp_path).views_of("P-9") == ()
    AccessLog(tmp_path, with_ids=True).write("view", "mh", patient_id="P-1")
    assert [line.view.patient_id for line in AccessLog(tmp_path).views_of("P-1")] == ["", "P-1"]


def test_another_site_names_the_same_patient_differently(tmp_path: Path) -> None:
    assert AccessLog(tmp_path / "a").hash_of("P-1") != AccessLog(tmp_path / "b").hash_of("P-1")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(at=st.integers(0, 10_000), to=st.integers(0, 255))
def test_a_changed_byte_is_found(tmp_path_factory: pytest.TempPathFactory, at: int, to: int) -> None:
    file = filled(tmp_path_factory.mktemp("site"), 2)
    content = bytearray(file.read_bytes())
    at %= len(content)
    if content[at] == to:
        to ^= 1
    content[at] = to
    file.write_bytes(bytes(content))
    with pytest.raises(AccessLogBrokenError):
        list(read_access_log(file))


def test_a_missing_line_is_found_wherever_it_stood(tmp_path: Path) -> None:
    file = filled(tmp_path)
    lines = file.read_bytes().splitlines(keepends=True)
    for gone in range(4):
        file.write_bytes(b"".join(line for i, line in enumerate(lines) if i != gone))
        with pytest.raises(AccessLogBrokenError):
            list(read_access_log(file))
        with pytest.raises(AccessLogBrokenError):
            AccessLog(tmp_path).write("view", "mh")
    file.unlink()
    with pytest.raises(AccessLogBrokenError, match="cut off"):
        AccessLog(tmp_path)


def test_a_log_that_is_cut_off_while_the_page_runs_is_written_to_no_more(tmp_path: Path) -> None:
    log = AccessLog(tmp_path)
    log.write("view", "mh")
    (tmp_path / "state" / "access.jsonl").write_bytes(b"")
    with pytest.raises(AccessLogBrokenError):
        log.write("view", "mh")


def test_after_a_power_cut_a_torn_line_goes_and_a_head_that_is_behind_does_no_harm(tmp_path: Path) -> None:
    file = filled(tmp_path)
    head = file.with_suffix(".head")
    lines = [json.loads(line) for line in file.read_bytes().splitlines()]
    head.write_text(json.dumps({"count": 2, "hash": lines[1]["hash"]}))
    with file.open("ab") as end:
        end.write(b'{"torn')
    AccessLog(tmp_path).write("view", "mh")
    assert len(list(read_access_log(file))) == 5
    head.write_text(json.dumps({"count": 2, "hash": "0" * 64}))
    with pytest.raises(AccessLogBrokenError):
        list(read_access_log(file))


def test_several_writers_keep_one_chain(tmp_path: Path) -> None:
    logs = [AccessLog(tmp_path) for _ in range(3)]

    def write(log: AccessLog) -> None:
        for _ in range(10):
            log.write("search", "mh", patient_id="P", shown="not-found")

    threads = [Thread(target=write, args=(log,)) for log in logs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(read_access_log(tmp_path / "state" / "access.jsonl"))) == 30
