"""Nothing that a taken-over runner adds to its answer reaches the hub: real hub, agents and gate, another's runner.

Looked at from the hub's side: its SuperLink writes down every byte that sites push. The sums of these runs are in
clear, so that the gate alone is looked at; under masks nothing could be found, whatever the gate let pass, which the
last tests show.
"""

from __future__ import annotations

import csv
import json
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from archipel import runs
from archipel.local_federation import LocalFederation
from archipel.site_folders import read_sites
from client import site_process
from models.compile import build_step, compile_plan
from models.progress import Progress
from privacy.ledger import entries
from schemas.codes import Code
from schemas.messages import Reply, decode_as
from schemas.plan import Plan
from schemas.processes import Child, Supervisor
from schemas.study import Evaluation, Model, Privacy
from server import hub_process
from server.launcher import online_sites
from server.records import RunRecord
from server.runs import list_rounds
from tests.doubles.federation import ROOT, double
from tests.doubles.hostile import ATTACKS, STEP, TAMPERED
from tests.plans import small_dictionary, small_study

pytestmark = pytest.mark.processes

HOSTILE = "lyon"
SITES = ("lyon", "nantes", "paris")


class Federation(LocalFederation):
    """A real federation but for two processes: a SuperLink that writes down what it receives, and one runner."""

    def __init__(self, home: Path, sites: dict[str, Path]) -> None:
        super().__init__(home, sites)
        self.kept: list[tuple[Supervisor, threading.Thread]] = []

    def start(self) -> None:
        launcher = [child for child in hub_process.children(self.hub) if child.name == "launcher"]
        self._keep("hub", self.hub, [double("superlink", self.hub), *launcher])
        for name in self.sites:
            home = self.site(name)
            children = [child for child in site_process.children(home) if name != HOSTILE or child.name != "runner"]
            if name == HOSTILE:
                arguments = [sys.executable, "-m", "tests.doubles.hostile", "--home", str(home)]
                children.append(Child("runner", arguments, {"PYTHONPATH": str(ROOT)}))
            self._keep(name, home, children)

    def _keep(self, name: str, home: Path, children: list[Child]) -> None:
        supervisor = Supervisor(home, children)
        thread = threading.Thread(target=supervisor.serve, name=name, daemon=True)
        self.kept.append((supervisor, thread))
        thread.start()

    def stop(self) -> None:
        for supervisor, _ in self.kept:
            supervisor.request_stop()
        for _, thread in self.kept:
            thread.join(20)

    def received(self) -> bytes:
        return (self.hub / "received.bin").read_bytes()


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    root = tmp_path_factory.mktemp("hostile")
    running = Federation(root, {name: write_tables(root / "tables" / name, seed) for seed, name in enumerate(SITES)})
    with running:
        running.wait_until_up()
        _until(lambda: online_sites(running.hub) == set(SITES), "all sites online")
        yield running


def write_tables(folder: Path, seed: int, n: int = 30) -> Path:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    with (folder / "clinical.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["patient_id", "time_days", "relapse", "age_years", "sex"])
        for i in range(n):
            row = [f"P{i}", rng.integers(1, 900), rng.integers(0, 2), rng.integers(20, 80)]
            table.writerow([*row, rng.choice(["female", "male"])])
    return folder


EXPECTED = {
    "extra-record": Code.STEP_FAILED,
    "extra-array": Code.RELEASE_NOT_IN_PLAN,
    "wrong-shape": Code.RELEASE_WRONG_SHAPE,
    "wrong-dtype": Code.RELEASE_WRONG_DTYPE,
    "not-a-number": Code.RELEASE_NOT_FINITE,
    "too-large": Code.RELEASE_TOO_LARGE,
    "too-few-patients": Code.TOO_FEW_PATIENTS,
    "other-count": Code.RELEASE_NOT_IN_PLAN,
    "exception-text": Code.STEP_FAILED,
    "name-as-step": Code.RELEASE_NOT_IN_PLAN,
    "extra-field": Code.STEP_FAILED,
    "trailing-bytes": Code.STEP_FAILED,
}


def test_every_attack_has_its_verdict_but_the_lie_that_no_gate_can_see() -> None:
    assert set(ATTACKS) - set(EXPECTED) == {"lie-in-the-plans-form"}


@pytest.mark.parametrize("attack", EXPECTED)
def test_a_tampered_answer_does_not_reach_the_hub(federation: Federation, attack: str) -> None:
    run_id, message = run_attack(federation, attack)
    mine = replies_to(federation, run_id)
    honest = [reply for reply in mine if reply.status == "ok"]
    refused = [reply for reply in mine if reply.status == "refused"]
    assert len(honest) == len(SITES) - 1
    assert {(reply.code, *reply.arrays) for reply in refused} == {(EXPECTED[attack],)}
    for content in TAMPERED:
        assert content not in federation.received()
        assert content not in logs_of(federation.site(HOSTILE))
    left = [entry.event for entry in entries(federation.site(HOSTILE) / "state" / "ledger.jsonl")]
    assert {(event.kind, event.rule) for event in left if (event.run, event.step) == (run_id, STEP)} == {
        ("refusal", EXPECTED[attack])
    }
    if attack != "too-few-patients":  # that one only adds nothing to the sum, as an honest small site does
        assert HOSTILE in message


def test_under_masks_the_hub_receives_no_summand_of_any_site(federation: Federation) -> None:
    """All that it received in a run, decoded and as bytes: not the lie, which no gate can see, and no honest sum."""
    before = len(federation.received())
    federation.approve(plan := plan_of("lie-in-the-plans-form", secure_sum=True))
    run_id = runs.launch_plan(federation.hub, plan)
    _until(lambda: record_of(federation, run_id).status in ("done", "failed", "paused"), "the end of the run")
    received = federation.received()[before:]
    replies = [reply for reply in replies_in(received) if reply.run_id == run_id]
    assert {reply.phase for reply in replies} == {"keys", "shares", "inbox", "value", "verify"}
    assert all(dict(reply.arrays) == {} for reply in replies)
    assert all(content not in received for content in TAMPERED)
    looked_for = [value for name in SITES for value in summand_of(federation, plan, name)]
    assert len(looked_for) >= len(SITES)
    assert all(np.float64(value).tobytes() not in received for value in looked_for)


def test_the_recording_would_have_shown_it(federation: Federation) -> None:
    """Last of the module: a lie in the plan's own form passes, so the bytes that were looked for can be found."""
    run_id, _ = run_attack(federation, "lie-in-the-plans-form")
    received = federation.received()
    assert TAMPERED[0] in received
    assert [reply.status for reply in replies_to(federation, run_id)] == ["ok"] * len(SITES)
    honest = [name for name in SITES if name != HOSTILE]
    looked_for = [value for name in honest for value in summand_of(federation, plan_of("honest"), name)]
    assert all(np.float64(value).tobytes() in received for value in looked_for)


def summand_of(federation: Federation, plan: Plan, name: str) -> list[float]:
    """The numbers of a site's first summand; small ones, whose bytes may be anywhere, left out."""
    question = Progress.start(plan).question
    assert question is not None
    assert question.step == STEP
    cohort = read_sites(federation.sites[name].parent, plan.study, plan.dictionary).cohorts[name]
    arrays = build_step(plan, STEP).local(question.part, question.arrays, cohort)
    return [float(value) for array in arrays.values() for value in np.ravel(array) if abs(value) > 1000]


# ---------------------------------------------------------------- one run
def run_attack(federation: Federation, attack: str) -> tuple[str, str]:
    """Run the study that the attack is named in to the end of its first step; returns the run's id and message."""
    federation.approve(plan := plan_of(attack))
    run_id = runs.launch_plan(federation.hub, plan)

    def has_ended() -> bool:
        if record_of(federation, run_id).status in ("failed", "paused", "done"):
            return True
        with runs.open_store(federation.hub) as store:
            return len(list_rounds(store, run_id)) > 0

    _until(has_ended, f"the end of {attack}")
    message = record_of(federation, run_id).message
    runs.stop(federation.hub, run_id)
    return run_id, message


def plan_of(attack: str, *, secure_sum: bool = False) -> Plan:
    study = small_study(
        name=f"attack-{attack}",
        model=Model(covariates=("age_years", "sex"), penalty=0.1),
        evaluation=Evaluation(folds=0),
        privacy=Privacy(secure_sum=secure_sum),  # masked, a number that should not leave could not be looked for
    )
    return compile_plan(study, small_dictionary())


def record_of(federation: Federation, run_id: str) -> RunRecord:
    with runs.open_store(federation.hub) as store:
        return store.run(run_id)


def replies_to(federation: Federation, run_id: str) -> list[Reply]:
    """Return what the hub received in answer to the first step of a run."""
    return [reply for reply in replies_in(federation.received()) if (reply.run_id, reply.step) == (run_id, STEP)]


def replies_in(received: bytes) -> list[Reply]:
    """Return every reply among the bytes that sites pushed: each begins with its length and a known header."""
    found: list[Reply] = []
    start = -1
    while (start := received.find(b'{"__metadata__"', start + 1)) >= 8:
        (length,) = struct.unpack("<Q", received[start - 8 : start])
        header = json.loads(received[start : start + length])
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        found.append(decode_as(received[start - 8 : start + length + max(ends, default=0)], Reply))
    return found


def logs_of(home: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted((home / "logs").glob("*.log")))


def _until(condition: Callable[[], bool], what: str, within_s: float = 60) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {within_s} s in vain for {what}"
        time.sleep(0.02)
