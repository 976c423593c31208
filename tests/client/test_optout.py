from pathlib import Path

import pytest

from client.optout import load_optout
from schemas.errors import FaultsError


def test_absent_list_is_empty(tmp_path: Path) -> None:
    assert load_optout(tmp_path / "optout.txt") == frozenset()


def test_one_identifier_a_line_with_remarks(tmp_path: Path) -> None:
    path = tmp_path / "optout.txt"
    path.write_bytes("\ufeff# withdrawn 2026\r\nP1\r\n\r\n  P2  # by letter\r\nP#3\r\nP1\n".encode())
    assert load_optout(path) == {"P1", "P2", "P#3"}


@pytest.mark.parametrize("line", ['"SECRET1"', "'SECRET1'", "SECRET1;", "SECRET1,", "SECRET1\tSECRET2"])
def test_a_line_that_is_not_one_identifier_stops_the_site_without_showing_it(tmp_path: Path, line: str) -> None:
    path = tmp_path / "optout.txt"
    path.write_text(f"P1\n{line}\n")
    with pytest.raises(FaultsError, match=r"optout\.txt line 2") as caught:
        load_optout(path)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("data", [b"P1\n\xe9\n", "P1\n".encode("utf-16"), b"P1\0\n"])
def test_a_list_that_cannot_be_read_stops_the_site(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "optout.txt"
    path.write_bytes(data)
    with pytest.raises(FaultsError):
        load_optout(path)


def test_a_folder_in_its_place_stops_the_site(tmp_path: Path) -> None:
    (tmp_path / "optout.txt").mkdir()
    with pytest.raises(FaultsError, match="cannot be read"):
        load_optout(tmp_path / "optout.txt")
