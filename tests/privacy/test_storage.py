"""Files are replaced as a whole or not at all, and a lock is waited for, but not for ever."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from privacy import storage
from privacy.storage import StorageError, locked, write_durably


def test_a_file_is_written_for_its_owner_alone_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.json"
    write_durably(path, b"one")
    write_durably(path, b"two")
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(path.parent) == ["file.json"]


@pytest.mark.parametrize("call", ["fsync", "write", "open"])
def test_what_was_there_stays_when_the_disk_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "file.json"
    write_durably(path, b"one")

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(f"privacy.storage.os.{call}", refuse)
        with pytest.raises(StorageError, match=r"file\.json cannot be read or written \(No space left on device\)"):
            write_durably(path, b"two")
    assert path.read_bytes() == b"one"
    assert os.listdir(tmp_path) == ["file.json"]


def test_a_disk_that_takes_a_part_of_a_write_is_given_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    monkeypatch.setattr("privacy.storage.os.write", lambda descriptor, view: write(descriptor, bytes(view[:3])))
    write_durably(tmp_path / "file", b"0123456789")
    assert (tmp_path / "file").read_bytes() == b"0123456789"


def test_a_lock_ends_with_its_block_and_with_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "LOCK_WAIT_S", 0.05)
    path = tmp_path / "file"
    with locked(path, exclusive=True):
        assert not _other_gets_it(path)
    assert _other_gets_it(path)
    with locked(path, exclusive=False), locked(path, exclusive=False):
        assert not _other_gets_it(path)


def _other_gets_it(path: Path) -> bool:
    code = (
        "import sys; from pathlib import Path; from privacy import storage; storage.LOCK_WAIT_S = 0.05\n"
        "with storage.locked(Path(sys.argv[1]), exclusive=True): pass"
    )
    return subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, check=False).returncode == 0


def test_a_shared_lock_makes_no_file(tmp_path: Path) -> None:
    with pytest.raises(StorageError), locked(tmp_path / "absent", exclusive=False):
        pass
    assert os.listdir(tmp_path) == []
