"""Two small servers in one process: what both listeners of the hub need of HTTP.

No Flower here; `server.superlink` says what is served.
"""

from __future__ import annotations

import contextlib
import hmac
from collections.abc import Iterator
from http import HTTPStatus
from typing import Literal

import uvicorn
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from server.hub_home import HubSettings

__all__ = ["BodyTooLargeError", "InternalOnly", "disconnected", "make_server", "read_body"]


class BodyTooLargeError(Exception):
    """A request's body is longer than its call allows."""


class InternalOnly:
    """Flower's app on loopback: the control API for who holds the hub's token, the runtime API, and health.

    The fleet API and the documentation pages are not on it. The runtime API has its
    own secrets (the launcher's, then a task's). Without the token every other user
    of this machine could submit a run, since Flower's open-source edition lets in anyone.
    """

    def __init__(self, app: ASGIApp, control_token: str) -> None:
        self._app = app
        self._authorization = f"Bearer {control_token}".encode("ascii")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a call on, or answers 404 or 401."""
        if scope["type"] == "http":
            refusal = self._refusal(scope)
            if refusal is not None:
                await PlainTextResponse(refusal.phrase, refusal)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> HTTPStatus | None:
        path = scope["path"]
        if path == "/health" or path.startswith("/v1/runtime/"):
            return None
        if not path.startswith("/v1/control/"):
            return HTTPStatus.NOT_FOUND
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(given) != 1 or not hmac.compare_digest(given[0], self._authorization):
            return HTTPStatus.UNAUTHORIZED
        return None


async def disconnected(receive: Receive) -> None:
    """Returns when the other end has closed the connection of a request whose body was read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def read_body(request: Request, limit: int) -> bytes:
    """Reads a request's body.

    Raises:
        BodyTooLargeError: As soon as it is longer than `limit` bytes.
    """
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise BodyTooLargeError
        chunks.append(chunk)
    return b"".join(chunks)


class _Server(uvicorn.Server):
    """A uvicorn server that leaves signals to its process, since two of them share one."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def make_server(
    app: ASGIApp, host: str, port: int, settings: HubSettings, lifespan: Literal["on", "off"]
) -> uvicorn.Server:
    """Returns a TLS server with the hub's certificate, not started yet."""
    return _Server(
        uvicorn.Config(
            app,
            host=host,
            port=port,
            lifespan=lifespan,
            ws="none",
            log_config=None,  # this process's own way of logging holds
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_keep_alive=75,
            # A call held open for news would otherwise delay the end of a stopping hub.
            timeout_graceful_shutdown=1,
            ssl_certfile=str(settings.server_certificate),
            ssl_keyfile=str(settings.server_key),
        )
    )
