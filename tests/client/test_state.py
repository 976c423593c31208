"""What a run freezes: opt-outs, the site's key, and the tables by their content."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from client.settings import SiteSettings
from client.state import SitePaths, TablesDigest, fold_key, freeze_optout, ledger_path, source_digest
from privacy.storage import StorageError


@pytest.fixture
def paths(tmp_path: Path) -> SitePaths:
    return SitePaths(tmp_path)


def test_opt_outs_are_copied_byte_for_byte(paths: SitePaths) -> None:
    (paths.home / "optout.txt").write_bytes("P-1\r\nP-é\n".encode())
    assert freeze_optout(paths, "run-1").read_bytes() == "P-1\r\nP-é\n".encode()
    assert freeze_optout(paths, "run-1").parent.name == "run-1"


def test_no_opt_outs_are_frozen_too(paths: SitePaths) -> None:
    frozen = freeze_optout(paths, "run-1")
    (paths.home / "optout.txt").write_text("P-1\n")
    assert frozen.read_bytes() == b""


def test_opt_outs_that_cannot_be_read_stop_the_run(paths: SitePaths) -> None:
    (paths.home / "optout.txt").mkdir()
    with pytest.raises(StorageError, match=r"optout\.txt"):
        freeze_optout(paths, "run-1")


def test_the_key_is_made_once_and_is_the_owners_alone(paths: SitePaths) -> None:
    key = fold_key(paths)
    assert len(key) == 32
    assert fold_key(paths) == key
    assert paths.fold_key.stat().st_mode & 0o777 == 0o600
    assert os.listdir(paths.fold_key.parent) == ["fold.key"]


def test_two_sites_have_different_keys(tmp_path: Path) -> None:
    assert fold_key(SitePaths(tmp_path / "a")) != fold_key(SitePaths(tmp_path / "b"))


def test_a_damaged_key_is_not_used(paths: SitePaths) -> None:
    paths.fold_key.parent.mkdir()
    paths.fold_key.write_bytes(b"short")
    with pytest.raises(ValueError, match="32 bytes"):
        fold_key(paths)


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    folder = tmp_path / "tables"
    folder.mkdir()
    (folder / "clinical.csv").write_text("patient_id\nP-1\n")
    (folder / "rna.parquet").write_bytes(b"PAR1")
    return folder


def test_the_digest_is_the_content(tables: Path) -> None:
    before = TablesDigest().of(tables)
    (tables / "notes.txt").write_text("not a table")
    assert TablesDigest().of(tables) == before
    (tables / "clinical.csv").write_text("patient_id\nP-2\n")
    assert TablesDigest().of(tables) != before


@pytest.mark.parametrize("change", ["content", "name", "gone", "new"])
def test_a_change_is_seen_by_one_that_has_looked_before(tables: Path, change: str) -> None:
    digests = TablesDigest()
    before = digests.of(tables)
    if change == "content":  # of the same length, in the same instant or later
        (tables / "rna.parquet").write_bytes(b"PAR2")
        os.utime(tables / "rna.parquet", ns=(0, 0))
    elif change == "name":
        (tables / "rna.parquet").rename(tables / "cnv.parquet")
    elif change == "gone":
        (tables / "rna.parquet").unlink()
    else:
        (tables / "cnv.csv").write_text("patient_id\n")
    assert digests.of(tables) != before


def test_an_unchanged_table_is_read_once(tables: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = TablesDigest()
    before = digests.of(tables)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the table was read again")

    monkeypatch.setattr(Path, "open", refuse)
    assert digests.of(tables) == before


def test_tables_that_cannot_be_read_are_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        TablesDigest().of(tmp_path / "nowhere")


@pytest.mark.parametrize("changed", [{"csv": {"decimal": ",", "delimiter": ";"}}, {"floors": {"min_patients": 20}}])
def test_how_tables_are_read_is_part_of_the_source(tables: Path, changed: dict[str, object]) -> None:
    content = {"kind": "site", "version": 1, "name": "A", "hub_address": "hub.example:9092", "tables": tables}
    one = SiteSettings.model_validate(content)
    other = SiteSettings.model_validate({**content, **changed})
    assert source_digest(one, TablesDigest()) != source_digest(other, TablesDigest())
    assert source_digest(one, TablesDigest()) == source_digest(one.model_copy(), TablesDigest())


def test_the_ledger_lies_in_the_state(tmp_path: Path) -> None:
    assert ledger_path(tmp_path) == tmp_path / "state" / "ledger.jsonl"
