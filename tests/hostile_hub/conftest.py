"""One federation of real sites under a hostile hub for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from schemas.plan import Plan
from tests.hostile_federation import (
    N_PATIENTS,
    N_SMALL,
    SITES,
    SMALL,
    HostileFederation,
    HostileHub,
    plan_of,
    roster_of,
    write_tables,
)


@pytest.fixture(scope="package")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostileFederation]:
    root = tmp_path_factory.mktemp("hostile-hub")
    tables = {
        name: write_tables(root / "tables" / name, seed, N_SMALL if name == SMALL else N_PATIENTS)
        for seed, name in enumerate((*SITES, SMALL))
    }
    with HostileFederation(root, tables) as running:
        running.connect()
        yield running


@pytest.fixture(scope="package")
def plan(federation: HostileFederation) -> Plan:
    """Approved by the four sites, with the roster of exactly them."""
    compiled = plan_of("from-18")
    federation.approve(compiled, SITES, invited=SITES)
    return compiled


@pytest.fixture
def hub(federation: HostileFederation, plan: Plan) -> HostileHub:
    """A run that is not set up yet."""
    return HostileHub(plan, roster_of(federation), federation=federation)
