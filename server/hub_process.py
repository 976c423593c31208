"""What `archipel hub up` runs: the SuperLink and the launcher, kept alive.

No Flower here. `serve` checks everything first and names all faults at once, then
blocks until SIGTERM or SIGINT; logs are in `DIR/logs`, process ids in `DIR/run`.
"""

from __future__ import annotations

import http.client
import ssl
import sys
import time
from collections.abc import Callable
from pathlib import Path

from schemas.errors import FaultsError
from schemas.processes import Child
from schemas.supervised import run_supervised
from server.hub_home import HubSettings, check_folder, check_hub, hub_init, load_hub_settings
from server.hub_settings import SETTINGS_FILE, HubFolder

__all__ = ["answers", "await_hub", "children", "hub_init", "is_up", "serve", "verify_hub"]


def children(home: Path) -> list[Child]:
    """Returns the two processes of a hub."""
    return [
        Child("superlink", [sys.executable, "-m", "server.superlink", "--home", str(home)]),
        Child("launcher", [sys.executable, "-m", "server.launcher", "--home", str(home)]),
    ]


def serve(home: Path, announce: Callable[[str], None] = lambda _: None) -> int:
    """Blocks until a signal; returns 0.

    Args:
        home: The hub's folder.
        announce: Says a sentence to the person who started this, where there is one.

    Raises:
        FaultsError: The hub cannot start; every fault is named.
    """
    from server.hub_watch import HubWatch

    settings = verify_hub(home)
    home = settings.home
    return run_supervised(home, "hub", children(home), settings, lambda states: HubWatch(home, states), announce)


def verify_hub(home: Path) -> HubSettings:
    """Returns the settings of a hub that can start.

    Raises:
        FaultsError: Naming every fault of settings, keys, certificates and ports at once.
    """
    try:
        settings = load_hub_settings(home)
        faults = check_hub(settings)
    except FaultsError as error:
        # Where keys and certificates lie does not depend on what the file says.
        is_hub = (home / SETTINGS_FILE).exists()
        faults = [*error.faults, *(check_folder(HubFolder(home)) if is_hub else [])]
    if faults:
        raise FaultsError(f"hub {home.resolve()}", faults)
    return settings


def is_up(settings: HubSettings) -> bool:
    """Returns whether both listeners answer."""
    return all(answers(settings, port) for port in (settings.internal_port, settings.public_port))


def await_hub(settings: HubSettings, timeout_s: float = 30.0) -> bool:
    """Waits until both listeners answer; returns whether they did in time."""
    deadline = time.monotonic() + timeout_s
    while not is_up(settings):
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.1)
    return True


def answers(settings: HubSettings, port: int) -> bool:
    """Returns whether one of the hub's listeners answers over TLS with the hub's own certificate."""
    host = "127.0.0.1" if port == settings.internal_port or settings.listen == "0.0.0.0" else settings.listen
    context = ssl.create_default_context(cafile=str(settings.authority))
    # Asked at the address it is bound to, which need not be a name in the certificate.
    context.check_hostname = False
    connection = http.client.HTTPSConnection(host, port, timeout=2.0, context=context)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
