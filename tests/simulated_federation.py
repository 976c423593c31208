"""Sites at the edge of the exchange, in memory: real step code, and sites that are late, lie, refuse or crash.

`SimulatedFederation` is a `server.exchange.Exchange`. What a site does beside answering is a list of `Behaviour`s;
time is a `FakeClock` that only waiting moves, so that deadlines cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from models.compile import build_step, compile_plan
from models.progress import Progress
from models.step import Arrays, combine
from schemas.codes import Code
from schemas.cohort import Cohort, Layer
from schemas.messages import SETUP, Reply, RoundRequest, SetupRequest, decode, encode
from schemas.plan import Plan, read_plan
from server.asking import Pacing
from server.exchange import Failure
from tests.plans import small_dictionary, small_study

Request = SetupRequest | RoundRequest


class HubKilledError(BaseException):
    """Stands for kill -9 of the process that conducts: nothing catches it."""


@dataclass
class FakeClock:
    """Time that passes when somebody waits."""

    now: float = 1000.0

    def read(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def pacing(self) -> Pacing:
        return Pacing(retry_s=3.0, heed_s=1.0, clock=self.read, sleep=self.sleep)


@dataclass
class Behaviour:
    """What one site does instead of answering.

    Attributes:
        what: Given the request and the honest answer, returns what the hub gets.
        step: Only in this step (``setup`` for the set-up); everywhere where None.
        number: Only in the question of this number.
        times: How often, then it behaves; always where None.
    """

    site: str
    what: Callable[[Request, bytes], bytes | Failure]
    step: str | None = None
    number: int | None = None
    times: int | None = None

    def applies(self, site: str, request: Request) -> bool:
        step = SETUP if isinstance(request, SetupRequest) else request.step
        number = 0 if isinstance(request, SetupRequest) else request.number
        is_here = site == self.site and self.step in (None, step) and self.number in (None, number)
        return is_here and self.times != 0


class SimulatedSite:
    """A site as the hub sees it: it answers each round once and the same again, and refuses what changed."""

    def __init__(self, cohort: Cohort) -> None:
        self.cohort = cohort
        self.plan: Plan | None = None
        self.sites: tuple[str, ...] = ()
        self.answered: dict[tuple[str, int, str], tuple[bytes, bytes]] = {}

    def answer(self, request: Request, body: bytes) -> bytes:
        if isinstance(request, SetupRequest):
            return self._set_up(request)
        if self.plan is None or self.plan.hash != request.plan_hash:
            return refusal(request, Code.RUN_UNKNOWN)
        if request.sites != self.sites:
            return refusal(request, Code.RUN_CHANGED)
        key = (request.step, request.number, request.phase)
        if key in self.answered:
            asked, answered = self.answered[key]
            return answered if asked == body else refusal(request, Code.ROUND_ANSWERED_OTHERWISE)
        self.answered[key] = (body, self._compute(request, self.plan))
        return self.answered[key][1]

    def _set_up(self, request: SetupRequest) -> bytes:
        if self.answered and request.sites != self.sites:
            return refusal(request, Code.RUN_CHANGED)
        self.plan = read_plan(request.plan.encode())
        self.sites = request.sites
        return encode(Reply(request.run_id, SETUP, SETUP, 0, "ok", request.phase))

    def _compute(self, request: RoundRequest, plan: Plan) -> bytes:
        step = plan.by_name[request.step]
        cohort = self.cohort.part(step.cohort)
        where = (request.run_id, request.step, request.part, request.number)
        if cohort.n_patients < step.min_patients:
            return encode(Reply(*where, "empty", request.phase))
        arrays = build_step(plan, request.step).local(request.part, request.arrays, cohort)
        return encode(Reply(*where, "ok", request.phase, arrays=arrays))


@dataclass
class SimulatedFederation:
    """The exchange of the tests.

    Attributes:
        kill_at: Call of `ask` (0, 1, …) in which the hub dies.
        kill_before_sites: Whether it dies before the sites got anything; else after they answered.
        asked: Every request as it was sent: site, request, bytes.
        on_ask: Called before each call is answered.
    """

    sites: dict[str, SimulatedSite]
    clock: FakeClock = field(default_factory=FakeClock)
    behaviours: list[Behaviour] = field(default_factory=list)
    kill_at: int | None = None
    kill_before_sites: bool = False
    asked: list[tuple[str, Request, bytes]] = field(default_factory=list)
    on_ask: Callable[[int], None] = lambda _call: None
    calls: int = 0
    order: Callable[[list[str]], list[str]] = sorted

    def ask(self, bodies: Mapping[str, bytes], deadline_s: float) -> dict[str, bytes | Failure]:
        call, self.calls = self.calls, self.calls + 1
        self.on_ask(call)
        if call == self.kill_at and self.kill_before_sites:
            raise HubKilledError
        answers = {site: self._one(site, bodies[site]) for site in self.order(list(bodies))}
        if call == self.kill_at:
            raise HubKilledError
        is_late = any(isinstance(answer, Failure) and answer.reason == "late" for answer in answers.values())
        self.clock.now += deadline_s if is_late else 0.25
        return answers

    def _one(self, site: str, body: bytes) -> bytes | Failure:
        request = decode(body)
        assert isinstance(request, SetupRequest | RoundRequest)
        self.asked.append((site, request, body))
        for behaviour in self.behaviours:
            if behaviour.applies(site, request):
                behaviour.times = None if behaviour.times is None else behaviour.times - 1
                return behaviour.what(request, self.sites[site].answer(request, body))
        return self.sites[site].answer(request, body)

    def rounds_asked(self, site: str) -> list[tuple[str, int]]:
        """Step and number of every round request that was sent to a site."""
        return [(r.step, r.number) for name, r, _ in self.asked if name == site and isinstance(r, RoundRequest)]


# ---------------------------------------------------------------- what sites do
def refusal(request: Request, code: Code) -> bytes:
    if isinstance(request, SetupRequest):
        return encode(Reply(request.run_id, SETUP, SETUP, 0, "refused", request.phase, code))
    where = (request.run_id, request.step, request.part, request.number)
    return encode(Reply(*where, "refused", request.phase, code))


def late(site: str, **where: object) -> Behaviour:
    """Reached, computes, and its answer comes after the deadline."""
    return Behaviour(site, lambda _request, _honest: Failure(site, "late"), **where)  # type: ignore[arg-type]


def offline(site: str, **where: object) -> Behaviour:
    return Behaviour(site, lambda _request, _honest: Failure(site, "offline"), **where)  # type: ignore[arg-type]


def refuses(site: str, code: Code, **where: object) -> Behaviour:
    return Behaviour(site, lambda request, _honest: refusal(request, code), **where)  # type: ignore[arg-type]


def empty(site: str, **where: object) -> Behaviour:
    def nothing(request: Request, _honest: bytes) -> bytes:
        assert isinstance(request, RoundRequest)
        return encode(Reply(request.run_id, request.step, request.part, request.number, "empty", request.phase))

    return Behaviour(site, nothing, **where)  # type: ignore[arg-type]


def lies(site: str, change: Callable[[Reply], Reply | bytes], **where: object) -> Behaviour:
    """Sends its honest answer, changed."""

    def lie(_request: Request, honest: bytes) -> bytes:
        reply = decode(honest)
        assert isinstance(reply, Reply)
        changed = change(reply)
        return changed if isinstance(changed, bytes) else encode(changed)

    return Behaviour(site, lie, **where)  # type: ignore[arg-type]


# ---------------------------------------------------------------- a small study and its patients
def real_plan(**changed: object) -> Plan:
    """A plan of installed steps: moments, grid and a hazard fit of two covariates; its sums are in clear."""
    changed.setdefault("model", {"method": "hazard", "covariates": ("age_years", "sex"), "penalty": 1.0})
    changed.setdefault("privacy", {"secure_sum": False})
    return compile_plan(small_study(**changed), small_dictionary(), figures=False, evaluation=False)


def cohort(site: str, n_patients: int, seed: int) -> Cohort:
    rng = np.random.default_rng(seed)
    age = rng.uniform(5, 80, n_patients)
    sex = rng.integers(0, 2, n_patients).astype(np.float64)
    time = np.minimum(rng.exponential(400 * np.exp(0.02 * (age - 40) - 0.5 * sex)) + 1, 900.0)
    return Cohort(
        patient_ids=tuple(f"{site}-{i}" for i in range(n_patients)),
        time=time,
        event=rng.random(n_patients) < 0.7,
        entry=np.zeros(n_patients),
        layers={"clinical": Layer(("age_years", "sex[male]"), np.column_stack([age, sex]))},
        site=site,
    )


SITES = ("amiens", "brest", "caen", "dijon", "evry")


def federation(*behaviours: Behaviour, sites: tuple[str, ...] = SITES, **settings: object) -> SimulatedFederation:
    members = {name: SimulatedSite(cohort(name, 30 + 7 * i, seed=i)) for i, name in enumerate(sites)}
    return SimulatedFederation(members, behaviours=list(behaviours), **settings)  # type: ignore[arg-type]


def pooled_result(plan: Plan, sites: Mapping[str, SimulatedSite]) -> Arrays:
    """What the same steps give when all summands are simply there."""
    progress = Progress.start(plan)
    while (question := progress.question) is not None:
        step = build_step(plan, question.step)
        terms = [step.local(question.part, question.arrays, sites[name].cohort) for name in sorted(sites)]
        progress = progress.absorb(combine(terms))
    return progress.arrays
