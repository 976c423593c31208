"""The figures of a treatment's arms and of competing events, as in `archipel.figures`: one SVG for one width."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from archipel.endpoint_words import points
from archipel.figures import NARROW, group_colours, percent_axis, step_points, time_axis
from archipel.svg import ACCENT, INK, MUTED, RULE, Canvas, Scale, nice_ticks, spread_apart
from archipel.wording import at_time, plural
from schemas.result_endpoints import ArmCurve, CompetingEvents, IncidenceCurve, TreatmentResponse

_ARMS = ("#66717f", ACCENT)


def treatment_response(response: TreatmentResponse, *, endpoint: str, time_unit: str, steps: bool, width: int) -> str:
    """Draw both arms' mean predicted curves with their bands, and their difference below.

    Args:
        response: With curves on one list of times.
        endpoint: What the event is.
        time_unit: Of the times.
        steps: Whether the curves step at the times (exact event times), or run straight between them (a grid).
        width: In pixels.
    """
    left, right, top = 46.0, width - 92.0, 34.0
    bottom = top + (190.0 if width < NARROW else 260.0)
    below = bottom + 62
    floor = below + (120.0 if width < NARROW else 150.0)
    last = response.times[-1] or 1.0
    x, y = Scale((0, last), (left, right)), Scale((0, 1), (bottom, top))
    canvas = Canvas(
        f"treatment-{width}",
        width,
        floor + 46,
        title="Predicted survival under each arm, and the difference",
        description=_describe(response, time_unit),
    )
    canvas.text((0, 14), f"Without {endpoint or 'the event'} (%), all patients as if under each arm", fill=MUTED)
    percent_axis(canvas, y, left, right)
    time_axis(canvas, x, bottom, "", about=4 if width < NARROW else 7)
    arms = (response.control, response.treated)
    for arm, colour in zip(arms, _ARMS, strict=True):
        _band(canvas, response.times, arm.lower, arm.upper, (x, y), colour, steps=steps, start=1.0)
    for arm, colour in zip(arms, _ARMS, strict=True):
        canvas.path(_line(response.times, arm.survival, (x, y), steps=steps), stroke=colour)
    labels = spread_apart([y(arm.survival[-1]) for arm in arms], 16)
    for arm, colour, at in zip(arms, _ARMS, labels, strict=True):
        canvas.text((right + 8, at + 4), _short(arm), fill=colour, bold=True)
    _difference_panel(canvas, response, x, (below, floor), time_unit, steps=steps)
    return canvas.markup()


def _short(arm: ArmCurve) -> str:
    return arm.arm if len(arm.arm) <= 14 else arm.arm[:13].rstrip() + "\N{HORIZONTAL ELLIPSIS}"


def _describe(response: TreatmentResponse, time_unit: str) -> str:
    parts = [
        f"{at_time(at.time, time_unit)}: {response.treated.arm} {100 * at.treated:.0f} %, {response.control.arm} "
        f"{100 * at.control:.0f} %, difference {points(at.difference)}"
        for at in response.horizons
    ]
    return "Mean predicted survival of the same patients under each arm. " + "; ".join(parts) + "."


def _difference_panel(
    canvas: Canvas, response: TreatmentResponse, x: Scale, rows: tuple[float, float], time_unit: str, *, steps: bool
) -> None:
    ends = [end for end in (*response.lower, *response.upper, *response.difference) if end is not None]
    low, high = min([*ends, -0.02]), max([*ends, 0.02])
    margin = 0.06 * (high - low)
    y = Scale((low - margin, high + margin), (rows[1], rows[0]))
    left, right = x.pixels
    canvas.text((0, rows[0] - 12), "Difference (percentage points)", bold=True)
    for tick in nice_ticks(low, high, 4):
        canvas.line((left, y(tick)), (right, y(tick)), stroke=INK if abs(tick) < 1e-12 else RULE)
        canvas.text((left - 8, y(tick) + 4), points(tick), anchor="end", fill=MUTED)
    _band(canvas, response.times, response.lower, response.upper, (x, y), ACCENT, steps=steps)
    canvas.path(_line(response.times, response.difference, (x, y), steps=steps), stroke=ACCENT)
    time_axis(canvas, x, rows[1], f"Time ({plural(time_unit)})", about=4 if canvas.width < NARROW else 7)


def _line(
    times: Sequence[float], values: Sequence[float], scales: tuple[Scale, Scale], *, steps: bool
) -> list[tuple[float, float]]:
    x, y = scales
    if steps:
        return step_points(times, values, x, y)
    return [(x(time), y(value)) for time, value in zip(times, values, strict=True)]


def _band(
    canvas: Canvas,
    times: Sequence[float],
    lower: Sequence[float | None],
    upper: Sequence[float | None],
    scales: tuple[Scale, Scale],
    colour: str,
    *,
    steps: bool,
    start: float = 0.0,
) -> None:
    known = [(t, a, b) for t, a, b in zip(times, lower, upper, strict=True) if a is not None and b is not None]
    if not known:
        return
    if not steps and known[0][0] > times[0]:  # nothing has happened yet at the first time, so nothing is unsure
        known.insert(0, (times[0], start, start))
    at = [t for t, _, _ in known]
    top = _line(at, [b for _, _, b in known], scales, steps=steps)
    bottom = _line(at, [a for _, a, _ in known], scales, steps=steps)
    canvas.area([*top, *reversed(bottom)], fill=colour, opacity=0.14)


def incidence(events: CompetingEvents, *, by_risk: bool, time_unit: str, width: int) -> str:
    """Draw observed cumulative incidence: of each kind of event, or of that of interest by risk group.

    Args:
        events: With their curves.
        by_risk: Which of the two.
        time_unit: Of the times.
        width: In pixels.
    """
    curves = events.by_risk if by_risk else events.overall
    names = [curve.group if by_risk else curve.cause for curve in curves]
    colours = group_colours(len(curves))
    left, right, top = 42.0, width - 92.0, 34.0
    bottom = top + (200.0 if width < NARROW else 270.0)
    last = max(curve.times[-1] for curve in curves) or 1.0
    highest = max([end for curve in curves for end in (*curve.incidence, *curve.upper) if end is not None])
    x, y = Scale((0, last), (left, right)), Scale((0, min(1.0, 1.08 * highest or 1.0)), (bottom, top))
    what = f"{events.causes[0]}, by risk" if by_risk else "each kind of event"
    canvas = Canvas(
        f"incidence-{'risk' if by_risk else 'cause'}-{width}",
        width,
        bottom + 46,
        title=f"Cumulative incidence: {what}",
        description=_describe_incidence(curves, names, time_unit),
    )
    canvas.text((0, 14), f"Have had {'the event' if by_risk else 'each event'} (%)", fill=MUTED)
    for tick in nice_ticks(0.0, y.values[1], 4):
        canvas.line((left, y(tick)), (right, y(tick)))
        canvas.text((left - 8, y(tick) + 4), f"{100 * tick:.0f}", anchor="end", fill=MUTED)
    time_axis(canvas, x, bottom, f"Time ({plural(time_unit)})", about=4 if width < NARROW else 7)
    for curve, colour in zip(curves, colours, strict=False):
        _band(canvas, curve.times, curve.lower, curve.upper, (x, y), colour, steps=True)
    for curve, colour in zip(curves, colours, strict=False):
        canvas.path(step_points(curve.times, curve.incidence, x, y), stroke=colour)
        if curve.predicted:
            dashes = _line(curve.times, curve.predicted, (x, y), steps=False)
            for start, end in pairwise(dashes):
                canvas.line(start, end, stroke=colour, width=1.4, dash="3 3")
    labels = spread_apart([y(curve.incidence[-1]) for curve in curves], 16)
    for name, colour, at in zip(names, colours, labels, strict=False):
        canvas.text((right + 8, at + 4), name[:14], fill=colour, bold=True)
    return canvas.markup()


def _describe_incidence(curves: Sequence[IncidenceCurve], names: Sequence[str], time_unit: str) -> str:
    ends = [
        f"{name}: {100 * curve.incidence[-1]:.0f} % at {at_time(curve.times[-1], time_unit)}"
        for name, curve in zip(names, curves, strict=True)
    ]
    return "Share of patients who have had the event over time. " + "; ".join(ends) + "."
