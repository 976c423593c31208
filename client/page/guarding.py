"""What holds for every answer of the page: headers, the size of a request, nothing stored by a browser or on its way.

Pure ASGI, so that an error's answer carries the headers too.
"""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["CONTENT_POLICY", "HEADERS", "Guarding"]

CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
"""`connect-src` is for htmx, which asks this server alone for the next horizon."""

HEADERS = {
    "Content-Security-Policy": CONTENT_POLICY,
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",  # with `no-referrer` a browser would call the origin of our own forms "null"
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
_MAX_BODY = 4 << 20
"""Of a request: a patient's layers as JSON, 50,000 numbers and more, take less."""


class Guarding:
    """Wraps the application.

    Args:
        app: What answers.
        hosts: Values of ``Host`` that are answered, so that a foreign name which points to loopback reaches nothing
            (DNS rebinding); empty answers any, behind TLS under the hospital's own name.
        over_tls: Whether browsers are told to come by TLS alone.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str], *, over_tls: bool) -> None:
        self._app = app
        self._hosts = hosts
        self._over_tls = over_tls

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
        if self._hosts and headers.get("host", "").rsplit(":", 1)[0] not in self._hosts:
            await self._plain(send, 421, "This page answers on this computer's own address alone.")
            return
        length = headers.get("content-length", "0")
        # Without a length the body would have to be counted while it comes; no form of a browser is sent so.
        if not length.isascii() or not length.isdigit() or int(length) > _MAX_BODY or "transfer-encoding" in headers:
            await self._plain(send, 413, "The request is too large.")
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._set(MutableHeaders(scope=message), is_static=scope["path"].startswith("/static/"))
            await send(message)

        await self._app(scope, receive, with_headers)

    def _set(self, headers: MutableHeaders, *, is_static: bool) -> None:
        for name, value in HEADERS.items():
            headers[name] = value
        if is_static:  # the same for everybody, and nothing about a patient
            headers["Cache-Control"] = "public, max-age=3600"
        if self._over_tls:
            headers["Strict-Transport-Security"] = "max-age=31536000"

    async def _plain(self, send: Send, status: int, words: str) -> None:
        headers = [(b"content-type", b"text/plain; charset=utf-8")]
        headers += [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": words.encode()})
