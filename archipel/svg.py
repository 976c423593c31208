"""A drawing as text: the few SVG shapes the figures need, with everything escaped and nothing left to the browser.

Drawn here and not by a plotting library: the text stays text (searchable, read aloud, in the page's own letters),
the same result always gives the same bytes, and a figure can be drawn once for a desk and once for a phone with
letters of the same size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

INK = "#1b2430"
MUTED = "#5a6572"
RULE = "#dfe4ea"
ACCENT = "#0b5fa5"
FONT = "-apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'Liberation Sans', Arial, sans-serif"
SIZE = 12.0
"""Height of letters in pixels; figures are drawn at the width at which they are shown."""

Anchor = Literal["start", "middle", "end"]
Points = Sequence[tuple[float, float]]


class Canvas:
    """One SVG drawing.

    Args:
        name: Prefix of the ids, unique in the page.
        width: In pixels.
        height: In pixels.
        title: What the figure is, for those who cannot see it.
        description: What it shows, for those who cannot see it.
    """

    def __init__(self, name: str, width: float, height: float, *, title: str, description: str) -> None:
        self.width = width
        self.height = height
        self._name = name
        self._head = (escape(title), escape(description))
        self._shapes: list[str] = []

    def line(
        self,
        start: tuple[float, float],
        end: tuple[float, float],
        *,
        stroke: str = RULE,
        width: float = 1,
        dash: str = "",
    ) -> None:
        """Draw a straight line."""
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        self._shapes.append(
            f'<line x1="{_n(start[0])}" y1="{_n(start[1])}" x2="{_n(end[0])}" y2="{_n(end[1])}" '
            f'stroke="{stroke}" stroke-width="{_n(width)}"{dashes}/>'
        )

    def path(self, points: Points, *, stroke: str, width: float = 2, dash: str = "") -> None:
        """Draw an open line through points."""
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        self._shapes.append(
            f'<polyline points="{_points(points)}" fill="none" stroke="{stroke}" stroke-width="{_n(width)}" '
            f'stroke-linejoin="round"{dashes}/>'
        )

    def area(self, points: Points, *, fill: str, opacity: float = 1) -> None:
        """Fill the polygon through points."""
        self._shapes.append(f'<polygon points="{_points(points)}" fill="{fill}" fill-opacity="{_n(opacity)}"/>')

    def rect(self, corner: tuple[float, float], size: tuple[float, float], *, fill: str, radius: float = 0) -> None:
        """Fill a rectangle given by its upper left corner."""
        self._shapes.append(
            f'<rect x="{_n(corner[0])}" y="{_n(corner[1])}" width="{_n(max(size[0], 0))}" '
            f'height="{_n(max(size[1], 0))}" rx="{_n(radius)}" fill="{fill}"/>'
        )

    def dot(
        self, centre: tuple[float, float], radius: float, *, fill: str, stroke: str = "none", opacity: float = 1
    ) -> None:
        """Draw a circle."""
        self._shapes.append(
            f'<circle cx="{_n(centre[0])}" cy="{_n(centre[1])}" r="{_n(radius)}" fill="{fill}" stroke="{stroke}" '
            f'stroke-width="1.5" fill-opacity="{_n(opacity)}"/>'
        )

    def text(
        self,
        at: tuple[float, float],
        words: str,
        *,
        anchor: Anchor = "start",
        fill: str = INK,
        size: float = SIZE,
        bold: bool = False,
    ) -> None:
        """Write one line; `at` is on its base line."""
        weight = ' font-weight="600"' if bold else ""
        self._shapes.append(
            f'<text x="{_n(at[0])}" y="{_n(at[1])}" text-anchor="{anchor}" fill="{fill}" '
            f'font-size="{_n(size)}"{weight}>{escape(words)}</text>'
        )

    def markup(self) -> str:
        """Return the drawing."""
        title, description = self._head
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_n(self.width)} {_n(self.height)}" '
            f'width="{_n(self.width)}" height="{_n(self.height)}" role="img" '
            f'aria-labelledby="{self._name}-t {self._name}-d" font-family="{FONT}">'
            f'<title id="{self._name}-t">{title}</title><desc id="{self._name}-d">{description}</desc>'
            + "".join(self._shapes)
            + "</svg>"
        )


@dataclass(frozen=True)
class Scale:
    """Where a value stands on the page.

    Attributes:
        values: The smallest and largest value.
        pixels: Where these two stand.
        logarithmic: Equal ratios are equally wide.
    """

    values: tuple[float, float]
    pixels: tuple[float, float]
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """Return the position of `value`, kept inside the axis."""
        low, high = self.values
        inside = min(max(value, low), high)
        share = (inside - low) / (high - low)
        if self.logarithmic:
            share = math.log(inside / low) / math.log(high / low)
        return self.pixels[0] + share * (self.pixels[1] - self.pixels[0])

    def holds(self, value: float) -> bool:
        """Return whether `value` lies on the axis."""
        return self.values[0] <= value <= self.values[1]


def nice_ticks(low: float, high: float, about: int) -> list[float]:
    """Return round numbers from `low` to `high`, about so many: 0, 100, 200 and not 0, 77.6, 155.2."""
    raw = (high - low) / max(about, 1)
    if raw <= 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def ratio_ticks(low: float, high: float, most: int) -> list[float]:
    """Return round ratios around 1 for a logarithmic axis, at most so many."""
    ladders = (
        [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100],
        [0.01, 0.0625, 0.25, 1, 4, 16, 100],
        [0.01, 0.1, 1, 10, 100],
    )
    fine = [0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.4, 1.6, 2.0]
    if high / low < 4:
        found = [tick for tick in fine if low <= tick <= high]
        return found if len(found) <= most else [tick for tick in found if tick in (0.5, 0.7, 1, 1.4, 2)]
    for ladder in ladders:
        found = [tick for tick in ladder if low <= tick <= high]
        if len(found) <= most:
            return found
    return [1.0]


def spread_apart(wanted: Sequence[float], gap: float) -> list[float]:
    """Return positions as near to `wanted` as labels that need `gap` allow, in the same order on the page."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    blocks: list[list[int]] = [[i] for i in order]
    centres = [wanted[i] for i in order]
    at = 0
    while at + 1 < len(blocks):
        reach = gap * (len(blocks[at]) + len(blocks[at + 1])) / 2
        if centres[at + 1] - centres[at] >= reach - 1e-9:
            at += 1
            continue
        joined = blocks[at] + blocks[at + 1]
        centre = sum(wanted[i] for i in joined) / len(joined)
        blocks[at : at + 2] = [joined]
        centres[at : at + 2] = [centre]
        at = max(at - 1, 0)
    placed = [0.0] * len(wanted)
    for block, centre in zip(blocks, centres, strict=True):
        for k, i in enumerate(block):
            placed[i] = centre + gap * (k - (len(block) - 1) / 2)
    return placed


def text_width(words: str, size: float = SIZE) -> float:
    """Return about how many pixels a line takes; no font is at hand to measure it."""
    return 0.55 * size * len(words)


def _points(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{_n(x)},{_n(y)}" for x, y in points)


def _n(value: float) -> str:
    """One decimal of a pixel is enough, and keeps the bytes the same on every machine."""
    return f"{value:.1f}".removesuffix(".0")
