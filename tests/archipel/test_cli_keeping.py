"""The commands of backup, restoration and rotation: what they say, ask and refuse."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from archipel.backup_file import verify_backup
from client.restored import load_restored
from client.state import SitePaths
from tests.command_line import Run, runner
from tests.ledger_heads import HeadsHub, append

PHRASE = "correct horse battery"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(monkeypatch, capsys)


@pytest.fixture
def hub(tmp_path: Path) -> HeadsHub:
    return HeadsHub(tmp_path / "hub")


@pytest.fixture
def site(hub: HeadsHub, tmp_path: Path) -> Path:
    home = hub.site(tmp_path / "brest")
    append(home, 2)
    return home


def test_a_backup_goes_into_a_folder_under_a_name_that_tells_whose_and_when(
    run: Run, hub: HeadsHub, site: Path, tmp_path: Path
) -> None:
    (tmp_path / "backups").mkdir()
    code, said, _ = run("site", "backup", tmp_path / "backups", "--home", site)
    assert (code, "2 entries of the ledger" in said) == (0, True)
    code, said, _ = run("hub", "backup", tmp_path / "backups", "--home", hub.home)
    assert (code, "ALL SECRET KEYS OF THE HUB ARE IN IT" in said) == (0, True)
    names = sorted(path.name for path in (tmp_path / "backups").iterdir())
    assert [name.partition("-")[0] for name in names] == ["127.0.0.1", "brest"]
    assert all(name.endswith("Z.backup.tar") for name in names)


def test_a_backup_never_replaces_another_and_needs_a_folder(run: Run, site: Path, tmp_path: Path) -> None:
    (tmp_path / "b.tar").write_text("mine")
    assert "is there already" in run("site", "backup", tmp_path / "b.tar", "--home", site)[2]
    assert "is not there: make it" in run("site", "backup", tmp_path / "no" / "b.tar", "--home", site)[2]
    assert (tmp_path / "b.tar").read_text() == "mine"


def test_a_passphrase_comes_from_a_file_of_its_owner_alone(run: Run, site: Path, tmp_path: Path) -> None:
    phrase = tmp_path / "phrase.txt"
    phrase.write_text(PHRASE + "\nanything else\n")
    phrase.chmod(0o644)
    backup = ("site", "backup", tmp_path / "b.tar", "--home", site, "--passphrase-file", phrase)
    assert "chmod 600" in run(*backup)[2]
    phrase.chmod(0o600)
    assert run(*backup)[0] == 0
    assert verify_backup(tmp_path / "b.tar", "site-backup", PHRASE).name == "brest"
    restore = ("site", "restore", tmp_path / "b.tar", "--home", tmp_path / "new")
    assert "is encrypted" in run(*restore)[2]
    assert not (tmp_path / "new").exists()
    assert run(*restore, "--passphrase-file", phrase)[0] == 0
    assert "cannot be read" in run(*restore, "--passphrase-file", tmp_path / "none.txt")[2]


def test_a_restored_site_is_told_what_it_lost_before_it_joins(
    run: Run, hub: HeadsHub, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("site", "backup", tmp_path / "b.tar", "--home", site)
    new = tmp_path / "new"
    said = run("site", "restore", tmp_path / "b.tar", "--home", new, "--by", "A")[1]
    assert "Bring optout.txt up to date" in said
    assert "4. Put the tables into" in said
    assert "not joined again yet" in run("site", "status", "--home", new)[1]
    kit = tmp_path / "kit.json"
    enrol = ("hub", "enrol", new / "request.json", "--home", hub.home, "--out", kit)
    assert "`--replace`" in run(*enrol)[2]
    assert run(*enrol, "--replace")[0] == 0
    code, said, err = run("site", "join", kit, "--home", new, answer="n")
    assert (code, "Nothing was changed" in err) == (1, True)
    assert "all of the privacy budget counts as spent" in said
    assert "Ask the hub for a kit with a head" in said
    assert load_restored(SitePaths(new)).history == "waiting"  # type: ignore[union-attr]
    assert run("site", "join", kit, "--home", new, "--yes")[0] == 0
    assert "what was lost is not known, so exact sums are refused" in run("site", "status", "--home", new)[1]
    assert "Not accepted" in run("site", "accept-loss", "--home", new, answer="n")[2]
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert "Nobody answered" in run("site", "accept-loss", "--home", new, answer=None)[2]
    assert run("site", "accept-loss", "--home", new, "--by", "Dr. Weiß", answer="y")[0] == 0
    assert "accepted by Dr. Weiß" in run("site", "status", "--home", new)[1]
    assert "nothing to accept" in run("site", "accept-loss", "--home", site, "--yes")[2]


def test_a_rotation_says_who_has_to_do_what(run: Run, hub: HeadsHub, site: Path, tmp_path: Path) -> None:
    code, said, _ = run("site", "rotate", "--home", site, "--by", "A")
    assert (code, "peers forget brest" in said) == (0, True)
    code, said, _ = run("hub", "enrol", site / "request.json", "--home", hub.home, "--out", tmp_path / "kit.json")
    assert (code, "is enrolled" in said) == (0, True)
    assert run("site", "join", tmp_path / "kit.json", "--home", site, "--yes")[0] == 0
    assert "The ledger is sound" in run("site", "ledger", "verify", "--home", site)[1]


def test_a_hub_is_put_back_by_its_command(run: Run, hub: HeadsHub, site: Path, tmp_path: Path) -> None:
    run("hub", "backup", tmp_path / "h.tar", "--home", hub.home)
    code, said, _ = run("hub", "restore", tmp_path / "h.tar", "--home", tmp_path / "new")
    assert (code, "the sites come back by themselves" in said) == (0, True)
    assert "1 enrolled" in run("hub", "status", "--home", tmp_path / "new")[1]
    assert "is not empty" in run("hub", "restore", tmp_path / "h.tar", "--home", tmp_path / "new")[2]
    err = run("site", "restore", tmp_path / "h.tar", "--home", tmp_path / "s")[2]
    assert "is the backup of a hub's folder" in err
