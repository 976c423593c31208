"""Which sites are enrolled, kept equal in three places while the hub runs.

`sites.json` is written by enrolment and is the truth. `Registry` carries it into
the transport's own list of nodes and publishes, in `run/nodes.json`, which node
is which site: failures are named by the site, and node ids change at each start.
No Flower here; the transport is behind `Nodes`.
"""

from __future__ import annotations

import json
import logging
from typing import Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
    load_ssh_public_key,
)

from server.hub_home import HubSettings, read_sites

__all__ = ["Nodes", "Registry", "node_key"]

log = logging.getLogger("archipel.superlink")


class Nodes(Protocol):
    """The transport's list of nodes."""

    def add(self, name: str, key: bytes) -> int:
        """Registers a node by its public key (PEM) and returns its id; ValueError if the key is taken."""
        ...

    def drop(self, key: bytes, node_id: int) -> None:
        """Forgets a node, so that its next call is refused and its key may be enrolled again."""
        ...


class Registry:
    """Keeps the transport's nodes equal to `sites.json`, and `nodes.json` equal to both."""

    def __init__(self, settings: HubSettings, nodes: Nodes) -> None:
        self._settings = settings
        self._nodes = nodes
        self._known: dict[str, tuple[bytes, int]] = {}
        self._stamp: tuple[int, int] | None = (-1, -1)

    def sync(self) -> None:
        """Registers the new and drops the revoked, if the file changed since the last call."""
        stamp = self._file_stamp()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            sites = read_sites(self._settings)
        except (OSError, ValueError, KeyError, TypeError):
            log.error("%s is not a list of sites; enrolments stay as they are", self._settings.sites_file)
            return
        wanted = {name: key for name, text in sites.items() if (key := node_key(name, text))}
        for name, (key, node_id) in list(self._known.items()):
            if wanted.get(name) != key:
                self._nodes.drop(key, node_id)
                del self._known[name]
                log.info("site %s is no longer enrolled", name)
        for name, key in wanted.items():
            if name not in self._known:
                self._add(name, key)
        self._publish()

    def _add(self, name: str, key: bytes) -> None:
        try:
            self._known[name] = (key, self._nodes.add(name, key))
        except ValueError:
            log.error("site %s has the node key of another site and is left out; each site makes its own", name)
            return
        log.info("site %s is enrolled", name)

    def _file_stamp(self) -> tuple[int, int] | None:
        try:
            stat = self._settings.sites_file.stat()
        except FileNotFoundError:
            return None
        return stat.st_mtime_ns, stat.st_size

    def _publish(self) -> None:
        path = self._settings.nodes_file
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps({name: node_id for name, (_, node_id) in sorted(self._known.items())}))
        fresh.replace(path)


def node_key(name: str, text: str) -> bytes | None:
    """Returns a site's node key as PEM, or None (and a line in the log) where it cannot be one.

    Args:
        name: The site, for the log.
        text: PEM or OpenSSH text of an elliptic curve public key.
    """
    try:
        data = text.strip().encode("ascii")
        key = load_pem_public_key(data) if data.startswith(b"-----") else load_ssh_public_key(data)
    except (ValueError, UnicodeEncodeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        log.error("the node key of site %s cannot be read; enrol it again with its keys/node.pub", name)
        return None
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
