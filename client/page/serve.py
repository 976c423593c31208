"""Serves the patient page: on loopback, or with a certificate where site.toml names one."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import uvicorn

from client.page.app import make_app
from client.page.site_desk import SiteDesk
from client.settings import SiteSettings, load_settings
from client.view_settings import is_loopback
from schemas.errors import ArchipelError

__all__ = ["PageStartError", "serve_page"]


class PageStartError(ArchipelError):
    """The page cannot be served as site.toml says."""


def serve_page(home: Path, *, port: int | None = None, on_ready: Callable[[str], None]) -> None:
    """Serve a site's page until Ctrl-C.

    Args:
        home: The site's folder.
        port: In place of the one in site.toml; 0 takes a free one.
        on_ready: Told the address as soon as it answers.

    Raises:
        FaultsError: When site.toml is wrong.
        PageStartError: When the port is taken or the certificate cannot be read.
    """
    settings = load_settings(home)
    view = settings.view
    over_tls = view.tls_certificate is not None
    bare = view.host.strip("[]")
    hosts = frozenset({"127.0.0.1", "localhost", "[::1]"}) if is_loopback(view.host) else frozenset[str]()
    app = make_app(SiteDesk(home, settings), hosts=hosts, over_tls=over_tls)
    certificate, key = _tls(settings)
    bound = _bind(bare, view.port if port is None else port)
    with contextlib.closing(bound):
        number = bound.getsockname()[1]
        shown = f"[{bare}]" if ":" in bare else bare
        config = uvicorn.Config(
            app,
            log_level="error",
            access_log=False,  # the site's own access log says who looked at whom
            server_header=False,
            date_header=False,
            proxy_headers=False,
            ws="none",
            timeout_keep_alive=30,
            limit_concurrency=200,
            ssl_certfile=certificate,
            ssl_keyfile=key,
        )
        server = _Server(config, lambda: on_ready(f"{'https' if over_tls else 'http'}://{shown}:{number}/"))
        server.run(sockets=[bound])


class _Server(uvicorn.Server):
    """Tells when it answers."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then tell."""
        await super().startup(sockets)
        if self.started:
            self._on_ready()


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except (OSError, OverflowError) as error:
        bound.close()
        raise PageStartError(
            f"The page cannot listen on {host}:{port} ({getattr(error, 'strerror', error)}): another program may; "
            "choose another port (`port` in site.toml's [view], or --port; 0 takes a free one)."
        ) from None
    return bound


def _tls(settings: SiteSettings) -> tuple[str | None, str | None]:
    """Return the files of certificate and key, tried; None where the page has none."""
    view = settings.view
    if view.tls_certificate is None or view.tls_key is None:
        return None, None
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(view.tls_certificate, view.tls_key)
    except (OSError, ssl.SSLError):
        raise PageStartError(
            "The certificate or the key of the page cannot be read: check `tls_certificate` and `tls_key` in "
            "site.toml's [view]."
        ) from None
    return str(view.tls_certificate), str(view.tls_key)
