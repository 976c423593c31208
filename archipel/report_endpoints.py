"""What the report shows beyond one time to one event: a treatment's arms, competing events, words of an outcome."""

from __future__ import annotations

from typing import Any

from archipel import figures_endpoints, wording
from archipel.drawing import draw
from archipel.endpoint_words import outcome_sentence, points, treatment_caution, words_of
from schemas.result import Result
from schemas.result_endpoints import CompetingEvents, IncidencePoint, TreatmentResponse


def endpoint_view(result: Result) -> dict[str, Any]:
    """Return the variables of the template."""
    response, events = result.treatment_response, result.competing
    study = result.study
    drawn = None
    if response is not None:
        drawn = draw(
            figures_endpoints.treatment_response,
            response,
            endpoint=study.endpoint,
            time_unit=study.time_unit,
            steps=result.exact_times,
        )
    return {
        "words": words_of(result),
        "outcome_sentence": outcome_sentence(result),
        "treatment_drawing": drawn,
        "treatment_caution": treatment_caution(response) if response is not None else "",
        "treatment_rows": [] if response is None else _treatment_rows(response, study.time_unit),
        "incidence_drawings": [] if events is None else _incidence_drawings(events, study.time_unit),
        "incidence_rows": [] if events is None else [_incidence_row(p, study.time_unit) for p in events.points],
    }


def _treatment_rows(response: TreatmentResponse, time_unit: str) -> list[tuple[str, str, str, str]]:
    """Rows of (horizon, control, treated, difference with its interval)."""
    rows = []
    for at in response.horizons:
        difference = points(at.difference)
        if at.lower is not None and at.upper is not None:
            difference += f" ({points(at.lower)} to {points(at.upper)})"
        control, treated = (f"{100 * share:.0f} %" for share in (at.control, at.treated))
        rows.append((wording.at_time(at.time, time_unit), control, treated, difference))
    return rows


def _incidence_drawings(events: CompetingEvents, time_unit: str) -> list[Any]:
    kinds = [False, True] if events.by_risk else [False]
    return [draw(figures_endpoints.incidence, events, by_risk=by_risk, time_unit=time_unit) for by_risk in kinds]


def _incidence_row(point: IncidencePoint, time_unit: str) -> tuple[str, str, str, str, str, str]:
    """Return (kind of event, horizon, group, patients, predicted, observed with its interval)."""
    observed = "too few patients"
    if point.observed is not None:
        observed = f"{100 * point.observed:.0f} %"
        if point.lower is not None and point.upper is not None:
            observed += f" ({100 * point.lower:.0f}–{100 * point.upper:.0f})"
    horizon = wording.at_time(point.horizon, time_unit)
    return point.cause, horizon, str(point.group), point.patients, f"{100 * point.predicted:.0f} %", observed
