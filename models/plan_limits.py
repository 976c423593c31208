"""What a plan with wide layers may not be: names that would stand for two arrays, and messages too large to move."""

from __future__ import annotations

from collections.abc import Iterable

from schemas.errors import Fault
from schemas.plan import ArraySpec, PlanStep
from schemas.study import Study

LARGEST_MESSAGE = 32 * 2**20
"""Bytes of one question or answer."""

# `n_observed` and `total_squares` are sums of the covariates already (`models.moments`).
_TAKEN = ("n", "total")
# Wider bounds take a second word under the secure sum of up to 33 sites (`privacy.fixed_point`).
_ONE_WORD = 4e6


def name_faults(study: Study) -> list[Fault]:
    """Return the layers whose arrays would bear the name of another array."""
    return [
        Fault("[model] layers", f"a layer cannot be called `{name}`: sums of that name exist already", "rename it")
        for name in study.model.wide_layers
        if name in _TAKEN
    ]


def size_faults(study: Study, steps: Iterable[PlanStep]) -> list[Fault]:
    """Return the first question or answer that is larger than a message may be, as a fault; nothing if none is."""
    for step in steps:
        for part in step.parts:
            asked = 8 * sum(spec.size for spec in part.sends)
            answered = sum(_bytes_of(spec, masked=study.privacy.secure_sum) for spec in part.releases)
            if max(asked, answered) > LARGEST_MESSAGE:
                return [_too_large(study, step, "question" if asked > answered else "answer", max(asked, answered))]
    return []


def _bytes_of(spec: ArraySpec, *, masked: bool) -> int:
    return spec.size * (16 if masked and spec.bound > _ONE_WORD else 8)


def _too_large(study: Study, step: PlanStep, what: str, size: int) -> Fault:
    remedies = ["name fewer features in the layer's features file"]
    if study.model.components and study.model.wide_layers:
        remedies.insert(0, "write fewer `components`")
    if step.method == "penalty_search":
        remedies.insert(0, "write the penalties")
    if step.cohort == "folds":
        remedies.insert(0, "write fewer `folds`")
    large = f"one {what} of step {step.name} would have {size / 2**20:.0f} MiB; a message has at most "
    return Fault("[model] layers", f"{large}{LARGEST_MESSAGE >> 20}", ", or ".join(remedies))
