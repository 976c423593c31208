"""One patient among competing events: the cumulative incidence of each, which `client.page.prognosis` puts together.

Pure. Everything is about the incidence of the event of interest, which the hazards of all kinds decide
(`models.incidence_prediction`); the others are shown beside it, since they are why it is lower than one would think.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from client.page.rows import is_treated, patient_of, treatment_of, with_arm
from client.page.rules import EVENT_FLOOR
from client.page.shapes import Arm, Curve, HorizonRisk, IncidenceCurve, Kind, KindRisk, Notice, Row
from models.incidence_prediction import incidence_at_means, incidence_difference, predict_incidence
from schemas.artefact import Artefact
from schemas.artefact_manifest import HorizonEvents
from schemas.cohort import Cohort

__all__ = ["competing_arms", "competing_average", "competing_notices", "competing_risks"]

Floats = NDArray[np.float64]
Ends = tuple[Floats, Floats] | None


def competing_risks(
    artefact: Artefact, patient: Cohort, horizons: tuple[float, ...], times: Floats, start: float
) -> tuple[tuple[HorizonRisk, ...], Curve, tuple[Kind, ...]]:
    """Return the probability that nothing happens, at the horizons and along the curve, and each kind of event."""
    n, steps = len(horizons), artefact.manifest.exact_times
    found = predict_incidence(artefact, patient, np.concatenate((horizons, times)), start=start)
    free = found.free[0]
    ends = (
        None if found.free_lower is None or found.free_upper is None else (found.free_lower[0], found.free_upper[0])
    )
    at = tuple(HorizonRisk(float(t), float(free[i]), *_pair(ends, i)) for i, t in enumerate(horizons))
    low, high = _bands(ends, n)
    curve = Curve(_floats(times), _floats(free[n:]), low, high, steps=steps)
    averages, _ = incidence_at_means(artefact, times, start=start)
    kinds = []
    for c, cause in enumerate(artefact.manifest.causes):
        value = found.incidence[c, 0]
        own = None if found.lower is None or found.upper is None else (found.lower[c, 0], found.upper[c, 0])
        kinds.append(
            Kind(
                code=cause.code,
                name=(artefact.manifest.endpoint if c == 0 else "") or cause.code,
                at=tuple(KindRisk(float(t), float(value[i]), *_pair(own, i)) for i, t in enumerate(horizons)),
                curve=IncidenceCurve(_floats(times), _floats(value[n:]), *_bands(own, n), steps=steps),
                average=_floats(averages[c]),
            )
        )
    return at, curve, tuple(kinds)


def competing_average(artefact: Artefact, times: Floats, start: float) -> Curve:
    """Return the probability that nothing happens to a patient at the means of the training cohort."""
    _, free = incidence_at_means(artefact, times, start=start)
    return Curve(_floats(times), _floats(free), None, None, steps=artefact.manifest.exact_times)


def competing_arms(artefact: Artefact, row: Row, horizons: tuple[float, ...], start: float) -> tuple[Arm, ...]:
    """Return the patient under control and treated, with the difference; nothing where there is no treatment."""
    manifest, column = artefact.manifest, treatment_of(artefact.manifest)
    if column is None:
        return ()
    observed, names = is_treated(manifest, row), column.codes or ("", column.column)
    control, treated_one = (patient_of(artefact, with_arm(manifest, row, treated=arm)) for arm in (False, True))
    arms = []
    for treated, patient in ((False, control), (True, treated_one)):
        at, curve, kinds = competing_risks(artefact, patient, horizons, np.array(horizons), start)
        arms.append(Arm(treated, names[treated], observed is treated, at, curve, incidence=kinds[0].at))
    found = incidence_difference(artefact, control, treated_one, np.array(horizons), start=start)
    ends = None if found.lower is None or found.upper is None else (found.lower[0], found.upper[0])
    differences = tuple(
        KindRisk(float(time), float(found.value[0, i]), *_pair(ends, i)) for i, time in enumerate(horizons)
    )
    return arms[0], replace(arms[1], incidence_difference=differences)


def competing_notices(artefact: Artefact, horizons: tuple[float, ...]) -> tuple[Notice, ...]:
    """Return a warning for each competing event of which few are known until the last horizon that is shown.

    It is shown all the same: that of interest is wrong without it, by as much as it happens.
    """
    found = []
    for cause in artefact.manifest.causes[1:]:
        counted = _last_counted(cause.events_by_horizon, horizons[-1])
        if counted is not None and counted.at_least < EVENT_FLOOR:
            values: dict[str, str | float] = {"event": cause.code, "horizon": counted.horizon}
            values |= {"unit": artefact.manifest.time_unit, "floor": float(EVENT_FLOOR)}
            found.append(Notice("few-competing", values))
    return tuple(found)


def _last_counted(events: tuple[HorizonEvents, ...], until: float) -> HorizonEvents | None:
    return max((one for one in events if one.horizon <= until), key=lambda one: one.horizon, default=None)


def _pair(ends: Ends, i: int) -> tuple[float | None, float | None]:
    return (None, None) if ends is None else (float(ends[0][i]), float(ends[1][i]))


def _bands(ends: Ends, n: int) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    return (None, None) if ends is None else (_floats(ends[0][n:]), _floats(ends[1][n:]))


def _floats(values: Floats) -> tuple[float, ...]:
    return tuple(map(float, values))
