"""The scores of the judged models as people read them, with intervals, and how they are at the single sites."""

from __future__ import annotations

from collections.abc import Sequence

from archipel.wording import MODELS, NONE, number, with_interval
from schemas.result import Result, ScoredModel, Scores
from schemas.result_intervals import Interval, IntervalOf, OverSites

__all__ = ["figure", "has_uno", "has_within", "interval_note", "of_same_pairs", "over_sites"]

_SPOKEN = {"c_index": "C", "ibs": "integrated Brier score", "calibration_slope": "calibration slope"}


def figure(scores: Scores, name: IntervalOf, digits: int = 3) -> str:
    """Return one score with its interval where it has one: ``0.142 (0.118-0.171)``."""
    values: dict[IntervalOf, float | None] = {
        "c_index": scores.c_index.mean,
        "c_index_within": scores.c_index_within.mean if scores.c_index_within else None,
        "c_index_uno": scores.c_index_uno.mean if scores.c_index_uno else None,
        "ibs": scores.ibs,
        "calibration_slope": scores.calibration_slope,
    }
    return with_interval(values[name], scores.intervals.get(name), digits)


def has_uno(rows: Sequence[tuple[ScoredModel, Scores]]) -> bool:
    """Whether any model has Uno's C."""
    return any(scores.c_index_uno is not None for _, scores in rows)


def has_within(rows: Sequence[tuple[ScoredModel, Scores]]) -> bool:
    """Whether C inside sites is anything else than C for any model."""
    return any(scores.c_index_within not in (None, scores.c_index) for _, scores in rows)


def of_same_pairs(result: Result) -> list[tuple[ScoredModel, Scores]]:
    """Return the models as a figure may compare them: over the same pairs.

    In a federation a site's own model is judged on pairs inside the site alone, so there the federated model is too.
    """
    rows = [(name, result.evaluation[name]) for name in MODELS if name in result.evaluation]
    if result.mode == "simulate" or any(scores.c_index_within is None for _, scores in rows):
        return rows
    return [(name, _inside(scores)) for name, scores in rows]


def over_sites(scores: Scores) -> list[str]:
    """Return how the model does at the single sites, a sentence for each figure; none where nobody asked."""
    return [_over_sites(one) for one in scores.over_sites]


def interval_note(rows: Sequence[tuple[ScoredModel, Scores]]) -> str:
    """Return how the intervals were made; empty without any."""
    return next((scores.interval_method for _, scores in rows if scores.interval_method), "")


def _inside(scores: Scores) -> Scores:
    interval = scores.intervals.get("c_index_within")
    intervals: dict[IntervalOf, Interval] = {name: one for name, one in scores.intervals.items() if name != "c_index"}
    if interval is not None:
        intervals["c_index"] = interval
    return scores.model_copy(update={"c_index": scores.c_index_within, "intervals": intervals})


def _over_sites(one: OverSites) -> str:
    what = _SPOKEN[one.figure]
    if one.mean is None:
        who = "1 site has" if one.sites == 1 else f"{one.sites} sites have"
        return f"{what}: {who} patients enough, and a mean is told from three on"
    digits = 2 if one.figure == "calibration_slope" else 3
    spread = NONE if one.sd is None else number(one.sd, digits)
    told = f"standard deviation {spread}" if one.sd is not None else "their spread is told from five sites on"
    return f"{what}: mean {number(one.mean, digits)} over {one.sites} sites, {told}"
