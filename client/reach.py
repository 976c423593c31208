"""The way from this site to its hub, station by station: proxy, name, port, TLS, hub, clock, enrolment.

Each station needs the one before, so the first that fails is the one to repair, and the rest say why they were not
looked at. Nothing of the site is sent but, at the last station, one signed call that asks for the list of models.
"""

from __future__ import annotations

import datetime
import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from client.finding import LIMIT_S, Finding, looked_at, unchecked
from client.hub_check import (
    certificate_sentence,
    clock_offset_s,
    clock_sentence,
    is_refused_clock,
    split_address,
)
from client.hub_post import HubCallError, hub_post
from client.proxy import Proxy, ProxyError, hub_connection, proxy_for
from schemas.headers import TIME_HEADER
from schemas.model_call import LIST_PATH, call_body
from schemas.model_list import MAX_LIST_BYTES

__all__ = ["STATIONS", "reach_findings"]

STATIONS = ("proxy", "name", "port", "tls", "hub", "clock", "enrolment")
_WARN_DAYS = 30


@dataclass
class _Way:
    """What is known so far."""

    home: Path
    host: str
    port: int
    proxy: Proxy | None = None
    clock_header: str | None = None
    asked_at_s: float = 0.0


class _BlockedError(Exception):
    """A station that failed; the rest is not looked at."""

    def __init__(self, finding: Finding) -> None:
        self.finding = finding


def reach_findings(home: Path, address: str) -> list[Finding]:
    """Return one finding for each station.

    Args:
        home: The site's folder.
        address: ``host:port`` of the hub.
    """
    way = _Way(home, *split_address(address))
    if way.host == "hub.invalid":
        remedy = "`archipel site join KIT.json` with the kit that the hub sent back"
        first = Finding("proxy", "not checked", "because site.toml names no hub yet", remedy)
        return [first, *(unchecked(name, "site.toml names no hub yet") for name in STATIONS[1:])]
    looks: dict[str, Callable[[_Way], Finding]] = {
        "proxy": _proxy, "name": _name, "port": _port, "tls": _tls, "hub": _hub, "clock": _clock,
        "enrolment": _enrolment,
    }  # fmt: skip
    found: list[Finding] = []
    blocked_by = ""
    for name in STATIONS:
        if blocked_by:
            found.append(unchecked(name, f"the line `{blocked_by}` has to be repaired first"))
            continue
        (finding,) = looked_at(name, lambda look=looks[name]: [_stopped(look, way)])  # type: ignore[misc]
        found.append(finding)
        if finding.state == "problem" and name != "clock":
            blocked_by = name
    return found


def _stopped(look: Callable[[_Way], Finding], way: _Way) -> Finding:
    try:
        return look(way)
    except _BlockedError as blocked:
        return blocked.finding


# ---------------------------------------------------------------- stations
def _proxy(way: _Way) -> Finding:
    try:
        way.proxy = proxy_for(way.host)
    except ProxyError as error:
        return Finding(
            "proxy", "problem", str(error), "correct the variable in the environment of `archipel site up`"
        )
    if way.proxy is None:
        return Finding("proxy", "ok", "none: neither HTTPS_PROXY nor ALL_PROXY applies to the hub, so it is direct")
    return Finding(
        "proxy", "ok", f"calls go through {way.proxy.address} (HTTPS_PROXY or ALL_PROXY); it sees name and port alone"
    )


def _name(way: _Way) -> Finding:
    host = way.host if way.proxy is None else way.proxy.host
    whose = "the hub" if way.proxy is None else "the proxy"
    try:
        ipaddress.ip_address(host)
    except ValueError:
        pass
    else:
        return Finding("name", "ok", f"{whose} is named by its address")
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        where = "hub_address in site.toml" if way.proxy is None else "HTTPS_PROXY"
        remedy = f"check {where}, /etc/resolv.conf and the name server; or put the name into /etc/hosts"
        return Finding("name", "problem", f"no name server knows {host}, the name of {whose}", remedy)
    addresses = ", ".join(sorted({str(one[4][0]) for one in found})[:3])
    return Finding("name", "ok", f"{host} is {addresses}")


def _port(way: _Way) -> Finding:
    host, port = (way.host, way.port) if way.proxy is None else (way.proxy.host, way.proxy.port)
    whose = "the hub" if way.proxy is None else "the proxy"
    try:
        socket.create_connection((host, port), LIMIT_S * 0.8).close()
    except OSError as error:
        if isinstance(error, ConnectionRefusedError):
            what = f"{host}:{port} refuses: nothing listens there, or a firewall says no"
        else:
            what = f"{host}:{port} does not answer ({error.strerror or 'no answer in time'})"
        remedy = f"let the firewall open this one outbound port, check the address, ask whether {whose} is up"
        return Finding("port", "problem", what, remedy)
    return Finding("port", "ok", f"{host}:{port} answers")


def _tls(way: _Way) -> Finding:
    connection = _connection(way, "tls")
    try:
        connection.connect()
        certificate = connection.sock.getpeercert() or {}
    except ssl.SSLCertVerificationError as error:
        return Finding("tls", "problem", certificate_sentence(error, f"{way.host}:{way.port}"))
    except ssl.SSLError:
        what = f"what answers at {way.host}:{way.port} does not speak TLS"
        return Finding("tls", "problem", what, "check port and host of hub_address in site.toml")
    except OSError as error:
        if way.proxy is None:
            return Finding("tls", "problem", f"the connection ended ({type(error).__name__})", "try again")
        remedy = f"let the proxy allow a tunnel (CONNECT) to {way.host}:{way.port}, or name the hub in NO_PROXY"
        return Finding("tls", "problem", f"the proxy {way.proxy.address} refuses the tunnel to the hub", remedy)
    finally:
        connection.close()
    end = datetime.datetime.fromtimestamp(ssl.cert_time_to_seconds(str(certificate["notAfter"])), datetime.UTC)
    days = (end - datetime.datetime.now(datetime.UTC)).days
    text = f"issued by the authority that this site joined with, valid until {end:%Y-%m-%d} ({days} days)"
    if days < _WARN_DAYS:
        return Finding("tls", "warning", text, "ask the hub's administrator for `archipel hub init --renew`")
    return Finding("tls", "ok", text)


def _hub(way: _Way) -> Finding:
    connection = _connection(way, "hub")
    try:
        asked = time.time()
        connection.request("GET", "/health")
        response = connection.getresponse()
        response.read(1 << 16)
        way.asked_at_s = (asked + time.time()) / 2
        way.clock_header = response.getheader(TIME_HEADER)
    except (OSError, http.client.HTTPException) as error:
        what = f"accepts the connection and does not answer ({type(error).__name__})"
        return Finding("hub", "problem", what, "ask the hub's administrator how the hub is (`archipel hub health`)")
    finally:
        connection.close()
    if response.status != http.HTTPStatus.OK or way.clock_header is None:
        what = f"what answers is no Archipel hub (HTTP {response.status})"
        return Finding("hub", "problem", what, "check hub_address in site.toml")
    return Finding("hub", "ok", f"answers within {time.time() - asked:.2f} s")


def _clock(way: _Way) -> Finding:
    ahead_s = clock_offset_s(way.clock_header, way.asked_at_s)
    side = "ahead of" if ahead_s >= 0 else "behind"
    sentence = clock_sentence(ahead_s)
    if not sentence:
        return Finding("clock", "ok", f"{abs(ahead_s):.1f} s {side} the hub's")
    return Finding("clock", "problem" if is_refused_clock(ahead_s) else "warning", sentence)


def _enrolment(way: _Way) -> Finding:
    try:
        answer = hub_post(way.home)(LIST_PATH, call_body(), MAX_LIST_BYTES)
    except HubCallError as error:
        return Finding("enrolment", "problem", str(error))
    if answer.status in (http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN):
        return Finding("enrolment", "problem", answer.sentence)
    if answer.status not in (http.HTTPStatus.OK, http.HTTPStatus.NOT_FOUND):
        return Finding("enrolment", "warning", answer.sentence)
    return Finding("enrolment", "ok", "the hub knows this site's key")


def _connection(way: _Way, station: str) -> http.client.HTTPSConnection:
    authority = way.home / "keys" / "hub-ca.crt"
    try:
        context = ssl.create_default_context(cafile=str(authority))
    except (OSError, ssl.SSLError):
        what = "keys/hub-ca.crt is missing or no certificate"
        raise _BlockedError(Finding(station, "problem", what, "`archipel site join` with the hub's kit")) from None
    return hub_connection(way.host, way.port, context, LIMIT_S * 0.8)
