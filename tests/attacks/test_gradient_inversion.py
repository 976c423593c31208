"""Rows from releases: recovered from one site in clear; refused below ten patients, hidden in a sum of six sites."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.codes import Code
from schemas.messages import Reply
from tests.attacks.federation import given, plan_over, request_of, through_gate
from tests.attacks.gradient_inversion import figures
from tests.attacks.tables import bundled

SEEDS = range(20)
TABLES = ("gbsg2", "whas500", "veterans")


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize(("n_patients", "at_least"), [(1, 1.0), (8, 0.5), (32, 0.1)])
def test_one_release_in_clear_gives_rows_away_and_the_sum_of_six_sites_none(
    table: str, n_patients: int, at_least: float
) -> None:
    measured = figures(table, n_patients, 1, SEEDS)
    assert measured["alone"] >= at_least
    assert measured["sum of six sites"] <= 0.005


@pytest.mark.parametrize(("table", "at_least"), [("gbsg2", 0.38), ("whas500", 0.18), ("veterans", 0.14)])
def test_two_releases_in_clear_give_more_and_the_sum_of_six_sites_only_who_is_censored_alone(
    table: str, at_least: float
) -> None:
    measured = figures(table, 32, 2, SEEDS)
    assert measured["alone"] >= at_least
    assert measured["alone"] > figures(table, 32, 1, SEEDS)["alone"]
    assert measured["sum of six sites"] <= 0.05


@pytest.mark.parametrize(("n_patients", "leaves"), [(1, False), (8, False), (32, True)])
def test_the_gate_lets_no_release_of_fewer_than_ten_patients_out(n_patients: int, leaves: bool) -> None:
    source = bundled("gbsg2")
    sites = source.sites([n_patients, 100, 100], seed=0)
    plan = plan_over(sites, source.columns)
    found = given(plan, sites)
    point = {"alpha": np.full(found["edges"].size, -7.0), "beta": np.zeros(len(source.columns))}
    reply = through_gate(plan, request_of(plan, "newton", {**found, **point}), sites[0])
    assert isinstance(reply, Reply) if leaves else reply == Code.TOO_FEW_PATIENTS
