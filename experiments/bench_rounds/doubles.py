"""What stands in for engine, gate and runner while the transport is measured: random numbers there and back.

`python doubles.py ROLE --home DIR` starts the production process of that role; the SuperLink needs no stand-in.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
import types
from pathlib import Path
from typing import Any

import numpy as np

from client.guard_protocol import Answer, Run
from client.task import Outcome, Task


class PassThrough:
    def admit(self, request: bytes) -> Run | Answer:
        return Run()

    def release(self, request: bytes, draft: bytes | None) -> bytes:
        if draft is None:
            raise RuntimeError
        return draft


def execute(home: Path, request: bytes) -> bytes:
    """As many random numbers as came."""
    count = np.frombuffer(request, dtype="<f8").size
    return np.random.default_rng().standard_normal(count).tobytes()


def prepare(home: Path, request: bytes) -> Task:
    return Task(lambda: Outcome(execute(home, request)))


def conduct(run_id: str, home: Path, exchange: Any) -> None:
    """Rounds as `bench/RUN.json` says; their seconds go to `bench/RUN.seconds.json`."""
    plan = json.loads((home / "bench" / f"{run_id}.json").read_text())
    generator = np.random.default_rng(0)
    seconds = []
    for _ in range(plan["rounds"]):
        start = time.monotonic()
        bodies = {site: generator.standard_normal(plan["floats"]).tobytes() for site in plan["sites"]}
        replies = exchange.ask(bodies, 600.0)
        total = sum(np.frombuffer(reply, dtype="<f8") for reply in replies.values())
        assert total.shape == (plan["floats"],)
        seconds.append(time.monotonic() - start)
        path = home / "bench" / f"{run_id}.seconds.json"
        path.with_suffix(".new").write_text(json.dumps(seconds))
        path.with_suffix(".new").replace(path)


def main() -> int:
    role, arguments = sys.argv[1], sys.argv[2:]
    if role == "agent":
        from client import agent

        return agent.main(arguments, open_guard=lambda home: PassThrough())
    if role == "runner":
        from client import runner

        # The real site's imports, so that memory is that of the real runner.
        for name in ("pandas", "scipy.linalg", "models", "client.execute"):
            importlib.import_module(name)
        module = types.ModuleType("client.execute")
        module.prepare = prepare  # type: ignore[attr-defined]
        return runner.main(arguments, module=module)
    module = types.ModuleType("server.conduct")
    module.conduct = conduct  # type: ignore[attr-defined]
    sys.modules["server.conduct"] = module
    from server import launcher

    return launcher.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
