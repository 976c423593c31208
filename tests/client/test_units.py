import numpy as np
import pytest

from client.units import looks_too_short, unit_hint
from schemas.dictionary import Column

RNG = np.random.default_rng(4)


def column(unit: str, low: float, high: float) -> Column:
    return Column(name="x", type="number", unit=unit, min=low, max=high)


@pytest.mark.parametrize(
    ("described", "right", "factor", "hint"),
    [
        (column("day", 100, 5000), RNG.uniform(400, 4000, 50), 1 / 30.4375, "months"),
        (column("days", 500, 5000), RNG.uniform(800, 4000, 50), 1 / 365.25, "years"),
        (column("month", 0, 60), RNG.uniform(5, 60, 50), 30.4375, "days"),
        (column("year", 0, 110), RNG.uniform(20, 90, 50), 12, "months"),
        (column("cm", 40, 220), RNG.uniform(60, 190, 50), 0.01, "metres"),
        (column("kg", 2, 200), RNG.uniform(10, 100, 50), 1000, "grams"),
        (column("mmol/L", 1, 30), RNG.uniform(4, 12, 50), 18.016, "mg/dL"),
        (column("µmol/L", 20, 1500), RNG.uniform(40, 200, 50), 1 / 88.42, "mg/dL"),
        (column("mg/dL", 30, 600), RNG.uniform(60, 250, 50), 1 / 18.016, "mmol/L"),
    ],
)
def test_each_everyday_mix_up_is_recognised(described: Column, right: np.ndarray, factor: float, hint: str) -> None:
    assert unit_hint(described, right) == ""
    said = unit_hint(described, right * factor)
    assert hint in said
    assert f"the dictionary says {described.unit}" in said


def test_a_single_wrong_cell_is_no_other_unit() -> None:
    assert unit_hint(column("cm", 40, 220), np.array([170.0, 160.0, 155.0, 1.7])) == ""


def test_nothing_is_said_without_unit_or_values() -> None:
    assert unit_hint(Column(name="x", type="number", min=50), np.array([1.0])) == ""
    assert unit_hint(column("cm", 40, 220), np.array([])) == ""


def test_months_in_a_column_of_days_are_noticed_within_the_range() -> None:
    days = RNG.uniform(10, 390, 60)
    described = column("day", 0, 450)
    assert not looks_too_short(described, days)
    assert looks_too_short(described, days / 30.4375)
    assert not looks_too_short(column("mm", 0, 450), days / 30.4375)
    assert not looks_too_short(described, np.array([]))


def test_years_in_a_column_of_months_are_noticed_within_the_range() -> None:
    months = RNG.uniform(1, 110, 60)
    assert looks_too_short(column("month", 0, 120), months / 12)
    assert not looks_too_short(column("month", 0, 120), months)
