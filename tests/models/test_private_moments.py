"""Without noise the private moments are the ordinary ones, in their own units."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from models.private_moments import INDICATOR_SCALE
from models.registry import METHODS
from models.step import Arrays
from schemas.cohort import Cohort
from tests.models.federation import context, run_step, split
from tests.models.synthetic import COLUMNS, patients

CENTRES, HALF_RANGES = [0.0, 5.0, -1.0, 0.5], [6.0, 12.0, 3.0, 0.5]
IS_NUMBER = [True, True, True, False]


def moments(cohorts: list[Cohort], **changed: Any) -> Arrays:
    settings: dict[str, Any] = {
        "centres": CENTRES,
        "half_ranges": HALF_RANGES,
        "is_number": IS_NUMBER,
        "may_miss": [True] * 4,
        "share": 0.1,
        "honest_sites": 1,
        **changed,
    }
    return run_step(METHODS["private_moments"](context(COLUMNS, **settings)), {}, cohorts)


def test_means_and_standard_deviations_are_those_of_the_ordinary_moments() -> None:
    cohorts = split(patients(), np.arange(160) % 3)
    ordinary = run_step(METHODS["moments"](context(COLUMNS)), {}, cohorts)
    ours = moments(cohorts)
    for name in ("mean", "standard_deviation", "n_observed", "n_patients"):
        np.testing.assert_allclose(ours[name], ordinary[name], rtol=1e-10, err_msg=name)
    np.testing.assert_allclose(ours["scale"][:3], ordinary["scale"][:3], rtol=1e-10)
    assert ours["scale"][3] == INDICATOR_SCALE


def test_where_no_cell_can_be_empty_patients_are_the_observed_cells() -> None:
    cohort = patients(missing=False)
    ours, spared = moments([cohort]), moments([cohort], may_miss=[False] * 4)
    for name in ours:
        np.testing.assert_allclose(spared[name], ours[name], rtol=1e-12)


def test_indicators_alone_release_no_squares() -> None:
    ours = moments([patients()], is_number=[False] * 4)
    assert np.array_equal(ours["scale"], np.full(4, INDICATOR_SCALE))


def test_a_value_beyond_the_dictionarys_range_counts_as_its_end() -> None:
    cohort = patients(missing=False)
    narrow = moments([cohort], half_ranges=[0.01, 12.0, 3.0, 0.5])
    x = cohort.matrix(COLUMNS)[:, 0]
    assert narrow["mean"][0] == pytest.approx(np.clip(x, -0.01, 0.01).mean(), rel=1e-9)


def test_a_constant_column_keeps_a_unit() -> None:
    cohort = patients(missing=False).take(np.zeros(20, dtype=np.intp))
    assert np.all(moments([cohort])["scale"] > 0)


def test_settings_for_other_columns_are_refused() -> None:
    with pytest.raises(ValueError, match="4 columns"):
        moments([patients()], centres=[0.0])
