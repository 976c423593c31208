"""Stand-ins for what the transport carries for: an engine, a gate and a runner that do as a test says.

`python -m tests.doubles.transport ROLE --home DIR` starts the production process of that role with the stand-in
inside. What a request asks for stands in its first word; see `execute` and `Gate`.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import sys
import time
import types
from pathlib import Path
from typing import Any

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


def prepare(home: Path, request: bytes) -> object:
    from client.task import Outcome, Task

    return Task(lambda: Outcome(execute(home, request)))


def run_runner(arguments: list[str]) -> int:
    from client import runner

    module = types.ModuleType("client.execute")
    module.prepare = prepare  # type: ignore[attr-defined]
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

    shift_clock(float(os.environ.get("TEST_CLOCK_AHEAD_S", "0")))
    home = Path(arguments[arguments.index("--home") + 1])
    agent.__dict__["_send"] = dying_once(home / "died", agent._send)
    return agent.main(arguments, open_guard=lambda home: Gate())  # type: ignore[arg-type,return-value]


def dying_once(marker: Path, send_reply: Any) -> Any:
    """The first answer to "half" is announced to the hub, and before its objects follow the agent is gone."""
    from schemas.wire import from_record

    def send(reply: Any, send: Any, push_object: Any) -> None:
        if reply.has_content() and from_record(reply.content) == b"echo:half" and not marker.exists():
            marker.touch()
            send_reply(reply, send, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        send_reply(reply, send, push_object)

    return send


def shift_clock(ahead_s: float) -> None:
    """Sets the clock that the agent signs with and compares with the hub's."""
    from datetime import timedelta

    from flwr.supernode import node_auth_http_interceptor as auth

    from client import hub_check

    for module, name, ahead in ((hub_check, "_now", ahead_s), (auth, "now", timedelta(seconds=ahead_s))):
        true_now = module.__dict__[name]
        module.__dict__[name] = lambda true_now=true_now, ahead=ahead: true_now() + ahead


def run_rogue(arguments: list[str]) -> int:
    """A runner taken over by someone: it says whatever the request names, to get a patient past the gate."""
    from client.link import RunnerEnd

    home = Path(arguments[arguments.index("--home") + 1])
    link = RunnerEnd.connect(home)
    socket = link._connection
    while True:
        word = link.receive().decode()
        patient = PATIENT.encode()

        def frame(kind: int, body: bytes, length: int | None = None) -> bytes:
            return struct.pack(">BQ", kind, len(body) if length is None else length) + body

        socket.sendall(
            {
                "draft": frame(2, patient),
                "failed-with-text": frame(3, patient),
                "trailing": frame(2, b"echo:fine") + frame(2, b"echo:" + patient) + patient,
                "unknown-kind": frame(9, patient),
                "request-kind": frame(1, patient),
                "endless": frame(2, patient, 1 << 60),
                "flower-message": frame(2, flower_message(patient)),
                "no-frame": patient * 20,
            }[word]
        )


def flower_message(patient: bytes) -> bytes:
    """A Flower record dictionary with a stowaway beside the body, as it would travel."""
    from flwr.app import ConfigRecord, RecordDict

    record = RecordDict({"archipel": ConfigRecord({"body": b"fine"}), "extra": ConfigRecord({"note": patient})})
    return b"".join(child.deflate() for child in (record, *(record.children or {}).values()))


# ---------------------------------------------------------------- hub
def conduct(run_id: str, home: Path, exchange: Any) -> None:
    """Asks what `script/RUN.json` lists, and writes what came to `results/RUN.jsonl`."""
    from server.exchange import Failure

    script = json.loads((home / "script" / f"{run_id}.json").read_text())
    folder = home / "results"
    folder.mkdir(exist_ok=True)
    with (folder / f"{run_id}.jsonl").open("w") as file:
        for ask in script:
            bodies = {site: bytes.fromhex(body) for site, body in ask["bodies"].items()}
            start = time.monotonic()
            outcomes = exchange.ask(bodies, ask["deadline_s"])
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

    def recording(handler: Any) -> Any:
        def handle(request: Any, state: Any) -> Any:
            received.write(request.SerializeToString())
            return handler(request, state)

        return handle

    from schemas import audited
    from schemas.wire import verify_flower
    from server import superlink

    verify_flower(audited.SUPERLINK)  # as main does, before the handlers are wrapped here
    audited.SUPERLINK.clear()
    for name in ("push_messages", "push_object"):
        fleet_handlers.__dict__[name] = recording(fleet_handlers.__dict__[name])
    return superlink.main(arguments)


if __name__ == "__main__":
    roles = {
        "runner": run_runner,
        "rogue": run_rogue,
        "agent": run_agent,
        "launcher": run_launcher,
        "superlink": run_superlink,
    }
    sys.exit(roles[sys.argv[1]](sys.argv[2:]))
