"""The drawings of a patient's page, as SVG from the server: a curve with its band, an icon array, bars.

Colours are the style sheet's (classes, no style attribute), so the drawings obey the strict content policy and print.
Everything drawn also stands on the page as text or as a table.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

__all__ = ["PHONE", "WIDE", "Band", "CurveWords", "Line", "bar", "curve", "icons", "nice_ticks"]

WIDE, PHONE = 640, 340
"""Widths in pixels for which a curve is drawn: on a phone its letters would else shrink below reading."""

_LETTERS = 44
"""Of a label at a curve on a desk; half of it on a phone."""
_LABEL = 17.0
_COLUMNS, _ROWS = 20, 5
_BAR = 220


@dataclass(frozen=True)
class Band:
    """A curve to draw.

    Attributes:
        times: (m,) increasing, the first at 0.
        middle: (m,) probabilities.
        low, high: (m,) ends of the interval; None without one.
    """

    times: Sequence[float]
    middle: Sequence[float]
    low: Sequence[float] | None
    high: Sequence[float] | None


@dataclass(frozen=True)
class Line:
    """A further curve, with what is written at its end: (m,) `times` and `values`."""

    times: Sequence[float]
    values: Sequence[float]
    label: str


@dataclass(frozen=True)
class CurveWords:
    """What is written at a curve; `of` writes a tick of time, `percent` a probability."""

    title: str
    description: str
    axis: str
    of: Callable[[float], str]
    percent: Callable[[float], str]


def curve(
    name: str,
    band: Band,
    mark: tuple[float, float],
    words: CurveWords,
    *,
    ticks: Sequence[float],
    width: int,
    cohort: Band | None = None,
    lines: Sequence[Line] = (),
    steps: bool = False,
) -> Markup:
    """Draw one curve.

    Args:
        name: Prefix of the ids, unique on the page.
        band: What to draw.
        mark: The chosen horizon, and the probability there.
        words: In the reader's language.
        ticks: Of the time axis.
        width: In pixels: `WIDE` or `PHONE`.
        cohort: A second curve to compare with, dashed.
        lines: The curve again, to name it, then others, each drawn in its own dashes and named at its end.
        steps: Whether the curves fall at their times alone.
    """
    height = 300 if width == WIDE else 250
    left, right, top, bottom = 48.0, width - 14.0, 12.0, height - 46.0
    last = band.times[-1] or 1.0

    def x(time: float) -> float:
        return left + (right - left) * min(time / last, 1.0)

    def y(share: float) -> float:
        return bottom - (bottom - top) * share

    shapes: list[str] = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        shapes.append(f'<line class="grid" x1="{left:g}" x2="{right:g}" y1="{y(share):.1f}" y2="{y(share):.1f}"/>')
        shapes.append(_text("ax end", left - 6, y(share) + 4, words.percent(share)))
    for tick in ticks:
        anchor = "ax end" if x(tick) > right - 10 else "ax mid"
        shapes.append(_text(anchor, x(tick), bottom + 18, words.of(tick)))
    shapes.append(_text("ax mid", (left + right) / 2, bottom + 38, words.axis))
    if band.low is not None and band.high is not None:
        there, back = _corners(band.times, band.high, steps=steps), _corners(band.times, band.low, steps=steps)
        corners = " ".join(f"{x(t):.1f},{y(s):.1f}" for t, s in [*there, *reversed(back)])
        shapes.append(f'<polygon class="band" points="{corners}"/>')
    for kind, one in (("average", cohort), ("curve", band)):
        if one is not None:
            drawn = _corners(one.times, one.middle, steps=steps)
            points = " ".join(f"{x(t):.1f},{y(s):.1f}" for t, s in drawn)
            shapes.append(f'<polyline class="{kind}" points="{points}"/>')
    for number, line in enumerate(lines[1:], start=1):
        points = " ".join(f"{x(t):.1f},{y(s):.1f}" for t, s in _corners(line.times, line.values, steps=steps))
        shapes.append(f'<polyline class="other other-{number}" points="{points}"/>')
    most = _LETTERS if width == WIDE else _LETTERS // 2
    for line, height_of in zip(
        lines, _spread_labels([y(line.values[-1]) for line in lines], top, bottom), strict=True
    ):
        words_at = line.label if len(line.label) <= most else line.label[: most - 1] + "…"
        shapes.append(_text("lab end", right - 4, height_of, words_at))
    at, share = mark
    shapes.append(f'<line class="mark" x1="{x(at):.1f}" x2="{x(at):.1f}" y1="{top:g}" y2="{bottom:g}"/>')
    shapes.append(f'<circle class="dot" cx="{x(at):.1f}" cy="{y(share):.1f}" r="5"/>')
    return Markup(
        f'<svg class="{"wide-only" if width == WIDE else "phone-only"}" viewBox="0 0 {width} {height}" role="img" '
        f'aria-labelledby="{name}-{width}-t {name}-{width}-d">'
        f'<title id="{name}-{width}-t">{escape(words.title)}</title>'
        f'<desc id="{name}-{width}-d">{escape(words.description)}</desc>{"".join(shapes)}</svg>'
    )


def icons(n_filled: int, label: str, *, n_crossed: int = 0) -> Markup:
    """Draw a hundred people: so many filled, then outlined, and the last ones crossed out."""
    people = []
    for i in range(_COLUMNS * _ROWS):
        kind = "yes" if i < n_filled else "no" if i < _COLUMNS * _ROWS - n_crossed else "else"
        left, top = 8 + (i % _COLUMNS) * 14.9, 6 + (i // _COLUMNS) * 19
        cross = f'<path d="M{left - 5:.1f} {top + 13:g}L{left + 5:.1f} {top - 4:g}"/>' if kind == "else" else ""
        people.append(
            f'<g class="{kind}"><circle cx="{left:.1f}" cy="{top:g}" r="2.8"/>'
            f'<rect x="{left - 3:.1f}" y="{top + 4:g}" width="6" height="8" rx="2"/>{cross}</g>'
        )
    return Markup(
        f'<svg class="people" viewBox="0 0 300 97" role="img" aria-label="{escape(label)}">{"".join(people)}</svg>'
    )


def bar(points: float, largest: float) -> Markup:
    """Draw how far one column moved the risk; hidden from screen readers, who have the number beside it."""
    middle = _BAR / 2
    length = middle * min(abs(points) / largest, 1.0) if largest > 0 else 0.0
    start = middle if points >= 0 else middle - length
    return Markup(
        f'<svg class="bar" viewBox="0 0 {_BAR} 16" aria-hidden="true">'
        f'<line class="grid" x1="{middle:g}" x2="{middle:g}" y1="0" y2="16"/>'
        f'<rect class="{"up" if points >= 0 else "down"}" x="{start:.1f}" y="3" width="{length:.1f}" height="10"/>'
        "</svg>"
    )


def nice_ticks(last: float, about: int) -> list[float]:
    """Return round numbers from 0 to `last`, about so many; 1825 days reach the fifth year."""
    raw = last / max(about, 1)
    if raw <= 0:
        return [0.0]
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    return [k * step for k in range(math.floor(last / step * 1.002) + 1)]


def _spread_labels(heights: Sequence[float], top: float, bottom: float) -> list[float]:
    """Return where labels stand: above the ends of their lines, and none on another."""
    order = sorted(range(len(heights)), key=lambda i: heights[i], reverse=True)
    placed, below = dict[int, float](), bottom + _LABEL
    for i in order:
        below = placed[i] = min(heights[i] - 7, below - _LABEL)
    # Where the highest would stand outside, all above it move down again.
    above = top + _LABEL / 2
    for i in reversed(order):
        placed[i] = max(placed[i], above)
        above = placed[i] + _LABEL
    return [placed[i] for i in range(len(heights))]


def _corners(times: Sequence[float], values: Sequence[float], *, steps: bool) -> list[tuple[float, float]]:
    """Return the corners of a line through points; of a step function also those where it falls."""
    points = list(zip(times, values, strict=True))
    if not steps:
        return points
    falls = [(after[0], before[1]) for before, after in itertools.pairwise(points)]
    return [points[0], *(corner for pair in zip(falls, points[1:], strict=True) for corner in pair)]


def _text(kind: str, x: float, y: float, words: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(words)}</text>'
