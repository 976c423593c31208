"""The commands of a hub's and a site's folders: what they refuse, and what they say where nothing is wrong."""

import io

import pytest

from archipel import site_status
from archipel.homes import enrol_site, init_hub, init_site, join_site, utc_now
from client.hub_check import REASONS, HubState, forget_trouble, note_trouble
from tests.command_line import runner


@pytest.fixture
def run(monkeypatch, capsys):
    return runner(monkeypatch, capsys)


def test_folder_that_is_no_site_is_said_with_both_ways_out(run, tmp_path):
    code, _, err = run("site", "status", "--home", tmp_path / "nowhere")
    assert code == 1
    assert "make one with `archipel site init`, or name the site's folder" in err


@pytest.mark.parametrize("name", ["bad host!", "https://hub.example.org", "hub.example.org:8443", ""])
def test_hub_is_not_made_out_to_what_is_no_name(run, tmp_path, name):
    for words in (("--host", name), ("--name", name)):
        code, _, err = run("hub", "init", "--home", tmp_path / "hub", *words)
        assert code == 1
        assert "is no host name and no address" in err
    assert not (tmp_path / "hub" / "hub.toml").exists()


def test_second_init_says_that_settings_are_kept(run, tmp_path):
    assert "are kept" not in run("hub", "init", "--home", tmp_path / "hub", "--port", 9001)[1]
    code, out, _ = run("hub", "init", "--home", tmp_path / "hub", "--port", 9002, "--name", "hub.example.org")
    assert code == 0
    assert "127.0.0.1:9001" in out
    assert "Its settings were there and are kept" in out
    assert "with --renew alone" in out
    code, out, _ = run("site", "init", "--name", "lille", "--home", tmp_path / "site", "--tables", tmp_path / "no")
    assert code == 0
    assert f"{tmp_path / 'no'}, which is not there yet" in out


def test_site_folder_keeps_its_name(run, tmp_path):
    run("site", "init", "--name", "lille", "--home", tmp_path / "site")
    before = (tmp_path / "site" / "request.json").read_bytes()
    code, _, err = run("site", "init", "--name", "brest", "--home", tmp_path / "site")
    assert code == 1
    assert "says lille, not brest" in err
    assert (tmp_path / "site" / "request.json").read_bytes() == before


def test_kit_goes_into_a_folder_or_a_new_one_and_never_half_way(run, tmp_path):
    hub, out = tmp_path / "hub", tmp_path / "kits"
    run("hub", "init", "--home", hub)
    run("site", "init", "--name", "lille", "--home", tmp_path / "site")
    request = tmp_path / "site" / "request.json"
    (tmp_path / "file").write_text("")
    assert run("hub", "enrol", request, "--home", hub, "--out", tmp_path / "file" / "kit.json")[0] == 1
    assert "none is enrolled" in run("hub", "revoke", "lille", "--home", hub)[2]
    assert run("hub", "enrol", request, "--home", hub, "--out", out / "first.json")[0] == 0
    assert run("hub", "enrol", request, "--home", hub, "--out", out)[0] == 0
    assert sorted(path.name for path in out.iterdir()) == ["first.json", "lille.kit.json"]


def test_site_says_what_its_hub_refuses_it_for_while_it_runs(tmp_path, monkeypatch):
    init_hub(tmp_path / "hub", public_port=0, internal_port=0)
    site = tmp_path / "site"
    request = init_site(site, "lille", tmp_path, utc_now())
    join_site(site, enrol_site(tmp_path / "hub", request.to_json().encode(), utc_now()).to_json().encode(), utc_now())
    monkeypatch.setattr(site_status, "check_hub", lambda *_: HubState(True))
    note_trouble(site, REASONS["not-enrolled"])
    assert site_status.site_status(site).hub == ""
    monkeypatch.setattr(site_status, "running_children", lambda home: {"runner": 1})
    assert "The hub does not know this site's key" in site_status.site_status(site).hub
    forget_trouble(site)
    assert site_status.site_status(site).hub == ""


def test_question_that_nobody_answers_changes_nothing(run, tmp_path, monkeypatch):
    run("hub", "init", "--home", tmp_path / "hub")
    run("site", "init", "--name", "lille", "--home", tmp_path / "site")
    request, kit = tmp_path / "site" / "request.json", tmp_path / "kit.json"
    run("hub", "enrol", request, "--home", tmp_path / "hub", "--out", kit)
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    code, _, err = run("site", "join", kit, "--home", tmp_path / "site", answer=None)
    assert code == 1
    assert "Nobody answered, so nothing was changed" in err
    assert not (tmp_path / "site" / "keys" / "hub.json").exists()


def test_small_words_of_a_site_that_has_done_nothing(run, tmp_path):
    site = tmp_path / "site"
    run("site", "init", "--name", "lille", "--home", site)
    assert "Nothing has left this site" in run("site", "ledger", "show", "--home", site)[1]
    assert "is not paused" in run("site", "resume", "--home", site)[1]
    run("site", "pause", "--home", site)
    assert "1 entry, sound" in run("site", "status", "--home", site)[1]
    assert "The pause is over" in run("site", "resume", "--home", site)[1]
