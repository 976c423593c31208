"""Sites as in production and a hub that was taken over: real processes, real TLS, and a test that says what is asked.

Each site is its supervisor, agent, gate and runner as `archipel site up` starts them. The hub's SuperLink writes down
every byte that it receives; its launcher is `tests.doubles.hostile_hub`. What the hub does with the protocol, honest
or not, stands in the tests.
"""

from __future__ import annotations

import csv
import functools
import itertools
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Client, Connection
from pathlib import Path

import numpy as np

from archipel import runs
from archipel.local_federation import LocalFederation
from archipel.site_folders import read_sites
from client.state import SitePaths
from models.compile import build_step, compile_plan
from models.progress import Progress, Question
from models.step import combine
from privacy.fixed_point import encode_arrays
from privacy.ledger import Event, entries, verify_ledger
from schemas.codes import Code
from schemas.messages import Reply, decode_as
from schemas.plan import Plan
from schemas.processes import Child, Supervisor
from schemas.roster import Roster
from schemas.study import Criterion, Eligibility, Evaluation, Model, Privacy
from server import launcher
from tests.doubles.federation import ROOT, double
from tests.doubles.hostile_hub import ADDRESS_FILE
from tests.plans import small_dictionary, small_study
from tests.secure_hub import Request, SecureHub, Site

SITES = ("brest", "lyon", "nantes", "paris")
SMALL = "vannes"
N_PATIENTS, N_OF_18, N_SMALL = 26, 4, 9
DEADLINE_S = 60.0
_numbers = itertools.count(1)


class HostileFederation(LocalFederation):
    """Everything but the hub's launcher and the recording is what `archipel hub up` and `archipel site up` start."""

    connection: Connection | None = None

    def start(self) -> None:
        child = [sys.executable, "-m", "tests.doubles.hostile_hub", "--home", str(self.hub)]
        hostile = Child("launcher", child, {"PYTHONPATH": str(ROOT)})
        self._supervisor = Supervisor(self.hub, [double("superlink", self.hub), hostile])
        self._thread = threading.Thread(target=self._supervisor.serve, name="hub", daemon=True)
        self._thread.start()
        for name in self.sites:
            self.start_process(f"site {name}", "site", self.site(name))

    def connect(self) -> None:
        """Open the way from this test to the sites, and wait until each has answered something."""
        self.wait_until_up()
        launcher.submit(self.hub, f"hostile-{id(self)}")
        address = self.hub / ADDRESS_FILE
        until(address.exists, "the hostile hub", self.logs)
        self.connection = Client(address.read_text(), "AF_UNIX")
        assert self.carry(dict.fromkeys(self.sites, b"no message of ours")).keys() == self.sites.keys()

    def carry(self, requests: Mapping[str, bytes]) -> dict[str, bytes]:
        """Ask each site once, all at the same time, and return the bytes that the hub received for an answer."""
        assert self.connection is not None
        self.connection.send((dict(requests), DEADLINE_S))
        assert self.connection.poll(DEADLINE_S + 30), f"no answer from the hostile hub\n{self.logs()}"
        outcomes: dict[str, bytes] = self.connection.recv()
        silent = {site: outcome for site, outcome in outcomes.items() if not isinstance(outcome, bytes)}
        assert not silent, f"{silent}\n{self.logs()}"
        return outcomes

    def stop(self) -> None:
        if self.connection is not None:
            self.connection.close()
        try:
            super().stop()
        finally:
            self._supervisor.request_stop()
            self._thread.join(60)

    def received(self) -> bytes:
        """Everything that the hub's process was ever sent by a site."""
        return (self.hub / "received.bin").read_bytes()

    def ledger(self, site: str) -> list[Event]:
        return [entry.event for entry in entries(SitePaths(self.site(site)).ledger)]

    def refusals(self, site: str, run_id: str) -> list[Event]:
        """What the ledger of a site says it refused in a run."""
        return [event for event in self.ledger(site) if (event.kind, event.run) == ("refusal", run_id)]

    def log_of(self, site: str) -> str:
        return (self.site(site) / "logs" / "agent.log").read_text()

    def logs(self) -> str:
        return "\n".join(path.read_text()[-2000:] for path in (self.hub / "logs").glob("*.log"))


@dataclass
class HostileHub(SecureHub):
    """One run, over real processes. What it received is looked at from the moment it was made."""

    federation: HostileFederation = field(kw_only=True)
    sites: Mapping[str, Site] = field(init=False)

    def __post_init__(self) -> None:
        self.sites = dict.fromkeys(self.roster.names, _not_carried)
        self.run_id = f"{self.plan.study.name}-{next(_numbers)}"
        self.start = len(self.federation.received())
        self.progress = Progress.start(self.plan)
        self.log_starts = {site: len(self.federation.log_of(site)) for site in self.federation.sites}

    def carry(self, requests: Mapping[str, bytes]) -> dict[str, bytes]:
        return self.federation.carry(requests)

    @property
    def question(self) -> Question:
        """What an honest hub would ask next."""
        assert self.progress.question is not None
        return self.progress.question

    @property
    def round(self) -> tuple[str, str, int]:
        return self.question.step, self.question.part, self.question.number

    def ask_value(self) -> dict[str, Reply]:
        """Ask every site for its masked summand of the round that is next."""
        return self.value(*self.round, self.question.arrays)

    def finish_round(self) -> dict[str, np.ndarray]:
        """Open the sum of the round as an honest hub, and go on to the next."""
        opened = self.open(*self.round)
        self.progress = self.progress.absorb(opened)
        return opened

    def skip_to(self, step: str) -> None:
        """Go on without the sums in between: no site's answer depends on whether the hub has opened them."""
        while self.question.step != step:
            own = summands(self.federation, self.plan, self.question).values()
            self.progress = self.progress.absorb(combine(list(own)))

    def to_all(self, request: Request) -> dict[str, Reply]:
        return self.send_all(dict.fromkeys(self.roster.names, request))

    def received(self) -> bytes:
        """All bytes that came to the hub since this run was begun."""
        return self.federation.received()[self.start :]

    def said(self, site: str) -> str:
        """What the agent of a site has written into its log since this run was begun."""
        return self.federation.log_of(site)[self.log_starts[site] :]


# ---------------------------------------------------------------- studies and tables
def plan_of(name: str, *, youngest: float = 18.0, secure_sum: bool = True, folds: int = 0) -> Plan:
    """The moments, grid and fit of everybody of an age, and perhaps an evaluation."""
    study = small_study(
        name=name,
        eligibility=Eligibility(criteria=(Criterion(column="age_years", op=">=", value=youngest),)),
        model=Model(covariates=("age_years", "sex"), penalty=0.1),
        evaluation=Evaluation(folds=folds),
        privacy=Privacy(secure_sum=secure_sum),
    )
    return compile_plan(study, small_dictionary())


def write_tables(folder: Path, seed: int, n: int) -> Path:
    """A table of `n` patients, `N_OF_18` of them not yet 19; ages and times as long as a float is, so that their sums
    can be looked for."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    ages = np.where(np.arange(n) < N_OF_18, rng.uniform(18.1, 18.9, n), rng.uniform(20, 80, n))
    with (folder / "clinical.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["patient_id", "time_days", "relapse", "age_years", "sex"])
        for i in range(n):
            row = [f"P{i}", repr(rng.uniform(1, 900)), rng.integers(0, 2), repr(float(ages[i]))]
            table.writerow([*row, rng.choice(["female", "male"])])
    return folder


def summands(federation: HostileFederation, plan: Plan, question: Question) -> dict[str, dict[str, np.ndarray]]:
    """What each site's own numbers are in one round, from its tables."""
    cohorts = read_sites(federation.sites[SITES[0]].parent, plan.study, plan.dictionary).cohorts
    step = build_step(plan, question.step)
    return {
        site: {
            name: np.asarray(array, dtype=np.float64)
            for name, array in step.local(question.part, question.arrays, cohorts[site]).items()
        }
        for site in SITES
    }


def forms(plan: Plan, question: Question, summand: Mapping[str, np.ndarray]) -> list[bytes]:
    """A site's numbers as the hub could have got them: as they are, and as words without masks.

    Only those that are not found in any bytes by chance, as small counts are.
    """
    specs = plan.by_name[question.step].part(question.part).releases
    words = encode_arrays(summand, specs, len(SITES)).astype("<u8")
    floats = np.concatenate([np.ravel(array) for array in summand.values()])
    wide = [value.tobytes() for values in (floats, words) for value in values]
    return [value for value in wide if sum(byte not in (0, 255) for byte in value) >= 6]


# ---------------------------------------------------------------- what every attack must end in
def assert_refused(hub: HostileHub, replies: Mapping[str, Reply], code: Code, reason: str = "") -> None:
    """Each site said no and nothing else, wrote down that it did, and tells its administrator why."""
    assert replies
    for site, reply in replies.items():
        assert (reply.status, reply.code, dict(reply.blobs), dict(reply.arrays)) == ("refused", code, {}, {}), site
        refused = hub.federation.refusals(site, reply.run_id)
        assert [(event.rule, event.digest, event.arrays) for event in refused[-1:]] == [(code, "", ())], site
        assert verify_ledger(SitePaths(hub.federation.site(site)).ledger).torn_bytes == 0
        said = functools.partial(hub.said, site)
        until(lambda said=said: reason in said(), f"{reason!r} in the log of {site}", said)


def assert_nothing_of_one_site(hub: HostileHub) -> None:
    """In no byte that the hub received in the run is a number of one site, masked sums and all."""
    received = hub.received()
    question = Progress.start(hub.plan).question
    assert question is not None
    for site, own in summands(hub.federation, hub.plan, question).items():
        looked_for = forms(hub.plan, question, own)
        assert len(looked_for) >= 4
        assert not any(value in received for value in looked_for), site
    replies = [decode_as(body, Reply) for bodies in hub.heard.values() for body in bodies]
    assert all(not reply.arrays for reply in replies)


def until(condition: Callable[[], bool], what: str, seen: Callable[[], str] = str, within_s: float = 60) -> None:
    """Wait, in a loaded machine as long as it takes."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {within_s} s in vain for {what}\n{seen()}"
        time.sleep(0.02)


def roster_of(federation: HostileFederation, *sites: str) -> Roster:
    return runs.roster_of(federation.hub, sites or SITES)


def _not_carried(request: bytes) -> bytes:
    raise AssertionError("a hostile hub carries through its federation")
