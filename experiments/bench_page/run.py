"""How fast a patient's page answers with 20 clinicians at a time, on a model of 20,000 features; how much memory.

    python experiments/bench_page/run.py [--requests 600] [--at-once 20] [--features 20000] [--out FILE]

The production page (`archipel site view`) in a process of its own; 20 signed-in sessions, each with a patient of its
own open, ask for its page at the horizons in turn, each as soon as the last answer came (closed loop). Everything is
inside: session, verified model, prognosis, access log on the disk, template, drawings. Exit code 1 beyond the aims.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx
import numpy as np

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from tests.page.site_kit import ACCOUNT, PASSWORD, ready_site, wide_model, write_wide_tables  # noqa: E402

MEDIAN_MS, P99_MS, MEMORY_MB = 100.0, 250.0, 500.0
HORIZONS = (365, 1095, 1825)
TOKEN = re.compile(r'name="csrf" value="([^"]+)"')


def memory_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status).group(1)) / 1024  # type: ignore[union-attr]


def token_of(page: httpx.Response) -> str:
    found = TOKEN.search(page.text)
    if found is None:
        raise SystemExit(f"No form on the page: status {page.status_code}.")
    return found.group(1)


def open_patient(client: httpx.Client, key: str, name: str) -> str:
    """Sign in, find a patient, and return the page's path."""
    token = token_of(client.get("/sign-in"))
    client.post("/sign-in", data={"csrf": token, "account": ACCOUNT, "password": PASSWORD})
    answer = client.post("/patient", data={"csrf": token_of(client.get("/")), "model": key, "patient": name})
    if 'id="lead"' not in answer.text:
        raise SystemExit("The page shows no prognosis.")
    return answer.url.path


def ask(client: httpx.Client, path: str, n: int, seconds: list[float], wrong: list[int]) -> None:
    for i in range(n):
        began = time.perf_counter()
        answer = client.get(f"{path}?horizon={HORIZONS[i % 3]}")
        seconds.append(time.perf_counter() - began)
        if answer.status_code != 200 or 'id="lead"' not in answer.text:
            wrong.append(answer.status_code)


def measure(home: Path, key: str, at_once: int, requests: int) -> dict[str, float]:
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "archipel.cli", "site", "view", "--home", str(home), "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        address = re.search(r"http://[\d.:]+", process.stdout.readline()).group()  # type: ignore[union-attr]
        clients = [httpx.Client(base_url=address, follow_redirects=True, timeout=60) for _ in range(at_once)]
        paths = [open_patient(client, key, f"P-{i}") for i, client in enumerate(clients)]
        seconds: list[float] = []
        wrong: list[int] = []
        threads = [
            threading.Thread(target=ask, args=(client, path, requests // at_once, seconds, wrong))
            for client, path in zip(clients, paths, strict=True)
        ]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        taken = time.perf_counter() - began
        peak = memory_mb(process.pid)
        for client in clients:
            client.close()
    finally:
        process.terminate()
        process.wait(15)
    ms = 1000 * np.array(seconds)
    return {
        "requests": len(seconds), "wrong": len(wrong), "median_ms": float(np.median(ms)),
        "p99_ms": float(np.quantile(ms, 0.99)), "per_second": len(seconds) / taken, "peak_mb": peak,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=600)
    parser.add_argument("--at-once", type=int, default=20)
    parser.add_argument("--features", type=int, default=20_000)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="archipel-bench-page-") as folder:
        home, key = ready_site(Path(folder), wide_model(asked.features))
        write_wide_tables(home, asked.at_once, asked.features)
        found = measure(home, key, asked.at_once, asked.requests)
    print(
        f"patient page, {asked.features:,} features, {asked.at_once} at a time: median {found['median_ms']:.0f} ms, "
        f"99th percentile {found['p99_ms']:.0f} ms, {found['per_second']:.0f} a second, "
        f"peak {found['peak_mb']:.0f} MB "
        f"(aims {MEDIAN_MS:.0f} ms, {P99_MS:.0f} ms, {MEMORY_MB:.0f} MB)"
    )
    if asked.out is not None:
        asked.out.write_text(json.dumps(found, indent=1) + "\n")
    is_met = found["median_ms"] < MEDIAN_MS and found["p99_ms"] < P99_MS and found["peak_mb"] < MEMORY_MB
    return 0 if is_met and not found["wrong"] else 1


if __name__ == "__main__":
    sys.exit(main())
