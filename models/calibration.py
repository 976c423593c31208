"""Calibration: is the spread of the predicted log hazards right (slope), and is their level (observed / expected)?

The slope is the coefficient of the log hazard as the only covariate of a new fit on patients that the model has not
seen (van Houwelingen 2000, Statistics in Medicine 19:3401): 1 is right, below 1 the predictions are too extreme.
A real federation fits it by grouped proportional hazards, with the code of `models.hazard`, whatever method the model
was fitted by; `simulate` by Cox on exact times (`calibration_slope`).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from models.hazard import Hazard
from models.moments import n_patients_spec
from models.scores import individual_hazard, log_hazards, prediction_specs, score_specs, spells_of
from models.site_only import cox_of_one_table
from models.step import Arrays, Context, Floats, Turn
from models.time_grid import grid_specs
from schemas.cohort import Cohort, Layer
from schemas.design import DesignColumn
from schemas.plan import ArraySpec, PartSpec

_COLUMN = DesignColumn("log_hazard", "log_hazard", "score")
_FIT = "fit_"


class CalibrationSlope:
    """One round for the level, then Newton steps for the slope.

    Events are counted, and expected, interval by interval: a patient at risk in interval k is expected to have the
    event there with probability 1 - exp(-h_k e^log_hazard). So censoring and late entry need no weights. A horizon
    inside an interval is judged at the last edge before it.

    Inputs: mean(p), scale(p), beta(p), edges(K), n_intervals, cumulative_hazard(K). H is the number of horizons.

    State when done:
        slope: (); 0 where all log hazards are equal, with a standard error of 0.
        slope_se: ().
        observed: (H,) events up to each horizon.
        expected: (H,) events that the model expects of the same patients while they were under observation.
        observed_over_expected: (H,) 1 is right, above 1 the model promises too much; 0 where nothing is expected.
        n_patients: ().
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        exact = bool(context.settings.get("exact", False))
        self._hazard = Hazard(Context((_COLUMN,), context.n_bins, (), {"penalties": [0.0], "exact": exact}))

    def parts(self) -> tuple[PartSpec, ...]:
        """Return the questions; the first can be asked again when a site has left."""
        h, k = len(self._context.horizons), self._context.n_bins
        level = (
            n_patients_spec(),
            ArraySpec(name="log_hazard_total", shape=(), meaning="sum of the log hazards"),
            ArraySpec(name="observed", shape=(h,), meaning="events up to each horizon"),
            ArraySpec(name="expected", shape=(h,), meaning="events that the model expects up to each horizon"),
        )
        sends = (
            *score_specs(self._context),
            *grid_specs(k),
            ArraySpec(name="centre", shape=(), meaning="mean of the log hazards"),
            ArraySpec(name="fit_alpha", shape=(k,), meaning="log baseline hazards of the calibration fit"),
            ArraySpec(name="fit_beta", shape=(1,), meaning="calibration slope"),
        )
        fit = [
            PartSpec(name=inner.name, sends=sends, releases=inner.releases, times=inner.times)
            for inner in self._hazard.parts()
        ]
        return (PartSpec(name="level", sends=prediction_specs(self._context), releases=level, times=2), *fit)

    def begin(self, inputs: Arrays) -> Turn:
        """Ask for the level."""
        return Turn({}, "level")

    def local(self, part: str, sent: Arrays, cohort: Cohort) -> Arrays:
        """Return this site's counts, or its term of the fit of the log hazard."""
        scores = log_hazards(self._context, sent, cohort)
        if part == "level":
            observed, expected = self._level(sent, cohort, scores)
            return {
                "n_patients": np.array(float(cohort.n_patients)),
                "log_hazard_total": np.asarray(scores.sum()),
                "observed": observed,
                "expected": expected,
            }
        asked = {
            "mean": np.zeros(1),
            "scale": np.ones(1),
            "edges": sent["edges"],
            "n_intervals": sent["n_intervals"],
            "alpha": sent["fit_alpha"],
            "beta": sent["fit_beta"],
        }
        # The fit is of differences between patients; about their mean they stay small, whatever their level.
        return self._hazard.local(part, asked, _scored(cohort, scores - sent["centre"]))

    def finish(self, part: str, state: Arrays, inputs: Arrays, total: Arrays) -> Turn:
        """Return the first question of the fit, its next, or the slope.

        Raises:
            DivergedError: When there are no events, or the log hazard separates them perfectly.
        """
        if part == "level":
            level = {
                "centre": np.asarray(total["log_hazard_total"] / np.maximum(total["n_patients"], 1.0)),
                "observed": total["observed"],
                "expected": total["expected"],
            }
            return _outer(self._hazard.begin({}), level)
        level = {name: state[name] for name in ("centre", "observed", "expected")}
        grid = {"edges": inputs["edges"], "n_intervals": inputs["n_intervals"]}
        inner = self._hazard.finish(part, _inner(state), grid, total)
        if inner.ask is not None:
            return _outer(inner, level)
        observed, expected = level["observed"], level["expected"]
        done = {
            "slope": np.asarray(inner.state["beta"][0]),
            "slope_se": np.asarray(np.sqrt(inner.state["covariance"][0, 0])),
            "observed": observed,
            "expected": expected,
            "observed_over_expected": np.divide(observed, expected, out=np.zeros(len(observed)), where=expected > 0),
            "n_patients": total["n_patients"],
        }
        return Turn(done, None)

    def shrink(self, part: str, state: Arrays) -> Turn:
        """Begin again: the level was summed with the site that left."""
        return Turn({}, "level")

    def _level(self, sent: Arrays, cohort: Cohort, scores: Floats) -> tuple[Floats, Floats]:
        n_intervals = int(sent["n_intervals"])
        spells = spells_of(self._context, sent, cohort)
        interval = np.arange(self._context.n_bins)
        at_risk = (interval >= spells.first[:, None]) & (interval < spells.stop[:, None])
        # Rounding may leave a cumulative hazard falling by a last digit.
        hazard = np.maximum(np.diff(sent["cumulative_hazard"], prepend=0.0), 0.0)
        expected = (-np.expm1(-individual_hazard(hazard, scores)) * at_risk).sum(axis=0)
        observed = spells.over_events(np.ones(cohort.n_patients))
        reached = np.searchsorted(sent["edges"][:n_intervals], self._context.horizons, side="right")

        def up_to(per_interval: Floats) -> Floats:
            return np.concatenate(([0.0], np.cumsum(per_interval)))[reached]

        return up_to(observed), up_to(expected)


def calibration_slope(
    time: Floats,
    event: NDArray[np.bool_],
    log_hazard: Floats,
    entry: Floats | None = None,
    *,
    ties: str = "efron",
) -> tuple[float, float]:
    """Return the calibration slope and its standard error: a Cox fit of the log hazard on exact times.

    Args:
        time: (n,) time to event or censoring of patients that the model has not seen.
        event: (n,), True where the event was observed.
        log_hazard: (n,) that the model gives them.
        entry: (n,) observed only after it, or None for 0.
        ties: ``efron`` or ``breslow``.

    Raises:
        DivergedError: When there are no events, or the log hazard orders them perfectly.
    """
    n = len(time)
    centred = log_hazard - (log_hazard.mean() if n else 0.0)
    cohort = Cohort(
        patient_ids=("",) * n,
        time=time,
        event=event,
        entry=np.zeros(n) if entry is None else entry,
        layers={"score": Layer(("log_hazard",), centred[:, None])},
    )
    fit = cox_of_one_table(cohort, (_COLUMN,), {"mean": np.zeros(1), "scale": np.ones(1)}, [0.0], ties)
    return float(fit["beta"][0]), float(np.sqrt(fit["covariance"][0, 0]))


def observed_expected(
    time: Floats,
    event: NDArray[np.bool_],
    log_hazard: Floats,
    baseline_times: Floats,
    baseline_cumulative_hazard: Floats,
    horizons: Floats,
    entry: Floats | None = None,
) -> tuple[Floats, Floats]:
    """Return observed and expected events up to each horizon, on exact times.

    A patient is expected to have H(min(t, horizon)) - H(min(entry, horizon)) events while under observation (the
    compensator of the counting process, Andersen & Gill 1982), H their own cumulative hazard.

    Args:
        time: (n,) time to event or censoring.
        event: (n,), True where the event was observed.
        log_hazard: (n,) relative to the patient whom the baseline describes.
        baseline_times: (m,) ascending, where the baseline jumps.
        baseline_cumulative_hazard: (m,) after each jump.
        horizons: (H,).
        entry: (n,) observed only after it, or None for 0.

    Returns:
        (H,) observed and (H,) expected events.
    """
    entered = np.zeros(len(time)) if entry is None else entry
    steps = np.concatenate(([0.0], baseline_cumulative_hazard))

    def hazard_at(t: Floats) -> Floats:
        until = steps[np.searchsorted(baseline_times, np.minimum(t[:, None], horizons), side="right")]
        return individual_hazard(until, log_hazard)

    observed = (event[:, None] & (time[:, None] <= horizons)).sum(axis=0).astype(np.float64)
    expected: Floats = (hazard_at(time) - hazard_at(entered)).sum(axis=0)
    return observed, expected


def _scored(cohort: Cohort, scores: Floats) -> Cohort:
    """The same patients with the score as their only covariate."""
    layers = {_COLUMN.layer: Layer((_COLUMN.name,), scores[:, None])}
    return Cohort(cohort.patient_ids, cohort.time, cohort.event, cohort.entry, layers)


def _outer(turn: Turn, level: Mapping[str, Floats]) -> Turn:
    # The fit's own alpha and beta must not hide those of the model that is judged.
    return Turn({**level, **{_FIT + name: array for name, array in turn.state.items()}}, turn.ask)


def _inner(state: Arrays) -> dict[str, Floats]:
    return {name.removeprefix(_FIT): array for name, array in state.items() if name.startswith(_FIT)}
