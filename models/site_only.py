"""What a site reaches alone: a model of its own training patients, judged on its own held-out patients.

It is the figure that a federated model has to beat. The same fit serves `simulate`, which judges each site's model on
everybody's test fold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from models.components import Components
from models.concordance import PAIR_COUNTS, concordance_state, pair_counts
from models.cox import Cox
from models.moments import Moments
from models.preparation import Preparation, covariates_of
from models.scores import log_hazards
from models.screening import Screening
from models.step import Arrays, Context, DivergedError, Floats, Step, Turn, combine, sent_arrays
from schemas.cohort import Cohort
from schemas.design import DesignColumn, LayerDesign
from schemas.plan import ArraySpec, PartSpec

MIN_EVENTS_TO_FIT = 1
MIN_PATIENTS_TO_FIT = 8


@dataclass(frozen=True)
class SiteOnly:
    """One round: the pairs of each site's held-out patients, ordered by the site's own model.

    Settings: those of `fit_site_only`. Inputs: `penalties`, where the settings say None.

    State: as `models.concordance.Concordance`; n_patients counts
    the held-out patients.
    """

    context: Context

    def parts(self) -> tuple[PartSpec, ...]:
        """Return the one question: counts of pairs."""
        penalties = ArraySpec(
            name="penalties", shape=(len(self.context.design),), meaning="penalty of each coefficient"
        )
        sends = (penalties,) if self.context.settings.get("penalties", ()) is None else ()
        return (PartSpec(name="pairs", sends=sends, releases=PAIR_COUNTS, times=1),)

    def begin(self, inputs: Arrays) -> Turn:
        """Ask at once."""
        return Turn({}, "pairs")

    def local(self, part: str, sent: Arrays, cohort: Cohort) -> Arrays:
        """Fit on the patients that are not held out and count the pairs of those that are.

        Args:
            part: ``pairs``.
            sent: `penalties`, where the settings say None.
            cohort: All patients of the site with their `held_out` mark; without marks nobody is held out.
        """
        held_out = np.zeros(cohort.n_patients, dtype=np.bool_) if cohort.held_out is None else cohort.held_out
        model = fit_site_only(cohort.take(~held_out), self.context, sent.get("penalties"))
        judged = cohort.take(held_out)
        return pair_counts(judged, log_hazards(self.context, model, judged), judged.n_patients)

    def finish(self, part: str, state: Arrays, inputs: Arrays, total: Arrays) -> Turn:
        """Form C over all sites' pairs."""
        return Turn(concordance_state(total), None)

    def shrink(self, part: str, state: Arrays) -> Turn:
        """Ask the remaining sites the same."""
        return Turn(state, part)


def fit_site_only(cohort: Cohort, context: Context, penalties: Floats | None = None) -> dict[str, Floats]:
    """Fit the study's model on one site's patients, by Cox on the site's exact event times.

    Inside a site nothing needs a grid, and a grid chosen for the federation's events would leave intervals without
    any; so a study with grouped hazards is fitted by its limit for fine intervals, Cox. Means and standard
    deviations are the site's own. A site that cannot be fitted (too few patients or events, or coefficients without
    an end) has beta = 0: it orders nobody, which is worth a half for each pair.

    Settings:
        penalties: (p,) of the study (default 0); None where they were chosen and are an input.
        ties: ``efron`` (default) or ``breslow``.
        standardise: As in the study (default True).
        keep: As of `models.screening.Screening`; 0 (default) keeps every feature.
        min_events_to_fit: Default 1.
        min_patients_to_fit: Default 8.

    Args:
        cohort: Training patients of one site.
        context: Its `design`, `layers` and `settings`.
        penalties: (p,) in place of the settings'.

    Returns:
        The arrays of `models.preparation.Preparation.specs` and beta (p,): what `models.scores.log_hazards` takes.
    """
    settings = context.settings
    if penalties is None:
        penalties = np.asarray(settings.get("penalties", [0.0] * len(context.design)), dtype=np.float64)
    model = prepared_alone(cohort, context)
    enough_patients = cohort.n_patients >= int(settings.get("min_patients_to_fit", MIN_PATIENTS_TO_FIT))
    if enough_patients and cohort.n_events >= int(settings.get("min_events_to_fit", MIN_EVENTS_TO_FIT)):
        try:
            fit = cox_of_one_table(
                cohort, context.design, model, penalties, settings.get("ties", "efron"), context.layers
            )
            return {**model, "beta": fit["beta"]}
        except DivergedError:
            pass
    return {**model, "beta": np.zeros(len(context.design))}


def prepared_alone(cohort: Cohort, context: Context) -> dict[str, Floats]:
    """Return what `models.preparation` makes x from: means, units and components of the site's own patients."""
    x = cohort.matrix(covariates_of(context))
    observed = ~np.isnan(x)
    centres = np.where(observed, x, 0.0).sum(axis=0) / np.maximum(observed.sum(axis=0), 1)
    moments_of = {"centres": centres.tolist(), "standardise": bool(context.settings.get("standardise", True))}
    found = run_alone(Moments(replace(context, settings=moments_of)), {}, cohort)
    if (keep := int(context.settings.get("keep", 0))) and context.layers:
        found = {**found, **_screened_alone(cohort, context, found, keep)}
    if any(layer.n_components for layer in context.layers):
        found = {**found, **run_alone(Components(replace(context, settings={})), found, cohort)}
    return {name: found[name] for name in Preparation(context).names}


def _screened_alone(cohort: Cohort, context: Context, moments: Arrays, keep: int) -> Arrays:
    """Return the scales of the features that the site would keep, at its own event times; none without events."""
    times = np.unique(cohort.time[cohort.event])
    if not times.size:
        return {}
    settings = {"keep": keep, "exact": True}
    inputs = {**moments, "edges": times, "n_intervals": np.array(float(times.size))}
    step = Screening(Context(context.design, times.size, (), settings, context.layers))
    return run_alone(step, inputs, cohort)


def cox_of_one_table(
    cohort: Cohort,
    design: Sequence[DesignColumn],
    moments: Mapping[str, Floats],
    penalties: Sequence[float] | Floats,
    ties: str,
    layers: tuple[LayerDesign, ...] = (),
) -> Arrays:
    """Fit Cox's model on one table's exact event times, with the code of the federated step.

    Args:
        cohort: Whose patients are in one place.
        design: Columns.
        moments: What makes the model's matrix: `mean`, `scale` and the layers' arrays.
        penalties: (p,) on the model's scale.
        ties: ``efron`` or ``breslow``.
        layers: Behind the last of the columns.

    Returns:
        The final state of `models.cox.Cox`.

    Raises:
        DivergedError: When there are no events, or coefficients grow without end.
    """
    times = np.unique(cohort.time[cohort.event])
    if not times.size:
        raise DivergedError("no patient of this table had the event: nothing can be fitted")
    settings = {"penalties": [float(penalty) for penalty in penalties], "ties": ties, "exact": True}
    inputs = {**moments, "edges": times, "n_intervals": np.array(float(times.size))}
    return run_alone(Cox(Context(tuple(design), times.size, (), settings, layers)), inputs, cohort)


def run_alone(step: Step, inputs: Arrays, cohort: Cohort) -> Arrays:
    """Return the final state of a step that is run as a federation of one site."""
    parts = {part.name: part for part in step.parts()}
    turn = step.begin(inputs)
    while turn.ask is not None:
        term = step.local(turn.ask, sent_arrays(parts[turn.ask], turn.state, inputs), cohort)
        turn = step.finish(turn.ask, turn.state, inputs, combine([term]))
    return turn.state
