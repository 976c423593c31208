"""The published figure on differential privacy: what it claims, and that its numbers are those of the code."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.test_names import ROOT

FOLDER = ROOT / "experiments" / "dp_curve"
CURVE = json.loads((FOLDER / "curve.json").read_text())
POINTS = {(point["noise"], point["epsilon"]): point for point in CURVE["cross_validation"]}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The experiment's module."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import run

    yield run
    for name in ("run", "choose", "private_fit"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("noise", ["secure sum", "each site"])
def test_at_epsilon_eight_at_most_two_hundredths_are_lost(noise: str) -> None:
    assert CURVE["seeds"] == 20
    assert 0 < POINTS[noise, 8.0]["loss"] <= 0.02


def test_more_privacy_costs_more_and_the_secure_sum_spares_some_of_it() -> None:
    for noise in ("secure sum", "each site"):
        values = [POINTS[noise, epsilon]["c_index"] for epsilon in ("inf", 8.0, 3.0, 1.0)]
        assert values == sorted(values, reverse=True)
    for epsilon in (8.0, 3.0, 1.0):
        assert POINTS["secure sum", epsilon]["c_index"] > POINTS["each site", epsilon]["high"] - 0.01


def test_the_page_says_what_the_experiment_found() -> None:
    page = (ROOT / "docs" / "differential-privacy.md").read_text(encoding="utf-8")
    with (FOLDER / "curve.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["evaluation"] == "5x5 folds"]
    for row in rows:
        line = next(line for line in page.splitlines() if line.startswith(f"| {_spoken(row['epsilon'])} | ."))
        cell = line.split("|")[2 if row["noise"] == "secure sum" else 3]
        assert abs(float(cell.split()[0]) - float(row["c_index"])) <= 0.00051


def test_without_noise_the_code_gives_the_numbers_kept(cohorts: Path, run: Any) -> None:
    columns, everybody, folds, published = run.read(cohorts / run.COHORT)
    found = [run.c_of(columns, everybody, split, float("inf"), "secure sum", ()) for split in folds]
    assert len(found) == 25
    assert sum(found) / 25 == pytest.approx(POINTS["secure sum", "inf"]["c_index"], abs=2e-4)
    assert run.ordinary(columns, everybody, published) == pytest.approx(
        CURVE["without_differential_privacy"]["published_split"], abs=2e-4
    )


def test_a_draw_of_noise_is_repeatable_and_near_its_mean(cohorts: Path, run: Any) -> None:
    columns, everybody, folds, _ = run.read(cohorts / run.COHORT)
    one, again, other = (
        [run.c_of(columns, everybody, split, 8.0, "secure sum", (0, 8, seed, i)) for i, split in enumerate(folds[:5])]
        for seed in (0, 0, 1)
    )
    assert one == again != other
    without = [run.c_of(columns, everybody, split, float("inf"), "secure sum", ()) for split in folds[:5]]
    assert abs(sum(one) - sum(without)) / 5 < 5 * POINTS["secure sum", 8.0]["sd_noise"] / 5**0.5


def _spoken(epsilon: str) -> str:
    return "∞" if epsilon == "inf" else f"{float(epsilon):g}"
