"""The code behind a step of a plan: its method, made for what study, dictionary and settings say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from models.cause import OfCause
from models.folded import Folded
from models.registry import METHODS
from models.step import Context, Step
from schemas.design import design_columns, layer_designs
from schemas.dictionary import Dictionary
from schemas.study import Study


def code_of(method: str, context: Context) -> Step:
    """Return the code of a method: for one cause, on all folds, as its settings say.

    Raises:
        KeyError: When no such method is installed.
    """
    make = METHODS[method]
    if "cause" in context.settings:
        return OfCause(context, make) if "n_folds" not in context.settings else Folded(context, _of_cause(make))
    return Folded(context, make) if "n_folds" in context.settings else make(context)


def _of_cause(make: Callable[[Context], Step]) -> Callable[[Context], Step]:
    return lambda context: OfCause(context, make)


def step_context(study: Study, dictionary: Dictionary, settings: Mapping[str, Any]) -> Context:
    """Return what a step knows of its plan."""
    return Context(
        design=design_columns(study, dictionary),
        n_bins=int(settings["n_bins"]),
        horizons=study.endpoint.horizons_days,
        settings=settings,
        layers=layer_designs(study, dictionary),
    )
