"""One body of bytes as a Flower message, and what both sides know about Flower itself.

Everything that crosses between hub and site is one `bytes` body inside one
`ConfigRecord` named "archipel". Nothing else is accepted, so a reply has no
corner in which a second array, a metric or a sentence could travel. Packing all
into one record is also what makes a round fast: each record costs a request.

This module also holds what both sides share about Flower 1.41: telemetry off,
shorter waits, and the fingerprint by which either refuses to start with a
Flower that nobody has read. What the bytes mean is in `schemas.messages`.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import os
import time
from collections.abc import Iterable, Mapping
from enum import IntEnum
from types import ModuleType
from typing import Any

# Before the first import of flwr, which reads both when it is imported.
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"

from flwr.app import ConfigRecord, RecordDict
from flwr.supercore import telemetry
from flwr.supercore.inflatable import inflatable_utils

__all__ = [
    "POLL_S",
    "FlowerDiffersError",
    "SiteFault",
    "WireError",
    "cap_sleeps",
    "fingerprint",
    "from_record",
    "shorten_backoff",
    "to_record",
    "verify_flower",
]

# Whoever imported flwr before this module did so with telemetry on; the switch is read again at each event.
telemetry.FLWR_TELEMETRY_ENABLED = "0"

RECORD = "archipel"
BODY = "body"

POLL_S = 0.05
"""Seconds between two looks for news. Below it nothing is gained (measured), above it each hop of a round waits."""


class WireError(ValueError):
    """A record is not exactly one body of bytes."""


class FlowerDiffersError(RuntimeError):
    """The installed Flower is not the one whose wrapped functions were audited."""


class SiteFault(IntEnum):
    """Why a site's agent answers with a Flower error instead of a body.

    The number is all that the hub takes from such a reply. Flower's own error
    codes end at 8; these start well above.
    """

    MALFORMED_REQUEST = 101
    GATE_FAILED = 102


def to_record(body: bytes) -> RecordDict:
    """Returns a body as the one record that a message may carry."""
    return RecordDict({RECORD: ConfigRecord({BODY: body})})


def from_record(record: RecordDict) -> bytes:
    """Returns the body of a record.

    Raises:
        WireError: Unless it is one `ConfigRecord` "archipel" with one `bytes` value "body".
    """
    if list(record.keys()) != [RECORD]:
        raise WireError("a message carries exactly one record named 'archipel'")
    config = record[RECORD]
    if type(config) is not ConfigRecord:
        raise WireError("the record 'archipel' is a ConfigRecord")
    if list(config.keys()) != [BODY]:
        raise WireError("the record 'archipel' holds exactly one value named 'body'")
    body = config[BODY]
    if type(body) is not bytes:
        raise WireError("the value 'body' is bytes")
    return body


# ---------------------------------------------------------------- Flower's waits
class _CappedTime:
    """The module `time` with a `sleep` that never lasts long."""

    def __init__(self, cap_s: float) -> None:
        self._cap_s = cap_s

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def sleep(self, seconds: float) -> None:
        time.sleep(min(seconds, self._cap_s))


def cap_sleeps(module: ModuleType, cap_s: float = POLL_S) -> None:
    """Caps every `time.sleep` of one Flower module (hard-coded to 0.5 to 3 s there)."""
    module.__dict__["time"] = _CappedTime(cap_s)


def shorten_backoff() -> None:
    """Makes the wait for an object that is not there yet start at 20 ms, not at 1 s.

    A message is announced before its objects arrive, so the first pull of an
    object misses as a rule and Flower's back-off of 1, 2, 4 s is paid in each round.
    """
    for function in (inflatable_utils.pull_objects, inflatable_utils.pull_and_inflate_object_from_tree):
        function.__kwdefaults__ = {**(function.__kwdefaults__ or {}), "initial_backoff": 0.02, "backoff_cap": 1.0}


# ---------------------------------------------------------------- the audited Flower
def fingerprint(functions: Iterable[str]) -> dict[str, str]:
    """Returns a digest of the source of each named function or class.

    Args:
        functions: Names as `package.module:attribute`.
    """
    digests = {}
    for name in functions:
        module, _, attribute = name.partition(":")
        # By string: some of Flower's packages export a function under the name of its module.
        source = inspect.getsource(_attribute(importlib.import_module(module), attribute))
        digests[name] = hashlib.sha256(source.encode()).hexdigest()[:16]
    return digests


def verify_flower(audited: Mapping[str, str]) -> None:
    """Compares the installed Flower with the audited one.

    Args:
        audited: What `fingerprint` returned when the functions were read by a person.

    Raises:
        FlowerDiffersError: With the names that differ and what to do.
    """
    found: dict[str, str] = {}
    for name in audited:
        try:
            found.update(fingerprint([name]))
        except (ImportError, AttributeError, OSError, TypeError):
            found[name] = "absent"
    differing = sorted(name for name, digest in audited.items() if found[name] != digest)
    if differing:
        raise FlowerDiffersError(
            "This Flower is not the audited one, so nothing is started: "
            + ", ".join(differing)
            + " differ. Install the locked version (flwr==1.41.0, see requirements.lock); "
            "after an upgrade on purpose, read these functions again and renew the digests."
        )


def _attribute(module: ModuleType, path: str) -> Any:
    value: Any = module
    for part in path.split("."):
        value = getattr(value, part)
    return value
