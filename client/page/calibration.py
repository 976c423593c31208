"""This site's own calibration of a model: slope, level and concordance on its patients with a known outcome.

Computed at the site, from its own tables, and shown there; nothing of it is sent. Patients who trained the model are
left out, for a model is always well calibrated on those. Without the model's plan the site does not know which
columns hold the outcome, and then the calibration is not known either.

The slope is the coefficient of the log hazard in a Cox model on exact times (van Houwelingen 2000, Statistics in
Medicine 19:3401). The level is observed over expected events until the last horizon, the expected ones from the
compensator of the counting process (Andersen & Gill 1982), with the exact Poisson interval. The intercept goes with
the slope: with both applied as many events are expected as were observed.

Where events compete, slope and concordance are those of the hazard of the event of interest, other events censored.
The level is its observed cumulative incidence (Aalen & Johansen 1978) over the mean of the predicted ones: what the
page shows hangs on the hazards of all kinds. The interval is that of the observed one, on the complementary log-log
scale.
"""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincinv

from client.cohort_of import cohort_from_tables
from client.errors import TooFewPatientsError
from client.optout import OPTOUT_FILE, load_optout
from client.page.open_model import OpenModel
from client.page.patients import Patients
from client.page.shapes import SiteCalibration
from client.settings import SiteSettings, load_settings
from client.state import TablesDigest
from models.calibration import calibration_slope
from models.cause import causes_of
from models.concordance import pairs_of_each, ratio_variance
from models.cumulative_incidence import aalen_johansen
from models.incidence_prediction import log_log_ends, predict_incidence
from models.prediction import cumulative_hazard_between, log_hazards
from models.recalibration import recalibration_of
from models.step import DivergedError
from schemas.artefact import Artefact
from schemas.cohort import Cohort
from schemas.errors import FaultsError
from schemas.shown import shown_count

__all__ = ["FEWEST_EVENTS", "FEWEST_PATIENTS", "SiteCalibrations", "calibration_of"]

FEWEST_PATIENTS, FEWEST_EVENTS = 20, 10
"""As for the figures of a site in a run (`models.site_figures`)."""

_NORMAL = 1.959963984540054
_LARGEST_SLOPE = 10.0
_LARGEST_LOG = 600.0
Floats = NDArray[np.float64]


class SiteCalibrations:
    """The calibrations of one site's models, each computed once for each state of the tables."""

    def __init__(self, home: Path, patients: Patients, settings: SiteSettings | None = None) -> None:
        """Compute nothing yet.

        Args:
            home: The site's folder.
            patients: Know who trained a model.
            settings: Of the site; read from site.toml where not given.
        """
        self._home = home
        self._patients = patients
        self._settings = settings or load_settings(home)
        self._digests = TablesDigest()
        self._known: dict[str, tuple[str, SiteCalibration]] = {}
        self._lock = threading.Lock()

    def of(self, model: OpenModel) -> SiteCalibration:
        """Return the calibration of a model.

        Raises:
            StorageError: When tables or records of the site cannot be read.
        """
        with self._lock:
            state = self._digests.of(self._settings.tables) if self._settings.tables.is_dir() else ""
            known = self._known.get(model.hash)
            if known is None or known[0] != state:
                known = self._known[model.hash] = (state, self._compute(model))
            return known[1]

    def _compute(self, model: OpenModel) -> SiteCalibration:
        manifest = model.artefact.manifest
        horizon = max(manifest.horizons, default=float(model.artefact.edges[-1]))
        if model.plan is None:
            return SiteCalibration(horizon, reason="no-plan")
        settings = self._settings
        try:
            cohort = cohort_from_tables(
                settings.tables, model.plan.dictionary, model.plan.study, settings.dialect, settings.floors,
                load_optout(self._home / OPTOUT_FILE), site=settings.name,
            )  # fmt: skip
        except TooFewPatientsError:
            return SiteCalibration(horizon, reason="too-few-patients")
        except FaultsError:
            return SiteCalibration(horizon, reason="tables")
        trained = [self._patients.has_trained(model.artefact, name) for name in cohort.patient_ids]
        if any(one is None for one in trained):
            return SiteCalibration(horizon, reason="not-computed")
        return calibration_of(model.artefact, cohort.take(~np.array(trained, dtype=np.bool_)), horizon)


def calibration_of(artefact: Artefact, unseen: Cohort, horizon: float) -> SiteCalibration:
    """Return the calibration of a model on patients who did not train it.

    Args:
        artefact: The model.
        unseen: With known outcomes.
        horizon: Until which events are counted for the level; slope and concordance use all of the follow-up.
    """
    patients, events = shown_count(unseen.n_patients), shown_count(unseen.n_events)
    if unseen.n_patients < FEWEST_PATIENTS:
        return SiteCalibration(horizon, patients=patients, events=events, reason="too-few-patients")
    has_event = unseen.event & (unseen.time <= horizon)
    if has_event.sum() < FEWEST_EVENTS:
        return SiteCalibration(horizon, patients=patients, events=events, reason="too-few-events")
    eta = log_hazards(artefact, unseen)
    try:
        slope, error = calibration_slope(unseen.time, unseen.event, eta, unseen.entry)
    except DivergedError:
        return SiteCalibration(horizon, patients=patients, events=events, reason="failed")
    if error == 0 or abs(slope) > _LARGEST_SLOPE:  # all log hazards equal, or events almost separated by them
        return SiteCalibration(horizon, patients=patients, events=events, reason="failed")
    observed = float(has_event.sum())
    baseline = _baseline(artefact, unseen, horizon)
    scaled = float(baseline @ np.exp(np.clip(slope * eta, -_LARGEST_LOG, _LARGEST_LOG)))
    has_kinds = bool(artefact.manifest.causes)
    ratio = _incidence_ratio(artefact, unseen, horizon) if has_kinds else _event_ratio(observed, baseline, eta)
    if ratio is None or not 0 < scaled < np.inf:
        return SiteCalibration(horizon, patients=patients, events=events, reason="failed")
    intercept = float(np.log(observed / scaled))
    c, c_error = _concordance(unseen, eta)
    return SiteCalibration(
        horizon=horizon,
        slope=slope,
        slope_low=slope - _NORMAL * error,
        slope_high=slope + _NORMAL * error,
        intercept=intercept,
        observed_over_expected=ratio[0],
        observed_low=ratio[1],
        observed_high=ratio[2],
        c=c,
        c_low=max(c - _NORMAL * c_error, 0.0),
        c_high=min(c + _NORMAL * c_error, 1.0),
        patients=patients,
        events=events,
        # A correction of one kind of event alone is never applied (`client.page.prognosis`).
        recalibration=None
        if has_kinds
        else recalibration_of(artefact, unseen, horizon, slope=slope, slope_variance=error**2, level=intercept),
    )


def _baseline(artefact: Artefact, cohort: Cohort, horizon: float) -> Floats:
    """Return the (n,) baseline cumulative hazards while each patient was under observation, until the horizon."""
    until = cumulative_hazard_between(artefact, 0.0, np.minimum(cohort.time, horizon))
    entered = cumulative_hazard_between(artefact, 0.0, np.minimum(cohort.entry, horizon))
    return until - entered


def _event_ratio(observed: float, baseline: Floats, eta: Floats) -> tuple[float, float, float] | None:
    """Return observed over expected events with its 95 % interval; None where nothing is expected."""
    expected = float(baseline @ np.exp(np.minimum(eta, _LARGEST_LOG)))
    if not 0 < expected < np.inf:
        return None
    ends = gammaincinv(observed, 0.025), gammaincinv(observed + 1, 0.975)
    return observed / expected, float(ends[0]) / expected, float(ends[1]) / expected


def _incidence_ratio(artefact: Artefact, unseen: Cohort, horizon: float) -> tuple[float, float, float] | None:
    """Return observed over predicted incidence of the event of interest until the horizon, with its interval."""
    kind, time = causes_of(unseen), unseen.time
    times = np.unique(time[(kind > 0) & (time <= horizon)])
    at_risk = np.array([((unseen.entry < t) & (time >= t)).sum() for t in times], dtype=np.float64)
    kinds = range(1, len(artefact.manifest.causes) + 1)
    events = np.array([[((time == t) & (kind == one)).sum() for t in times] for one in kinds], dtype=np.float64)
    incidence, error = aalen_johansen(at_risk, events)
    expected = float(predict_incidence(artefact, unseen, np.array([horizon])).incidence[0].mean())
    low, high = log_log_ends(incidence[0, -1:], error[0, -1:], _NORMAL)
    if not expected > 0:
        return None
    return float(incidence[0, -1]) / expected, float(low[0]) / expected, float(high[0]) / expected


def _concordance(cohort: Cohort, eta: Floats) -> tuple[float, float]:
    """Return Harrell's C within the site and its standard error."""
    concordant, tied, comparable = pairs_of_each(cohort.time, cohort.event, eta, cohort.entry)
    right = concordant + tied / 2
    pairs = float(comparable.sum())
    c = float(right.sum()) / pairs if pairs else 0.5
    return c, float(np.sqrt(ratio_variance(right, comparable)))
