"""The hub's settings: `hub.toml` in the hub's folder and the environment over it, and where everything lies."""

from __future__ import annotations

import abc
import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationInfo, field_validator

from schemas.environment import HUB_PREFIX, SettingsSource
from schemas.errors import Fault, FaultsError
from schemas.operation import Host, Logs, Port

__all__ = ["HOST_REMEDY", "SETTINGS_FILE", "HubFolder", "HubPlaces", "HubSettings", "is_host", "load_hub_settings"]

SETTINGS_FILE = "hub.toml"
HOST_REMEDY = "write it without https:// and without a port, for example hub.example.org"
_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,250}[A-Za-z0-9])?")
_PORTS = ("public_port", "internal_port", "metrics_port")
_Taken = Annotated[int, Field(ge=1, le=65_535)]


class HubPlaces(abc.ABC):
    """Where everything of a hub lies, whatever its settings say."""

    @property
    @abc.abstractmethod
    def home(self) -> Path:
        """The hub's folder."""

    @property
    def authority(self) -> Path:
        """Certificate of the hub's own authority; each site holds a copy."""
        return self.home / "keys" / "hub-ca.crt"

    @property
    def server_certificate(self) -> Path:
        """Certificate of both listeners."""
        return self.home / "keys" / "server.crt"

    @property
    def server_key(self) -> Path:
        """Private key of both listeners."""
        return self.home / "keys" / "server.key"

    @property
    def superexec_secret(self) -> Path:
        """Secret with which the launcher asks for tasks."""
        return self.home / "keys" / "superexec.secret"

    @property
    def control_token(self) -> Path:
        """Bearer token of the control API."""
        return self.home / "keys" / "control.token"

    @property
    def sites_file(self) -> Path:
        """The enrolled sites."""
        return self.home / "sites.json"

    @property
    def nodes_file(self) -> Path:
        """Site name to Flower node id, true for the SuperLink running now."""
        return self.home / "run" / "nodes.json"


@dataclass(frozen=True)
class HubFolder(HubPlaces):
    """A folder whose settings cannot be read."""

    folder: Path

    @property
    def home(self) -> Path:
        """The hub's folder."""
        return self.folder


class HubSettings(BaseModel, HubPlaces):
    """Everything in hub.toml.

    Attributes:
        host: Name or address by which sites reach the hub; stands in its certificate.
        listen: Address the public listener binds.
        public_port: Port for sites: the fleet API, calls for models and health, nothing else.
        internal_port: Port on loopback for the hub's own processes.
        logs: Where the processes write what happens (`schemas.operation`).
        metrics_port: On which health and figures are served to a monitoring system; 0: not at all.
        metrics_listen: Address that this port binds.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    kind: Literal["hub"] = Field(repr=False)
    version: Literal[1] = Field(repr=False)
    host: str
    listen: Host
    public_port: _Taken
    internal_port: _Taken
    logs: Logs = "files"
    metrics_port: Port = 0
    metrics_listen: Host = "127.0.0.1"
    _home: Path = PrivateAttr(default_factory=Path)

    @field_validator("host")
    @classmethod
    def _is_host(cls, host: str) -> str:
        if not is_host(host):
            raise ValueError(f"is no host name and no address: {HOST_REMEDY}")
        return host

    @field_validator("internal_port", "metrics_port")
    @classmethod
    def _is_free(cls, port: int, info: ValidationInfo) -> int:
        for name in _PORTS:
            if name != info.field_name and port != 0 and info.data.get(name) == port:
                raise ValueError(f"is the same as `{name}`: each listener has a port of its own")
        return port

    def found_in(self, home: Path) -> HubSettings:
        """Return these settings, knowing the hub's folder."""
        copy = self.model_copy()
        copy._home = home.resolve()
        return copy

    @property
    def home(self) -> Path:
        """The hub's folder."""
        return self._home

    @property
    def internal_address(self) -> str:
        """Address of the internal listener, as Flower's clients want it."""
        return f"127.0.0.1:{self.internal_port}"


def load_hub_settings(home: Path, environ: Mapping[str, str] | None = None) -> HubSettings:
    """Read `hub.toml`.

    Args:
        home: The hub's folder.
        environ: Variables that win over the file (`schemas.environment`); by default this process's.

    Raises:
        FaultsError: Naming every fault at once, each with its line or its variable.
    """
    path = home / SETTINGS_FILE
    if not path.exists():
        remedy = "make one with `archipel hub init`, or name the hub's folder (--home or --hub)"
        raise FaultsError(str(home.absolute()), [Fault(SETTINGS_FILE, "is missing: this folder is no hub's", remedy)])
    source = SettingsSource(path, HubSettings, HUB_PREFIX, os.environ if environ is None else environ)
    return source.parse(HubSettings).found_in(home)


def is_host(name: str) -> bool:
    """Return whether sites can be told to reach the hub under this name, and a certificate can be made out to it."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return _HOST_NAME.fullmatch(name) is not None
    return True
