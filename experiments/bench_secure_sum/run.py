"""What the secure sum costs: CPU seconds a site and the hub spend in a round, against the plain sum.

    python experiments/bench_secure_sum/run.py [--quick] [--out FILE.json]

All sites run in this process, one after the other, without a network: figures are CPU time and bytes, not waiting.
A round with dropouts leaves out as many sites as the threshold allows. The plain sum is what the hub adds in clear,
with the encoding of its message at the site left out of both. Set-up is measured for 256 rounds, a Newton study's.
With --quick: 1k numbers alone, up to 10 sites.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy import secure_sum, secure_total
from privacy.fixed_point import decode_arrays, encode_arrays
from privacy.secure_protocol import SecureRun
from privacy.secure_state import state_bytes
from privacy.shamir import split
from schemas.plan import ArraySpec
from schemas.roster import make_roster

SETUP_ROUNDS = 256
REPEATS = 3
_T = TypeVar("_T")


def timed(work: Callable[[], _T]) -> tuple[_T, float]:
    start = time.process_time()
    result = work()
    return result, time.process_time() - start


def federation(n: int, n_rounds: int) -> dict[str, Any]:
    identities = {f"s{i:02}": Ed25519PrivateKey.generate() for i in range(n)}
    keys = {k: base64.b64encode(v.public_key().public_bytes_raw()).decode() for k, v in identities.items()}
    roster = make_roster(keys)
    run = SecureRun(roster, "a" * 64, "bench", roster.names, n_rounds)
    begun, begin_s = timed(lambda: {s: secure_sum.begin(run, s, identities[s]) for s in run.sites})
    messages = {s: message for s, (_, message) in begun.items()}
    dealt, deal_s = timed(lambda: {s: secure_sum.deal(state, messages) for s, (state, _) in begun.items()})
    inboxes = secure_total.inboxes(run, {s: boxes for s, (_, boxes) in dealt.items()})
    states, receive_s = timed(lambda: {s: secure_sum.receive(dealt[s][0], inboxes[s]) for s in run.sites})
    known, hub_s = timed(lambda: secure_total.read_announcements(run, messages))
    first = run.sites[0]
    return {
        "run": run,
        "identities": identities,
        "states": states,
        "known": known,
        "setup": {
            "site_s": (begin_s + deal_s + receive_s) / n,
            "hub_s": hub_s,
            "keys_bytes": len(messages[first]),
            "shares_bytes": sum(len(box) for box in dealt[first][1].values()),
            "state_bytes": len(state_bytes(states[first])),
        },
    }


def one_round(made: dict[str, Any], number: int, size: int, n_dropped: int) -> dict[str, float]:
    run, states = made["run"], made["states"]
    specs = (ArraySpec(name="x", shape=(size,), meaning="numbers", bound=1000.0),)
    rng = np.random.default_rng(number)
    local = {site: rng.normal(0, 100, size) for site in run.sites}
    survivors = run.survivors(run.sites[n_dropped:])
    site_s, masked, consents, answers = 0.0, {}, {}, {}
    for site in survivors.alive:
        vector, encode_s = timed(lambda site=site: encode_arrays({"x": local[site]}, specs, run.n_sites))
        (states[site], masked[site]), mask_s = timed(
            lambda site=site, vector=vector: secure_sum.mask(states[site], number, vector)
        )
        site_s += encode_s + mask_s
    if n_dropped:
        for site in survivors.alive:
            (states[site], consents[site]), seconds = timed(
                lambda site=site: secure_sum.consent(states[site], number, survivors, made["identities"][site])
            )
            site_s += seconds
    for site in survivors.alive:
        (states[site], answers[site]), seconds = timed(
            lambda site=site: secure_sum.reveal(states[site], number, survivors, consents)
        )
        site_s += seconds
    found, hub_s = timed(
        lambda: decode_arrays(
            secure_total.total(made["known"], number, survivors, masked, answers), specs, run.n_sites
        )["x"]
    )
    plain, plain_s = timed(lambda: sum(local[site] for site in survivors.alive))
    return {
        "site_s": site_s / len(survivors.alive),
        "hub_s": hub_s,
        "plain_hub_s": plain_s,
        "error": float(np.abs(found - plain).max()),
    }


def measure(sites: list[int], sizes: list[int]) -> list[dict[str, Any]]:
    rows = []
    for n in sites:
        made = federation(n, SETUP_ROUNDS)
        number = 0
        for size in sizes:
            for n_dropped in sorted({0, n - made["run"].threshold}):
                repeats = []
                for _ in range(REPEATS if n * size < 10_000_000 else 1):
                    repeats.append(one_round(made, number, size, n_dropped))
                    number += 1
                median = {key: float(np.median([row[key] for row in repeats])) for key in repeats[0]}
                rows.append({"sites": n, "numbers": size, "dropped": n_dropped, **median, "setup": made["setup"]})
    return rows


def shamir_rows(sites: list[int]) -> list[dict[str, Any]]:
    """Sharing out a run's 2 x 256 secrets of 32 bytes, at one site."""
    secrets = np.frombuffer(os.urandom(2 * SETUP_ROUNDS * 32), dtype=np.uint8).reshape(2, SETUP_ROUNDS, 32)
    return [{"sites": n, "split_s": timed(lambda n=n: split(secrets, n, 2 * n // 3 + 1))[1]} for n in sites]


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "CPU seconds                          site       hub  hub, plain     error",
        "sites   numbers  missing        a round   a round     a round",
    ]
    for row in rows:
        lines.append(
            f"{row['sites']:5d} {row['numbers']:9,d} {row['dropped']:8d}     {row['site_s']:10.4f}"
            f"{row['hub_s']:10.4f}  {row['plain_hub_s']:10.4f}  {row['error']:8.1e}"
        )
    lines += ["", f"set-up for {SETUP_ROUNDS} rounds    site s     hub s   keys kB  shares kB  state kB"]
    for n, setup in {row["sites"]: row["setup"] for row in rows}.items():
        lines.append(
            f"{n:5d} sites              {setup['site_s']:10.4f}{setup['hub_s']:10.4f}"
            f"{setup['keys_bytes'] / 1e3:10.0f}{setup['shares_bytes'] / 1e3:11.0f}{setup['state_bytes'] / 1e3:10.0f}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    sites, sizes = ([3, 10], [1000]) if arguments.quick else ([3, 10, 30], [1000, 100_000, 1_000_000])
    rows, shamir = measure(sites, sizes), shamir_rows(sites)
    print(table(rows))
    if arguments.out is not None:
        content = {"kind": "bench-secure-sum", "version": 1, "machine": platform.machine(), "cores": os.cpu_count(),
                   "rounds": rows, "shamir": shamir}  # fmt: skip
        arguments.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
