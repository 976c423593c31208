"""A site's runner that somebody took over: `python -m tests.doubles.hostile --home DIR` in place of `client.runner`.

It computes what the honest runner computes, and answers the first step with what its attack makes of that. Which
attack stands in the study's name (``attack-wrong-shape``), so one federation can be asked for all of them.
"""

from __future__ import annotations

import json
import struct
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import safetensors.numpy

from client.task import Outcome, Task
from tests.doubles.transport import PATIENT, flower_message

STEP = "moments"
CELL = 39218.70365
"""A number that no honest sum holds: an age or a laboratory value of one patient."""

TAMPERED = struct.pack("<d", CELL), struct.pack("<f", CELL), PATIENT.encode()
"""What must not be found in anything that the hub received."""


def _with(draft: bytes, **arrays: object) -> bytes:
    from schemas.messages import Draft, decode_as, encode

    honest = decode_as(draft, Draft)
    lied = {name: np.asarray(array, dtype=np.float64) for name, array in arrays.items()}
    return encode(replace(honest, arrays={**honest.arrays, **lied}))


def _few(draft: bytes) -> bytes:
    from schemas.messages import Draft, decode_as, encode

    return encode(replace(decode_as(_with(draft, n_patients=9.0, total=[CELL, 1.0]), Draft), n_patients=9))


def _narrow(draft: bytes) -> bytes:
    """Everything in 32 bits, under the honest header: our own encoder refuses to write it."""
    from schemas.messages import Draft, decode_as

    length = struct.unpack("<Q", draft[:8])[0]
    arrays = decode_as(_with(draft, total=[CELL, 1.0]), Draft).arrays
    metadata = json.loads(draft[8 : 8 + length])["__metadata__"]
    return safetensors.numpy.save({name: a.astype(np.float32) for name, a in arrays.items()}, metadata=metadata)


def _named(draft: bytes) -> bytes:
    from schemas.messages import Draft, decode_as, encode

    return encode(replace(decode_as(draft, Draft), step=PATIENT))


def _field(draft: bytes) -> bytes:
    """One more field in the header, beside exactly the honest ones."""
    from schemas.messages import Draft, decode_as

    length = struct.unpack("<Q", draft[:8])[0]
    header = json.loads(json.loads(draft[8 : 8 + length])["__metadata__"]["archipel"])
    metadata = {"archipel": json.dumps({**header, "note": PATIENT})}
    return safetensors.numpy.save(dict(decode_as(draft, Draft).arrays), metadata=metadata)


def _raise(draft: bytes) -> bytes:
    raise ValueError(f"row 3 of {PATIENT} is wrong")


ATTACKS: dict[str, Callable[[bytes], bytes]] = {
    "extra-record": lambda draft: flower_message(PATIENT.encode()),
    "extra-array": lambda draft: _with(draft, rows=[CELL, CELL]),
    "wrong-shape": lambda draft: _with(draft, total=[CELL] * 30),
    "wrong-dtype": _narrow,
    "not-a-number": lambda draft: _with(draft, total=[CELL, np.nan]),
    "too-large": lambda draft: _with(draft, total=[CELL, 1e31]),
    "too-few-patients": _few,
    "other-count": lambda draft: _with(draft, n_patients=CELL),
    "exception-text": _raise,
    "name-as-step": _named,
    "extra-field": _field,
    "trailing-bytes": lambda draft: draft + PATIENT.encode(),
    "lie-in-the-plans-form": lambda draft: _with(draft, total=[CELL, 1.0]),
}


def prepare(home: Path, request: bytes) -> Task:
    """Return the honest task, with a draft of which the study's attack makes something else."""
    from client import execute as honest
    from client.approvals import load_plan
    from client.state import SitePaths
    from schemas.messages import RoundRequest, decode

    task = honest.prepare(home, request)
    asked = decode(request)
    if not isinstance(asked, RoundRequest) or asked.step != STEP:
        return task
    plan = load_plan(SitePaths(home), asked.plan_hash)
    assert plan is not None
    attack = ATTACKS[plan.study.name.removeprefix("attack-")]

    def work() -> Outcome:
        outcome = task.work()
        return replace(outcome, draft=attack(outcome.draft))

    return replace(task, work=work)


def main() -> int:
    """Serve the agent as the real runner does, with the hostile module inside."""
    from client import runner

    module = types.ModuleType("client.execute")
    module.prepare = prepare  # type: ignore[attr-defined]
    return runner.main(sys.argv[1:], module=module)


if __name__ == "__main__":
    sys.exit(main())
