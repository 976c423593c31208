"""The common time grid over real processes: sites make it themselves, and refuse another that the hub sends.

The same refusals through guards in one process, with more ways to forge: `tests/client/test_guard_verified.py`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.fixed_point import encode_arrays
from privacy.verified import signed_bytes
from schemas.codes import Code
from schemas.messages import Reply
from tests.hostile_federation import SITES, HostileHub, assert_nothing_of_one_site, assert_refused

pytestmark = pytest.mark.processes

VICTIM = "lyon"
OTHERS = tuple(site for site in SITES if site != VICTIM)
HUBS_KEY = Ed25519PrivateKey.generate()


def _at_the_grid(hub: HostileHub) -> None:
    """The hub has opened the sum of the grid's round and passed nothing on yet."""
    hub.set_up()
    hub.skip_to("grid")
    hub.ask_value()
    asked = hub.list_request(*hub.round, hub.run.survivors(SITES))
    hub.shares = {site: reply.blobs["shares"] for site, reply in hub.to_all(asked).items()}


def _pass_on(hub: HostileHub, *sites: str, **changed: bytes) -> dict[str, Reply]:
    blobs = {name.replace("__", "/"): blob for name, blob in changed.items()}
    request = hub.verify_request(*hub.round, SITES, **blobs)
    return hub.send_all(dict.fromkeys(sites, request))


def _with_invented_events(hub: HostileHub) -> bytes:
    """The victim's masked vector with five events more in every bin: masks make that as easy as an addition."""
    specs = hub.plan.by_name["grid"].parts[0].releases
    added = {spec.name: np.full(spec.shape, 5.0 if spec.name == "events" else 0.0) for spec in specs}
    words = np.frombuffer(hub.masked[VICTIM].blobs["masked"], dtype="<u8")
    return (words + encode_arrays(added, specs, len(SITES))).astype("<u8").tobytes()


def _invented_events(hub: HostileHub) -> dict[str, Reply]:
    _at_the_grid(hub)
    return _pass_on(hub, *OTHERS, **{f"masked__{VICTIM}": _with_invented_events(hub)})


def _invented_events_to_their_owner(hub: HostileHub) -> dict[str, Reply]:
    _at_the_grid(hub)
    return _pass_on(hub, VICTIM, **{f"masked__{VICTIM}": _with_invented_events(hub)})


def _forged_vector(hub: HostileHub) -> dict[str, Reply]:
    _at_the_grid(hub)
    masked = _with_invented_events(hub)
    signed = HUBS_KEY.sign(signed_bytes(hub.run, 1, masked))
    return _pass_on(hub, *OTHERS, **{f"masked__{VICTIM}": masked, f"signature__{VICTIM}": signed})


def _to_the_fit(hub: HostileHub, *, passed_on: bool) -> dict[str, np.ndarray]:
    """Return the arrays of the fit's first question."""
    _at_the_grid(hub)
    if passed_on:
        assert {reply.status for reply in _pass_on(hub, *SITES).values()} == {"ok"}
    total = hub.opened(*hub.round, hub.run.survivors(SITES), hub.shares)
    hub.progress = hub.progress.absorb(total)
    return dict(hub.question.arrays)


def _split_interval(hub: HostileHub) -> dict[str, Reply]:
    arrays = _to_the_fit(hub, passed_on=True)
    bins = np.array(hub.plan.by_name["grid"].settings["bin_edges"])
    used = arrays["edges"][: int(arrays["n_intervals"])]
    within = next(edge for edge in bins if edge < used[-1] and edge not in used)
    split = np.sort(np.append(used, within))
    edges = np.full_like(arrays["edges"], split[-1])
    edges[: split.size] = split
    sent = {**arrays, "edges": edges, "n_intervals": np.array(float(split.size))}
    return hub.to_all(hub.value_request(*hub.round, sent))


def _grid_unchecked(hub: HostileHub) -> dict[str, Reply]:
    arrays = _to_the_fit(hub, passed_on=False)
    return hub.to_all(hub.value_request(*hub.round, arrays))


DEPARTURES: dict[str, tuple[Callable[[HostileHub], dict[str, Reply]], Code, str]] = {
    "invented events": (_invented_events, Code.SUM_NOT_VERIFIED, f"passes on as {VICTIM}'s is not signed by it"),
    "invented events, to their owner": (
        _invented_events_to_their_owner, Code.SUM_NOT_VERIFIED, "another masked vector of this site than it sent",
    ),
    "forged vector of a peer": (_forged_vector, Code.SUM_NOT_VERIFIED, f"passes on as {VICTIM}'s is not signed"),
    "an interval split": (_split_interval, Code.GRID_DIFFERS, ""),
    "a grid that nobody checked": (_grid_unchecked, Code.GRID_NOT_VERIFIED, ""),
}  # fmt: skip


@pytest.mark.parametrize("name", DEPARTURES)
def test_every_site_refuses_another_grid_than_its_own(hub: HostileHub, name: str) -> None:
    attack, code, reason = DEPARTURES[name]
    assert_refused(hub, attack(hub), code, reason)
    assert_nothing_of_one_site(hub)


def test_an_honest_hub_gets_through_the_grid_and_the_fit_begins(hub: HostileHub) -> None:
    arrays = _to_the_fit(hub, passed_on=True)
    assert {reply.status for reply in hub.to_all(hub.value_request(*hub.round, arrays)).values()} == {"ok"}
    assert_nothing_of_one_site(hub)
