"""Can this site reach its hub, and if not, what should a person do?

Used by the agent before it connects, and by `archipel site check`. It asks the
hub's health page over the same TLS that the agent uses and compares clocks.
Nothing of the site is sent.
"""

from __future__ import annotations

import contextlib
import http.client
import ssl
import time
from dataclasses import dataclass
from pathlib import Path

from client.proxy import ProxyError, hub_connection, proxy_for
from schemas.headers import TIME_HEADER
from schemas.processes import run_folder

__all__ = [
    "REASONS", "HubState", "certificate_sentence", "check_hub", "clock_offset_s", "clock_sentence",
    "forget_trouble", "is_refused_clock", "note_trouble", "split_address", "trouble",
]  # fmt: skip

REASONS = {
    "not-enrolled": (
        "The hub does not know this site's key. Send request.json to the hub's administrator, who enrols it with "
        "`archipel hub enrol`; if this site was enrolled, it has been revoked, or the key here is another one."
    ),
    "connection-unknown": (
        "The hub no longer knows this connection, as after a restart of the hub. Connecting again; nothing to do "
        "unless this line keeps coming back."
    ),
    "already-online": (
        "The hub still sees another process with this site's key. After a crash this passes within half a minute; if "
        "it stays, a copy of this site's folder runs elsewhere: stop one of them."
    ),
    "malformed": (
        "The hub could not read a call of this site: the two run different versions of Archipel. Install the same "
        "version on both."
    ),
    "head-back": "The hub has countersigned more entries of this site's ledger than the ledger holds now.",
    "head-fork": "The hub has countersigned another entry of this site's ledger than the one that stands there now.",
    "head-not-signed": (
        "The hub knows this site by another identity than the one that signed the ledger's head: enrol it anew with "
        "its present request.json."
    ),
    "too-large": "The hub refuses an answer of this size. Ask the hub's administrator about the study's plan.",
}
"""What to tell a site's administrator for each word that the hub puts beside a refusal."""

_TROUBLE_FILE = "hub-trouble.txt"
_AHEAD_LIMIT_S = 5.0
_BEHIND_LIMIT_S = 305.0


@dataclass(frozen=True)
class HubState:
    """What one look at the hub showed.

    Attributes:
        reachable: The hub answered over verified TLS.
        sentence: What is wrong and what to do, or "" where all is well.
        lasting: Trying again will not help; a person has to act.
        clock_s: Seconds that this machine's clock is ahead of the hub's, where the hub answered.
    """

    reachable: bool
    sentence: str = ""
    lasting: bool = False
    clock_s: float = 0.0


def split_address(address: str) -> tuple[str, int]:
    """Returns host and port of `host:port`, brackets of an IPv6 address removed."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def note_trouble(home: Path, sentence: str) -> None:
    """Leave what the hub refuses the agent for where `archipel site status` finds it; it outlives the agent."""
    with contextlib.suppress(OSError):  # on a full disk the log has it alone, and the agent goes on
        (run_folder(home) / _TROUBLE_FILE).write_text(sentence, "utf-8")


def forget_trouble(home: Path) -> None:
    """Take the note away: the hub answers the agent again."""
    with contextlib.suppress(OSError):
        (home / "run" / _TROUBLE_FILE).unlink(missing_ok=True)


def trouble(home: Path) -> str:
    """Return what the hub refused the agent for when it last asked, or ""."""
    try:
        return (home / "run" / _TROUBLE_FILE).read_text("utf-8")
    except FileNotFoundError:
        return ""


def check_hub(address: str, authority: Path, timeout_s: float = 5.0) -> HubState:
    """Looks at the hub's health page once.

    Args:
        address: `host:port` of the hub.
        authority: The certificate of the hub's authority that this site was given.
        timeout_s: Longest wait for a connection.
    """
    try:
        context = ssl.create_default_context(cafile=str(authority))
    except (OSError, ssl.SSLError):
        return HubState(
            False, f"{authority} is missing or no certificate. Copy it from the hub's start-up kit.", True
        )
    host, port = split_address(address)
    try:
        proxy = proxy_for(host)
        connection = hub_connection(host, port, context, timeout_s)
    except ProxyError as error:
        return HubState(False, str(error), True)
    try:
        asked = _now()
        connection.request("GET", "/health")
        response = connection.getresponse()
        response.read()
        clock_s = clock_offset_s(response.getheader(TIME_HEADER), (asked + _now()) / 2)
    except ssl.SSLCertVerificationError as error:
        return HubState(False, certificate_sentence(error, address), True)
    except (OSError, http.client.HTTPException):
        way = "the network and the firewall (one outbound port)"
        if proxy is not None:
            way = f"and whether the proxy {proxy.address} (HTTPS_PROXY) lets this site connect there (NO_PROXY)"
        return HubState(
            False,
            f"The hub does not answer at {address}. Check hub_address in site.toml, {way}; if the hub is being "
            "restarted, this passes.",
        )
    finally:
        connection.close()
    if response.status != http.HTTPStatus.OK:
        return HubState(False, f"What answers at {address} is no Archipel hub (HTTP {response.status}).", True)
    return HubState(True, clock_sentence(clock_s), False, clock_s)


def clock_offset_s(hub_time: str | None, own_time: float | None = None) -> float:
    """Returns how far this clock is ahead of the hub's, 0 where the hub does not tell.

    Args:
        hub_time: The hub's header, in seconds since 1970.
        own_time: This clock at about the same moment; now, by default.
    """
    try:
        return (_now() if own_time is None else own_time) - float(hub_time or "")
    except ValueError:
        return 0.0


def _now() -> float:
    return time.time()


def is_refused_clock(ahead_s: float) -> bool:
    """Returns whether the hub refuses the calls of a site whose clock is so far ahead of its own."""
    return ahead_s > _AHEAD_LIMIT_S or ahead_s < -_BEHIND_LIMIT_S


def clock_sentence(ahead_s: float) -> str:
    """Returns what to do about a clock, or "" where it is close enough."""
    if abs(ahead_s) < 2.5:
        return ""
    side = "ahead of" if ahead_s > 0 else "behind"
    return (
        f"The clock of this machine is {abs(ahead_s):.0f} s {side} the hub's"
        + (
            ", and the hub refuses its calls"
            if is_refused_clock(ahead_s)
            else "; the hub refuses from 5 s ahead or 305 s behind"
        )
        + ". Set it right (NTP, for instance with systemd-timesyncd or chrony)."
    )


def certificate_sentence(error: ssl.SSLCertVerificationError, address: str) -> str:
    """Return why the certificate at `address` is not the hub's, and what to do."""
    if "expired" in error.verify_message:
        return f"The certificate of {address} has expired. Ask the hub's administrator to renew it."
    if "mismatch" in error.verify_message or "not valid for" in error.verify_message:
        return f"The certificate of {address} is for another name. Check hub_address in site.toml, or ask the hub."
    return (
        f"The certificate of {address} was not issued by this site's keys/hub-ca.crt. Either this is another hub or "
        "someone stands in between, or the file is of another hub: compare it with the hub's administrator."
    )
