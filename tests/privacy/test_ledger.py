"""The ledger: what was written is found again, what was changed or cut is noticed, what failed leaves nothing."""

from __future__ import annotations

import dataclasses
import datetime
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from privacy import ledger as ledger_module
from privacy.ledger import (
    GENESIS,
    Event,
    Head,
    Ledger,
    LedgerBrokenError,
    entries,
    head_path,
    rounded_count,
    verify_ledger,
)
from privacy.storage import StorageError

RELEASE = Event(
    "release",
    run="run-1",
    study="small-study",
    plan_hash="a" * 64,
    step="fit",
    part="gradient",
    number=3,
    digest="d" * 64,
    n_bytes=412,
    arrays=(("gradient", (2,)), ("log_likelihood", ())),
    n_patients=40,
    rule="gate 1",
    code_version="0.1.0",
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.jsonl"


def fill(path: Path, n: int) -> Ledger:
    ledger = Ledger(path)
    for number in range(n):
        ledger.append(dataclasses.replace(RELEASE, number=number, digest=f"{number:064x}"))
    return ledger


def test_entries_come_back_as_they_were_written(path: Path) -> None:
    at = datetime.datetime(2026, 11, 20, 12, 0, tzinfo=datetime.UTC)
    written = Ledger(path, now=lambda: at).append(RELEASE)
    (entry,) = entries(path)
    assert entry == written
    assert entry.event == RELEASE
    assert (entry.index, entry.previous, entry.time) == (0, GENESIS, "2026-11-20T12:00:00.000+00:00")


def test_what_a_release_with_noise_paid_stands_in_its_line_and_in_no_other(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path)
    ledger.append(RELEASE)
    ledger.append(dataclasses.replace(RELEASE, dataset="registry", mu_squared=0.1 + 0.2))
    plain, noisy = path.read_bytes().splitlines()
    assert b"dataset" not in plain, "a line of before there was noise must stay what it is"
    assert b'"dataset":"registry"' in noisy
    assert [(e.event.dataset, e.event.mu_squared) for e in entries(path)] == [("", 0.0), ("registry", 0.1 + 0.2)]
    path.write_bytes(path.read_bytes().replace(b'"mu_squared":0.3', b'"mu_squared":0.2'))
    with pytest.raises(LedgerBrokenError, match="line 2"):
        verify_ledger(path)


def test_an_entry_has_no_place_for_a_value() -> None:
    places = {item.name for item in dataclasses.fields(Event)}
    assert places == {
        "kind", "run", "study", "plan_hash", "step", "part", "number", "digest", "n_bytes", "arrays", "n_patients",
        "rule", "who", "code_version", "dataset", "mu_squared",
    }  # fmt: skip


def test_entries_are_chained(path: Path) -> None:
    fill(path, 4)
    found = list(entries(path))
    assert [entry.previous for entry in found] == [GENESIS, *(entry.hash for entry in found[:-1])]
    assert verify_ledger(path).head == Head(4, found[-1].hash)


def test_a_ledger_that_does_not_exist_yet_is_sound(path: Path) -> None:
    assert verify_ledger(path).head == Head()
    assert list(entries(path)) == []


def test_a_ledger_opened_again_goes_on(path: Path) -> None:
    fill(path, 2)
    Ledger(path).append(RELEASE)
    assert [entry.index for entry in entries(path)] == [0, 1, 2]
    assert verify_ledger(path).head.count == 3


def test_only_the_owner_reads_it(path: Path) -> None:
    fill(path, 1)
    assert {file.stat().st_mode & 0o777 for file in (path, head_path(path))} == {0o600}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255))
def test_a_flipped_byte_is_found_wherever_it_is(path: Path, position: float, mask: int) -> None:
    if not path.exists():
        fill(path, 5)
    sound = path.read_bytes()
    damaged = bytearray(sound)
    damaged[int(position * len(sound))] ^= mask
    path.write_bytes(damaged)
    try:
        with pytest.raises(LedgerBrokenError):
            verify_ledger(path)
        with pytest.raises(LedgerBrokenError):
            Ledger(path)
        assert path.read_bytes() == damaged, "evidence stays as it is"
    finally:
        path.write_bytes(sound)


def test_the_first_changed_line_is_named(path: Path) -> None:
    fill(path, 5)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b'"n_patients":40', b'"n_patients":45')
    path.write_bytes(b"".join(lines))
    with pytest.raises(LedgerBrokenError, match="line 3"):
        verify_ledger(path)


def test_a_line_of_the_same_content_in_another_writing_is_found(path: Path) -> None:
    fill(path, 2)
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(json.dumps(json.loads(first)).encode() + b"\n" + second)
    with pytest.raises(LedgerBrokenError, match="line 1"):
        verify_ledger(path)


@pytest.mark.parametrize("n_cut", [1, 2, 5])
def test_cut_off_entries_are_missed(path: Path, n_cut: int) -> None:
    fill(path, 5)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[: 5 - n_cut]))
    with pytest.raises(LedgerBrokenError, match=f"{n_cut} of its last entries are missing"):
        verify_ledger(path)
    with pytest.raises(LedgerBrokenError):
        Ledger(path)


def test_a_removed_ledger_is_missed(path: Path) -> None:
    fill(path, 2)
    path.unlink()
    with pytest.raises(LedgerBrokenError, match="missing"):
        verify_ledger(path)


def test_a_removed_head_is_missed(path: Path) -> None:
    fill(path, 2)
    head_path(path).unlink()
    with pytest.raises(LedgerBrokenError, match="head"):
        Ledger(path)


def test_a_cut_under_a_running_site_stops_it(path: Path) -> None:
    ledger = fill(path, 3)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:1]))
    with pytest.raises(LedgerBrokenError, match="cut off"):
        ledger.append(RELEASE)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255))
def test_a_flipped_byte_of_the_head_is_found(path: Path, position: float, mask: int) -> None:
    if not path.exists():
        fill(path, 5)
    sound = head_path(path).read_bytes()
    damaged = bytearray(sound)
    damaged[int(position * len(sound))] ^= mask
    head_path(path).write_bytes(damaged)
    try:
        with pytest.raises(LedgerBrokenError):
            verify_ledger(path)
    finally:
        head_path(path).write_bytes(sound)


@pytest.mark.parametrize("kept", [1, 40, 200])
def test_only_the_torn_last_line_is_dropped(path: Path, kept: int) -> None:
    fill(path, 3)
    sound = path.read_bytes()
    with path.open("ab") as file:
        file.write(sound.splitlines(keepends=True)[-1][:kept])
    assert verify_ledger(path).torn_bytes == kept
    Ledger(path).append(RELEASE)
    assert path.read_bytes().startswith(sound)
    assert verify_ledger(path) == ledger_module.Verified(verify_ledger(path).head, 0)
    assert verify_ledger(path).head.count == 4


def test_a_crash_between_line_and_head_is_repaired(path: Path) -> None:
    fill(path, 2)
    before = head_path(path).read_bytes()
    fill_one = Ledger(path)
    fill_one.append(RELEASE)
    head_path(path).write_bytes(before)
    assert verify_ledger(path).head.count == 3
    Ledger(path)
    assert json.loads(head_path(path).read_bytes())["count"] == 3


def test_a_head_two_entries_behind_is_no_crash(path: Path) -> None:
    fill(path, 2)
    before = head_path(path).read_bytes()
    Ledger(path).append(RELEASE)
    Ledger(path).append(RELEASE)
    head_path(path).write_bytes(before)
    with pytest.raises(LedgerBrokenError):
        verify_ledger(path)


def test_when_the_head_cannot_be_written_the_entry_counts_and_the_next_one_follows(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = fill(path, 2)
    with monkeypatch.context() as patch:
        patch.setattr(ledger_module, "write_durably", _refuse)
        with pytest.raises(StorageError):
            ledger.append(dataclasses.replace(RELEASE, digest="e" * 64))
    assert ledger.holds_release("e" * 64)
    ledger.append(RELEASE)
    assert verify_ledger(path).head.count == 4


def _refuse(path: Path, content: bytes) -> None:
    raise StorageError("disk full")


def test_a_failed_fsync_leaves_no_entry(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = fill(path, 1)

    def fail(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("privacy.ledger.os.fsync", fail)
        with pytest.raises(StorageError, match=r"ledger\.jsonl cannot be read or written"):
            ledger.append(RELEASE)
    assert verify_ledger(path).head.count == 1
    ledger.append(RELEASE)
    assert verify_ledger(path).head.count == 2


_FULL_DISK = """
import resource, sys
from pathlib import Path
from privacy.ledger import Event, Ledger, verify_ledger
from privacy.storage import StorageError
path = Path(sys.argv[1])
ledger = Ledger(path)
ledger.append(Event("release"))
used = path.stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (used + 100, resource.RLIM_INFINITY))
try:
    ledger.append(Event("release"))
except StorageError as error:
    print("refused", verify_ledger(path).head.count, path.stat().st_size - used)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
ledger.append(Event("release"))
print("goes on", verify_ledger(path).head.count)
"""


def test_a_full_disk_releases_nothing_and_half_a_line_is_taken_back(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FULL_DISK, str(path)], capture_output=True, text=True, check=True, cwd=Path.cwd()
    )
    assert done.stdout.splitlines() == ["refused 1 0", "goes on 2"]


_APPEND_MANY = """
import sys
from pathlib import Path
from privacy.ledger import Event, Ledger
ledger = Ledger(Path(sys.argv[1]))
for number in range(20):
    ledger.append(Event("approval", who=sys.argv[2], number=number))
"""


def test_two_processes_do_not_interleave(path: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", _APPEND_MANY, str(path), who]) for who in ("first", "second")]
    assert [writer.wait() for writer in writers] == [0, 0]
    assert verify_ledger(path).head.count == 40
    for who in ("first", "second"):
        assert [e.event.number for e in entries(path) if e.event.who == who] == list(range(20))


def test_a_ledger_is_sound_to_one_who_looks_while_another_writes(path: Path) -> None:
    fill(path, 1)
    writer = subprocess.Popen([sys.executable, "-c", _APPEND_MANY, str(path), "writer"])
    looks = 0
    while writer.poll() is None:
        assert verify_ledger(path).head.count >= 1
        looks += 1
    assert writer.returncode == 0
    assert looks > 0
    assert verify_ledger(path).head.count == 21


def test_a_ledger_held_by_another_is_not_waited_for_without_end(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("privacy.storage.LOCK_WAIT_S", 0.05)
    ledger = fill(path, 1)
    with path.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(StorageError, match="held by another process"):
            ledger.append(RELEASE)


def test_a_read_only_place_is_named(tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.write_text("not a folder")
    with pytest.raises(StorageError):
        Ledger(place / "ledger.jsonl")


@pytest.mark.parametrize(("n", "kept"), [(0, 0), (1, 0), (9, 0), (10, 15), (12, 15), (13, 15), (121, 120)])
def test_counts_are_kept_rounded_and_small_ones_not_at_all(n: int, kept: int) -> None:
    assert rounded_count(n) == kept


def test_no_partial_file_stays_behind(path: Path) -> None:
    fill(path, 3)
    assert sorted(os.listdir(path.parent)) == ["ledger.head", "ledger.jsonl"]
