"""Logistic regression: a binary outcome is a multinomial one with two categories (`models.multinomial`)."""

from __future__ import annotations

from models.multinomial import Multinomial
from models.step import Context


def logistic(context: Context) -> Multinomial:
    """Return the step of a binary outcome; its `beta` are the p log odds ratios.

    Raises:
        ValueError: When the settings do not name two outcomes.
    """
    if len(context.settings["outcomes"]) != 2:
        raise ValueError("a binary outcome has two values")
    return Multinomial(context)
