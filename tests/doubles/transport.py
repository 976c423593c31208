"""Stand-ins for what the transport carries for: an engine, a gate and a runner that do as a test says.

`python -m tests.doubles.transport ROLE --home DIR` starts the production process of that role with the stand-in
inside. What a request asks for stands in its first word; see `execute` and `Gate`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import types
from pathlib import Path

PATIENT = "Jeanne Moreau, 12/03/1961"


# ---------------------------------------------------------------- runner
def execute(home: Path, request: bytes) -> bytes:
    word, _, rest = request.partition(b":")
    if word == b"sleep":
        time.sleep(float(rest))
    elif word == b"raise":
        raise ValueError(f"row 3 of {PATIENT} is wrong")
    elif word == b"leave":
        sys.exit(PATIENT)
    elif word == b"die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif word == b"text":
        return "text"  # type: ignore[return-value]
    elif word == b"secret":
        return f"unapproved {PATIENT}".encode()
    elif word == b"pid":
        return b"echo:%d" % os.getpid()
    return b"echo:" + request


def run_runner(arguments: list[str]) -> int:
    from client import runner

    module = types.ModuleType("client.execute")
    module.execute = execute  # type: ignore[attr-defined]
    return runner.main(arguments, module=module)


# ---------------------------------------------------------------- agent
class Gate:
    """Lets through drafts that begin with `echo:`; answers or fails by itself where the request says so."""

    def admit(self, request: bytes) -> object:
        from client.guard_protocol import Answer, Run

        word, _, rest = request.partition(b":")
        if word == b"answer":
            return Answer(b"answered " + rest)
        if word == b"admit-raises":
            raise ValueError(PATIENT)
        if word == b"admit-odd":
            return PATIENT
        return Run()

    def release(self, request: bytes, draft: bytes | None) -> bytes:
        word, _, _ = request.partition(b":")
        if word == b"release-raises":
            raise ValueError(PATIENT)
        if word == b"release-odd":
            return PATIENT  # type: ignore[return-value]
        if draft is None:
            return b"runner failed"
        return draft if draft.startswith(b"echo:") else b"blocked"


def run_agent(arguments: list[str]) -> int:
    from client import agent

    return agent.main(arguments, open_guard=lambda home: Gate())  # type: ignore[arg-type,return-value]


# ---------------------------------------------------------------- hub
def conduct(run_id: str, home: Path, exchange: object) -> None:
    """Asks what `script/RUN.json` lists, and writes what came to `results/RUN.jsonl`."""
    from server.exchange import Failure

    script = json.loads((home / "script" / f"{run_id}.json").read_text())
    folder = home / "results"
    folder.mkdir(exist_ok=True)
    with (folder / f"{run_id}.jsonl").open("w") as file:
        for ask in script:
            bodies = {site: bytes.fromhex(body) for site, body in ask["bodies"].items()}
            start = time.monotonic()
            outcomes = exchange.ask(bodies, ask["deadline_s"])  # type: ignore[attr-defined]
            row = {
                site: {"reason": outcome.reason, "code": outcome.code, "site": outcome.site}
                if isinstance(outcome, Failure)
                else {"body": outcome.hex()}
                for site, outcome in outcomes.items()
            }
            file.write(json.dumps({"outcomes": row, "seconds": time.monotonic() - start}) + "\n")
            file.flush()


def run_launcher(arguments: list[str]) -> int:
    module = types.ModuleType("server.conduct")
    module.conduct = conduct  # type: ignore[attr-defined]
    sys.modules["server.conduct"] = module
    from server import launcher

    return launcher.main(arguments)


def run_superlink(arguments: list[str]) -> int:
    """The SuperLink, writing down every byte that sites push, so that a test can look for what must not be there."""
    from flwr.superlink.servicer.fleet import fleet_handlers

    home = Path(arguments[arguments.index("--home") + 1])
    received = (home / "received.bin").open("ab", buffering=0)

    def recording(handler: object) -> object:
        def handle(request: object, state: object) -> object:
            received.write(request.SerializeToString())  # type: ignore[attr-defined]
            return handler(request, state)  # type: ignore[operator]

        return handle

    from schemas.wire import verify_flower
    from server import superlink

    verify_flower(superlink.AUDITED)  # as main does, before the handlers are wrapped here
    superlink.AUDITED.clear()
    fleet_handlers.push_messages = recording(fleet_handlers.push_messages)
    fleet_handlers.push_object = recording(fleet_handlers.push_object)
    return superlink.main(arguments)


if __name__ == "__main__":
    roles = {"runner": run_runner, "agent": run_agent, "launcher": run_launcher, "superlink": run_superlink}
    sys.exit(roles[sys.argv[1]](sys.argv[2:]))
