"""A hub and its sites as real processes on loopback, for tests of the transport."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from client.site_process import create_node_key
from schemas.processes import Child, Supervisor
from server import launcher
from server.hub_process import await_hub, hub_init

ROOT = Path(__file__).resolve().parents[2]


def double(role: str, home: Path, environment: dict[str, str] | None = None) -> Child:
    return Child(
        role,
        [sys.executable, "-m", "tests.doubles.transport", role, "--home", str(home)],
        {"PYTHONPATH": str(ROOT), **(environment or {})},
    )


class HeldSupervisor(Supervisor):
    """A supervisor that a test can hold: what dies then stays dead until it is let go."""

    def __init__(self, home: Path, children: list[Child]) -> None:
        super().__init__(home, children)
        self.held = threading.Event()

    def _tend(self, *arguments: Any) -> None:
        if not self.held.is_set():
            super()._tend(*arguments)


class Party:
    """One home and the supervisor of its processes, in a thread of this process."""

    def __init__(self, home: Path, roles: list[str], environment: dict[str, str] | None = None) -> None:
        self.home = home
        self._supervisor = HeldSupervisor(home, [double(role, home, environment) for role in roles])
        self._thread = threading.Thread(target=self._supervisor.serve, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def request_stop(self) -> None:
        self._supervisor.request_stop()

    def stop(self) -> None:
        self._supervisor.request_stop()
        if self._thread.ident is not None:
            self._thread.join(20)

    def pid(self, role: str) -> int:
        return int((self.home / "run" / f"{role}.pid").read_text())

    def kill(self, role: str) -> None:
        os.kill(self.pid(role), signal.SIGKILL)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Nothing of this party is started again meanwhile."""
        self._supervisor.held.set()
        try:
            yield
        finally:
            self._supervisor.held.clear()

    def log(self, role: str) -> str:
        path = self.home / "logs" / f"{role}.log"
        return path.read_text() if path.exists() else ""

    def await_log(self, role: str, text: str, timeout_s: float = 60.0) -> None:
        deadline = time.monotonic() + timeout_s
        while text not in self.log(role):
            assert time.monotonic() < deadline, f"no {text!r} in:\n{self.log(role)}"
            time.sleep(0.05)


class Federation:
    def __init__(self, root: Path, sites: tuple[str, ...] = ("paris", "lyon", "nantes")) -> None:
        self.settings = hub_init(root / "hub", public_port=0, internal_port=0)
        self.hub = Party(self.settings.home, ["superlink", "launcher"])
        self._root = root
        self.sites: dict[str, Party] = {}
        for name in sites:
            self.add_site(name)
        self.enrol(*sites)
        self._runs = 0

    def add_site(self, name: str, *roles: str, environment: dict[str, str] | None = None) -> Party:
        """Makes a site's home; it is neither enrolled nor started yet."""
        home = self._root / name
        make_site(home, self.settings)
        self.sites[name] = Party(home, list(roles or ("runner", "agent")), environment)
        return self.sites[name]

    def enrol(self, *names: str) -> None:
        entries = [
            {"name": name, "node_public_key": (self.sites[name].home / "keys" / "node.pub").read_text()}
            for name in names
        ]
        fresh = self.settings.sites_file.with_suffix(".new")
        fresh.write_text(json.dumps(entries))
        fresh.replace(self.settings.sites_file)
        nodes = self.settings.nodes_file
        deadline = time.monotonic() + 60
        while nodes.exists() and set(json.loads(nodes.read_text())) != set(names):
            assert time.monotonic() < deadline, self.hub.log("superlink")
            time.sleep(0.02)

    def start(self) -> None:
        self.hub.start()
        assert await_hub(self.settings, 90), self.hub.log("superlink")
        for site in self.sites.values():
            site.start()

    def stop(self) -> None:
        parties = [*self.sites.values(), self.hub]
        for party in parties:
            party.request_stop()
        for party in parties:
            party.stop()

    def submit(self, *asks: tuple[dict[str, bytes], float]) -> tuple[str, int]:
        self._runs += 1
        run_id = f"run-{self._runs}"
        script = [
            {"bodies": {site: body.hex() for site, body in bodies.items()}, "deadline_s": deadline_s}
            for bodies, deadline_s in asks
        ]
        folder = self.settings.home / "script"
        folder.mkdir(exist_ok=True)
        (folder / f"{run_id}.json").write_text(json.dumps(script))
        return run_id, launcher.submit(self.settings.home, run_id)

    def rounds(self, run_id: str, number: int, timeout_s: float = 60.0) -> list[dict[str, Any]]:
        path = self.settings.home / "results" / f"{run_id}.jsonl"
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            lines = path.read_text().splitlines(keepends=True) if path.exists() else []
            rows = [json.loads(line) for line in lines if line.endswith("\n")]
            if len(rows) >= number:
                return rows
            time.sleep(0.02)
        raise AssertionError(f"{run_id} did not come to {number} rounds:\n{self.hub.log('launcher')}")

    def submit_and_await(self, *asks: tuple[dict[str, bytes], float]) -> tuple[str, int, int]:
        """As `submit`, until the run's process is at work; returns its id too."""
        path = self.hub.home / "run" / "serverapp.pid"
        before = path.read_text() if path.exists() else ""
        run_id, flower_run = self.submit(*asks)
        results = self.settings.home / "results" / f"{run_id}.jsonl"  # begun by the run's process itself
        until(lambda: results.exists() and path.read_text() not in ("", before), f"{run_id} to begin")
        until(lambda: launcher.status(self.settings.home, flower_run) == "running", f"{run_id} to be running")
        return run_id, flower_run, int(path.read_text())

    def ask(self, bodies: dict[str, bytes], deadline_s: float = 30.0) -> dict[str, Any]:
        """One run with one question; bodies as bytes, failures as dicts."""
        run_id, _ = self.submit((bodies, deadline_s))
        row = self.rounds(run_id, 1, deadline_s + 30)[0]["outcomes"]
        return {
            site: bytes.fromhex(outcome["body"]) if "body" in outcome else outcome for site, outcome in row.items()
        }

    def received(self) -> bytes:
        return (self.settings.home / "received.bin").read_bytes()


def until(condition: Callable[[], bool], what: str, within_s: float = 60.0) -> None:
    """Wait, on a loaded machine as long as it takes."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {within_s} s in vain for {what}"
        time.sleep(0.02)


def make_site(home: Path, settings: Any) -> None:
    (home / "tables").mkdir(parents=True, exist_ok=True)
    create_node_key(home)
    shutil.copy(settings.authority, home / "keys" / "hub-ca.crt")
    (home / "site.toml").write_text(
        f'kind = "site"\nversion = 1\nname = "{home.name}"\nhub_address = "127.0.0.1:{settings.public_port}"\n'
        f'tables = "{home / "tables"}"\n'
    )
