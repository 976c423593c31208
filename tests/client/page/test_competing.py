"""A patient among competing events: incidence of each kind, what moved it, its arms, and what is said of it."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from client.page.drawing import icons
from client.page.facts import model_facts
from client.page.prognosis import prognose
from client.page.reader import reader_of
from client.page.rows import patient_of, with_arm
from client.page.shapes import Asked, Prognosis, SiteCalibration
from client.page.view import PatientView, Seen, patient_view
from models.incidence_prediction import incidence_contributions, incidence_difference, predict_incidence
from tests.client.page.page_kit import ASKED, TODAY, codes, competing_model, small_row, with_cells

MODEL = competing_model()
HORIZONS = np.array([1095.0, 1825.0])
ROW = small_row(blocks={"rna": np.array([1.0, 0.5, 2.0, 3.0])})


def told(asked: Asked = ASKED) -> Prognosis:
    found = prognose(MODEL, ROW, asked=asked)
    assert isinstance(found, Prognosis)
    return found


def view(language: str = "en", asked: Asked = ASKED, horizon: float | None = None) -> PatientView:
    reader = reader_of(language)
    facts = model_facts(MODEL.hash, MODEL.artefact.manifest, None, reader)
    return patient_view(told(asked), facts, Seen("P-1", "/patient/x", horizon, TODAY), reader)


# ---------------------------------------------------------------- numbers
def test_each_kind_of_event_has_the_models_incidence_and_interval() -> None:
    found = told()
    expected = predict_incidence(MODEL.artefact, patient_of(MODEL.artefact, ROW), HORIZONS)
    assert expected.lower is not None
    assert expected.upper is not None
    assert [kind.name for kind in found.kinds] == ["Relapse", "death", "3"]
    assert [kind.code for kind in found.kinds] == ["relapse", "death", "3"]
    for c, kind in enumerate(found.kinds):
        assert [one.time for one in kind.at] == HORIZONS.tolist()
        assert [one.incidence for one in kind.at] == expected.incidence[c, 0].tolist()
        assert [one.low for one in kind.at] == expected.lower[c, 0].tolist()
        assert [one.high for one in kind.at] == expected.upper[c, 0].tolist()


def test_all_kinds_and_freedom_from_them_sum_to_one_along_the_curve() -> None:
    found = told()
    total = np.sum([kind.curve.incidence for kind in found.kinds], axis=0) + found.curve.survival
    np.testing.assert_allclose(total, 1.0, atol=1e-12)
    average = np.sum([kind.average for kind in found.kinds], axis=0) + found.cohort_curve.survival
    np.testing.assert_allclose(average, 1.0, atol=1e-12)


def test_from_a_later_day_on_the_incidence_is_among_those_still_free_of_all_events() -> None:
    whole = predict_incidence(MODEL.artefact, patient_of(MODEL.artefact, ROW), np.array([365.0, 1095.0]))
    found = told(Asked(TODAY, event_free_until=365.0, horizons=(730.0,)))
    added = (whole.incidence[0, 0, 1] - whole.incidence[0, 0, 0]) / whole.free[0, 0]
    assert found.kinds[0].at[0].incidence == pytest.approx(added, rel=1e-10)


def test_what_moved_it_is_about_the_incidence_of_the_event_of_interest() -> None:
    found = told()
    parts = incidence_contributions(MODEL.artefact, patient_of(MODEL.artefact, ROW), HORIZONS)[0]
    for i in range(2):
        total = sum(one.by_horizon[i] for one in found.moved)
        at = found.kinds[0].at[i].incidence - np.interp(HORIZONS[i], found.curve.times, found.kinds[0].average)
        assert total == pytest.approx(100 * parts[i].sum(), abs=1e-9)
        assert total == pytest.approx(100 * at, abs=0.02)  # the average is read off between points


def test_each_arm_is_the_patient_under_it_with_the_difference_of_the_incidences() -> None:
    control, treated = told().arms
    patients = [
        patient_of(MODEL.artefact, with_arm(MODEL.artefact.manifest, ROW, treated=arm)) for arm in (False, True)
    ]
    for arm, patient in zip((control, treated), patients, strict=True):
        expected = predict_incidence(MODEL.artefact, patient, HORIZONS)
        assert [one.incidence for one in arm.incidence] == expected.incidence[0, 0].tolist()
    between = incidence_difference(MODEL.artefact, *patients, HORIZONS)
    assert [one.incidence for one in treated.incidence_difference] == between.value[0].tolist()
    assert (control.incidence_difference, control.difference, treated.difference) == ((), (), ())
    assert [one.incidence for one in treated.incidence_difference] == pytest.approx(
        [b.incidence - a.incidence for a, b in zip(control.incidence, treated.incidence, strict=True)], abs=1e-14
    )


# ---------------------------------------------------------------- rules
def test_the_event_floor_is_that_of_the_event_of_interest_and_few_others_are_warned_of() -> None:
    found = told()
    assert [one.time for one in found.horizons] == [1095.0, 1825.0]
    assert "below-event-floor" in codes(found)
    few = [dict(one.values) for one in found.warnings if one.code == "few-competing"]
    assert few == [{"event": "3", "horizon": 1825.0, "unit": "day", "floor": 10.0}]


def test_a_models_calibration_here_is_never_applied_where_events_compete() -> None:
    known = SiteCalibration(
        1095, slope=0.7, slope_low=0.6, slope_high=0.9, intercept=0.3, observed_over_expected=1.4, observed_low=1.1,
        observed_high=1.7,
    )  # fmt: skip
    found = told(replace(ASKED, calibration=known, recalibrate=True))
    assert (found.recalibrated, found.kinds) == (False, told().kinds)
    assert {"not-recalibrated-competing", "calibration-poor"} <= set(codes(found))


def test_cells_are_judged_as_for_one_event() -> None:
    assert codes(prognose(MODEL, with_cells(age=111.0), asked=ASKED)) == ["beyond-range"]


# ---------------------------------------------------------------- words
def test_the_page_says_how_many_of_a_hundred_have_which_event() -> None:
    at = told().kinds[0].at[-1]
    free = told().horizons[-1].survival
    n, rest = round(100 * at.incidence), round(100 * free)
    shown = view()
    assert (
        f"about {n} are expected to have had “Relapse” at 5 years, {100 - n - rest} something else first"
        in shown.lead
    )
    assert f"(death, event 3), and {rest} none of these" in shown.lead
    assert f"{round(100 * (at.low or 0))} to {round(100 * (at.high or 0))} with “Relapse”" in shown.lead
    assert shown.curve_title == "Who will have had “Relapse”"
    assert "other events aside" in shown.rank
    assert "leaves less room" in shown.moved_note


def test_the_lines_and_the_people_are_told_apart_without_colour() -> None:
    shown = view()
    drawing = str(shown.curve_wide)
    assert re.findall(r'class="lab end"[^>]*>([^<]+)<', drawing) == ["Relapse", "death", "event 3"]
    assert 'class="other other-1"' in drawing
    assert 'class="other other-2"' in drawing
    people = str(shown.icons)
    counts = [people.count(f'<g class="{kind}">') for kind in ("yes", "no", "else")]
    assert sum(counts) == 100
    assert people.count("<path") == counts[2]
    assert counts[0] == round(100 * told().horizons[-1].survival)
    assert counts[1] == round(100 * told().kinds[0].at[-1].incidence)


def test_labels_never_lie_on_each_other() -> None:
    shown = str(view(horizon=1095.0).curve_phone)
    heights = sorted(float(y) for y in re.findall(r'class="lab end" x="[\d.]+" y="([\d.]+)"', shown))
    assert len(heights) == 3
    assert min(np.diff(heights)) >= 16.9


def test_the_table_holds_every_kind_at_every_horizon() -> None:
    shown = view()
    assert shown.columns == ["death", "event 3"]
    row = next(one for one in shown.table if one["time"] == "5 years")
    found = told()
    assert row["share"] == f"{100 * found.kinds[0].at[-1].incidence:.1f}"
    assert row["others"][0].startswith(f"{100 * found.kinds[1].at[-1].incidence:.1f} (")
    assert row["free"].startswith(f"{100 * found.horizons[-1].survival:.1f} (")
    between = next(one for one in shown.table if one["time"] == "2 years")
    shares = [float(between["share"]), *(float(one.split(" ")[0]) for one in (*between["others"], between["free"]))]
    assert sum(shares) == pytest.approx(100, abs=0.3)


def test_the_arms_compare_the_event_of_interest() -> None:
    shown, treated = view(), told().arms[1]
    assert shown.arms[1]["share"] == f"{100 * treated.incidence[-1].incidence:.1f}"
    assert "Difference in “Relapse”" in shown.arms_note


def test_in_french_the_whole_page_is() -> None:
    shown = view("fr")
    assert "Sur 100 personnes comme ce patient" in shown.lead
    for text in (
        shown.curve_title,
        shown.origin,
        shown.rank,
        shown.moved_note,
        shown.icons_note,
        shown.condition_label,
    ):
        assert not re.search(r"\b(the|of|will|first|from)\b", text), text


def test_model_facts_count_each_kind() -> None:
    rows = dict(model_facts(MODEL.hash, MODEL.artefact.manifest, None, reader_of("en")).rows)
    assert rows["Learned from"].endswith("patients; events: relapse 90; death 45; event 3 <10")
    assert "death, event 3" in rows["Other events"]


def test_a_person_is_filled_outlined_or_crossed() -> None:
    drawn = str(icons(10, "", n_crossed=5))
    assert [drawn.count(f'"{kind}"') for kind in ("yes", "no", "else")] == [10, 85, 5]
