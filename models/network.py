"""Grouped proportional hazards with a late-fusion network in the place of the linear predictor.

The likelihood is that of `models.hazard` (Prentice & Gloeckler 1978), so the log hazard of a patient is relative to
the means, the baseline comes from the same round, and survival falls with it: ranking by the log hazard is ranking by
minus the restricted mean survival time. Two questions alternate. `update`: every site takes `local_steps` steps
uphill on its own patients and releases the sum of what it moved, times its patients; with one step that is the exact
gradient of the federation. `baseline`: likelihood and the derivatives in alpha at the current weights, without
dropout, every few rounds; it is also what tells a search that diverges.

Modality dropout (Neverova et al. 2016, "ModDrop", section 4) leaves out whole layers of a patient at random while
training, so that no layer is relied on that others could replace. Which are left out follows from the round alone.

torch differentiates; nothing else here needs it, and importing this module does not load it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from models.cox import no_events
from models.grouped_likelihood import alpha_at_zero, patient_slopes, slope_specs, slopes
from models.moments import n_patients_spec
from models.network_shape import Encoder, Shape
from models.newton import DERIVATIVE_BOUND, can_evaluate, refused, within_bounds
from models.penalties import OFF, Penalties
from models.preparation import Preparation
from models.server_optimiser import Optimiser
from models.step import Arrays, Context, DivergedError, Floats, Turn
from models.time_grid import grid_specs, interval_of
from schemas.cohort import Cohort
from schemas.plan import ArraySpec, PartSpec

if TYPE_CHECKING:
    import torch

# Weights beyond this belong to no fit.
WEIGHT_BOUND = 1e4
UPDATES_A_BASELINE = 10
"""So many updates between two looks at the baseline and the likelihood."""

_LONGEST_ALPHA_STEP = 1.0
# The penalised log-likelihood may fall between two looks (dropout is noise), but not below this share of its start.
_MAY_FALL = 0.02
_FIRST_ALPHA = -7.0


class HazardNetwork:
    """Updates of the weights by a server optimiser, and Newton steps of alpha.

    Settings:
        network: The fields of `schemas.study.Network`.
        penalties: (p,) lambda of -1/2 lambda w^2 on the weights of a column's encoder (its first column's counts);
            from the input `penalties` where the settings have none.
        exact: Whether the grid holds the exact event times.

    Inputs: those of `models.hazard.Hazard`.

    State when done:
        weights: (P,) of the network.
        alpha: (K,) log baseline hazards at the means.
        log_likelihood: () without the penalty.
        n_patients, n_events: () patients, and events that the grid counts.
    """

    def __init__(self, context: Context) -> None:
        self._preparation = Preparation(context)
        self._wide = tuple(layer.name for layer in context.layers)
        self._shape = Shape.of(context)
        self._p = len(context.design)
        self._n_bins = context.n_bins
        self._exact = bool(context.settings.get("exact", False))
        self._penalties = Penalties(context)
        self._network: Mapping[str, Any] = context.settings["network"]
        self._optimiser = Optimiser(self._network["server"], float(self._network["rate"]))

    def parts(self) -> tuple[PartSpec, ...]:
        """Return the two questions."""
        k, n_weights, bound = self._n_bins, self._shape.n_weights, DERIVATIVE_BOUND
        weights = ArraySpec(name="weights", shape=(n_weights,), meaning="the network's weights", bound=WEIGHT_BOUND)
        sends = (
            *self._preparation.specs(),
            *grid_specs(k),
            ArraySpec(name="alpha", shape=(k,), meaning="log baseline hazards"),
            weights,
        )
        number = ArraySpec(name="update_number", shape=(), meaning="which update this is", bound=1e6)
        update = ArraySpec(
            name="update", shape=(n_weights,), meaning="what training moved each weight by", bound=bound
        )
        rounds = int(self._network["rounds"])
        looks = tuple(spec for spec in slope_specs(k, self._p) if spec.name != "gradient_beta")
        return (
            PartSpec(name="baseline", sends=sends, releases=looks, times=rounds // UPDATES_A_BASELINE + 8),
            PartSpec(
                name="update",
                sends=(*sends, number),
                releases=(n_patients_spec(), update),
                times=rounds + 1,
                norm=float(self._network["norm"]),
            ),
        )

    def begin(self, inputs: Arrays) -> Turn:
        """Ask for the counts, from which alpha at log hazard 0 follows."""
        weights = self._shape.first_weights(int(self._network["seed"]))
        state = {
            "weights": weights,
            "alpha": np.full(self._n_bins, _FIRST_ALPHA),
            "update_number": np.array(0.0),
            "first_objective": np.array(0.0),
            "looks": np.array(0.0),
            **self._optimiser.start(weights.size),
        }
        return Turn(state, "baseline")

    def local(self, part: str, sent: Arrays, cohort: Cohort) -> Arrays:
        """Return this site's look at the baseline, or its update."""
        x = self._preparation.matrix(cohort, sent)
        present = self._shape.present(cohort, self._wide)
        spells = interval_of(
            cohort.time, cohort.event, cohort.entry, sent["edges"], int(sent["n_intervals"]), exact=self._exact
        )
        n_patients = {"n_patients": np.array(float(cohort.n_patients))}
        if part == "baseline":
            releases = self.parts()[0].releases
            log_hazard = self._shape.log_hazard(sent["weights"], x, present)
            if not can_evaluate(log_hazard):
                return refused(releases, "log_likelihood", cohort.n_patients)
            found = slopes(spells, np.zeros((cohort.n_patients, 0)), log_hazard, sent["alpha"])
            answer = {spec.name: found[spec.name] for spec in releases}
            fits = within_bounds(releases, answer)
            return answer if fits else refused(releases, "log_likelihood", cohort.n_patients)
        kept = self._kept(present, int(sent["update_number"]))
        weights, rate = sent["weights"].copy(), float(self._network["local_rate"])
        for _ in range(int(self._network["local_steps"])):
            log_hazard = np.clip(self._shape.log_hazard(weights, x, kept), -30.0, 30.0)
            slope = patient_slopes(spells, log_hazard, sent["alpha"])
            weights = weights + rate / cohort.n_patients * _pulled_back(self._shape, weights, x, kept, slope)
        return {**n_patients, "update": (weights - sent["weights"]) / rate * cohort.n_patients}

    def finish(self, part: str, state: Arrays, inputs: Arrays, total: Arrays) -> Turn:
        """Return the next question, or the weights.

        Raises:
            DivergedError: When there is no event, or the likelihood falls instead of rising.
        """
        penalties = self._weight_penalties(inputs)
        if part == "update":
            return self._updated(state, penalties, total)
        return self._looked(state, penalties, total)

    def shrink(self, part: str, state: Arrays) -> Turn:
        """Go on with the remaining sites; what the likelihood is compared with starts anew."""
        return Turn({**state, "looks": np.minimum(state["looks"], 1.0)}, part)

    def _updated(self, state: Arrays, penalties: Floats, total: Arrays) -> Turn:
        n = max(float(total["n_patients"]), 1.0)
        is_on = penalties < OFF
        pull = np.where(is_on, penalties * state["weights"], 0.0)
        mean = np.where(is_on, total["update"] - pull, 0.0) / n
        step, moments = self._optimiser.step(state, mean)
        weights = np.clip(state["weights"] + step, -WEIGHT_BOUND, WEIGHT_BOUND)
        number = float(state["update_number"]) + 1
        after = {**state, **moments, "weights": weights, "update_number": np.array(number)}
        is_look = number % UPDATES_A_BASELINE == 0 or number >= int(self._network["rounds"])
        return Turn(after, "baseline" if is_look else "update")

    def _looked(self, state: Arrays, penalties: Floats, total: Arrays) -> Turn:
        looks = float(state["looks"])
        if looks == 0:
            if not total["events"].any():
                raise no_events()
            alpha = alpha_at_zero(total["events"], total["n_survived"])
            return Turn({**state, "alpha": alpha, "looks": np.array(1.0)}, "baseline")
        pull = 0.5 * float(np.where(penalties < OFF, penalties, 0.0) @ state["weights"] ** 2)
        objective = float(total["log_likelihood"]) - pull
        first = objective if looks == 1 else float(state["first_objective"])
        if not np.isfinite(objective) or objective < first - _MAY_FALL * abs(first):
            raise DivergedError(
                "training the network makes it worse instead of better: lower `rate`, or raise the penalty"
            )
        open_ = total["hessian_alpha"] > 0
        step = np.zeros(self._n_bins)
        step[open_] = total["gradient_alpha"][open_] / total["hessian_alpha"][open_]
        alpha = state["alpha"] + np.clip(step, -_LONGEST_ALPHA_STEP, _LONGEST_ALPHA_STEP)
        after = {**state, "alpha": alpha, "first_objective": np.array(first), "looks": np.array(looks + 1)}
        if float(state["update_number"]) < int(self._network["rounds"]):
            return Turn(after, "update")
        return Turn(
            {
                "weights": state["weights"],
                "alpha": alpha,
                "log_likelihood": np.array(float(total["log_likelihood"])),
                "n_patients": np.array(float(total["n_patients"])),
                "n_events": np.array(float(total["events"].sum())),
            },
            None,
        )

    def _kept(self, present: Floats, number: int) -> Floats:
        """Return (n, n_encoders) `present` after modality dropout; somebody whose layers all fell out keeps them."""
        share = float(self._network["modality_dropout"])
        if share == 0 or len(self._shape.encoders) == 1:
            return present
        rng = np.random.default_rng([int(self._network["seed"]), number])
        kept = present * (rng.random(present.shape) >= share)
        return np.where(kept.any(axis=1, keepdims=True), kept, present)

    def _weight_penalties(self, inputs: Arrays) -> Floats:
        """Return the (P,) penalty of every weight: that of its encoder's first column."""
        penalties = self._penalties.of(inputs)
        encoders = self._shape.encoders
        return np.concatenate([np.full(one.n_weights, penalties[one.columns[0]]) for one in encoders])


@cache
def load_torch() -> ModuleType:
    """Return torch with one thread: matrices here are small, and a forked process would wait for its threads."""
    import torch

    torch.set_num_threads(1)
    # The first gradient imports another half second of torch, which forked processes would do again in every round.
    leaf = torch.ones(1, dtype=torch.float64, requires_grad=True)
    torch.autograd.backward(leaf * leaf, torch.ones(1, dtype=torch.float64))
    return torch


def _pulled_back(shape: Shape, weights: Floats, x: Floats, present: Floats, slope: Floats) -> Floats:
    """Return the (P,) gradient of sum_i slope_i log_hazard_i in the weights."""
    engine = load_torch()
    leaf = engine.tensor(weights, requires_grad=True)
    rows, mask = engine.from_numpy(np.array(x)), engine.from_numpy(np.array(present))
    sizes = [encoder.n_weights for encoder in shape.encoders]
    total = engine.zeros(x.shape[0], dtype=engine.float64)
    for j, (encoder, own) in enumerate(zip(shape.encoders, engine.split(leaf, sizes), strict=True)):
        total = total + mask[:, j] * _encoded(encoder, own, rows)
    engine.autograd.backward(total, engine.from_numpy(np.array(slope)))
    assert leaf.grad is not None
    return np.asarray(leaf.grad.numpy(), dtype=np.float64)


def _encoded(encoder: Encoder, weights: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return the (n,) log hazards of one encoder, as `Shape.log_hazard` computes them."""
    engine = load_torch()
    d, h = encoder.columns.size, encoder.hidden
    u, v, b, w = engine.split(weights, [d, h, h, h * d])
    mine = x[:, engine.from_numpy(np.array(encoder.columns))]
    found: torch.Tensor = mine @ u + engine.tanh(mine @ w.reshape(h, d).T + b) @ v - engine.tanh(b) @ v
    return found
