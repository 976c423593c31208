"""Launching and conducting one run over simulated sites, and reading what came of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from models.step import Arrays
from schemas.messages import RoundRequest
from schemas.plan import Plan
from server.conduct import DATABASE, conduct
from server.records import RunRecord
from server.runs import list_events
from server.store import Store
from tests.secure_sites import roster_of
from tests.simulated_federation import (
    SITES,
    SimulatedFederation,
    SimulatedSite,
    pooled_result,
    real_plan,
)

RUN = "small-study-20261120-3f9a2c"


def launch(home: Path, plan: Plan | None = None, sites: tuple[str, ...] = SITES) -> Plan:
    plan = plan or real_plan()
    roster = roster_of(sites).content.decode() if plan.study.privacy.secure_sum else ""
    with Store(home / DATABASE) as store:
        store.create_run(RUN, plan, sites, roster=roster)
    return plan


def go(home: Path, sites: SimulatedFederation, **settings: Any) -> RunRecord:
    conduct(RUN, home, sites, pacing=sites.clock.pacing(), **settings)
    return record(home)


def record(home: Path) -> RunRecord:
    with Store(home / DATABASE) as store:
        return store.run(RUN)


def found(home: Path) -> dict[str, bytes]:
    with Store(home / DATABASE) as store:
        return {name: array.tobytes() for name, array in store.final_arrays(RUN).items()}


def expected(plan: Plan, sites: Mapping[str, SimulatedSite]) -> dict[str, bytes]:
    return {name: np.asarray(array).tobytes() for name, array in pooled_result(plan, sites).items()}


def arrays(home: Path) -> Arrays:
    with Store(home / DATABASE) as store:
        return store.final_arrays(RUN)


def told(home: Path) -> str:
    with Store(home / DATABASE) as store:
        return "\n".join(f"{event.level}: {event.text}" for event in list_events(store, RUN))


def assert_asked_the_same(sites: SimulatedFederation) -> None:
    """The same question of the same run was the same bytes, for every site and every time."""
    bodies: dict[tuple[str, int, str], set[bytes]] = {}
    for _, request, body in sites.asked:
        if isinstance(request, RoundRequest):
            bodies.setdefault((request.step, request.number, request.phase), set()).add(body)
    assert bodies, "nothing was asked"
    assert {question: len(different) for question, different in bodies.items() if len(different) != 1} == {}
