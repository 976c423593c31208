import os
from pathlib import Path

import pytest

from archipel.folders import FolderError, make_folder, make_parent, verify_folder


def test_a_folder_that_is_not_there_is_only_made_when_asked(tmp_path: Path) -> None:
    verify_folder(tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()
    assert make_folder(tmp_path / "a" / "b").is_dir()
    assert make_parent(tmp_path / "c" / "file.json").parent.is_dir()


@pytest.mark.parametrize("place", ["file", "file/below", "file/below/again"])
def test_a_file_in_the_way_is_named(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("kept")
    for act in (verify_folder, make_folder):
        with pytest.raises(FolderError, match="is a file or lies inside one: name a folder"):
            act(tmp_path / place)
    assert (tmp_path / "file").read_text() == "kept"


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="is a folder: name a file in it"):
        make_parent(tmp_path)


def test_a_place_where_nothing_can_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Asked of the system, since the tests may run as a user who may write everywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(FolderError, match="may not write into"):
        verify_folder(tmp_path / "new")
