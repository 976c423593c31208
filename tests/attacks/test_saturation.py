"""Chosen weights: rows of single patients, even through a sum of six sites; the inbound check ends it."""

from __future__ import annotations

import pytest

from tests.attacks.saturation import figures, under_noise

SEEDS = range(10)


@pytest.mark.parametrize("table", ["gbsg2", "whas500"])
def test_chosen_weights_show_single_patients_until_the_inbound_check_refuses_them(table: str) -> None:
    measured = figures(table, SEEDS)
    assert measured["alone"] >= 0.6
    assert measured["sum of six sites"] >= 0.12
    assert measured["by chance"] <= 0.01
    assert measured["same questions answered, checked"] == 0
    assert measured["sum of six sites, checked"] <= 0.02
    assert measured["alone, checked"] <= 0.1, "a site alone is never asked in clear; the sum is what protects it"


@pytest.mark.parametrize("table", ["gbsg2", "whas500"])
def test_chosen_weights_show_nobody_under_differential_privacy(table: str) -> None:
    assert under_noise(table, 8.0, SEEDS) == {"clipped alone": 0.0, "with noise": 0.0}
