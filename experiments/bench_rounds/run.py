"""Seconds a round, ours and stock Flower 1.41, in one run: three sites, TLS, real processes, random numbers.

    python experiments/bench_rounds/run.py [--rounds 10] [--floats 1000,1000000] [--skip-stock] [--no-torch] [--out F]

Ours: the production processes of hub and sites; only what they carry is replaced (`doubles.py`). Stock: subprocess
isolation as `flower-superlink` and `flower-supernode` start by default, a new process for each message, torch
imported in it. torch is put into a cache folder once; where it cannot be had, the table says so.
The first round of each is left out: it pays for connections and for the bundle.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from client.site_process import create_node_key
from schemas.processes import Child, Supervisor
from server import launcher
from server.hub_home import HubSettings, free_port, hub_init
from server.hub_process import await_hub

HERE = Path(__file__).resolve().parent
SITES = ("one", "two", "three")
TORCH = "torch==2.13.0"
QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "RAY_USAGE_STATS_ENABLED": "0"}


# ---------------------------------------------------------------- memory
def memory_mb(pid: int) -> dict[str, float]:
    """RSS, and PSS, which shares what forked processes have in common."""
    values = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in ("Rss", "Pss"):
            values[name.lower()] = int(rest.split()[0]) / 1024
    return values


def descendants(pid: int) -> list[int]:
    children: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        children += [int(word) for word in (task / "children").read_text().split()]
    return [pid, *(one for child in children for one in descendants(child))]


class Memory:
    """Looks every quarter of a second at named processes and their children, and keeps the largest."""

    def __init__(self, pids: dict[str, int]) -> None:
        self.peak: dict[str, dict[str, float]] = {}
        self._pids = pids
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(0.25):
            for name, top in self._pids.items():
                self._look(name, top)

    def _look(self, name: str, top: int) -> None:
        try:
            family = descendants(top)
        except OSError:
            return
        for pid in family:
            label = name if pid == top else f"{name}, child"
            try:
                now = memory_mb(pid)
            except OSError:
                continue
            peak = self.peak.setdefault(label, {"rss": 0.0, "pss": 0.0})
            for key, value in now.items():
                peak[key] = max(peak[key], round(value, 1))

    def stop(self) -> dict[str, dict[str, float]]:
        self._stop.set()
        self._thread.join()
        return self.peak


# ---------------------------------------------------------------- ours
@contextmanager
def ours(root: Path) -> Iterator[tuple[HubSettings, dict[str, int]]]:
    settings = hub_init(root / "hub", public_port=0, internal_port=0)
    entries, homes = [], []
    for name in SITES:
        home = root / name
        (home / "tables").mkdir(parents=True)
        public = create_node_key(home)
        shutil.copy(settings.authority, home / "keys" / "hub-ca.crt")
        (home / "site.toml").write_text(
            f'kind = "site"\nversion = 1\nname = "{name}"\nhub_address = "127.0.0.1:{settings.public_port}"\n'
            f'tables = "{home / "tables"}"\n'
        )
        entries.append({"name": name, "node_public_key": public.read_text()})
        homes.append(home)
    settings.sites_file.write_text(json.dumps(entries))
    pids: dict[str, int] = {}
    supervisors = [Supervisor(settings.home, [_superlink(settings.home), _double("launcher", settings.home)])]
    supervisors += [Supervisor(home, [_double("runner", home), _double("agent", home)]) for home in homes]
    threads = []
    for name, supervisor in zip(("hub", *SITES), supervisors, strict=True):

        def remember(role: str, pid: int, name: str = name) -> None:
            pids[f"{name}: {role}"] = pid

        threads.append(threading.Thread(target=supervisor.serve, kwargs={"on_start": remember}, daemon=True))
        threads[-1].start()
    try:
        if not await_hub(settings):
            raise RuntimeError((settings.home / "logs" / "superlink.log").read_text())
        yield settings, pids
    finally:
        for supervisor in supervisors:
            supervisor.request_stop()
        for thread in threads:
            thread.join()


def _superlink(home: Path) -> Child:
    return Child("superlink", [sys.executable, "-m", "server.superlink", "--home", str(home)])


def _double(role: str, home: Path) -> Child:
    return Child(role, [sys.executable, str(HERE / "doubles.py"), role, "--home", str(home)])


def run_ours(settings: HubSettings, floats: int, rounds: int) -> list[float]:
    folder = settings.home / "bench"
    folder.mkdir(exist_ok=True)
    run_id = f"floats-{floats}"
    (folder / f"{run_id}.json").write_text(json.dumps({"rounds": rounds + 1, "floats": floats, "sites": SITES}))
    flower_run = launcher.submit(settings.home, run_id)
    while (state := launcher.status(settings.home, flower_run)) in ("waiting", "running"):
        time.sleep(0.2)
    if state != "completed":
        raise RuntimeError((settings.home / "logs" / "launcher.log").read_text())
    seconds: list[float] = json.loads((folder / f"{run_id}.seconds.json").read_text())
    return seconds[1:]


# ---------------------------------------------------------------- stock
def find_torch() -> Path | None:
    """Returns a folder with torch for PYTHONPATH, installed there at the first call, or None."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "archipel" / "bench_rounds"
    folder = cache / f"{TORCH.replace('==', '-')}-py{sys.version_info.major}{sys.version_info.minor}"
    if not (folder / "complete").exists():
        print(f"installing {TORCH} for the stock comparison into {folder} (once)", flush=True)
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder), TORCH]
        if subprocess.run(command, check=False).returncode != 0:
            return None
        (folder / "complete").touch()
    return folder


@contextmanager
def stock(root: Path, torch: Path | None) -> Iterator[tuple[Path, dict[str, str], dict[str, int]]]:
    """Flower as it comes, with TLS: one SuperLink, three SuperNodes, everything else started by them."""
    keys = hub_init(root / "hub", public_port=0, internal_port=0)
    binaries = Path(sys.executable).parent
    environment = {**os.environ, **QUIET, "FLWR_HOME": str(root / "flwr"), "PYTHONWARNINGS": "ignore"}
    environment["PATH"] = f"{binaries}{os.pathsep}{environment['PATH']}"
    if torch is not None:
        environment["PYTHONPATH"] = str(torch)
    (root / "flwr").mkdir()
    (root / "flwr" / "config.toml").write_text(
        f'[superlink]\ndefault = "hub"\n\n[superlink.hub]\naddress = "{keys.internal_address}"\n'
        f'root-certificates = "{keys.authority}"\n'
    )
    tls = ["--ssl-ca-certfile", keys.authority, "--ssl-certfile", keys.server_certificate, "--ssl-keyfile"]
    link = ["flower-superlink", *tls, keys.server_key, "--host", "127.0.0.1", "--port", keys.internal_port]
    # Without this the first message of each site also waits for an installation of flwr.
    link += ["--disable-runtime-dependency-installation"]
    started = {"hub: superlink": _start(link, environment, root / "superlink.log")}
    _await_port(keys)
    for name in SITES:
        node = ["flower-supernode", "--superlink", keys.internal_address, "--root-certificates", keys.authority]
        node += ["--host", "127.0.0.1", "--port", free_port()]
        started[f"{name}: supernode"] = _start(node, environment, root / f"{name}.log")
    try:
        yield root, environment, {name: process.pid for name, process in started.items()}
    finally:
        # The children of a killed parent would live on, so they are found first.
        family = [pid for process in started.values() for pid in descendants(process.pid)]
        for process in started.values():
            process.terminate()
        for process in started.values():
            process.wait(20)
        for pid in family:
            _kill(pid)


def _start(command: Sequence[object], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as sink:
        return subprocess.Popen(
            [str(word) for word in command], env=environment, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink
        )


def _await_port(keys: HubSettings) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", keys.internal_port), 1).close()
            return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError("flower-superlink did not start")


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def run_stock(root: Path, environment: dict[str, str], floats: int, rounds: int, *, torch: bool) -> list[float]:
    out = root / f"seconds-{floats}.json"
    settings = {"rounds": rounds + 1, "floats": floats, "sites": len(SITES), "torch": str(torch).lower()}
    words = " ".join(f"{name}={value}" for name, value in settings.items()) + f' out="{out}"'
    command = ["flwr", "run", str(HERE / "stock_app"), "--run-config", words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stdout + done.stderr)
    deadline = time.monotonic() + 120 * (rounds + 1)
    while time.monotonic() < deadline:
        seconds: list[float] = json.loads(out.read_text() or "[]") if out.exists() else []
        if len(seconds) == rounds + 1:
            return seconds[1:]
        time.sleep(0.5)
    raise RuntimeError(f"stock Flower did not finish:\n{(root / 'superlink.log').read_text()[-4000:]}")


# ---------------------------------------------------------------- the table
def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10, help="rounds of ours; stock, being slow, gets a third")
    parser.add_argument("--floats", default="1000,1000000", help="sizes of a release, float64")
    parser.add_argument("--skip-stock", action="store_true")
    parser.add_argument("--no-torch", action="store_true", help="stock without torch in its processes")
    parser.add_argument("--out", type=Path, default=Path("out/bench_rounds.json"))
    options = parser.parse_args()
    sizes = [int(word) for word in options.floats.split(",")]
    load = os.getloadavg()[0]
    result: dict[str, Any] = {
        "kind": "bench_rounds",
        "version": 1,
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "load_at_start": load},
        "sites": len(SITES),
        "ours": {"seconds": {}, "memory_mb": {}},
        "stock": None,
    }
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, ours(Path(folder)) as (settings, pids):
        memory = Memory(pids)
        for floats in sizes:
            result["ours"]["seconds"][str(floats)] = run_ours(settings, floats, options.rounds)
        result["ours"]["memory_mb"] = memory.stop()
    if not options.skip_stock:
        result["stock"] = _measure_stock(sizes, max(2, options.rounds // 3), with_torch=not options.no_torch)
    _print(result, sizes)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\nwritten to {options.out}")
    return 0


def _measure_stock(sizes: list[int], rounds: int, *, with_torch: bool) -> dict[str, Any]:
    torch = find_torch() if with_torch else None
    measured: dict[str, Any] = {"torch": torch is not None, "seconds": {}}
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        stock(Path(folder), torch) as (root, environment, pids),
    ):
        memory = Memory(pids)
        for floats in sizes:
            measured["seconds"][str(floats)] = run_stock(root, environment, floats, rounds, torch=torch is not None)
        measured["memory_mb"] = memory.stop()
    return measured


def _print(result: dict[str, Any], sizes: list[int]) -> None:
    name = "stock Flower 1.41"
    theirs = result["stock"]
    if theirs is not None:
        name += ", torch imported" if theirs["torch"] else ", torch not installed"
    print(f"\nseconds a round (median; fastest to slowest), {result['sites']} sites, TLS, {os.cpu_count()} cores")
    print(f"{'floats':>10}  {'ours':>22}" + (f"  {name:>36}  ours : stock" if theirs is not None else ""))
    for floats in sizes:
        mine = result["ours"]["seconds"][str(floats)]
        row = f"{floats:>10}  {_spread(mine):>22}"
        if theirs is not None:
            other = theirs["seconds"][str(floats)]
            row += f"  {_spread(other):>36}  1/{statistics.median(other) / statistics.median(mine):.1f}"
        print(row)
    for who, part in (("ours", result["ours"]), (name, theirs)):
        if part is not None:
            print(f"\nmemory at most, MB, {who}")
            for label, peak in sorted(part["memory_mb"].items()):
                print(f"  {label:<28} RSS {peak['rss']:>7.1f}  PSS {peak['pss']:>7.1f}")


def _spread(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.3f} ({min(seconds):.3f}-{max(seconds):.3f})"


if __name__ == "__main__":
    sys.exit(main())
