"""The figures of patients' outcomes: observed survival by risk group, and predicted against observed survival.

Each function returns one SVG for one width in pixels. Conventions: survival steps after each time, censored times
are short upright marks, the number at risk stands under the axis (hidden under 10), groups are told apart by place
and label and not by colour alone; the colours follow Okabe and Ito (2008), darkened until letters can be read.
"""

from __future__ import annotations

from collections.abc import Sequence

from archipel.svg import INK, MUTED, Anchor, Canvas, Scale, nice_ticks, spread_apart
from archipel.wording import NONE, at_time, plural
from schemas.result import Calibration, CalibrationPoint, KaplanMeier, SurvivalCurve

_GROUPS = {
    1: ("#0b5fa5",),
    2: ("#0b5fa5", "#b34700"),
    3: ("#0b5fa5", "#66717f", "#b34700"),
    4: ("#0b5fa5", "#00775a", "#8d6a00", "#b34700"),
}
_MANY = ("#0b5fa5", "#00775a", "#66717f", "#8d6a00", "#b34700", "#8a1550")
NARROW = 480
"""Below this width a figure is drawn for a phone: fewer ticks, panels under each other."""


def group_colours(n: int) -> Sequence[str]:
    """Return one colour for each of `n` groups, lowest risk first."""
    return _GROUPS.get(n, _MANY)


def kaplan_meier(kept: KaplanMeier, *, endpoint: str, time_unit: str, width: int) -> str:
    """Draw observed survival by risk group with its 95 % bands and the number at risk."""
    curves = kept.curves
    colours = group_colours(len(curves))
    last = max(_end(curve) for curve in curves) or 1.0
    left, right, top = 42.0, width - 84.0, 34.0
    bottom = top + (240.0 if width < NARROW else 330.0)
    height = bottom + 66 + 20 * len(curves)
    x, y = Scale((0, last), (left, right)), Scale((0, 1), (bottom, top))
    canvas = Canvas(
        f"km-{width}",
        width,
        height,
        title="Kaplan-Meier curves by predicted risk",
        description=_describe_curves(kept, time_unit),
    )
    canvas.text((0, 14), f"Without {endpoint or 'the event'} (%)", fill=MUTED)
    percent_axis(canvas, y, left, right)
    time_axis(canvas, x, bottom, f"Time ({plural(time_unit)})", about=4 if width < NARROW else 7)
    for curve, colour in zip(curves, colours, strict=False):
        _band(canvas, curve, x, y, colour)
    for curve, colour in zip(curves, colours, strict=False):
        canvas.path(
            step_points((*curve.times, _end(curve)), (*curve.survival, curve.survival[-1]), x, y), stroke=colour
        )
        for time in curve.censored:
            at = y(survival_at(curve, time))
            canvas.line((x(time), at - 4), (x(time), at + 4), stroke=colour, width=1.4)
    labels = spread_apart([y(curve.survival[-1]) for curve in curves], 16)
    for curve, colour, at in zip(curves, colours, labels, strict=False):
        canvas.text((right + 8, at + 4), curve.group, fill=colour, bold=True)
    _risk_table(canvas, curves, colours, x, bottom + 58, time_unit)
    return canvas.markup()


def _describe_curves(kept: KaplanMeier, time_unit: str) -> str:
    ends = "; ".join(
        f"{curve.group}: {100 * curve.survival[-1]:.0f} % at {at_time(curve.times[-1], time_unit)}"
        for curve in kept.curves
    )
    return f"Share of patients without the event over time, {kept.basis}. {ends}."


def _end(curve: SurvivalCurve) -> float:
    """The curve goes on, level, until its last patient has left observation."""
    return max(curve.times[-1], *curve.censored, 0.0)


def step_points(times: Sequence[float], values: Sequence[float], x: Scale, y: Scale) -> list[tuple[float, float]]:
    """Return the corners of a curve whose values each hold from their time until the next."""
    points = [(x(times[0]), y(values[0]))]
    for time, before, after in zip(times[1:], values[:-1], values[1:], strict=True):
        points += [(x(time), y(before)), (x(time), y(after))]
    return points


def _band(canvas: Canvas, curve: SurvivalCurve, x: Scale, y: Scale, colour: str) -> None:
    known = [
        (time, lower, upper)
        for time, lower, upper in zip(curve.times, curve.lower, curve.upper, strict=True)
        if lower is not None and upper is not None
    ]
    if len(known) < 2:
        return
    known.append((_end(curve), known[-1][1], known[-1][2]))
    times = [time for time, _, _ in known]
    upper_edge = step_points(times, [upper for _, _, upper in known], x, y)
    lower_edge = step_points(times, [lower for _, lower, _ in known], x, y)
    canvas.area([*upper_edge, *reversed(lower_edge)], fill=colour, opacity=0.11)


def survival_at(curve: SurvivalCurve, time: float) -> float:
    """Return the curve's height at `time`."""
    return next((s for t, s in zip(reversed(curve.times), reversed(curve.survival), strict=True) if t <= time), 1.0)


def percent_axis(canvas: Canvas, y: Scale, left: float, right: float) -> None:
    """Draw the lines of an axis from 0 to 100 %."""
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        canvas.line((left, y(tick)), (right, y(tick)))
        canvas.text((left - 8, y(tick) + 4), f"{100 * tick:.0f}", anchor="end", fill=MUTED)


def time_axis(canvas: Canvas, x: Scale, bottom: float, label: str, *, about: int) -> None:
    """Draw an axis of time with about so many numbers."""
    canvas.line((x.pixels[0], bottom), (x.pixels[1], bottom), stroke=INK)
    for tick in nice_ticks(*x.values, about):
        canvas.line((x(tick), bottom), (x(tick), bottom + 5), stroke=INK)
        canvas.text((x(tick), bottom + 19), f"{tick:g}", anchor="middle", fill=MUTED)
    canvas.text((x.pixels[1], bottom + 36), label, anchor="end", fill=MUTED)


def _risk_table(
    canvas: Canvas, curves: Sequence[SurvivalCurve], colours: Sequence[str], x: Scale, top: float, time_unit: str
) -> None:
    """Numbers stand at the times for which they were counted, which on a common grid are not round."""
    times = _risk_times(curves, x)
    canvas.line((0, top - 14), (canvas.width, top - 14))
    canvas.text((0, top - 22), "Number at risk", bold=True)
    # The last number would run into the names on the right, so it ends where the axis ends.
    anchors: list[Anchor] = ["end" if x(time) > x.pixels[1] - 14 else "middle" for time in times]
    for time, anchor in zip(times, anchors, strict=True):
        canvas.text((x(time), top), f"{time:.0f}", anchor=anchor, fill=MUTED, size=11)
    canvas.text((x.pixels[1] + 8, top), f"on {time_unit}", fill=MUTED, size=11)
    for row, (curve, colour) in enumerate(zip(curves, colours, strict=False), start=1):
        at = top + 4 + 18 * row
        for time, anchor in zip(times, anchors, strict=True):
            canvas.text((x(time), at), _at_risk(curve, time), anchor=anchor)
        canvas.text((x.pixels[1] + 8, at), curve.group, fill=colour)


def have_shared_times(curves: Sequence[SurvivalCurve]) -> bool:
    """Return whether all curves step on one grid; exact event times differ from group to group."""
    return all(curve.times == curves[0].times for curve in curves)


def _risk_times(curves: Sequence[SurvivalCurve], x: Scale) -> list[float]:
    wanted = curves[0].times if have_shared_times(curves) else nice_ticks(*x.values, 7)
    chosen: list[float] = []
    for time in wanted:
        if not chosen or x(time) - x(chosen[-1]) >= 46:
            chosen.append(time)
    return chosen


def knows_everyone(curve: SurvivalCurve) -> bool:
    """Return whether the curve lists every time at which somebody left, so that counts hold between its times."""
    return set(curve.censored) <= set(curve.times)


def _at_risk(curve: SurvivalCurve, time: float) -> str:
    """The number at `time`; between listed times that of the next, which is a lower bound where some are unlisted."""
    later = [(listed, n) for listed, n in zip(curve.times, curve.n_at_risk, strict=True) if listed >= time]
    if not later:
        return "<10" if curve.n_at_risk[-1] is None else NONE
    listed, n = later[0]
    is_exact = listed == time or knows_everyone(curve)
    if n is None:
        return "<10" if is_exact else NONE
    return str(n) if is_exact else f"\N{GREATER-THAN OR EQUAL TO}{n}"


def calibration(kept: Calibration, *, time_unit: str, width: int) -> str:
    """Draw predicted against observed survival, one panel for each horizon, with the diagonal."""
    horizons = sorted({point.horizon for point in kept.points})
    per_row = 1 if width < NARROW else {1: 1, 2: 2, 4: 2}.get(len(horizons), 3)
    panel = width / per_row
    side = min(panel - 66, 290.0)
    panel_height = side + 92
    rows = -(-len(horizons) // per_row)
    canvas = Canvas(
        f"calibration-{width}",
        width,
        rows * panel_height,
        title="Predicted against observed survival",
        description=_describe_calibration(kept, time_unit),
    )
    for index, horizon in enumerate(horizons):
        corner = (panel * (index % per_row), panel_height * (index // per_row))
        points = [point for point in kept.points if point.horizon == horizon]
        _calibration_panel(canvas, points, corner, side, at_time(horizon, time_unit))
    return canvas.markup()


def _describe_calibration(kept: Calibration, time_unit: str) -> str:
    parts = [
        f"{at_time(point.horizon, time_unit)}, group {point.group}: "
        f"predicted {100 * point.predicted:.0f} %, observed "
        + (NONE if point.observed is None else f"{100 * point.observed:.0f} %")
        for point in kept.points
    ]
    return f"Survival by groups of predicted risk, {kept.basis}. " + "; ".join(parts) + "."


def _calibration_panel(
    canvas: Canvas, points: Sequence[CalibrationPoint], corner: tuple[float, float], side: float, title: str
) -> None:
    left, top = corner[0] + 42, corner[1] + 42
    x, y = Scale((0, 1), (left, left + side)), Scale((0, 1), (top + side, top))
    canvas.text((corner[0], corner[1] + 14), title, bold=True, size=13)
    canvas.text((corner[0], corner[1] + 31), "Observed (%)", fill=MUTED)
    percent_axis(canvas, y, left, left + side)
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        canvas.line((x(tick), top), (x(tick), top + side))
        canvas.text((x(tick), top + side + 18), f"{100 * tick:.0f}", anchor="middle", fill=MUTED)
    canvas.text((left + side, top + side + 36), "Predicted (%)", anchor="end", fill=MUTED)
    canvas.line((x(0), y(0)), (x(1), y(1)), stroke=MUTED, dash="4 4")
    colours = group_colours(max((point.group for point in points), default=1))
    for point in points:
        _calibration_mark(canvas, point, x, y, colours[(point.group - 1) % len(colours)])


def _calibration_mark(canvas: Canvas, point: CalibrationPoint, x: Scale, y: Scale, colour: str) -> None:
    at = x(point.predicted)
    if point.observed is None:
        canvas.line((at, y(0)), (at, y(0) - 9), stroke=colour, width=2, dash="2 2")
        canvas.text((at, y(0) - 14), "too few", anchor="middle", fill=colour, size=11)
        return
    if point.lower is not None and point.upper is not None:
        canvas.line((at, y(point.lower)), (at, y(point.upper)), stroke=colour, width=1.8)
        for end in (point.lower, point.upper):
            canvas.line((at - 4, y(end)), (at + 4, y(end)), stroke=colour, width=1.8)
    canvas.dot((at, y(point.observed)), 5, fill=colour, stroke="#ffffff")
