"""The hospital's proxy: which one the environment names for the hub, and a connection to the hub through it.

`HTTPS_PROXY=http://proxy.example.org:3128` (else `ALL_PROXY`) and `NO_PROXY`, in capitals or small letters, are read
as Flower's own connection reads them (httpx), so that every call of a site takes one way. The proxy is asked for a
tunnel (CONNECT) and sees the hub's name and port; TLS is with the hub itself, under the hub's own authority.
"""

from __future__ import annotations

import base64
import http.client
import ssl
import urllib.parse
import urllib.request
from dataclasses import dataclass

from schemas.errors import ArchipelError

__all__ = ["Proxy", "ProxyError", "hub_connection", "proxy_for"]

_DEFAULT_PORT = 80


class ProxyError(ArchipelError):
    """The environment names a proxy that cannot be used."""


@dataclass(frozen=True)
class Proxy:
    """One proxy.

    Attributes:
        authorization: Value of the header ``Proxy-Authorization``, where the address holds a name and a password.
    """

    host: str
    port: int
    authorization: str | None = None

    @property
    def address(self) -> str:
        """``host:port``, for people; never name or password."""
        return f"{self.host}:{self.port}"


def proxy_for(host: str) -> Proxy | None:
    """Return the proxy through which a host is reached; None: directly.

    Raises:
        ProxyError: When the environment names one that is not ``http://[name:password@]host[:port]``.
    """
    named = urllib.request.getproxies()
    url = named.get("https") or named.get("all")
    if not url or urllib.request.proxy_bypass(host):
        return None
    parts = urllib.parse.urlsplit(url if "://" in url else f"http://{url}")
    try:
        port = parts.port or _DEFAULT_PORT
    except ValueError:
        port = 0
    if parts.scheme != "http" or not parts.hostname or not port:
        raise ProxyError(
            "HTTPS_PROXY (or ALL_PROXY) is not of the form http://proxy.example.org:3128. The address of the proxy "
            "begins with http:// also where what it carries is https."
        )
    return Proxy(parts.hostname, port, _authorization(parts))


def _authorization(parts: urllib.parse.SplitResult) -> str | None:
    if not parts.username:
        return None
    words = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
    return f"Basic {base64.b64encode(words.encode()).decode('ascii')}"


def hub_connection(host: str, port: int, context: ssl.SSLContext, timeout_s: float) -> http.client.HTTPSConnection:
    """Return a connection to the hub, not opened yet; its first request opens it, through the proxy if there is one.

    A proxy that refuses makes that request raise `OSError`, as a hub that does not answer does.

    Raises:
        ProxyError: As `proxy_for`.
    """
    proxy = proxy_for(host)
    if proxy is None:
        return http.client.HTTPSConnection(host, port, timeout=timeout_s, context=context)
    connection = http.client.HTTPSConnection(proxy.host, proxy.port, timeout=timeout_s, context=context)
    headers = {"Proxy-Authorization": proxy.authorization} if proxy.authorization else {}
    connection.set_tunnel(host, port, headers)
    return connection
