"""Which features of a wide layer take part: one score test each, summed over sites.

Each feature is asked alone, against the grouped proportional hazards of `models.hazard` without covariates: with the
log baseline hazards alpha that fit at beta = 0, u_k = exp(alpha_k), and z a standardised feature (Rao 1948; McCullagh
& Nelder 1989, section 4.4, for the weights of the complementary log-log link)

    score        U = sum_i r_i z_i,      r_i = the slope of patient i's log-likelihood in their log hazard
    information  V = sum_i w_i z_i^2 - (sum_i w_i z_i)^2 / sum_i w_i,
                 w_i = sum over the intervals at risk of u_k a_k,   a_k = u_k / (exp(u_k) - 1)
    chi-square   U^2 / V on one degree of freedom.

Every sum is over patients, so three numbers a feature leave a site. V lets the level of the baseline follow the
feature and holds its shape: R's `anova(glm(y ~ 1 + offset(alpha)), glm(y ~ z + offset(alpha)), test = "Rao")` on the
person-period table. To let every interval follow would take intervals x features numbers for a V that is smaller by a
percent or so, and about as much smaller for each feature; what is wanted is their order.

The features with the largest chi-square keep their scale, the others get scale 0, which every later step takes as
weight zero. The screen looks at outcomes: it belongs inside the training patients, as every step before a fit does.
"""

from __future__ import annotations

import numpy as np

from models.cox import no_events
from models.grouped_likelihood import alpha_at_zero, event_terms, is_open, patient_slopes
from models.moments import n_patients_spec, patients_behind
from models.preparation import layer_specs, layer_z
from models.step import Arrays, Context, Floats, Turn
from models.time_grid import Spells, grid_specs, interval_of
from schemas.cohort import Cohort
from schemas.design import LayerDesign
from schemas.plan import ArraySpec, PartSpec

# One word of the secure sum: a patient adds at most 5 times their cumulative hazard.
_SUM_BOUND = 4e6
_SQUARES_BOUND = 1e12
# Below this share of the sum of squares the information is rounding.
_NO_INFORMATION = 1e-12


class Screening:
    """Counts over intervals, from which alpha follows, then the score test of every feature.

    Settings:
        keep: Features kept of each wide layer.
        exact: Whether the grid holds the exact event times.
        layer_floor: As in `models.moments.Moments`.

    Inputs: `{layer}_mean`, `{layer}_scale` of `moments`; `edges`, `n_intervals` of `event_grid`.

    State when done, for a layer of m features:
        {layer}_scale: (m,) as it came for the features that are kept, 0 for the others.
        {layer}_chi_square: (m,) of the score tests; 0 for a feature without information.
    """

    def __init__(self, context: Context) -> None:
        self._layers = context.layers
        self._n_bins = context.n_bins
        self._keep = int(context.settings["keep"])
        self._exact = bool(context.settings.get("exact", False))
        self._floor = int(context.settings.get("layer_floor", 0))

    def parts(self) -> tuple[PartSpec, ...]:
        """Return the two questions: counts over intervals, and the tests' sums."""
        k = self._n_bins
        counts = (
            n_patients_spec(),
            ArraySpec(name="events", shape=(k,), meaning="patients with the event in each interval"),
            ArraySpec(name="n_survived", shape=(k,), meaning="patients known to survive each interval"),
        )
        sends = [*grid_specs(k), ArraySpec(name="alpha", shape=(k,), meaning="log baseline hazards")]
        tests = [
            n_patients_spec(),
            ArraySpec(name="weight", shape=(), meaning="sum of the patients' weights", bound=_SQUARES_BOUND),
        ]
        for layer in self._layers:
            sends += layer_specs(layer)
            tests += _test_specs(layer)
        return (
            PartSpec(name="counts", sends=grid_specs(k), releases=counts, times=1),
            PartSpec(name="tests", sends=tuple(sends), releases=tuple(tests), times=1),
        )

    def begin(self, inputs: Arrays) -> Turn:
        """Ask for the counts."""
        return Turn({}, "counts")

    def local(self, part: str, sent: Arrays, cohort: Cohort) -> Arrays:
        """Return this site's counts, or its sums."""
        spells = interval_of(
            cohort.time, cohort.event, cohort.entry, sent["edges"], int(sent["n_intervals"]), exact=self._exact
        )
        ones = np.ones(cohort.n_patients)
        answer: dict[str, Floats] = {"n_patients": np.array(float(cohort.n_patients))}
        if part == "counts":
            counted = {"events": spells.over_events(ones), "n_survived": spells.survived.over_patients(ones)}
            return {**answer, **counted}
        slope = patient_slopes(spells, np.zeros(cohort.n_patients), sent["alpha"])
        weight = _expected_weights(spells, sent["alpha"])
        answer["weight"] = np.array(weight.sum())
        for layer in self._layers:
            m = layer.n_features
            has_enough = patients_behind(cohort, layer, self._floor) > 0
            z = layer_z(cohort, layer, sent) if has_enough else np.zeros((cohort.n_patients, m))
            answer[f"{layer.name}_score"] = slope @ z
            answer[f"{layer.name}_weighted"] = weight @ z
            answer[f"{layer.name}_weighted_squares"] = weight @ (z * z)
        return answer

    def finish(self, part: str, state: Arrays, inputs: Arrays, total: Arrays) -> Turn:
        """Return the question about the features, or which of them are kept.

        Raises:
            DivergedError: When no patient has the event on this grid.
        """
        if part == "counts":
            if not total["events"].any():
                raise no_events()
            return Turn({"alpha": alpha_at_zero(total["events"], total["n_survived"])}, "tests")
        done: dict[str, Floats] = {}
        for layer in self._layers:
            scale = inputs[f"{layer.name}_scale"]
            score, weighted, squares = (total[f"{layer.name}_{name}"] for name in _SUMS)
            found = chi_square(score, weighted, squares, float(total["weight"]))
            done[f"{layer.name}_chi_square"] = np.where(scale > 0, found, 0.0)
            done[f"{layer.name}_scale"] = np.where(_largest(found, scale, self._keep), scale, 0.0)
        return Turn(done, None)

    def shrink(self, part: str, state: Arrays) -> Turn:
        """Ask the remaining sites the same; alpha stays that of everybody who was counted."""
        return Turn(state, part)


_SUMS = ("score", "weighted", "weighted_squares")


def chi_square(score: Floats, weighted: Floats, weighted_squares: Floats, weight: float) -> Floats:
    """Return the (m,) squared standardised scores; 0 where there is no information.

    Args:
        score: (m,) U of the module's head.
        weighted: (m,) sum of w z.
        weighted_squares: (m,) sum of w z^2.
        weight: Sum of w.
    """
    information = weighted_squares - weighted**2 / weight if weight > 0 else np.zeros_like(score)
    known = information > _NO_INFORMATION * weighted_squares
    return np.divide(score**2, information, out=np.zeros_like(score), where=known)


def _largest(found: Floats, scale: Floats, keep: int) -> Floats:
    """Return the (m,) mask of the features to keep; of equal ones the first, and none that takes no part."""
    order = np.argsort(-np.where(scale > 0, found, -1.0), kind="stable")
    mask = np.zeros(scale.size)
    mask[order[:keep]] = 1.0
    return mask * (scale > 0)


def _expected_weights(spells: Spells, alpha: Floats) -> Floats:
    """Return the (n,) expected information of each patient's log hazard, at log hazard 0."""
    used = is_open(alpha)
    u = np.exp(np.where(used, alpha, 0.0))
    return spells.over_intervals(np.where(used, u * event_terms(u)[1], 0.0))


def _test_specs(layer: LayerDesign) -> list[ArraySpec]:
    shape, name = (layer.n_features,), layer.name
    each = f"each of {layer.n_features:,} {name} features"
    return [
        ArraySpec(
            name=f"{name}_score",
            shape=shape,
            meaning=f"sum of {each} times how much later or earlier than expected a patient had the event",
            bound=_SUM_BOUND,
        ),
        ArraySpec(
            name=f"{name}_weighted",
            shape=shape,
            meaning=f"sum of {each}, weighted by time at risk",
            bound=_SUM_BOUND,
        ),
        ArraySpec(
            name=f"{name}_weighted_squares",
            shape=shape,
            meaning=f"sum of squares of {each}, weighted by time at risk",
            bound=_SQUARES_BOUND,
        ),
    ]
