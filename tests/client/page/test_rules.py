"""The honesty rules: when there is no number, and what stands beside one. Each rule is a test of its name."""

from __future__ import annotations

import datetime
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from client.page.prognosis import prognose
from client.page.rules import EVENT_FLOOR, events_between
from client.page.shapes import CODES, Asked, Notice, Prognosis, Refused, Row, SiteCalibration
from schemas.artefact import HorizonEvents
from tests.client.page.page_kit import ASKED, TODAY, codes, small_model, small_row, with_cells

GOOD_CALIBRATION = SiteCalibration(
    1095, slope=1.05, slope_low=0.8, slope_high=1.3, intercept=0.02, observed_over_expected=0.98, observed_low=0.8,
    observed_high=1.2,
)  # fmt: skip


def refused(row: Row, asked: Asked = ASKED, **changes: Any) -> list[str]:
    found = prognose(small_model(**changes), row, asked=asked)
    assert isinstance(found, Refused), "a number was shown"
    return codes(found)


def warned(row: Row, asked: Asked = ASKED, **changes: Any) -> list[str]:
    found = prognose(small_model(**changes), row, asked=asked)
    assert isinstance(found, Prognosis)
    return codes(found)


def test_a_good_row_has_a_number() -> None:
    assert set(warned(small_row())) == {"layer-missing", "below-event-floor", "calibration-unknown"}


def test_no_number_beyond_the_range_of_the_dictionary() -> None:
    assert refused(with_cells(age=111.0)) == ["beyond-range"]
    assert refused(with_cells(age=-0.5)) == ["beyond-range"]
    found = prognose(small_model(), with_cells(age=111.0), asked=ASKED)
    assert isinstance(found, Refused)
    assert dict(found.reasons[0].values) == {"column": "age", "low": 0.0, "high": 110.0, "unit": "year"}
    assert "beyond-range" not in warned(with_cells(age=110.0))


def test_no_number_without_a_required_column() -> None:
    assert refused(with_cells(age=math.nan)) == ["required-missing"]
    assert refused(small_row(cells={"stage": 1.0})) == ["required-missing"]


def test_no_number_for_a_code_that_the_dictionary_does_not_have() -> None:
    assert refused(with_cells(stage=3.0)) == ["unknown-code"]
    assert refused(with_cells(stage=0.5)) == ["unknown-code"]
    assert refused(with_cells(treated=2.0)) == ["unknown-code"]


def test_no_number_where_a_cell_could_not_be_read() -> None:
    assert refused(small_row(problems=(Notice("unreadable", {"column": "stage"}),))) == ["unreadable"]


def test_no_number_where_nothing_is_known() -> None:
    columns = tuple(
        column.model_copy(update={"required": False}) for column in small_model().artefact.manifest.columns
    )
    assert refused(small_row(cells={}), columns=columns) == ["nothing-known"]


def test_no_number_under_the_event_floor() -> None:
    asked = Asked(TODAY, horizons=(365.0,))
    assert refused(small_row(), asked) == ["below-event-floor"]
    few = (HorizonEvents(horizon=365, events="<10", at_least=0),)
    assert refused(small_row(), asked, events_by_horizon=few, horizons=(365.0,)) == ["below-event-floor"]


def test_the_horizon_under_the_event_floor_is_named_and_the_others_are_shown() -> None:
    found = prognose(small_model(), small_row(), asked=ASKED)
    assert isinstance(found, Prognosis)
    assert [one.time for one in found.horizons] == [1095.0, 1825.0]
    assert found.curve.times[-1] == 1825.0
    withheld = next(one for one in found.warnings if one.code == "below-event-floor")
    assert dict(withheld.values) == {"horizon": 365.0, "unit": "day", "floor": float(EVENT_FLOOR)}


def test_the_event_floor_counts_from_where_the_prediction_starts() -> None:
    """Between 1,825 and 2,000 days too few had the event, however many had it before."""
    model = small_model(horizons=(1095.0, 2000.0))
    assert events_between(model.artefact, 0.0, 1095.0) == 38.0
    assert events_between(model.artefact, 1825.0, 1912.5) == pytest.approx(10.0)
    assert events_between(model.artefact, 1825.0, 1900.0) == pytest.approx(20 * 75 / 175)
    late = Asked(TODAY, event_free_until=1825.0, horizons=(75.0, 175.0))
    found = prognose(model, small_row(), asked=late)
    assert isinstance(found, Prognosis)
    assert [one.time for one in found.horizons] == [175.0]


def test_no_number_where_the_model_does_not_say_how_many_events_it_stands_on() -> None:
    assert set(refused(small_row(), interval=False, events_by_horizon=())) == {"floor-unknown"}


def test_no_number_beyond_the_horizons_that_the_model_was_judged_at() -> None:
    assert refused(small_row(), Asked(TODAY, horizons=(1826.0,))) == ["beyond-horizons"]
    assert refused(small_row(), Asked(TODAY, event_free_until=800.0, horizons=(1095.0,))) == ["beyond-horizons"]
    assert refused(small_row(), Asked(TODAY, event_free_until=1825.0)) == ["beyond-follow-up"]
    assert refused(small_row(), horizons=()) == ["no-horizon"]


def test_no_number_beyond_the_last_interval_of_a_grid() -> None:
    assert refused(small_row(), Asked(TODAY, horizons=(2100.0,)), horizons=(1095.0, 2100.0)) == ["beyond-horizons"]


def test_no_number_after_the_last_day_of_use() -> None:
    assert refused(small_row(), expires=TODAY - datetime.timedelta(days=1)) == ["expired"]
    assert "expired" not in warned(small_row(), expires=TODAY)


def test_no_number_when_the_row_follows_another_dictionary() -> None:
    assert refused(small_row(dictionary_hash="d" * 64)) == ["dictionary-version"]


def test_no_number_for_a_patient_who_trained_the_model() -> None:
    found = prognose(small_model(), small_row(in_sample=True), asked=ASKED)
    assert isinstance(found, Refused)
    assert (codes(found), found.in_sample) == (["in-sample"], True)


def test_all_reasons_are_named_at_once() -> None:
    row = replace(with_cells(age=200.0, stage=9.0), in_sample=True)
    expired = TODAY - datetime.timedelta(days=9)
    assert refused(row, expires=expired) == ["in-sample", "expired", "beyond-range", "unknown-code"]
    elsewhere = replace(row, dictionary_hash="d" * 64)
    assert refused(elsewhere, expires=expired) == ["in-sample", "expired", "dictionary-version"]


def test_a_patient_beyond_the_outer_quantiles_is_warned_of() -> None:
    assert "beyond-quantiles" in warned(with_cells(age=81.0))
    assert "beyond-quantiles" in warned(with_cells(age=19.0))
    assert "beyond-quantiles" not in warned(with_cells(age=80.0))
    assert "rank-beyond-quantiles" in warned(with_cells(age=109.0, stage=2.0))


def test_missing_layers_and_columns_are_warned_of() -> None:
    assert "layer-missing" in warned(small_row())
    known = small_row(blocks={"rna": np.array([1.0, np.nan, 2.0, 3.0])})
    assert "layer-missing" not in warned(known)
    assert "column-missing" in warned(with_cells(stage=math.nan))


def test_a_site_that_cannot_tell_who_trained_the_model_is_warned_of() -> None:
    assert "in-sample-unknown" in warned(small_row(in_sample=None))
    assert "in-sample-unknown" not in warned(small_row(in_sample=False))


def test_calibration_that_is_not_known_is_warned_of() -> None:
    assert "calibration-unknown" in warned(small_row())
    no_figures = SiteCalibration(1095, reason="too-few-events")
    assert "calibration-unknown" in warned(small_row(), replace(ASKED, calibration=no_figures))
    assert "calibration-unknown" not in warned(small_row(), replace(ASKED, calibration=GOOD_CALIBRATION))


@pytest.mark.parametrize(
    "worse",
    [
        {"slope": 0.5, "slope_low": 0.3, "slope_high": 0.7},
        {"slope": 1.6, "slope_low": 1.2, "slope_high": 2.0},
        {"observed_over_expected": 1.5, "observed_low": 1.2, "observed_high": 1.9},
        {"observed_over_expected": 0.6, "observed_low": 0.4, "observed_high": 0.8},
    ],
)
def test_poor_calibration_is_warned_of(worse: dict[str, Any]) -> None:
    poor = replace(GOOD_CALIBRATION, **worse)
    assert "calibration-poor" in warned(small_row(), replace(ASKED, calibration=poor))


def test_calibration_that_is_off_within_its_interval_is_not_called_poor() -> None:
    unsure = replace(GOOD_CALIBRATION, slope=0.6, slope_low=0.1, slope_high=1.1)
    assert "calibration-poor" not in warned(small_row(), replace(ASKED, calibration=unsure))


def test_a_model_without_intervals_says_so_and_a_penalised_one_says_what_its_intervals_are_about() -> None:
    assert "interval-none" in warned(small_row(), interval=False)
    penalised = replace(small_model(), is_penalised=True)
    found = prognose(penalised, small_row(), asked=ASKED)
    assert isinstance(found, Prognosis)
    assert "interval-shrunken" in codes(found)


def test_a_notice_holds_what_its_text_needs_and_nothing_else() -> None:
    with pytest.raises(ValueError, match="does not say"):
        Notice("beyond-range", {"column": "age"})
    with pytest.raises(ValueError, match="does not say"):
        Notice("no-such-code")
    assert all(name.islower() for values in CODES.values() for name in values)
