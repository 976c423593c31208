"""Enrolment while the hub runs: the file is the truth, the transport and `nodes.json` follow."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from server.enrolled import Registry, node_key
from server.hub_home import HubSettings, hub_init


class Nodes:
    def __init__(self) -> None:
        self.known: dict[bytes, int] = {}
        self._next = 100

    def add(self, name: str, key: bytes) -> int:
        if key in self.known:
            raise ValueError("Public key already in use")
        self._next += 1
        self.known[key] = self._next
        return self._next

    def drop(self, key: bytes, node_id: int) -> None:
        assert self.known.pop(key) == node_id


def new_key(encoding: Encoding = Encoding.PEM) -> str:
    key = ec.generate_private_key(ec.SECP384R1()).public_key()
    form = PublicFormat.OpenSSH if encoding is Encoding.OpenSSH else PublicFormat.SubjectPublicKeyInfo
    return key.public_bytes(encoding, form).decode()


@pytest.fixture
def hub(tmp_path: Path) -> HubSettings:
    return hub_init(tmp_path / "hub", public_port=0, internal_port=0)


def write(hub: HubSettings, **keys: str) -> None:
    hub.sites_file.write_text(json.dumps([{"name": name, "node_public_key": key} for name, key in keys.items()]))


def published(hub: HubSettings) -> dict[str, int]:
    found: dict[str, int] = json.loads(hub.nodes_file.read_text())
    return found


def test_before_the_first_enrolment_nobody_is_known(hub: HubSettings) -> None:
    Registry(hub, Nodes()).sync()
    assert published(hub) == {}


def test_new_changed_and_revoked_sites_follow_the_file(hub: HubSettings) -> None:
    nodes = Nodes()
    registry = Registry(hub, nodes)
    paris, lyon = new_key(), new_key(Encoding.OpenSSH)
    write(hub, paris=paris, lyon=lyon)
    registry.sync()
    first = published(hub)
    assert set(first) == {"paris", "lyon"}
    assert set(first.values()) == set(nodes.known.values())

    write(hub, paris=paris, lyon=new_key(), nantes=new_key())
    registry.sync()
    second = published(hub)
    assert second["paris"] == first["paris"]
    assert second["lyon"] != first["lyon"]
    assert len(nodes.known) == 3

    write(hub, paris=paris)
    registry.sync()
    assert published(hub) == {"paris": first["paris"]}

    write(hub, paris=paris, lyon=lyon)  # enrolled again with the key it always had
    registry.sync()
    assert set(published(hub)) == {"paris", "lyon"}


def test_a_broken_file_changes_nothing(hub: HubSettings) -> None:
    nodes = Nodes()
    registry = Registry(hub, nodes)
    write(hub, paris=new_key())
    registry.sync()
    before = published(hub)
    hub.sites_file.write_text('[{"name": "par')
    registry.sync()
    assert published(hub) == before
    assert len(nodes.known) == 1


def test_one_bad_key_leaves_the_others_enrolled(hub: HubSettings, caplog: pytest.LogCaptureFixture) -> None:
    shared = new_key()
    edwards = ed25519.Ed25519PrivateKey.generate().public_key()
    text = edwards.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    write(hub, paris=shared, twin=shared, odd="no key", other=text, lyon=new_key())
    Registry(hub, Nodes()).sync()
    assert set(published(hub)) == {"paris", "lyon"}
    for name in ("twin", "odd", "other"):
        assert f"site {name}" in caplog.text


def test_pem_and_openssh_are_the_same_key() -> None:
    key = ec.generate_private_key(ec.SECP384R1()).public_key()
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    ssh = key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    assert node_key("a", pem.decode()) == node_key("a", ssh.decode() + " comment") == pem
