"""What a report says of the columns of a model: covariates one by one, wide layers by what each contributes.

A component's ratio means nothing to a reader, and a hundred of them hide the covariates; so they stand apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from archipel import figures_model, wording
from archipel.drawing import draw
from archipel.endpoint_words import words_of
from archipel.figures_model import Share
from schemas.result import Result

__all__ = ["layer_shares", "layers_view", "why_no_errors"]

_MOST_ROWS = 60
"""Coefficients of wide layers in the report's table; ``result.json`` has all."""


def layers_view(result: Result) -> dict[str, Any]:
    """Return what the report's section on coefficients shows."""
    ratios = wording.hazard_ratios(result)
    covariates = [row for row in ratios if row.layer is None]
    of_layers = [row for row in ratios if row.layer is not None]
    shown = of_layers
    if len(of_layers) > _MOST_ROWS:
        largest = sorted(of_layers, key=_size, reverse=True)[:_MOST_ROWS]
        kept = {row.name for row in largest}
        shown = [row for row in of_layers if row.name in kept]
    shares = layer_shares(result)
    has_forest = any(row.per_unit for row in covariates)
    return {
        "covariate_rows": covariates,
        "forest": draw(figures_model.forest, covariates, words=words_of(result)) if has_forest else None,
        "of_layers": shown,
        "n_of_layers": len(of_layers),
        "shares": shares,
        "importance": draw(figures_model.importance, shares) if shares else None,
        "no_errors": why_no_errors(result, ratios),
        "no_coefficients": result.reasons.get("coefficients", ""),
    }


def layer_shares(result: Result) -> list[Share]:
    """Return what each layer contributes, largest first; nothing where the run does not tell."""
    columns: dict[str, int] = {}
    wide: dict[str, bool] = {}
    for covariate in result.covariates:
        columns[covariate.layer] = columns.get(covariate.layer, 0) + 1
        wide[covariate.layer] = covariate.column == covariate.layer
    penalties = result.penalty if isinstance(result.penalty, dict) else {}
    shares = []
    for layer, share in sorted(result.layer_importance.items(), key=lambda item: -item[1]):
        made_of = ""
        if layer in columns:
            what = "component" if wide[layer] else "column"
            made_of = f"{columns[layer]:,} {what}" + ("" if columns[layer] == 1 else "s")
        strength = penalties.get(layer, 0.0 if isinstance(result.penalty, dict) else result.penalty)
        shares.append(Share(layer, share, made_of, _penalty(strength)))
    return shares


def _penalty(strength: float) -> str:
    if strength == 0:
        return ""
    words = wording.strength(strength)
    return words if strength >= wording.LEFT_OUT else f"penalty {words}"


def why_no_errors(result: Result, ratios: Sequence[wording.HazardRatio]) -> list[str]:
    """Return why coefficients have no standard error, each reason once; columns of wide layers are counted."""
    reasons: dict[str, list[wording.HazardRatio]] = {}
    for row in ratios:
        if row.standard_error is None:
            reasons.setdefault(result.reasons[f"standard_errors.{row.name}"], []).append(row)
    if result.differential is not None:
        return [f"No standard errors: {why}." for why in reasons]
    return [f"{'; '.join(_named(rows, ratios))}: {why}." for why, rows in reasons.items()]


def _named(rows: Sequence[wording.HazardRatio], ratios: Sequence[wording.HazardRatio]) -> list[str]:
    counted, of = _counts(rows), _counts(ratios)
    whole = [layer for layer, n in counted.items() if n == of[layer]]
    return [
        *(row.label for row in rows if row.layer is None),
        *([f"Every column of {', '.join(whole)}"] if whole else []),
        *(f"{n:,} of the {of[layer]:,} columns of {layer}" for layer, n in counted.items() if n < of[layer]),
    ]


def _counts(rows: Sequence[wording.HazardRatio]) -> Mapping[str, int]:
    counts: dict[str, int] = {}
    for row in rows:
        if row.layer is not None:
            counts[row.layer] = counts.get(row.layer, 0) + 1
    return counts


def _size(row: wording.HazardRatio) -> tuple[float, float]:
    """Farthest from 1: in standard errors where there are any, else by the coefficient."""
    return abs(row.z), abs(row.coefficient)
