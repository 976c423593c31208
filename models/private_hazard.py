"""Grouped proportional hazards under differential privacy: gradient descent on clipped gradients.

The likelihood is that of `models.hazard` (Prentice & Gloeckler 1978), on the plan's fixed grid, with a baseline that
is constant over coarse pieces of it: its separability gives every patient a gradient of their own, which is clipped
(Abadi et al. 2016, "Deep learning with differential privacy", section 3.1, without its sampling of batches: every
round uses all patients, so the guarantee needs no secret of who took part). On Cox's likelihood the same code would
run and the guarantee would be void, because a patient stands in the risk sets of all others.

Newton's information is not released: it has p (p + 1) / 2 numbers, and their noise would have to be paid for. Small
directions of the information are those that noise would spoil; gradient descent of few steps leaves them near 0,
much as a ridge would. Without noise, with a wide clip and with many rounds it comes to the fit of `models.hazard`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.grouped_likelihood import event_terms
from models.penalties import penalties_of
from models.preparation import Preparation
from models.private import Pieces, clipping, noise_of, over_pieces, pieces_of
from models.step import Arrays, Context, Floats, Turn
from models.time_grid import Spells, grid_specs, interval_of
from schemas.cohort import Cohort
from schemas.plan import ArraySpec, PartSpec

# A patient's log hazard counts as at most this far from the mean's: e^8 is beyond any hazard ratio, and finite.
MAX_LOG_HAZARD = 8.0
# Per event of the federation; the descent's whole length. About what a ridge of a fifth of the events amounts to.
_DESCENT = 5.0
_LOWEST_ALPHA, _HIGHEST_ALPHA = -15.0, 1.0
# No row that a dictionary allows comes near it, but units that a hub invents could.
_LARGEST_COVARIATE = 1e6
_LONGEST_ALPHA_STEP = 0.5
_FEWEST_EVENTS = 5.0


class PrivateHazard:
    """A fixed number of noisy gradient steps for (alpha, beta), with a ridge penalty on beta.

    Settings:
        penalties: (p,) lambda of -1/2 lambda beta^2, on the model's scale.
        pieces: (K,) the piece of each interval, 0 to J - 1.
        clip: Largest norm of a patient's gradient of (alpha, beta).
        rounds: Number of steps.
        descent: Step length times rounds times events; default 5.
        share: Of the study's privacy budget, for all rounds together.
        honest_sites: Whose noise suffices.

    Inputs: `mean`, `scale`, `n_patients` of `private_moments`; `edges`, `n_intervals`, `alpha`, `events`, `n_events`
    of `private_grid`.

    State when done:
        beta: (p,) log hazard ratios on the model's scale.
        covariance: (p, p) zeros: noise and clipping leave no standard errors.
        alpha: (K,) log baseline hazards of the last step; clipping shortens gradients of events most, so predictions
            stand on `private_baseline` and not on these.
        n_patients, n_events: () noisy.
    """

    def __init__(self, context: Context) -> None:
        settings = context.settings
        self._settings = settings
        self._p = len(context.design)
        self._preparation = Preparation(context)
        self._pieces: Pieces = pieces_of(settings, context.n_bins)
        self._n_pieces = int(self._pieces[-1]) + 1
        self._penalties = penalties_of(context)
        self._clip = float(settings["clip"])
        self._rounds = int(settings["rounds"])
        self._descent = float(settings.get("descent", _DESCENT))

    def parts(self) -> tuple[PartSpec, ...]:
        """Return the one question, asked in every round: the sum of clipped gradients at a point."""
        p, k, j = self._p, self._pieces.size, self._n_pieces
        sends = (
            *self._preparation.specs(),
            *grid_specs(k),
            ArraySpec(name="alpha", shape=(j,), meaning="log baseline hazards", bound=-_LOWEST_ALPHA),
            ArraySpec(name="beta", shape=(p,), meaning="log hazard ratios"),
        )
        releases = (
            ArraySpec(name="gradient_alpha", shape=(j,), meaning="sum of clipped slopes in each baseline hazard"),
            ArraySpec(name="gradient_beta", shape=(p,), meaning="sum of clipped slopes in each coefficient"),
        )
        noise = noise_of(self._settings, sensitivity=self._clip, times=self._rounds)
        return (PartSpec(name="gradient", sends=sends, releases=releases, times=self._rounds, noise=noise),)

    def begin(self, inputs: Arrays) -> Turn:
        """Ask at beta = 0."""
        state = {"alpha": np.array(inputs["alpha"]), "beta": np.zeros(self._p), "round": np.array(0.0)}
        return Turn(state, "gradient")

    def local(self, part: str, sent: Arrays, cohort: Cohort) -> Arrays:
        """Return this site's sum of clipped gradients."""
        with np.errstate(all="ignore"):  # a unit of 0 makes no number, and a refusal would say that of a row
            x = np.nan_to_num(self._preparation.matrix(cohort, sent))
        x = np.clip(x, -_LARGEST_COVARIATE, _LARGEST_COVARIATE)
        spells = interval_of(
            cohort.time, cohort.event, cohort.entry, sent["edges"], int(sent["n_intervals"]), exact=False
        )
        return clipped_gradients(spells, x, sent["alpha"], sent["beta"], self._pieces, self._clip)

    def finish(self, part: str, state: Arrays, inputs: Arrays, total: Arrays) -> Turn:
        """Take a step; after the last one return the estimates."""
        n_events = float(inputs["n_events"])
        along = total["gradient_beta"] - self._penalties * state["beta"]
        beta = state["beta"] + self._descent / (self._rounds * n_events) * along
        # A baseline hazard's information is about its events; half a Newton step.
        step = 0.5 * total["gradient_alpha"] / np.maximum(inputs["events"], _FEWEST_EVENTS)
        alpha = state["alpha"] + np.clip(step, -_LONGEST_ALPHA_STEP, _LONGEST_ALPHA_STEP)
        alpha = np.clip(alpha, _LOWEST_ALPHA, _HIGHEST_ALPHA)
        done = int(state["round"]) + 1
        if done < self._rounds:
            return Turn({"alpha": alpha, "beta": beta, "round": np.array(float(done))}, part)
        p = self._p
        return Turn(
            {
                "beta": beta,
                "covariance": np.zeros((p, p)),
                "alpha": alpha[self._pieces],
                "n_patients": inputs["n_patients"],
                "n_events": inputs["n_events"],
            },
            None,
        )

    def shrink(self, part: str, state: Arrays) -> Turn:
        """Go on from the last point, over the remaining sites."""
        return Turn(state, part)


def clipped_gradients(
    spells: Spells, x: Floats, alpha: Floats, beta: Floats, pieces: Pieces, clip: float
) -> dict[str, Floats]:
    """Return the sum over patients of the gradient of (alpha, beta), each clipped to norm `clip`.

    With u_ik = exp(alpha_k + x_i beta) and a = u / (exp(u) - 1) a patient's slope in alpha_j is
    a_im [event in interval m of piece j] - sum of u_ik over the intervals survived in piece j, and the slope in beta
    is x_i times their sum (`models.grouped_likelihood`).

    Args:
        spells: Where the n patients are at risk.
        x: (n, p) covariates.
        alpha: (J,) log baseline hazard of an interval in each piece.
        beta: (p,) log hazard ratios.
        pieces: (K,) the piece of each interval.
        clip: Largest norm.
    """
    log_hazard = np.clip(x @ beta, -MAX_LOG_HAZARD, MAX_LOG_HAZARD)
    baseline, ratio = np.exp(alpha)[pieces], np.exp(log_hazard)
    slopes = -over_pieces(spells.survived, baseline, pieces) * ratio[:, None]
    _, slope, _ = event_terms(baseline[spells.event_interval] * ratio[spells.event])
    rows: NDArray[np.intp] = np.flatnonzero(spells.event)
    slopes[rows, pieces[spells.event_interval]] += slope
    residual = slopes.sum(axis=1)
    norms = np.sqrt((slopes**2).sum(axis=1) + residual**2 * (x**2).sum(axis=1))
    factors = clipping(norms, clip)
    return {"gradient_alpha": factors @ slopes, "gradient_beta": (factors * residual) @ x}
