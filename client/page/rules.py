"""When the page shows a number and when it does not: every rule here has a test of its name.

Pure: a model, a row and what is asked; no clock, no file. The signature, the site's acceptance and a withdrawal are
judged where a model is opened (`client.page.open_model`).

No number where the model is past its last day, the row follows another dictionary than the model, the patient trained
the model, a required cell is empty, a cell is not what the dictionary allows, nothing at all is known, or the horizon
lies beyond those that the model was judged at or stands on fewer than `EVENT_FLOOR` events.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from client.page.open_model import OpenModel
from client.page.rows import clinical_columns
from client.page.shapes import Asked, LayerShare, Notice, Row, SiteCalibration
from models.prediction import interval_hazards, interval_shares
from schemas.artefact import Artefact
from schemas.artefact_manifest import ArtefactColumn

__all__ = [
    "EVENT_FLOOR", "POOR", "Horizons", "calibration_notices", "cell_reasons", "events_between", "horizons_of",
    "layer_shares", "reasons", "row_warnings",
]  # fmt: skip

EVENT_FLOOR = 10
"""Events of the training cohort between the start of a prediction and its horizon, at least."""

POOR = 1.25
"""A slope, or observed over expected, beyond this factor from 1, with 1 outside its interval, is poor."""

_CLOSE = 1e-9


@dataclass(frozen=True)
class Horizons:
    """Which horizons are shown, and why others are not.

    Attributes:
        shown: Counted from the start of the prediction, ascending.
        withheld: One notice for each other.
    """

    shown: tuple[float, ...]
    withheld: tuple[Notice, ...]


def reasons(model: OpenModel, row: Row, asked: Asked) -> tuple[Notice, ...]:
    """Return every reason for which there is no number; none where there may be one."""
    manifest, found = model.artefact.manifest, list[Notice]()
    if row.in_sample:
        found.append(Notice("in-sample"))
    if manifest.expires is not None and asked.today > manifest.expires:
        found.append(Notice("expired", {"date": manifest.expires.isoformat()}))
    if row.dictionary_hash != manifest.dictionary_hash:
        found.append(Notice("dictionary-version", {"dictionary": manifest.dictionary}))
    else:  # cells that follow another dictionary cannot be judged
        found += row.problems
        bad = {notice.values.get("column") for notice in row.problems}
        for column in clinical_columns(model.artefact):
            if column.column not in bad:
                found += cell_reasons(column, row.cells.get(column.column, math.nan))
        if not found and not any(share.known for share in layer_shares(model.artefact, row)):
            found.append(Notice("nothing-known"))
    horizons = horizons_of(model.artefact, asked)
    return tuple(found) if horizons.shown else (*found, *horizons.withheld)


def cell_reasons(column: ArtefactColumn, value: float) -> list[Notice]:
    """Return what is wrong with a known cell, and whether an unknown one is required."""
    if math.isnan(value):
        return [Notice("required-missing", {"column": column.column})] if column.required else []
    if column.type == "category":
        is_code = 0 <= value < len(column.codes or ()) and value == int(value)
        return [] if is_code else [Notice("unknown-code", {"column": column.column})]
    if column.type == "boolean":
        return [] if value in (0.0, 1.0) else [Notice("unknown-code", {"column": column.column})]
    low = -math.inf if column.min is None else column.min
    high = math.inf if column.max is None else column.max
    if low <= value <= high:
        return []
    return [beyond_range(column)]


def beyond_range(column: ArtefactColumn) -> Notice:
    """Return the notice of a cell outside what the dictionary allows; an end that is open is empty."""
    values: dict[str, str | float] = {
        "column": column.column,
        "low": "" if column.min is None else column.min,
        "high": "" if column.max is None else column.max,
        "unit": column.unit or "",
    }
    return Notice("beyond-range", values)


def horizons_of(artefact: Artefact, asked: Asked) -> Horizons:
    """Return the horizons with enough events behind them, within what the model was judged at.

    Behind the last event time of a model at exact times the curve stays level, as R's does; behind the last interval
    of a grid nothing was observed.
    """
    manifest, start = artefact.manifest, asked.event_free_until or 0.0
    wanted = sorted(asked.horizons or manifest.horizons)
    unit = manifest.time_unit
    if not wanted or not manifest.horizons:
        return Horizons((), (Notice("no-horizon"),))
    last = max(manifest.horizons)
    if not manifest.exact_times:
        last = min(last, float(artefact.edges[-1]))
    if start >= last:
        return Horizons((), (Notice("beyond-follow-up", {"time": start, "last": last, "unit": unit}),))
    shown, withheld = [], []
    for horizon in wanted:
        if start + horizon > last * (1 + _CLOSE):
            withheld.append(Notice("beyond-horizons", {"horizon": horizon, "last": last, "unit": unit}))
            continue
        events = events_between(artefact, start, start + horizon)
        if events is None:
            withheld.append(Notice("floor-unknown"))
        elif events < EVENT_FLOOR:
            values: dict[str, str | float] = {"horizon": horizon, "unit": unit, "floor": float(EVENT_FLOOR)}
            is_exact = manifest.epsilon is None
            withheld.append(Notice("below-event-floor" if is_exact else "floor-unsure", values))
        else:
            shown.append(horizon)
    return Horizons(tuple(shown), tuple(withheld))


def events_between(artefact: Artefact, start: float, end: float) -> float | None:
    """Return how many events stand behind the hazard between two times, at least; None where the model does not say.

    From the origin to a horizon of the model the released count decides. Else it is what the variance of the baseline
    hazard tells: h^2 / Var(h) of an interval is its number of events in Breslow's estimate (h = d / S0, and its
    variance d / S0^2) and a little less in a grouped fit.
    """
    for one in artefact.manifest.events_by_horizon:
        if start == 0 and math.isclose(one.horizon, end):
            return float(one.at_least)
    variance = artefact.arrays.get("hazard_variance")
    if variance is None:
        return None
    hazard = interval_hazards(artefact)
    events = np.divide(hazard**2, variance, out=np.zeros_like(hazard), where=variance > 0)
    # Rounding must not take the tenth event away.
    return float(interval_shares(artefact, start, np.array([end - start]))[0] @ events) * (1 + _CLOSE)


def layer_shares(artefact: Artefact, row: Row) -> tuple[LayerShare, ...]:
    """Return how much of each layer of the model is known of a patient."""
    cells: dict[str, list[bool]] = {}
    for column in clinical_columns(artefact):
        known = not math.isnan(row.cells.get(column.column, math.nan))
        cells.setdefault(column.layer, []).append(known)
    shares = [LayerShare(name, sum(known), len(known)) for name, known in cells.items()]
    for layer in artefact.manifest.layers:
        block = row.blocks.get(layer.name)
        n_known = 0 if block is None else int((~np.isnan(block)).sum())
        shares.append(LayerShare(layer.name, n_known, len(layer.features)))
    return tuple(shares)


def row_warnings(model: OpenModel, row: Row) -> tuple[Notice, ...]:
    """Return what a reader has to know about a row that may have a number."""
    artefact, found = model.artefact, list[Notice]()
    if row.in_sample is None:
        found.append(Notice("in-sample-unknown"))
    empty = {share.name for share in layer_shares(artefact, row) if not share.known}
    found += [Notice("layer-missing", {"layer": name}) for name in empty]
    columns = {column.column: column for column in clinical_columns(artefact)}
    for name, column in columns.items():
        if column.layer not in empty and math.isnan(row.cells.get(name, math.nan)):
            found.append(Notice("column-missing", {"column": name}))
    for span in artefact.manifest.population:
        value = row.cells.get(span.column, math.nan)
        if math.isnan(value) or span.low is None or span.high is None or span.column not in columns:
            continue
        if not span.low <= value <= span.high:
            unit = columns[span.column].unit or ""
            values: dict[str, str | float] = {"column": span.column, "low": span.low, "high": span.high, "unit": unit}
            found.append(Notice("beyond-quantiles", values))
    return tuple(found)


def calibration_notices(known: SiteCalibration | None, unit: str) -> tuple[Notice, ...]:
    """Return the warning that this site's calibration is poor, or not known."""
    if known is None or not known.is_known:
        return (Notice("calibration-unknown"),)
    slope, ratio = known.slope or 0.0, known.observed_over_expected or 0.0
    is_poor = _is_off(slope, known.slope_low, known.slope_high)
    is_poor |= _is_off(ratio, known.observed_low, known.observed_high)
    if not is_poor:
        return ()
    values: dict[str, str | float] = {"slope": slope, "observed_over_expected": ratio}
    values |= {"horizon": known.horizon, "unit": unit}
    return (Notice("calibration-poor", values),)


def _is_off(value: float, low: float | None, high: float | None) -> bool:
    is_far = not 1 / POOR <= value <= POOR
    return is_far and (low is None or high is None or not low <= 1 <= high)
