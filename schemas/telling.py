"""The port for a monitoring system: `/metrics` and `/health` over plain HTTP, and nothing else.

No identifier is on it, and nothing can be changed by it; still it listens on loopback unless the settings say
otherwise.
"""

from __future__ import annotations

import http.server
import json
import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from schemas.health import Health, Report

__all__ = ["TellingServer"]

_AT_ONCE = 4
_SLOWEST_S = 5.0
_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class TellingServer:
    """Answers on one port in threads of the supervisor, a few at a time."""

    def __init__(self, host: str, port: int, report: Report, exposition: Callable[[Health], bytes]) -> None:
        """Start to listen.

        Args:
            host: Address to bind.
            port: To bind; 0 takes a free one.
            report: How the home is.
            exposition: Returns the figures in Prometheus's text format.

        Raises:
            OSError: When the address cannot be listened on.
        """
        self._server = _Server((host.strip("[]"), port), _handler(report, exposition))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="metrics", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], handler: type[http.server.BaseHTTPRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._free = threading.BoundedSemaphore(_AT_ONCE)
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):  # too many at once: whoever asks again is answered
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep silent: a caller that went away is no news."""


def _handler(report: Report, exposition: Callable[[Health], bytes]) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        timeout = _SLOWEST_S
        server_version = "archipel"
        sys_version = ""

        def do_GET(self) -> None:
            if self.path == "/health":
                health = report.health()
                status = HTTPStatus.OK if health.is_healthy else HTTPStatus.SERVICE_UNAVAILABLE
                self._answer(status, "application/json", json.dumps(health.to_dict()).encode())
            elif self.path == "/metrics":
                self._answer(HTTPStatus.OK, _METRICS_TYPE, exposition(report.health()))
            else:
                self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"not found")

        def _answer(self, status: HTTPStatus, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Keep silent: a monitoring system asks every few seconds."""

    return Handler
