from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archipel import figures_endpoints
from archipel.endpoint_words import points, treatment_caution
from schemas.result_endpoints import ArmCurve, CompetingEvents, IncidenceCurve, TreatmentAt, TreatmentResponse

SVG = "{http://www.w3.org/2000/svg}"
WIDTHS = (760, 344)


def response(*, name: str = "drug", penalised: bool = False) -> TreatmentResponse:
    control = ArmCurve(arm="placebo", survival=(1.0, 0.8, 0.5), lower=(None, 0.7, 0.4), upper=(None, 0.9, 0.6))
    treated = ArmCurve(arm=name, survival=(1.0, 0.9, 0.7), lower=(None, 0.8, 0.6), upper=(None, 0.95, 0.8))
    return TreatmentResponse(
        column="arm",
        penalised=penalised,
        times=(0.0, 90.0, 365.0),
        control=control,
        treated=treated,
        difference=(0.0, 0.1, 0.2),
        lower=(None, -0.02, 0.05),
        upper=(None, 0.22, 0.35),
        horizons=(TreatmentAt(time=365.0, control=0.5, treated=0.7, difference=0.2, lower=0.05, upper=0.35),),
    )


def events(cause: str = "relapse") -> CompetingEvents:
    def curve(of: str, group: str, end: float) -> IncidenceCurve:
        return IncidenceCurve(
            cause=of,
            group=group,
            times=(0.0, 100.0, 200.0),
            incidence=(0.0, end / 2, end),
            lower=(None, end / 3, None),
            upper=(None, end, None),
            predicted=(0.0, end / 2, end) if group == "all patients" else (),
            n_at_risk=(40, 30, None),
        )

    return CompetingEvents(
        causes=(cause, "death"),
        basis="in-sample",
        overall=(curve(cause, "all patients", 0.3), curve("death", "all patients", 0.1)),
        by_risk=(curve(cause, "low risk", 0.1), curve(cause, "high risk", 0.4)),
    )


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("steps", [True, False])
def test_both_arms_and_their_difference_are_drawn_with_bands(width: int, *, steps: bool) -> None:
    svg = figures_endpoints.treatment_response(
        response(), endpoint="relapse", time_unit="day", steps=steps, width=width
    )
    root = ElementTree.fromstring(svg)
    assert len(list(root.iter(f"{SVG}polyline"))) == 3
    assert len(list(root.iter(f"{SVG}polygon"))) == 3
    assert {"placebo", "drug", "Difference (percentage points)"} <= set(texts(svg))
    assert f'width="{width}"' in svg
    assert "365 days: drug 70 %, placebo 50 %, difference +20" in svg


@pytest.mark.parametrize("width", WIDTHS)
def test_incidence_is_drawn_by_kind_of_event_and_by_risk(width: int) -> None:
    by_cause, by_risk = (
        figures_endpoints.incidence(events(), by_risk=by_risk, time_unit="day", width=width)
        for by_risk in (False, True)
    )
    assert {"relapse", "death"} <= set(texts(by_cause))
    assert {"low risk", "high risk"} <= set(texts(by_risk))
    assert "stroke-dasharray" in by_cause
    assert "stroke-dasharray" not in by_risk


@given(st.text(max_size=60))
def test_any_name_of_an_arm_or_an_event_is_text(name: str) -> None:
    printable = "".join(character for character in name if character.isprintable())
    drawn = [
        figures_endpoints.treatment_response(
            response(name=printable), endpoint=printable, time_unit="day", steps=False, width=760
        ),
        figures_endpoints.incidence(events(printable), by_risk=False, time_unit="day", width=760),
    ]
    for svg in drawn:
        assert {element.tag.removeprefix(SVG) for element in ElementTree.fromstring(svg).iter()} <= {
            "svg", "title", "desc", "text", "line", "polyline", "polygon",
        }  # fmt: skip


def test_differences_have_their_sign_and_zero_has_none() -> None:
    assert [points(share) for share in (0.124, -0.31, 0.001, -0.001)] == ["+12", "\N{MINUS SIGN}31", "0", "0"]


def test_a_penalty_is_told_with_the_curves() -> None:
    assert "penalty" in treatment_caution(response(penalised=True))
    assert "penalty" not in treatment_caution(response())
