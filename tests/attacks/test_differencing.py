"""One patient by the difference of two sums, or of four: exact without the rule, refused with it."""

from __future__ import annotations

import pytest

from tests.attacks.differencing import figures


@pytest.mark.parametrize("table", ["gbsg2", "whas500"])
@pytest.mark.parametrize("seed", range(5))
def test_two_sums_over_cohorts_that_differ_by_one_patient_are_that_patient(table: str, seed: int) -> None:
    measured = figures(table, seed, tracked=False)
    assert measured == {"row": 1.0, "refused for a pair": 1.0, "refused for a combination": 1.0}


@pytest.mark.parametrize("table", ["gbsg2", "whas500"])
@pytest.mark.parametrize("seed", range(5))
def test_four_cohorts_that_differ_by_ten_and_more_are_one_patient_too(table: str, seed: int) -> None:
    measured = figures(table, seed, tracked=True)
    assert measured == {"row": 1.0, "refused for a pair": 0.0, "refused for a combination": 1.0}
