"""The folders of hub and site: enrolment over files, with what must be refused."""

import datetime
import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from archipel.enrol import EnrolmentError
from archipel.homes import enrol_site, init_hub, init_site, join_site, list_sites, revoke_site, utc_now
from client.settings import load_settings
from client.site_process import missing_files
from privacy import storage
from privacy.storage import StorageError
from schemas.errors import FaultsError
from server.hub_home import load_hub_settings, read_sites

NOW = datetime.datetime(2026, 11, 20, 9, 0, tzinfo=datetime.UTC)
LATER = NOW + datetime.timedelta(hours=1)


@pytest.fixture
def hub(tmp_path):
    init_hub(tmp_path / "hub", host="hub.example.org")
    return tmp_path / "hub"


@pytest.fixture
def site(tmp_path):
    init_site(tmp_path / "lille", "chu-lille", tmp_path / "tables", NOW, title="CHU de Lille – été")
    return tmp_path / "lille"


def _request(site):
    return (site / "request.json").read_bytes()


def test_site_that_joined_has_all_it_needs(hub, site):
    kit = enrol_site(hub, _request(site), NOW)
    join_site(site, kit.to_json().encode(), NOW)
    settings = load_settings(site)
    assert settings.hub_address == "hub.example.org:8443"
    assert settings.title == "CHU de Lille – été"
    assert missing_files(site) == []
    assert (site / "keys" / "hub-ca.crt").read_text() == (hub / "keys" / "hub-ca.crt").read_text()
    assert read_sites(load_hub_settings(hub)) == {"chu-lille": (site / "keys" / "node.pub").read_text()}


def test_secret_keys_are_closed_to_others_and_stay_at_home(hub, site):
    kit = enrol_site(hub, _request(site), NOW)
    for home in (hub, site):
        secret = home / "keys" / "identity.key"
        assert secret.stat().st_mode & 0o077 == 0
        body = b"".join(secret.read_bytes().splitlines()[1:-1])
        assert body not in _request(site) + kit.to_json().encode()


def test_disk_that_fills_up_at_any_file_leaves_no_half_key_and_no_half_settings(hub, site, tmp_path, monkeypatch):
    kit = enrol_site(hub, _request(site), NOW).to_json().encode()
    fresh = tmp_path / "fresh"

    def all_over_again():
        init_site(fresh, "fresh", tmp_path / "tables", NOW)
        enrol_site(hub, _request(fresh), NOW)
        join_site(site, kit, NOW)
        init_hub(tmp_path / "other-hub")

    write, n_failed = storage.write_all, 0
    while True:
        left = n_failed

        def fill_up(descriptor, content):
            nonlocal left
            left -= 1
            write(descriptor, content if left >= 0 else content[: len(content) // 2])
            if left < 0:
                raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(storage, "write_all", fill_up)
        try:
            all_over_again()
            break
        except StorageError:
            n_failed += 1
        monkeypatch.setattr(storage, "write_all", write)
        assert load_settings(site).name == "chu-lille"
        assert [found.name for found in list_sites(hub)][:1] == ["chu-lille"]
        all_over_again()
        for home in (fresh, tmp_path / "other-hub"):
            shutil.rmtree(home)
        revoke_site(hub, "fresh")
    # node.key and identity.key of the site, its entry at the hub, its settings and kit, the other hub's seven secrets
    assert n_failed == 12


def test_open_identity_is_refused(hub, site):
    os.chmod(hub / "keys" / "identity.key", 0o644)
    with pytest.raises(FaultsError, match="can be read by other users"):
        enrol_site(hub, _request(site), NOW)


def test_join_keeps_comments_and_other_settings(hub, site):
    before = (site / "site.toml").read_text()
    join_site(site, enrol_site(hub, _request(site), NOW).to_json().encode(), NOW)
    after = (site / "site.toml").read_text()
    changed = [(a, b) for a, b in zip(before.splitlines(), after.splitlines(), strict=True) if a != b]
    assert changed == [('hub_address = "hub.invalid:1"', 'hub_address = "hub.example.org:8443"')]


@pytest.mark.parametrize("name", ["chu-lille", "CHU-Lille"])
def test_taken_name_is_refused(hub, site, tmp_path, name):
    enrol_site(hub, _request(site), NOW)
    init_site(tmp_path / "other", name, tmp_path, NOW)
    with pytest.raises(EnrolmentError, match="is taken by another site"):
        enrol_site(hub, _request(tmp_path / "other"), NOW)
    assert [entry.name for entry in list_sites(hub)] == ["chu-lille"]


def test_keys_of_another_site_are_refused(hub, site):
    enrol_site(hub, _request(site), NOW)
    settings = site / "site.toml"
    settings.write_text(settings.read_text().replace('"chu-lille"', '"clone"'))
    init_site(site, "clone", site, LATER)
    with pytest.raises(EnrolmentError, match="are those of the site chu-lille"):
        enrol_site(hub, _request(site), LATER)


def test_site_may_change_its_connection_key_and_an_old_request_does_not_undo_it(hub, site, tmp_path):
    old = _request(site)
    enrol_site(hub, old, NOW)
    (site / "keys" / "node.key").unlink()
    init_site(site, "chu-lille", tmp_path, LATER)
    enrol_site(hub, _request(site), LATER)
    assert read_sites(load_hub_settings(hub))["chu-lille"] == (site / "keys" / "node.pub").read_text()
    with pytest.raises(EnrolmentError, match="newer request"):
        enrol_site(hub, old, LATER)


def test_revoked_site_is_gone_and_its_name_free(hub, site, tmp_path):
    enrol_site(hub, _request(site), NOW)
    revoke_site(hub, "chu-lille")
    assert list_sites(hub) == ()
    init_site(tmp_path / "other", "chu-lille", tmp_path, NOW)
    enrol_site(hub, _request(tmp_path / "other"), NOW)
    with pytest.raises(EnrolmentError, match=r"No site called nobody .* chu-lille"):
        revoke_site(hub, "nobody")


def test_kit_of_another_hub_changes_nothing(hub, site, tmp_path):
    join_site(site, enrol_site(hub, _request(site), NOW).to_json().encode(), NOW)
    before = {path: path.read_bytes() for path in site.rglob("*") if path.is_file()}
    init_hub(tmp_path / "evil", host="evil.example.org")
    kit = enrol_site(tmp_path / "evil", _request(site), NOW)
    with pytest.raises(EnrolmentError, match="another hub"):
        join_site(site, kit.to_json().encode(), NOW)
    assert before == {path: path.read_bytes() for path in site.rglob("*") if path.is_file()}


def test_expired_kit_is_refused(hub, site):
    kit = enrol_site(hub, _request(site), NOW)
    with pytest.raises(EnrolmentError, match="expired"):
        join_site(site, kit.to_json().encode(), NOW + datetime.timedelta(days=31))


def test_renamed_site_cannot_use_its_old_kit(hub, site):
    kit = enrol_site(hub, _request(site), NOW)
    settings = site / "site.toml"
    settings.write_text(settings.read_text().replace('"chu-lille"', '"chu-paris"'))
    with pytest.raises(EnrolmentError, match="called chu-paris in"):
        join_site(site, kit.to_json().encode(), NOW)


def test_wrong_name_leaves_no_settings_behind(tmp_path):
    with pytest.raises(FaultsError, match="name"):
        init_site(tmp_path / "site", "../../etc", tmp_path, NOW)
    init_site(tmp_path / "site", "chu-lille", tmp_path, NOW)


def test_second_init_keeps_keys(hub, site, tmp_path):
    keys = {path: path.read_bytes() for path in (site / "keys").iterdir()}
    init_site(site, "chu-lille", tmp_path, LATER)
    assert keys == {path: path.read_bytes() for path in (site / "keys").iterdir()}
    secrets = {path: path.read_bytes() for path in (hub / "keys").iterdir()}
    init_hub(hub, host="hub.example.org")
    assert secrets == {path: path.read_bytes() for path in (hub / "keys").iterdir()}


def test_damaged_list_of_sites_is_named(hub):
    (hub / "sites.json").write_text('[{"name": "x"}]')
    with pytest.raises(FaultsError, match=r"sites\.json: is not a list of enrolled sites"):
        list_sites(hub)


def test_sites_json_is_what_the_hub_reads(hub, site):
    enrol_site(hub, _request(site), NOW)
    (entry,) = json.loads((hub / "sites.json").read_text())
    assert {"name", "node_public_key"} <= set(entry)
    assert utc_now().tzinfo is not None


def test_example_settings_of_a_hub_load(tmp_path):
    example = Path(__file__).parents[2] / "configs" / "hub.example.toml"
    (tmp_path / "hub.toml").write_text(example.read_text())
    settings = load_hub_settings(tmp_path)
    assert (settings.host, settings.public_port, settings.internal_port) == ("hub.example.org", 8443, 8000)
