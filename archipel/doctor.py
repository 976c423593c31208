"""`archipel site doctor`: everything that may be wrong with a site, at once, and what to do about each.

All checks run, also when one fails; one that needs another says so. Each ends within seconds. Exit code for
monitoring: 0 where nothing is a problem (warnings allowed), 1 where something is.
"""

from __future__ import annotations

import datetime
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from archipel.alive import running_children
from archipel.cli_common import print_json, say
from archipel.enrol import Kit
from client.doctor import local_findings, settings_finding
from client.finding import Finding, looked_at, unchecked
from client.hub_check import trouble
from client.reach import STATIONS, reach_findings
from schemas.health import UnansweredHealthError, ask_health

__all__ = ["diagnose", "show_diagnosis"]

_MARKS = {"ok": "ok         ", "warning": "warning    ", "problem": "PROBLEM    ", "not checked": "not checked"}


def diagnose(home: Path, on_found: Callable[[Finding], None] = lambda finding: None) -> list[Finding]:
    """Return every finding about a site.

    Args:
        home: The site's folder.
        on_found: Called with each as soon as it is known.
    """
    now = datetime.datetime.now(datetime.UTC)
    found: list[Finding] = []

    def add(findings: Sequence[Finding]) -> None:
        found.extend(findings)
        for finding in findings:
            on_found(finding)

    settings, of_settings = settings_finding(home)
    add([of_settings])
    add(local_findings(home, settings, now))
    add(looked_at("kit", lambda: [_kit(home, now)]))
    add(looked_at("processes", lambda: [_processes(home)], limit_s=10.0))
    if settings is None:
        add([unchecked(station, "the settings have faults") for station in STATIONS])
    else:
        add(reach_findings(home, settings.hub_address))
    return found


def _kit(home: Path, now: datetime.datetime) -> Finding:
    path = home / "keys" / "hub.json"
    if not path.exists():
        what = "this site has not joined a hub"
        return Finding("kit", "problem", what, "send request.json to the hub, then `archipel site join KIT.json`")
    try:
        kit = Kit.model_validate_json(path.read_bytes())
    except (OSError, ValueError):
        return Finding("kit", "problem", "keys/hub.json cannot be read", "`archipel site join` with the kit again")
    text = f"joined with the kit of {kit.issued:%Y-%m-%d}"
    if kit.expires > now:
        return Finding("kit", "ok", f"{text}, which can be used until {kit.expires:%Y-%m-%d %H:%M} UTC")
    return Finding("kit", "ok", f"{text}; it has served (to join again, ask the hub for a new one)")


def _processes(home: Path) -> Finding:
    running = running_children(home)
    if not running:
        return Finding("processes", "warning", "the site does not run", "`archipel site up`")
    refused = trouble(home)
    if refused:
        return Finding("processes", "problem", f"the hub refuses this site: {refused}")
    try:
        health = ask_health(home, 5.0)
    except UnansweredHealthError as error:
        return Finding("processes", "problem", str(error), "restart `archipel site up`")
    wrong = [f"{one.check}: {one.text}" for one in health.findings if one.level == "error"]
    if wrong:
        return Finding("processes", "problem", "; ".join(wrong))
    names = ", ".join(f"{name} {pid}" for name, pid in running.items())
    return Finding("processes", "ok", f"run ({names})")


def show_diagnosis(home: Path, *, as_json: bool) -> int:
    """Print the findings; return 0 where none is a problem, 1 where one is."""
    found = diagnose(home, (lambda finding: None) if as_json else _show)
    problems = sum(finding.state == "problem" for finding in found)
    warnings = sum(finding.state == "warning" for finding in found)
    if as_json:
        record = {"kind": "doctor", "version": 1, "home": str(home.resolve()), "healthy": problems == 0}
        print_json({**record, "findings": [asdict(finding) for finding in found]})
    else:
        say()
        say(
            f"{_counted(problems, 'problem')}, {_counted(warnings, 'warning')}."
            if problems or warnings
            else "All well."
        )
    return 1 if problems else 0


def _show(finding: Finding) -> None:
    lines = textwrap.wrap(f"{finding.check}: {finding.found}", 100, break_on_hyphens=False, break_long_words=False)
    if finding.remedy:
        lines += textwrap.wrap(f"-> {finding.remedy}", 100, break_on_hyphens=False, break_long_words=False)
    say(f"{_MARKS[finding.state]}  {lines[0]}")
    for line in lines[1:]:
        say(" " * 13 + line)


def _counted(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"
