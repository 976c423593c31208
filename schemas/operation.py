"""How a hub or site is run and watched: the settings that both have, under the same names."""

from __future__ import annotations

import socket
from typing import Annotated, Literal

from pydantic import Field

__all__ = ["Host", "Logs", "Port", "port_problem"]

Logs = Literal["files", "stdout"]
"""``files``: text in HOME/logs, one file a process; ``stdout``: one JSON object a line on standard output."""

Port = Annotated[int, Field(ge=0, le=65_535)]
"""0 where nothing listens, or where a free one is taken; the setting says which."""

Host = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[A-Za-z0-9.:\[\]-]+$")]
"""An address of this machine to listen on."""


def port_problem(host: str, port: int) -> str | None:
    """Return why an address cannot be listened on, or None where it can."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except PermissionError:
            return "needs more rights than this user has"
        except OSError:
            return "is in use or not an address of this machine"
    return None
