"""The steps of a study under differential privacy, and why some studies cannot have it.

The budget is a total of mu squared, and the plan divides it: most goes to the gradients, on which discrimination
hangs; means, start and baseline need little, because their sums run over all patients and are few. What costs
anything and is not needed is not asked: no histogram makes the grid, no figures on those who trained the model, no
evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from schemas.design import DesignColumn
from schemas.dictionary import Dictionary
from schemas.errors import Fault
from schemas.study import Differential, Study

# Of mu squared. Fixed on invented patients (experiments/dp_curve/choose.py): halving or doubling a small one moves C
# by less than .002 at epsilon 3 and above.
SHARES = MappingProxyType({"moments": 0.1, "grid": 0.05, "fit": 0.8, "baseline": 0.05})
_BASELINE_PIECES, _MOST_CUTS = 4, 4
_CLOSE = 1e-12

_COX = Fault(
    "[model] method",
    "differential privacy needs a likelihood that is a sum over patients; in Cox's, every patient stands in the risk "
    "sets of others, so clipping one patient's gradient bounds nothing and the guarantee would be void",
    'write method = "hazard": the same hazard ratios, on a common grid of time',
)
_METHOD = Fault(
    "[model] method",
    "differential privacy exists for the grouped hazard alone: of the other methods no patient's part is clipped",
    'write method = "hazard"',
)
_ENDPOINT = Fault(
    "[endpoint]",
    "differential privacy exists for the time to one event alone, without competing ones",
    "ask for the time to one event, or take the section [privacy.differential] out",
)
_PENALTY = Fault(
    "[model] penalty",
    "choosing the penalty by cross-validation would release sums of every fold without noise",
    "write a number; choose it on other patients, since choosing it on these costs privacy too",
)
_LAYERS = Fault(
    "[model] layers",
    "the components of a wide layer would be released without noise",
    "name single columns of it under `covariates`, or leave the layer out",
)
_TREATMENT = Fault(
    "[model] treatment",
    "curves by treatment and its interactions would release sums without noise",
    "take `treatment` and `interactions` out; the column may stay among the covariates",
)
_EVALUATION = Fault(
    "[evaluation] folds",
    "a held-out evaluation would release counts of patients without noise",
    "write folds = 0; the model can be judged by `archipel simulate`, or at each site on its own patients",
)
_WIDE = Fault(
    "[model] layers",
    "the noise that would hide one patient in the sums over hundreds of features leaves nothing of their components",
    "take the wide layers out, and name the few columns that matter under `covariates`",
)
_IN_CLEAR = Fault(
    "[privacy.differential] honest_sites",
    "without masks the hub sees each site's numbers by themselves, with that site's share of the noise alone",
    "write honest_sites = 1: then every site adds all of the noise itself; or secure_sum = true",
)


@dataclass(frozen=True)
class PrivateStep:
    """One step, before its shapes are known.

    Attributes:
        name: In the plan; steps that read from others know them by these names.
        method: Of `models.registry`.
        purpose: For the data-use card.
        settings: Of the method.
        inputs: As in the plan.
    """

    name: str
    method: str
    purpose: str
    settings: dict[str, Any]
    inputs: dict[str, str]


def private_faults(study: Study, dictionary: Dictionary, *, evaluation: bool) -> list[Fault]:
    """Return why a study cannot be run under the differential privacy that it asks for.

    Args:
        study: With `privacy.differential`.
        dictionary: Of the study.
        evaluation: Whether the plan is to hold the study's evaluation.
    """
    faults = _model_faults(study)
    if evaluation and study.evaluation.folds:
        faults.append(_EVALUATION)
    if study.model.wide_layers:
        faults.append(_WIDE)
    differential = study.privacy.differential
    if differential is not None and differential.honest_sites > 1 and not study.privacy.secure_sum:
        faults.append(_IN_CLEAR)
    for name in study.model.covariates:
        column = dictionary.column(name)
        if column is not None and column.type in ("number", "integer") and None in (column.min, column.max):
            faults.append(
                Fault(
                    f"[model] covariates, {name}",
                    "the dictionary gives this column no range, and so no bound on what one patient adds to a sum",
                    "add `min` and `max` to it in the dictionary",
                )
            )
    return faults


def _model_faults(study: Study) -> list[Fault]:
    """Return what of the model has no step with noise."""
    model = study.model
    cox = model.method in ("cox", "cox-stratified")
    refused = (
        (cox, _COX),
        (model.method != "hazard" and not cox, _METHOD),
        (not study.endpoint.has_time or bool(study.endpoint.competing), _ENDPOINT),
        (model.tunes_penalty, _PENALTY),
        (bool(model.wide_layers), _LAYERS),
        (model.treatment is not None, _TREATMENT),
    )
    return [fault for is_so, fault in refused if is_so]


def private_steps(
    study: Study,
    dictionary: Dictionary,
    design: tuple[DesignColumn, ...],
    bin_edges: list[float],
    penalties: list[float],
) -> list[PrivateStep]:
    """Return moments, start, fit and baseline, every one of them with noise; their shares add up to 1."""
    differential = study.privacy.differential
    if differential is None:
        raise ValueError("the study asks for no differential privacy")
    ranges = [_range(column, dictionary) for column in design]
    one_piece = [0] * len(bin_edges)
    moments = {"mean": "moments.mean", "scale": "moments.scale"}
    grid = {"edges": "grid.edges", "n_intervals": "grid.n_intervals"}
    start = {
        "alpha": "grid.alpha",
        "events": "grid.events",
        "n_events": "grid.n_events",
        "n_patients": "moments.n_patients",
    }
    return [
        PrivateStep(
            "moments", "private_moments", "Means and units of the covariates over all patients, with noise.",
            {"centres": [centre for centre, _ in ranges], "half_ranges": [half for _, half in ranges],
             "is_number": [_is_number(column, dictionary) for column in design],
             "may_miss": [_may_miss(column, study, dictionary) for column in design],
             **_spends(differential, "moments")},
            {},
        ),
        PrivateStep(
            "grid", "private_grid", "Events and time at risk over all patients, with noise: where the fit starts.",
            {"bin_edges": bin_edges, "pieces": one_piece, **_spends(differential, "grid")}, {},
        ),
        PrivateStep(
            "fit", "private_hazard", "The model's coefficients from all patients' clipped gradients, with noise.",
            {"penalties": penalties, "pieces": one_piece, "clip": differential.clip, "rounds": differential.rounds,
             **_spends(differential, "fit")},
            {**moments, **grid, **start},
        ),
        PrivateStep(
            "baseline", "private_baseline", "The baseline hazard behind predictions, from all patients, with noise.",
            {"pieces": baseline_pieces(bin_edges, study.endpoint.horizons_days), **_spends(differential, "baseline")},
            {**moments, **grid, "beta": "fit.beta"},
        ),
    ]  # fmt: skip


def baseline_pieces(bin_edges: Sequence[float], horizons: Sequence[float]) -> list[int]:
    """Return the piece of each bin in the baseline: few pieces, since each one costs noise in all of them.

    Cut at the horizons (each at the last bin that ends by then), so that what is released counts the events by each
    of them; of more than `_MOST_CUTS` horizons at so many, spread out, the last among them. With fewer, and without
    any, pieces that double: each is as wide as all before it, since fewer patients reach it.

    Args:
        bin_edges: Upper edges of the plan's bins.
        horizons: At which the model is judged, ascending.
    """
    n_bins = len(bin_edges)
    by_then = np.searchsorted(bin_edges, np.asarray(horizons) * (1 + _CLOSE), side="right")
    cuts = sorted({int(cut) for cut in by_then} - {0, n_bins})
    if len(cuts) > _MOST_CUTS:
        cuts = [cuts[i] for i in np.linspace(0, len(cuts) - 1, _MOST_CUTS).round().astype(int)]
    first = cuts[0] if cuts else n_bins
    while len(cuts) < _BASELINE_PIECES - 1 and first > 1:
        first //= 2
        cuts.insert(0, first)
    return [int(piece) for piece in np.searchsorted(cuts, np.arange(n_bins), side="right")]


def _spends(differential: Differential, step: str) -> dict[str, Any]:
    return {"share": SHARES[step], "honest_sites": differential.honest_sites}


def _is_number(design_column: DesignColumn, dictionary: Dictionary) -> bool:
    column = dictionary.column(design_column.column)
    return column is not None and column.type in ("number", "integer")


def _may_miss(design_column: DesignColumn, study: Study, dictionary: Dictionary) -> bool:
    column = dictionary.column(design_column.column)
    return not study.eligibility.complete_cases and (column is None or not column.required)


def _range(design_column: DesignColumn, dictionary: Dictionary) -> tuple[float, float]:
    """Return the middle of a column's range and half its width; an indicator is 0 or 1."""
    column = dictionary.column(design_column.column)
    if column is None or column.min is None or column.max is None:
        return 0.5, 0.5
    return (column.min + column.max) / 2, (column.max - column.min) / 2
