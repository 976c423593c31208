"""One patient's prognosis from a signed model and a local row, or the reasons why there is none.

Pure. The numbers are those of `models.prediction`; when they are shown is decided in `client.page.rules`. A patient
who trained the model gets no number at all: what a model says of those who taught it is no prediction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from client.page.competing import competing_arms, competing_average, competing_notices, competing_risks
from client.page.open_model import OpenModel
from client.page.rows import clinical_columns, is_treated, patient_of, treatment_of, with_arm
from client.page.rules import calibration_notices, horizons_of, layer_shares, reasons, row_warnings
from client.page.shapes import (
    CODES,
    Arm,
    Asked,
    Curve,
    HorizonRisk,
    Kind,
    LayerShare,
    Moved,
    Notice,
    Prognosis,
    Refused,
    Row,
    SiteCalibration,
)
from models.arm_difference import arm_difference
from models.contributions import by_column, risk_parts
from models.incidence_prediction import incidence_contributions
from models.prediction import (
    LEVEL,
    contributions,
    cumulative_hazard_between,
    log_hazards,
    model_matrix,
    predict,
)
from models.prediction import Curve as Predicted
from models.recalibration import Recalibration, predict_recalibrated, recalibrated_difference
from schemas.artefact import Artefact
from schemas.artefact_manifest import ArtefactColumn
from schemas.cohort import Cohort

__all__ = [
    "CODES", "Arm", "Asked", "Curve", "HorizonRisk", "Kind", "LayerShare", "Moved", "Notice", "OpenModel",
    "Prognosis", "Refused", "Row", "SiteCalibration", "prognose",
]  # fmt: skip

Floats = NDArray[np.float64]

_MOST_POINTS = 400
_GRID_POINTS = 60


@dataclass(frozen=True)
class _Scale:
    """How the log cumulative hazard is changed by this site's calibration: intercept + slope * log hazard.

    Attributes:
        sure: How sure both are; None where the model does not tell how sure it is.
    """

    slope: float
    intercept: float
    sure: Recalibration | None


def prognose(model: OpenModel, row: Row, *, asked: Asked) -> Prognosis | Refused:
    """Return what the model says of a patient.

    Args:
        model: Opened by `client.page.open_model`.
        row: Of the patient.
        asked: From when, until when, and with which calibration of this site.
    """
    found = reasons(model, row, asked)
    if found:
        return Refused(found, in_sample=bool(row.in_sample))
    artefact, manifest = model.artefact, model.artefact.manifest
    horizons = horizons_of(artefact, asked)
    scale = _scale(artefact, asked)
    patient = patient_of(artefact, row)
    start = asked.event_free_until or 0.0
    times = _curve_times(artefact, start, horizons.shown[-1])
    kinds: tuple[Kind, ...] = ()
    if manifest.causes:
        at, curve, kinds = competing_risks(artefact, patient, horizons.shown, times, start)
        average = competing_average(artefact, times, start)
        arms = competing_arms(artefact, row, horizons.shown, start)
    else:
        at, curve = _risks(artefact, patient, horizons.shown, times, start, scale)
        average = _cohort_curve(artefact, times, start, scale)
        arms = _arms(artefact, row, horizons.shown, times, start, scale)
    rank, extreme = _rank(artefact, patient)
    warnings = (*row_warnings(model, row), *extreme, *_interval_notices(model, at), *horizons.withheld)
    warnings = (*warnings, *competing_notices(artefact, horizons.shown))
    return Prognosis(
        model_hash=model.hash,
        study=manifest.study,
        label=manifest.endpoint,
        title=manifest.title,
        time_unit=manifest.time_unit,
        origin=model.origin,
        horizons=at,
        curve=curve,
        cohort_curve=average,
        rank=rank,
        moved=_moved(artefact, row, patient, np.array(horizons.shown), start, scale),
        layers=layer_shares(artefact, row),
        warnings=(*warnings, *_calibration_notices(artefact, asked, scale)),
        arms=arms,
        event_free_until=asked.event_free_until,
        in_sample=row.in_sample,
        calibration=asked.calibration,
        recalibrated=scale is not None,
        level=LEVEL,
        kinds=kinds,
    )


# ---------------------------------------------------------------- calibration of this site
def _scale(artefact: Artefact, asked: Asked) -> _Scale | None:
    """Return this site's calibration where its administrator chose to apply it and it can be applied.

    A slope of 0 or below would turn the model's order around. What moved a network's estimate has no closed form
    under another slope, so a network is shown as it is; and so is a model of competing events, of which a site's
    slope and level correct one kind alone.
    """
    known, manifest = asked.calibration, artefact.manifest
    if not asked.recalibrate or known is None or not known.is_known:
        return None
    if manifest.network is not None or manifest.causes:
        return None
    slope, intercept = known.slope or 0.0, known.intercept or 0.0
    return _Scale(slope, intercept, known.recalibration) if slope > 0 else None


def _calibration_notices(artefact: Artefact, asked: Asked, scale: _Scale | None) -> tuple[Notice, ...]:
    known, manifest = asked.calibration, artefact.manifest
    if scale is not None and known is not None:
        values = {"slope": scale.slope, "observed_over_expected": known.observed_over_expected or 0.0}
        return (Notice("recalibrated", values),)
    code = "not-recalibrated-competing" if manifest.causes else "not-recalibrated"
    chosen = (Notice(code),) if asked.recalibrate else ()
    return (*calibration_notices(known, manifest.time_unit), *chosen)


# ---------------------------------------------------------------- curves
def _curve_times(artefact: Artefact, start: float, last: float) -> Floats:
    """Return the times at which a curve is drawn: every event time, or every edge and points in between."""
    edges = artefact.edges[(artefact.edges > start) & (artefact.edges <= start + last)] - start
    if artefact.manifest.exact_times:
        thinned = edges[np.unique(np.linspace(0, edges.size - 1, min(edges.size, _MOST_POINTS)).astype(int))]
        return np.unique(np.concatenate(([0.0], thinned, [last])))
    return np.unique(np.concatenate((np.linspace(0.0, last, _GRID_POINTS + 1), edges)))


def _risks(
    artefact: Artefact,
    patient: Cohort,
    horizons: tuple[float, ...],
    times: Floats,
    start: float,
    scale: _Scale | None,
) -> tuple[tuple[HorizonRisk, ...], Curve]:
    """Return one patient's survival at the horizons and along the curve."""
    asked = np.concatenate((horizons, times))
    found = _predicted(artefact, patient, asked, start, scale)
    survival, low, high = found.survival[0], found.lower, found.upper
    ends = None if low is None or high is None else (low[0], high[0])
    n = len(horizons)
    at = tuple(
        HorizonRisk(float(time), float(survival[i]), *((None, None) if ends is None else _pair(ends, i)))
        for i, time in enumerate(horizons)
    )
    low_band, high_band = (None, None) if ends is None else (_floats(ends[0][n:]), _floats(ends[1][n:]))
    is_step = artefact.manifest.exact_times
    return at, Curve(_floats(times), _floats(survival[n:]), low_band, high_band, steps=is_step)


def _predicted(artefact: Artefact, patient: Cohort, times: Floats, start: float, scale: _Scale | None) -> Predicted:
    if scale is None:
        return predict(artefact, patient, times, start=start)
    if scale.sure is not None:
        return predict_recalibrated(artefact, scale.sure, patient, times, start=start)
    hazard = cumulative_hazard_between(artefact, start, times)
    eta = log_hazards(artefact, patient)
    survival = np.exp(-hazard * np.exp(scale.intercept + scale.slope * eta)[:, None])
    return Predicted(times, eta, survival, None, None)


def _cohort_curve(artefact: Artefact, times: Floats, start: float, scale: _Scale | None) -> Curve:
    """Return the curve of a patient at the means of the training cohort."""
    hazard = cumulative_hazard_between(artefact, start, times) * math.exp(0.0 if scale is None else scale.intercept)
    return Curve(_floats(times), _floats(np.exp(-hazard)), None, None, steps=artefact.manifest.exact_times)


def _pair(ends: tuple[Floats, Floats], i: int) -> tuple[float, float]:
    return float(ends[0][i]), float(ends[1][i])


def _floats(values: Floats) -> tuple[float, ...]:
    return tuple(map(float, values))


def _interval_notices(model: OpenModel, at: tuple[HorizonRisk, ...]) -> tuple[Notice, ...]:
    if at[0].low is None:
        return (Notice("interval-none"),)
    return (Notice("interval-shrunken"),) if model.is_penalised else ()


# ---------------------------------------------------------------- rank
def _rank(artefact: Artefact, patient: Cohort) -> tuple[float | None, tuple[Notice, ...]]:
    """Return the share of the training cohort with a lower log hazard, and a warning beyond the outer quantiles."""
    quantiles = artefact.manifest.log_hazards
    if not quantiles:
        return None, ()
    eta = float(log_hazards(artefact, patient)[0])
    share = max((one.share for one in quantiles if one.log_hazard <= eta), default=0.0)
    if eta < quantiles[0].log_hazard:
        return share, (Notice("rank-beyond-quantiles", {"share": quantiles[0].share}),)
    if eta > quantiles[-1].log_hazard:
        return share, (Notice("rank-beyond-quantiles", {"share": quantiles[-1].share}),)
    return share, ()


# ---------------------------------------------------------------- what moved it
def _moved(
    artefact: Artefact, row: Row, patient: Cohort, horizons: Floats, start: float, scale: _Scale | None
) -> tuple[Moved, ...]:
    """Return what each column of the dictionary, and each wide layer as one, adds to the risk."""
    if artefact.manifest.causes:
        parts = incidence_contributions(artefact, patient, horizons, start=start)[0]
    elif scale is None:
        parts = contributions(artefact, patient, horizons, start=start)[0]
    else:
        hazard = cumulative_hazard_between(artefact, start, horizons) * math.exp(scale.intercept)
        parts = risk_parts(scale.slope * model_matrix(artefact, patient) * artefact.beta, hazard)[0]
    n_wide = sum(layer.n_components or len(layer.features) for layer in artefact.manifest.layers)
    n = parts.shape[1] - n_wide
    own = {name: part.copy() for name, part in by_column(parts[:, :n], artefact.design[:n]).items()}
    for layer in artefact.manifest.layers:
        width = layer.n_components or len(layer.features)
        # The indicator that a layer is missing bears the layer's name and counts with it.
        own[layer.name] = own.get(layer.name, 0.0) + parts[:, n : n + width].sum(axis=1)
        n += width
    columns = {column.column: column for column in clinical_columns(artefact)}
    found = [_one_moved(name, part, columns.get(name), row) for name, part in own.items()]
    return tuple(sorted(found, key=lambda one: -abs(one.points)))


def _one_moved(name: str, part: Floats, column: ArtefactColumn | None, row: Row) -> Moved:
    points = _floats(100 * part)
    if column is None:
        block = row.blocks.get(name)
        is_missing = block is None or bool(np.isnan(block).all())
        return Moved(name, name, name, None, "", points[-1], points, is_missing)
    cell = row.cells.get(name, math.nan)
    return Moved(
        name=name,
        label=column.description or name,
        layer=column.layer,
        value=_shown_value(column, cell),
        unit=column.unit or "",
        points=points[-1],
        by_horizon=points,
        is_missing=math.isnan(cell),
    )


def _shown_value(column: ArtefactColumn, cell: float) -> str | float | bool | None:
    if math.isnan(cell):
        return None
    if column.type == "category":
        return (column.codes or ())[int(cell)]
    return bool(cell) if column.type == "boolean" else cell


# ---------------------------------------------------------------- treatment arms
def _arms(
    artefact: Artefact, row: Row, horizons: tuple[float, ...], times: Floats, start: float, scale: _Scale | None
) -> tuple[Arm, ...]:
    """Return the patient under control and treated, with the difference; nothing where there is no treatment."""
    manifest, column = artefact.manifest, treatment_of(artefact.manifest)
    if column is None:
        return ()
    observed = is_treated(manifest, row)
    patients = {treated: patient_of(artefact, with_arm(manifest, row, treated=treated)) for treated in (False, True)}
    names = column.codes or ("", column.column)
    arms = []
    for treated, patient in patients.items():
        at, curve = _risks(artefact, patient, horizons, times, start, scale)
        arms.append(Arm(treated, names[treated], observed is treated, at, curve))
    control, treated_arm = arms
    differences = _differences(artefact, patients, control, treated_arm, start, scale)
    return control, replace(treated_arm, difference=differences)


def _differences(
    artefact: Artefact,
    patients: dict[bool, Cohort],
    control: Arm,
    treated: Arm,
    start: float,
    scale: _Scale | None,
) -> tuple[HorizonRisk, ...]:
    if scale is not None and scale.sure is None:
        pairs = zip(control.horizons, treated.horizons, strict=True)
        return tuple(HorizonRisk(b.time, b.survival - a.survival, None, None) for a, b in pairs)
    times = np.array([one.time for one in control.horizons])
    if scale is not None and scale.sure is not None:
        found = recalibrated_difference(artefact, scale.sure, patients[False], patients[True], times, start=start)
    else:
        found = arm_difference(artefact, patients[False], patients[True], times, start=start)
    ends = None if found.lower is None or found.upper is None else (found.lower[0], found.upper[0])
    return tuple(
        HorizonRisk(float(time), float(found.value[0, i]), *((None, None) if ends is None else _pair(ends, i)))
        for i, time in enumerate(times)
    )
