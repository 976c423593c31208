"""A site's state in the secure sum as bytes, and back: for a file or a row that only the site can read (mode 0600).

The caller replaces the former bytes, so that what the state has forgotten is gone from there too (as far as the disk
forgets). A state that was put back from a backup would answer a round twice: state and answered rounds belong into
one store, which is restored never or together with a new run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from privacy.secure_protocol import SecureRun
from privacy.secure_sum import Announced, Dealt, Ready
from schemas.canonical import canonical_json
from schemas.errors import IncompatibleVersionError, MessageError
from schemas.roster import read_roster

__all__ = ["State", "read_state", "state_bytes"]

State = Announced | Dealt | Ready
_KINDS: dict[str, type[State]] = {kind.KIND: kind for kind in (Announced, Dealt, Ready)}
_VERSION = 1
_BOX = "boxes/"


def state_bytes(state: State) -> bytes:
    """Return a state as bytes; equal states give equal bytes."""
    header: dict[str, Any] = {"kind": f"secure-sum-{state.KIND}", "version": _VERSION}
    arrays: dict[str, Any] = {}
    for item in fields(state):
        value = getattr(state, item.name)
        if isinstance(value, SecureRun):
            header["run"] = {
                "roster": value.roster.content.decode(),
                "plan_hash": value.plan_hash,
                "run_id": value.run_id,
                "sites": list(value.sites),
                "n_rounds": value.n_rounds,
            }
        elif isinstance(value, bytes):
            arrays[item.name] = np.frombuffer(value, dtype=np.uint8)
        elif isinstance(value, Mapping):
            arrays |= {f"{_BOX}{name}": np.frombuffer(box, dtype=np.uint8) for name, box in value.items()}
        elif isinstance(value, np.ndarray):
            arrays[item.name] = np.asarray(value, order="C")
        else:
            header[item.name] = value
    ordered = {name: arrays[name] for name in sorted(arrays)}
    return safetensors.numpy.save(ordered, metadata={"archipel": canonical_json(header).decode()})


def read_state(content: bytes) -> State:
    """Read the bytes of a state.

    Raises:
        IncompatibleVersionError: When another version wrote it.
        MessageError: When it is damaged.
    """
    try:
        length = int.from_bytes(content[:8], "little")
        header = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["archipel"])
        arrays = safetensors.numpy.load(content)
        kind = _KINDS.get(str(header.pop("kind")).removeprefix("secure-sum-"))
        if header.pop("version") != _VERSION or kind is None:
            raise IncompatibleVersionError("the state of the secure sum was written by another version")
        words = header.pop("run")
        run = SecureRun(
            roster=read_roster(words["roster"].encode()),
            plan_hash=words["plan_hash"],
            run_id=words["run_id"],
            sites=tuple(words["sites"]),
            n_rounds=words["n_rounds"],
        )
        values: dict[str, Any] = {**header, "run": run}
        for item in fields(kind):
            if item.type == "bytes":
                values[item.name] = arrays[item.name].tobytes()
            elif item.type == "Bytes":
                values[item.name] = arrays[item.name]
            elif item.name == "boxes":
                values["boxes"] = {
                    name.removeprefix(_BOX): box.tobytes() for name, box in arrays.items() if name.startswith(_BOX)
                }
        return kind(**values)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, safetensors.SafetensorError):
        raise MessageError("the state of the secure sum is damaged: the run has to be launched anew") from None
