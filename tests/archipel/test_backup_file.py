"""A backup's file: what was written comes back, and whatever was changed in it is found before it is used."""

from __future__ import annotations

import datetime
import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from archipel.backup_file import (
    BackupError,
    Manifest,
    Member,
    extract_backup,
    member_of,
    verify_backup,
    write_backup,
)
from archipel.sealing import MAGIC, SealError
from schemas.canonical import sha256_hex

NOW = datetime.datetime(2026, 11, 21, 3, 0, tzinfo=datetime.UTC)
FILES = {
    "site.toml": b'kind = "site"\n',
    "state/ledger.jsonl": b"x" * 700,
    "state/paused": b"",
    f"state/runs/{'r' * 120}/members.json": b"{}" * 600,
}


def made(folder: Path, files: dict[str, bytes], kind: str = "site-backup") -> Path:
    source = folder / "source"
    for name, content in files.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(content)
    members = tuple(member_of(name, source / name) for name in files)
    manifest = Manifest(kind=kind, name="brest", created=NOW, code_version="1", members=members)  # type: ignore[arg-type]
    write_backup(folder / "backup.tar", manifest, source)
    return folder / "backup.tar"


@pytest.fixture(scope="module")
def backup(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("backup"), FILES)


def test_what_was_written_comes_back(backup: Path, tmp_path: Path) -> None:
    assert verify_backup(backup, "site-backup").names == tuple(FILES)
    extract_backup(backup, tmp_path)
    found = {str(p.relative_to(tmp_path)): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert found == FILES
    assert {p.stat().st_mode & 0o777 for p in tmp_path.rglob("*") if p.is_file()} == {0o600}


def test_it_is_readable_by_its_owner_alone_and_by_any_tar(backup: Path) -> None:
    assert backup.stat().st_mode & 0o777 == 0o600
    with tarfile.open(backup, "r:") as tar:
        assert tar.getnames()[1:] == list(FILES)
        assert all(member.isreg() for member in tar)


def test_an_earlier_backup_is_never_replaced_and_nothing_is_left_behind(tmp_path: Path) -> None:
    path = made(tmp_path, FILES)
    before = path.read_bytes()
    with pytest.raises(BackupError, match="is there already"):
        made(tmp_path, {"site.toml": b"other"})
    assert path.read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} == {"source", "backup.tar"}


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_every_flipped_byte_is_found(backup: Path, tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(backup.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    (tmp_path / "b.tar").write_bytes(content)
    with pytest.raises(BackupError):
        verify_backup(tmp_path / "b.tar", "site-backup")


def test_a_flipped_byte_is_named_with_its_file(backup: Path, tmp_path: Path) -> None:
    content = backup.read_bytes()
    (tmp_path / "b.tar").write_bytes(content.replace(b"x" * 700, b"x" * 699 + b"y"))
    with pytest.raises(BackupError, match=r"state/ledger\.jsonl is not what was written"):
        verify_backup(tmp_path / "b.tar", "site-backup")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(keep=st.floats(0, 0.9999))
def test_every_truncation_is_found(backup: Path, tmp_path: Path, keep: float) -> None:
    content = backup.read_bytes()
    (tmp_path / "b.tar").write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(BackupError):
        verify_backup(tmp_path / "b.tar", "site-backup")


def test_what_follows_the_last_member_is_found(backup: Path, tmp_path: Path) -> None:
    for more in (b"\0", bytes(10240), b"x" * 10240):
        (tmp_path / "b.tar").write_bytes(backup.read_bytes() + more)
        with pytest.raises(BackupError, match="holds more"):
            verify_backup(tmp_path / "b.tar", "site-backup")


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(content=st.binary(max_size=3000))
def test_no_other_bytes_are_a_backup(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "b.tar").write_bytes(content)
    with pytest.raises(BackupError):
        verify_backup(tmp_path / "b.tar", "site-backup")


@pytest.mark.parametrize(
    "names",
    [
        ["../site.toml"],
        ["/etc/passwd"],
        ["state/../../x"],
        ["state//x"],
        ["state/"],
        [".hidden"],
        ["state/.partial"],
        ["a\nb"],
        ["a\x00b"],
        ["é"],
        ["x" * 300],
        ["a/b/c/d/e/f/g/h"],
        ["a", "a"],
        ["a", "A"],
        ["a", "a/b"],
        [""],
    ],
)
def test_no_manifest_names_what_lies_elsewhere_or_twice(names: list[str]) -> None:
    with pytest.raises(ValidationError):
        Manifest(
            kind="site-backup", name="x", created=NOW, code_version="1",
            members=tuple(Member(name=name, size=0, sha256="a" * 64) for name in names),
        )  # fmt: skip


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, b"S", b"L", b"x"]
)
def test_a_link_or_anything_that_is_no_file_is_refused(backup: Path, tmp_path: Path, kind: bytes) -> None:
    """The manifest is honest, and the header of its first member says something else about it."""
    content = bytearray(backup.read_bytes())
    with tarfile.open(fileobj=io.BytesIO(bytes(content)), mode="r:") as tar:
        at = tar.getmember("site.toml").offset
    header = tarfile.TarInfo("site.toml")
    header.size, header.mode, header.type, header.linkname = len(FILES["site.toml"]), 0o600, kind, "/etc/passwd"
    content[at : at + 512] = header.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")
    (tmp_path / "b.tar").write_bytes(content)
    with pytest.raises(BackupError, match=r"the header of site\.toml"):
        verify_backup(tmp_path / "b.tar", "site-backup")


def test_a_manifest_of_another_version_or_in_another_spelling_is_refused(tmp_path: Path) -> None:
    for text in (b'{"kind":"site-backup"}', b"[" * 100_000, b"null", b"\xff"):
        header = tarfile.TarInfo(f"manifest.{sha256_hex(text)}.json")
        header.size, header.mode = len(text), 0o600
        body = header.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict") + text + bytes(-len(text) % 512)
        (tmp_path / "b.tar").write_bytes(body + bytes(10240))
        with pytest.raises(BackupError, match="another version"):
            verify_backup(tmp_path / "b.tar", "site-backup")


def test_a_hubs_backup_is_no_sites(tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="the backup of a hub's folder"):
        verify_backup(made(tmp_path, FILES, "hub-backup"), "site-backup")


# ---------------------------------------------------------------- under a passphrase
PHRASE = "correct horse battery"


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sealed")
    big = {**FILES, "models/m/model.safetensors": bytes(range(256)) * 12_000}  # several chunks
    path = made(folder, big)
    members = verify_backup(path, "site-backup")
    write_backup(folder / "sealed.tar", members, folder / "source", PHRASE)
    return folder / "sealed.tar"


def test_what_was_sealed_comes_back_with_its_passphrase_alone(sealed: Path, tmp_path: Path) -> None:
    assert b"site.toml" not in sealed.read_bytes()
    assert verify_backup(sealed, "site-backup", PHRASE).names[:4] == tuple(FILES)
    extract_backup(sealed, tmp_path, PHRASE)
    assert (tmp_path / "models/m/model.safetensors").read_bytes() == bytes(range(256)) * 12_000
    with pytest.raises(BackupError, match="is encrypted"):
        verify_backup(sealed, "site-backup")
    with pytest.raises(SealError, match="The passphrase is another one"):
        verify_backup(sealed, "site-backup", PHRASE + "!")


def test_a_short_passphrase_seals_nothing(backup: Path, tmp_path: Path) -> None:
    manifest = verify_backup(backup, "site-backup")
    with pytest.raises(SealError, match="shorter than 12"):
        write_backup(tmp_path / "s.tar", manifest, backup.parent / "source", "short")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("at", [30, 60, 2_000_000, -1])
def test_a_sealed_file_that_was_changed_is_found(sealed: Path, tmp_path: Path, at: int) -> None:
    content = bytearray(sealed.read_bytes())
    content[at] ^= 1
    (tmp_path / "s.tar").write_bytes(content)
    with pytest.raises(SealError):
        verify_backup(tmp_path / "s.tar", "site-backup", PHRASE)


def test_chunks_cut_off_moved_or_doubled_are_found(sealed: Path, tmp_path: Path) -> None:
    content = sealed.read_bytes()
    head, size = len(MAGIC) + 32, (1 << 20) + 16
    parts = [content[i : i + size] for i in range(head, len(content), size)]
    assert len(parts) >= 3
    for other in (parts[:-1], [parts[1], parts[0], *parts[2:]], [parts[0], *parts], []):
        (tmp_path / "s.tar").write_bytes(content[:head] + b"".join(other))
        with pytest.raises(SealError):
            verify_backup(tmp_path / "s.tar", "site-backup", PHRASE)
