"""The common time grid as the sites make it themselves, through real guards: an honest hub, and hubs that are not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.compile import build_step
from models.progress import Progress
from models.step import Arrays, combine
from privacy.fixed_point import encode_arrays, vector_length
from privacy.inbound import Seen
from privacy.secure_protocol import SIGNATURE
from privacy.verified import signed_bytes
from schemas.codes import SENTENCES, Code
from schemas.cohort import Cohort
from schemas.messages import Draft, Reply, RoundRequest, SetupRequest, decode, encode
from schemas.plan import Plan
from tests.guards import identity_of
from tests.secure_guards import SITES, MaskedSite, hub_of, masked_sites
from tests.secure_hub import SecureHub
from tests.simulated_federation import cohort, real_plan

PLAN = real_plan(privacy={"secure_sum": True})
GRID = ("grid", "histogram", 0)


class SiteWithPatients(MaskedSite):
    """A guarded site whose runner computes."""

    def draft_of(self, request: bytes) -> bytes:
        message = decode(request)
        if isinstance(message, SetupRequest):
            return encode(Draft(message.run_id, "setup", "setup", 0, self.n_patients, 12))
        assert isinstance(message, RoundRequest)
        asked = (message.run_id, message.step, message.part, message.number)
        found = build_step(self.plan, message.step).local(message.part, message.arrays, patients_of(self.name))
        arrays = {name: np.asarray(array, dtype=np.float64) for name, array in found.items()}
        return encode(Draft(*asked, self.n_patients, 12, arrays=arrays))


def patients_of(name: str) -> Cohort:
    return cohort(name, MaskedSite.n_patients, seed=ord(name))


@pytest.fixture
def hub(tmp_path: Path) -> SecureHub:
    """Before the grid's question: the moments are summed."""
    sites = masked_sites(tmp_path, SITES, PLAN, kind=SiteWithPatients)
    made = hub_of(sites)
    made.set_up()
    made.value("moments", "sums", 0, {})
    made.open("moments", "sums", 0)
    return made


def progress_to(step: str, plan: Plan = PLAN) -> Progress:
    """What an honest hub knows when it comes to a step."""
    progress = Progress.start(plan)
    while (question := progress.question) is not None and question.step != step:
        code = build_step(plan, question.step)
        progress = progress.absorb(
            combine([code.local(question.part, question.arrays, patients_of(name)) for name in SITES])
        )
    return progress


def first_question(**changed: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays of the fit's first question, some of them changed."""
    question = progress_to("fit").question
    assert question is not None
    return {**question.arrays, **changed}


def ask_fit(hub: SecureHub, site: str, arrays: Arrays) -> Reply:
    question = progress_to("fit").question
    assert question is not None
    return hub.send(site, hub.value_request("fit", question.part, 0, arrays))


def verify(hub: SecureHub, site: str, **changed: bytes | None) -> Reply:
    """Pass on what the sum was opened with, with some blobs of another content."""
    blobs = {name.replace("__", "/"): blob for name, blob in changed.items()}
    return hub.send(site, hub.verify_request(*GRID, SITES, **blobs))


def opened_alone(hub: SecureHub) -> None:
    """The hub opens the sum and passes nothing on yet."""
    hub.value(*GRID, {})
    request = hub.list_request(*GRID, hub.run.survivors(SITES))
    hub.shares = {site: hub.send(site, request).blobs["shares"] for site in SITES}


# ---------------------------------------------------------------- the way of an honest run
def test_an_honest_run_goes_through_and_every_site_holds_the_hubs_own_grid(hub: SecureHub) -> None:
    progress = progress_to("grid")
    hub.value(*GRID, {})
    progress = progress.absorb(hub.open(*GRID))
    for site in hub.sites.values():
        assert isinstance(site, MaskedSite)
        seen = memory_of(site)
        for name in ("edges", "n_intervals", "events", "n_patients"):
            assert seen.given[f"grid.{name}"].tobytes() == np.asarray(progress.arrays[f"grid.{name}"]).tobytes()
        entry = site.ledger()[-1].event
        assert (entry.kind, entry.rule) == ("shares", "ok: verify for the sum over 3 of 3 sites")
    while (question := progress.question) is not None:
        asked = (question.step, question.part, question.number)
        hub.value(*asked, question.arrays)
        progress = progress.absorb(hub.open(*asked))
    assert progress.arrays["fit.beta"].any()


def memory_of(site: MaskedSite) -> Seen:
    return site.guard._answers.seen_in("run-1", site.plan.hash, site.guard._answers.roster_hash("run-1"))


def test_one_message_of_one_round_more_and_a_small_one(hub: SecureHub) -> None:
    opened_alone(hub)
    request = hub.verify_request(*GRID, SITES)
    length = 8 * vector_length(PLAN.by_name["grid"].parts[0].releases, len(SITES))
    assert all(len(hub.masked[site].blobs["signature"]) == SIGNATURE for site in SITES)
    keys = sum(len(reply.blobs["keys"]) for reply in hub.announced.values())
    assert len(encode(request)) < keys + len(SITES) * (length + 500) + 4000
    reply = verify(hub, "A")
    assert (reply.status, reply.arrays, reply.blobs) == ("ok", {}, {})
    assert "signature" not in hub.value("fit", progress_part(), 0, first_question(), alive=("A",))["A"].blobs


def progress_part() -> str:
    question = progress_to("fit").question
    assert question is not None
    return question.part


def test_what_a_site_found_is_there_after_a_restart(hub: SecureHub) -> None:
    opened_alone(hub)
    first = verify(hub, "A")
    site = hub.sites["A"]
    assert isinstance(site, MaskedSite)
    site.open()
    assert verify(hub, "A") == first
    assert hub.heard["A"][-1] == hub.heard["A"][-2], "the same question gets the same bytes"
    split = first_question()["edges"].copy()
    split[-1] = split[0]
    assert ask_fit(hub, "A", first_question(edges=np.sort(split))).code != ""
    assert ask_fit(hub, "A", first_question()).status == "ok"


# ---------------------------------------------------------------- hubs that depart
def test_no_question_brings_a_grid_before_the_site_has_made_it(hub: SecureHub) -> None:
    assert ask_fit(hub, "A", first_question()).code == Code.GRID_NOT_VERIFIED
    opened_alone(hub)
    assert ask_fit(hub, "A", first_question()).code == Code.GRID_NOT_VERIFIED


def _split_interval(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One bin of an interval becomes an interval of its own."""
    bins = np.array(PLAN.by_name["grid"].settings["bin_edges"])
    n = int(arrays["n_intervals"])
    used = arrays["edges"][:n]
    between = bins[(bins > used[0]) & (bins < used[1])][:1]
    return _grid(np.sort(np.concatenate((used, between))), arrays)


def _grid(used: np.ndarray, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    edges = np.full_like(arrays["edges"], used[-1])
    edges[: used.size] = used
    return {"edges": edges, "n_intervals": np.array(float(used.size))}


OTHER_GRIDS: dict[str, Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]] = {
    "an interval is split": _split_interval,
    "two intervals are joined": lambda a: _grid(np.delete(a["edges"][: int(a["n_intervals"])], 0), a),
    "an edge moves by a bin": lambda a: _grid(
        np.concatenate(([PLAN.by_name["grid"].settings["bin_edges"][0]], a["edges"][1 : int(a["n_intervals"])])), a
    ),
    "the last interval ends early": lambda a: _grid(a["edges"][: int(a["n_intervals"]) - 1], a),
    "every bin is an interval": lambda a: _grid(np.array(PLAN.by_name["grid"].settings["bin_edges"]), a),
}


@pytest.mark.parametrize("case", sorted(OTHER_GRIDS))
def test_another_grid_than_the_sites_own_is_refused(hub: SecureHub, case: str) -> None:
    opened_alone(hub)
    assert verify(hub, "A").status == "ok"
    honest = first_question()
    sent = OTHER_GRIDS[case](honest)
    assert not np.array_equal(sent["edges"], honest["edges"])
    assert ask_fit(hub, "A", {**honest, **sent}).code == Code.GRID_DIFFERS
    assert ask_fit(hub, "A", honest).status == "ok"


def inventing(hub: SecureHub, site: str, extra: float) -> bytes:
    """A masked vector of a peer to whose counts the hub has added events: masks make that as easy as adding."""
    specs = PLAN.by_name["grid"].parts[0].releases
    added = {spec.name: np.full(spec.shape, extra if spec.name == "events" else 0.0) for spec in specs}
    words = np.frombuffer(hub.masked[site].blobs["masked"], dtype="<u8")
    return (words + encode_arrays(added, specs, len(SITES))).astype("<u8").tobytes()


def test_events_that_the_hub_invents_are_refused(hub: SecureHub) -> None:
    opened_alone(hub)
    assert verify(hub, "A", masked__B=inventing(hub, "B", 5.0)).code == Code.SUM_NOT_VERIFIED
    assert verify(hub, "B", masked__B=inventing(hub, "B", 5.0)).code == Code.SUM_NOT_VERIFIED, "its own vector"
    assert ask_fit(hub, "A", first_question()).code == Code.GRID_NOT_VERIFIED
    assert verify(hub, "A").status == "ok", "the true ones are still taken"


def _forged(hub: SecureHub) -> dict[str, bytes | None]:
    """A vector of the hub's making under its own key's signature."""
    masked = inventing(hub, "B", 5.0)
    return {"masked__B": masked, "signature__B": identity_of("hub").sign(signed_bytes(hub.run, 1, masked))}


def _of_another_round(hub: SecureHub) -> dict[str, bytes | None]:
    """B's own signature, as it would be over the same bytes in another round."""
    masked = hub.masked["B"].blobs["masked"]
    return {"signature__B": identity_of("B").sign(signed_bytes(hub.run, 2, masked))}


def _of_another_run(hub: SecureHub) -> dict[str, bytes | None]:
    masked = hub.masked["B"].blobs["masked"]
    other = replace(hub.run, run_id="run-2")
    return {"signature__B": identity_of("B").sign(signed_bytes(other, 1, masked))}


FORGERIES: dict[str, Callable[[SecureHub], dict[str, bytes | None]]] = {
    "a vector signed by the hub": _forged,
    "a signature of another round": _of_another_round,
    "a signature of another run": _of_another_run,
    "a signature over nothing": lambda hub: {"signature__B": bytes(SIGNATURE)},
    "a signature cut off": lambda hub: {"signature__B": hub.masked["B"].blobs["signature"][:-1]},
    "two peers' vectors exchanged": lambda hub: {
        "masked__B": hub.masked["C"].blobs["masked"], "masked__C": hub.masked["B"].blobs["masked"],
    },
    "a peer's vector left out": lambda hub: {"masked__B": None, "signature__B": None},
    "a peer's signature left out": lambda hub: {"signature__B": None},
    "an invented peer": lambda hub: {
        "masked__D": hub.masked["B"].blobs["masked"], "signature__D": hub.masked["B"].blobs["signature"],
    },
    "a shorter vector": lambda hub: {"masked__B": hub.masked["B"].blobs["masked"][:-8]},
    "shares of other seeds": lambda hub: {"shares__B": hub.shares["B"][:32] + bytes(len(hub.shares["B"]) - 32)},
    "shares of another list": lambda hub: {"shares__B": bytes(32) + hub.shares["B"][32:]},
    "too few shares": lambda hub: {"shares__B": None},
    "keys that were swapped": lambda hub: {"keys__B": hub.announced["C"].blobs["keys"]},
    "keys left out": lambda hub: {"keys__B": None},
    "no list of survivors": lambda hub: {"survivors": b"{}"},
    "a list without a site": lambda hub: {"survivors": hub.run.survivors(("A", "B")).content},
    "something else beside it": lambda hub: {"remark": b"x"},
}  # fmt: skip


@pytest.mark.parametrize("case", sorted(FORGERIES))
def test_what_does_not_open_the_sites_own_sum_is_refused(hub: SecureHub, case: str) -> None:
    opened_alone(hub)
    changed = FORGERIES[case](hub)
    reply = verify(hub, "A", **changed)
    assert (reply.status, reply.code) == ("refused", Code.SUM_NOT_VERIFIED)
    site = hub.sites["A"]
    assert isinstance(site, MaskedSite)
    assert site.events()[-1] == ("refusal", "grid", 0, Code.SUM_NOT_VERIFIED)
    assert "grid.edges" not in memory_of(site).given
    assert verify(hub, "A").status == "ok"


def test_a_site_that_has_sent_nothing_in_the_round_checks_nothing(hub: SecureHub) -> None:
    opened_alone(hub)
    others = hub.verify_request(*GRID, SITES)
    assert hub.send("A", replace(others, number=0, step="moments", part="sums")).code == Code.REQUEST_NOT_IN_PLAN


def test_before_its_own_vector_has_left_a_site_checks_nothing(tmp_path: Path) -> None:
    sites = masked_sites(tmp_path, SITES, PLAN, kind=SiteWithPatients)
    hub = hub_of(sites)
    hub.set_up()
    hub.value(*GRID, {}, alive=("B", "C"))
    hub.masked["A"] = hub.masked["B"]
    hub.shares = {site: bytes(128) for site in SITES}
    assert verify(hub, "A").code == Code.SUM_NOT_VERIFIED


def test_a_site_whose_own_floor_is_higher_refuses_smaller_intervals(hub: SecureHub, tmp_path: Path) -> None:
    opened_alone(hub)
    site = hub.sites["A"]
    assert isinstance(site, MaskedSite)
    site.guard._floors = replace(site.guard._floors, min_events_per_interval=9)
    assert verify(hub, "A").code == Code.INTERVAL_BELOW_FLOOR


def test_every_refusal_has_its_sentence() -> None:
    for code in (Code.SUM_NOT_VERIFIED, Code.GRID_NOT_VERIFIED, Code.GRID_DIFFERS, Code.INTERVAL_BELOW_FLOOR):
        assert SENTENCES[code].endswith(".")
        assert "grid" in SENTENCES[code]
