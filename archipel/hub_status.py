"""How a hub is: its processes, its sites, its certificates and its runs."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cryptography import x509

from archipel.alive import running_children
from archipel.cli_common import say
from archipel.homes import list_sites
from archipel.runs import last_heard, open_store
from server.heads import Alarm, HeadStore
from server.hub_home import HubSettings, load_hub_settings
from server.hub_process import is_up
from server.records import ACTIVE

__all__ = ["HubStatus", "SiteLine", "hub_status", "show_hub_status"]


@dataclass(frozen=True)
class SiteLine:
    """One enrolled site.

    Attributes:
        online: Connected now; None where the hub does not run, so that nobody knows.
        last_answer: When it last answered a round.
        ledger_entries: How many entries of its ledger are countersigned; None before the first.
    """

    name: str
    title: str
    enrolled: datetime.datetime
    online: bool | None
    last_answer: datetime.datetime | None
    ledger_entries: int | None = None


@dataclass(frozen=True)
class HubStatus:
    """What `archipel hub status` shows.

    Attributes:
        up: Both listeners answer.
        processes: Process ids of the hub's processes that run now.
        certificates: Last day of the authority's and of the server's certificate.
        runs: Number of runs by status.
        alarms: Heads of ledgers that were refused, the newest first.
    """

    address: str
    up: bool
    processes: Mapping[str, int]
    sites: tuple[SiteLine, ...]
    certificates: Mapping[str, datetime.date]
    runs: Mapping[str, int]
    active_runs: tuple[str, ...]
    alarms: tuple[Alarm, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return it for a program."""
        return asdict(self)


def hub_status(home: Path) -> HubStatus:
    """Look at a hub.

    Raises:
        FaultsError: When its settings or its list of sites are wrong.
    """
    settings = load_hub_settings(home)
    up = is_up(settings)
    online = _online(home) if up else None
    counts: dict[str, int] = {}
    active: list[str] = []
    with open_store(home) as store:
        heard = last_heard(store)
        heads, alarms = HeadStore(store).all_newest(), HeadStore(store).alarms()
        for run in store.runs():
            counts[run.status] = counts.get(run.status, 0) + 1
            if run.status in ACTIVE:
                active.append(run.run_id)
    return HubStatus(
        address=f"{settings.host}:{settings.public_port}",
        up=up,
        processes=running_children(home),
        sites=tuple(
            SiteLine(
                name=site.name,
                title=site.title,
                enrolled=site.enrolled,
                online=None if online is None else site.name in online,
                last_answer=heard.get(site.name),
                ledger_entries=heads[site.name].head.count if site.name in heads else None,
            )
            for site in list_sites(home)
        ),
        certificates=_expiries(settings),
        runs=counts,
        active_runs=tuple(active),
        alarms=tuple(alarms),
    )


def _online(home: Path) -> frozenset[str]:
    from server.launcher import online_sites

    return online_sites(home)


def _expiries(settings: HubSettings) -> dict[str, datetime.date]:
    found = {}
    for name, path in (("authority", settings.authority), ("server", settings.server_certificate)):
        if path.is_file():
            certificate = x509.load_pem_x509_certificate(path.read_bytes())
            found[name] = certificate.not_valid_after_utc.date()
    return found


def alarm_words(alarm: Alarm) -> str:
    """Return an alarm about a site's ledger, for a person."""
    what = (
        f"ends at entry {alarm.count}, and {alarm.known} were countersigned: its end was cut off, or the site was "
        "put back from a copy"
        if alarm.what == "back"
        else f"holds another entry {alarm.count} than the one that was countersigned: it was replaced"
    )
    times = f"{alarm.times} times, last" if alarm.times > 1 else "said"
    return f"the ledger of {alarm.site} {what} ({times} on {alarm.last_at:%Y-%m-%d %H:%M} UTC). Call the site."


def show_hub_status(status: HubStatus) -> None:
    """Print it for a person."""
    runs = ", ".join(f"{name} {pid}" for name, pid in sorted(status.processes.items()))
    say(f"Hub {status.address}: {f'up ({runs})' if status.up else 'not answering (`archipel hub up`)'}")
    for name, day in status.certificates.items():
        left = (day - datetime.datetime.now(datetime.UTC).date()).days
        hint = " - `archipel hub init --renew`" if name == "server" and left < 60 else ""
        say(f"Certificate of the {name}: until {day} ({left} days){hint}")
    say(f"Sites: {len(status.sites)} enrolled")
    for site in status.sites:
        state = {True: "online", False: "offline", None: "unknown"}[site.online]
        heard = f"last answer {site.last_answer:%Y-%m-%d %H:%M:%S} UTC" if site.last_answer else "no answer yet"
        ledger = "" if site.ledger_entries is None else f", ledger countersigned up to entry {site.ledger_entries}"
        say(f"  {site.name:<24} {state:<8} {heard}{ledger}")
    for alarm in status.alarms:
        say(f"ALARM: {alarm_words(alarm)}")
    say("Runs: " + (", ".join(f"{n} {state}" for state, n in sorted(status.runs.items())) or "none yet"))
    for run_id in status.active_runs:
        say(f"  {run_id}: `archipel runs watch {run_id}`")
