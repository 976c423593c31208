"""A hub and sites as real local processes, for a trial, the demo and the tests: set up, started, ended for certain.

The same commands run as in production (`archipel hub up`, `archipel site up`), over loopback, with TLS and node
keys. What differs is that one person plays everybody: the folders lie in one temporary home (0700), fingerprints are
not compared on the phone, and approvals of plan and sites are given on the sites' behalf, each recorded under
`TRIAL_APPROVER`.

Ending is not left to chance: every supervisor dies with this process (the kernel sees to it, also after kill -9),
and `stop` ends each by its process id, then its descendants, then looks whether any of them is left.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from archipel.alive import descendants, end_all
from archipel.homes import enrol_site, init_hub, init_site, join_site, utc_now
from archipel.runs import roster_of
from archipel.site_folders import find_site_folders, read_dialect
from client.approvals import approve
from client.dialect import Dialect
from client.optout import OPTOUT_FILE
from privacy.budget import Limit
from schemas.environment import HUB_PREFIX, SITE_PREFIX
from schemas.errors import ArchipelError
from schemas.plan import Plan
from schemas.processes import PARENT_VARIABLE
from server.hub_home import load_hub_settings
from server.hub_process import is_up

__all__ = ["TRIAL_APPROVER", "LocalFederation", "ProcessesLeftError", "StartError", "find_sites", "read_dialect"]

TRIAL_APPROVER = "archipel trial (on the site's behalf)"
_READY_S = 60.0
_PATIENCE_S = 12.0


class StartError(ArchipelError):
    """A process of the trial did not come up."""


class ProcessesLeftError(ArchipelError):
    """A process of the trial could not be ended."""


def find_sites(folder: Path) -> dict[str, Path]:
    """Return the site folders in `folder` by name.

    Raises:
        ArchipelError: When there are fewer than two.
    """
    found = {name: path.resolve() for name, path in find_site_folders(folder).items()}
    if len(found) < 2:
        raise StartError(f"{folder} holds one site folder, and a federation needs two or more.")
    return found


@dataclass
class LocalFederation:
    """A hub and its sites on this machine.

    Attributes:
        home: Folder of all homes: ``hub`` and ``sites/NAME``.
        sites: Folder of tables of each site, by name.
        budget: What every site spends under differential privacy; None: nothing, as at a site that says nothing.
    """

    home: Path
    sites: Mapping[str, Path]
    budget: Limit | None = None
    _processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict, init=False)
    _seen: set[int] = field(default_factory=set, init=False)

    @property
    def hub(self) -> Path:
        """The hub's folder."""
        return self.home / "hub"

    def site(self, name: str) -> Path:
        """Return a site's folder."""
        return self.home / "sites" / name

    def set_up(self) -> None:
        """Make all folders and enrol every site with the hub, as people would with their files."""
        _forget_settings()
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        init_hub(self.hub, public_port=0, internal_port=0)
        for name, tables in self.sites.items():
            now = utc_now()
            sections = _csv_section(read_dialect(tables)) + _budget_section(name, self.budget)
            request = init_site(self.site(name), name, tables, now, csv=sections)
            if (tables / OPTOUT_FILE).is_file():
                shutil.copyfile(tables / OPTOUT_FILE, self.site(name) / OPTOUT_FILE)
            kit = enrol_site(self.hub, request.to_json().encode(), now)
            join_site(self.site(name), kit.to_json().encode(), now)

    def start(self) -> None:
        """Start the hub and every site; the hub may not answer yet (see `wait_until_up`)."""
        self.start_process("hub", "hub", self.hub)
        for name in self.sites:
            self.start_process(f"site {name}", "site", self.site(name))

    def wait_until_up(self, within_s: float = _READY_S) -> None:
        """Wait until the hub answers.

        Raises:
            StartError: When a supervisor ends or the hub does not answer in time.
        """
        settings = load_hub_settings(self.hub)
        deadline = time.monotonic() + within_s
        while not is_up(settings):
            self.verify_running()
            if time.monotonic() > deadline:
                raise StartError(f"The hub did not come up within {within_s:.0f} s.{_last_lines(self.hub)}")
            time.sleep(0.1)

    def verify_running(self) -> None:
        """Look whether every supervisor still runs.

        Raises:
            StartError: Naming the one that does not, with the end of its log.
        """
        for name, process in self._processes.items():
            if process.poll() is not None:
                home = self.hub if name == "hub" else self.site(name.removeprefix("site "))
                raise StartError(f"The {name} ended at its start.{_last_lines(home)}")

    def approve(
        self, plan: Plan, sites: Sequence[str] | None = None, *, invited: Sequence[str] | None = None
    ) -> None:
        """Approve a plan on behalf of the named sites (default: all), from its file, as it would be sent by mail.

        Under the secure sum they approve the list of sites with it, without comparing fingerprints on the phone.

        Args:
            plan: To be run.
            sites: Who approves.
            invited: Whom the run is launched with (default: all).
        """
        names = list(self.sites) if invited is None else invited
        roster = roster_of(self.hub, names) if plan.study.privacy.secure_sum else None
        file = self.home / "plans" / f"{plan.hash}.json"
        file.parent.mkdir(mode=0o700, exist_ok=True)
        file.write_bytes(plan.content)
        for name in self.sites if sites is None else sites:
            approve(self.site(name), file, approver=TRIAL_APPROVER, roster=roster)

    def supervisor(self, name: str) -> int:
        """Return the process id of ``hub`` or of a site's supervisor."""
        return self._processes[name if name == "hub" else f"site {name}"].pid

    def processes(self) -> set[int]:
        """Return the process ids of all supervisors and their descendants that run now."""
        running = [process.pid for process in self._processes.values() if process.poll() is None]
        found = set(running).union(*(descendants(pid) for pid in running))
        self._seen |= found
        return found

    def stop(self) -> None:
        """End every process, the sites before the hub, and look whether any is left.

        Raises:
            ProcessesLeftError: When one cannot be ended.
        """
        self.processes()
        for process in reversed(self._processes.values()):
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        deadline = time.monotonic() + _PATIENCE_S
        for process in self._processes.values():
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        left = end_all(self._seen)
        self._processes.clear()
        self._seen.clear()
        if left:
            raise ProcessesLeftError(f"These processes could not be ended: {', '.join(map(str, sorted(left)))}.")

    def __enter__(self) -> LocalFederation:
        """Set up and start; whatever fails on the way is ended again."""
        self.set_up()
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End everything."""
        self.stop()

    def start_process(self, name: str, side: Literal["hub", "site"], home: Path) -> None:
        """Start the supervisor of any home, or start it again; `stop` ends it with the others."""
        if (before := self._processes.get(name)) is not None:
            before.wait(_PATIENCE_S)  # it has been ended; one of a home at a time
        log = home / "logs" / "supervisor.log"
        log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with log.open("ab") as sink:
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-m", "archipel.cli", side, "up", "--home", str(home)],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                # Its own session: Ctrl-C reaches this process alone, which then ends the others in order.
                start_new_session=True,
                env={**os.environ, **_QUIET, PARENT_VARIABLE: str(os.getpid())},
            )


def _forget_settings() -> None:
    """Drop settings given by environment, as in an image: they are those of one hub or site, and here are several."""
    for name in [name for name in os.environ if name.startswith((HUB_PREFIX, SITE_PREFIX))]:
        del os.environ[name]


_QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "PYTHONUNBUFFERED": "1",
    "PYTHONWARNINGS": "ignore::DeprecationWarning",
    # Several sites share one machine here: one thread each keeps them out of each other's way.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}


def _csv_section(dialect: Dialect) -> str:
    words = {key: getattr(dialect, key) for key in ("delimiter", "decimal", "encoding", "quote")}
    lines = [f"{key} = {_toml(value)}" for key, value in words.items()]
    return "\n".join([*lines, f"missing = [{', '.join(_toml(word) for word in dialect.missing)}]", ""])


def _budget_section(dataset: str, budget: Limit | None) -> str:
    if budget is None:
        return ""
    return f"\n[budget]\ndataset = {_toml(dataset)}\nepsilon = {budget.epsilon!r}\ndelta = {budget.delta!r}\n"


def _toml(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _last_lines(home: Path, n: int = 3) -> str:
    lines: list[str] = []
    for log in sorted((home / "logs").glob("*.log")):
        content = log.read_text("utf-8", errors="replace").strip().splitlines()
        lines += [f"  {log.name}: {line}" for line in content[-n:]]
    return ("\n" + "\n".join(lines)) if lines else ""
