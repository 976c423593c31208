"""What `archipel site up` runs: the agent and the runner, kept alive.

No Flower and no tables here. `serve` blocks until SIGTERM or SIGINT; logs are in
`DIR/logs`, process ids in `DIR/run`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from client.confinement import supported
from client.settings import SETTINGS_FILE, SiteSettings, load_settings
from privacy.storage import write_durably
from schemas.errors import Fault, FaultsError
from schemas.operation import port_problem
from schemas.processes import Child
from schemas.supervised import run_supervised

__all__ = ["children", "create_node_key", "missing_files", "serve", "verify_site"]


def create_node_key(home: Path, *, folder: Path | None = None) -> Path:
    """Makes the site's node key (P-384) unless it is there, and returns the file of its public half.

    Args:
        home: The site's folder.
        folder: Of the key; by default the site's folder of keys.
    """
    keys = folder or home / "keys"
    private, public = keys / "node.key", keys / "node.pub"
    private.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not private.exists():
        key = ec.generate_private_key(ec.SECP384R1())
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_durably(private, pem)
    key_read = serialization.load_pem_private_key(private.read_bytes(), None)
    public.write_bytes(
        key_read.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return public


def missing_files(home: Path) -> list[Fault]:
    """Returns what is missing or open to others among the site's keys, all at once."""
    faults = []
    for name, remedy in (
        ("node.key", "run `archipel site init`"),
        ("hub-ca.crt", "run `archipel site join` with the hub's start-up kit"),
    ):
        path = home / "keys" / name
        if not path.is_file():
            faults.append(Fault(f"keys/{name}", "is missing", remedy))
        elif name.endswith(".key") and path.stat().st_mode & 0o077:
            faults.append(Fault(f"keys/{name}", "can be read by other users", f"chmod 600 {path}"))
    return faults


def children(home: Path) -> list[Child]:
    """Returns the two processes of a site."""
    return [
        # The runner first: its imports take longest and it waits for the agent anyway.
        Child("runner", [sys.executable, "-m", "client.runner", "--home", str(home)]),
        Child("agent", [sys.executable, "-m", "client.agent", "--home", str(home)]),
    ]


def serve(home: Path, announce: Callable[[str], None] = lambda _: None) -> int:
    """Blocks until a signal; returns 0.

    Args:
        home: The site's folder.
        announce: Says a sentence to the person who started this, where there is one.

    Raises:
        FaultsError: The settings or keys are wrong; every fault is named.
    """
    from client.site_watch import SiteWatch

    home = home.resolve()
    settings = verify_site(home)
    return run_supervised(home, "site", children(home), settings, lambda states: SiteWatch(home, states), announce)


def verify_site(home: Path) -> SiteSettings:
    """Returns the settings of a site that can start.

    Raises:
        FaultsError: Naming every fault of settings, keys and ports at once.
    """
    faults: list[Fault] = []
    settings = None
    try:
        settings = load_settings(home)
        problem = port_problem(settings.metrics_listen, settings.metrics_port) if settings.metrics_port else None
        if problem:
            place = f"{settings.metrics_listen}:{settings.metrics_port}"
            faults.append(Fault("metrics_port", f"{place} {problem}", "stop what uses it or change the port"))
        if settings.confinement == "required":
            faults += [Fault("confinement", sentence, 'or write "if-possible"') for sentence in supported().lacking]
    except FaultsError as error:
        faults += error.faults
    if (home / SETTINGS_FILE).exists():
        faults += missing_files(home)
    if settings is None or faults:
        raise FaultsError(f"site {home.name}", faults)
    return settings
