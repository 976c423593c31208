"""One figure at the two widths at which a page shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

WIDE, PHONE = 760, 344
"""Pixels for which each figure is drawn, once for desk and paper and once for a phone."""


@dataclass(frozen=True)
class Drawing:
    """One figure, drawn for both widths."""

    wide: Markup
    phone: Markup


def draw(figure: Any, *arguments: Any, **settings: Any) -> Drawing:
    """Draw a figure for both widths. The figures escape every text they take, so their markup is safe."""
    return Drawing(*(Markup(figure(*arguments, **settings, width=width)) for width in (WIDE, PHONE)))
