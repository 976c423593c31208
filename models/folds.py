"""Who is judged: folds within a site, the part that a real site holds out, and folds that a column deals out.

Every deal is made inside one site from a secret key and the patients' own identifiers (HMAC-SHA256, RFC 2104), so
that it can be repeated, does not depend on the order of rows, and cannot be guessed by the hub. Relatives share a
fold. What the caller does with a deal is not decided here.
"""

from __future__ import annotations

import hashlib
import hmac
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from schemas.cohort import Cohort
from schemas.errors import ArchipelError
from schemas.study import MIN_PATIENTS_FLOOR

Mask = NDArray[np.bool_]
N_INNER_FOLDS = 10
"""Of the cross-validation that chooses penalties (`models.penalty_search`)."""
# No fold has these numbers, so these are dealt independently of all folds.
_HELD_OUT_REPEAT = -1
_INNER_REPEAT = -2


@dataclass(frozen=True)
class _Family:
    """Patients that stay together: relatives, or one patient alone.

    Attributes:
        rows: Their indices.
        n_events: How many of them had the event.
        digest: HMAC of the family; its rank is the luck of the draw.
    """

    rows: tuple[int, ...]
    n_events: int
    digest: bytes


def deal(
    event: Mask,
    group: NDArray[np.str_] | None,
    n_folds: int,
    key: bytes,
    repeat: int,
    patient_ids: Sequence[str],
) -> NDArray[np.intp]:
    """Deal one site's patients into folds, balanced in size and in events, relatives together.

    Families with an event come first, then the others; within each, in the order of their HMAC (larger families
    first, since small ones even out what large ones leave). Each goes to the fold that is shortest of events,
    then of patients. Without relatives that is dealing in turn. Which fold is first in a tie turns with the site's
    own digest, so that over many small sites no fold is systematically the largest.

    Args:
        event: (n_patients,), True where the event was observed.
        group: (n_patients,) labels of relatives, empty where a patient has none; or None.
        n_folds: At least 2.
        key: Secret of the site.
        repeat: Deals with another number are independent.
        patient_ids: (n_patients,) identifiers, distinct.

    Returns:
        (n_patients,) fold of each patient, 0 .. n_folds - 1.

    Raises:
        ValueError: For fewer than two folds, or arguments of different lengths.
    """
    if n_folds < 2:
        raise ValueError("there must be at least two folds")
    families = _families(event, group, key, repeat, patient_ids)
    fold = np.zeros(len(patient_ids), dtype=np.intp)
    size, events = [0] * n_folds, [0] * n_folds
    first = int.from_bytes(min((family.digest for family in families), default=b"\0"), "big")
    for family in sorted(families, key=lambda one: (one.n_events == 0, -len(one.rows), one.digest)):
        order = ((first + step) % n_folds for step in range(n_folds))
        to = min(order, key=lambda k: (events[k] if family.n_events else 0, size[k]))
        fold[list(family.rows)] = to
        size[to] += len(family.rows)
        events[to] += family.n_events
    return fold


def with_inner_folds(cohort: Cohort, key: bytes) -> Cohort:
    """Return one site's patients with the folds in which penalties are chosen, dealt independently of all others."""
    labels = deal(cohort.event, cohort.group, N_INNER_FOLDS, key, _INNER_REPEAT, cohort.patient_ids)
    return replace(cohort, inner_fold_of=labels)


def held_out_part(cohort: Cohort, key: bytes, fraction: float, minimum: int = MIN_PATIENTS_FLOOR) -> Mask | None:
    """Choose the patients that a real site keeps from training, to judge the model on.

    At least `minimum` patients on either side, about `fraction` of the patients and of the events held out,
    relatives on one side. Both sides are released as sums, which is why neither may be small.

    Args:
        cohort: One site's patients.
        key: Secret of the site.
        fraction: Wanted share of held-out patients, in (0, 1).
        minimum: Floor of patients, held out and left for training.

    Returns:
        (n_patients,), True where held out; None where the site is too small (or its families too large).

    Raises:
        ValueError: For a fraction outside (0, 1).
    """
    if not 0 < fraction < 1:
        raise ValueError("the held-out fraction must lie between 0 and 1")
    n = cohort.n_patients
    if n < 2 * minimum or n < 2:
        return None
    families = _families(cohort.event, cohort.group, key, _HELD_OUT_REPEAT, cohort.patient_ids)
    ranked = sorted(families, key=lambda one: one.digest)
    wanted = min(max(math.floor(fraction * n + 0.5), minimum, 1), n - max(minimum, 1))
    wanted_events = math.floor(cohort.n_events * wanted / n + 0.5)
    mask = np.zeros(n, dtype=np.bool_)

    def draw(candidates: Sequence[_Family], most_patients: int, most_events: int) -> None:
        for family in candidates:
            n_patients = mask.sum() + len(family.rows)
            n_events = cohort.event[mask].sum() + family.n_events
            if not mask[family.rows[0]] and n_patients <= most_patients and n_events <= most_events:
                mask[list(family.rows)] = True

    draw([family for family in ranked if family.n_events], wanted, wanted_events)
    draw([family for family in ranked if not family.n_events], wanted, wanted_events)
    draw(ranked, wanted, n)  # nearly all had the event
    if mask.sum() < minimum:  # large families: reach the floor by the smallest
        draw(sorted(ranked, key=lambda one: (len(one.rows), one.digest)), n - minimum, n)
    return mask if mask.sum() >= max(minimum, 1) else None


def column_folds(labels: NDArray[np.str_]) -> list[tuple[Mask, Mask]]:
    """Return the folds that a column deals out, as (training mask, test mask), in the order of the labels.

    Every distinct label is a fold that is tested on a model of all others. The labels ``train`` and ``test`` alone
    are the one split that they name: nobody is trained on the test part.

    Raises:
        ArchipelError: When all patients carry one label, so that nobody is left to train on.
    """
    distinct = sorted(set(labels.tolist()))
    if len(distinct) < 2:
        raise ArchipelError(
            "the column that deals the folds must hold at least two different values: "
            "name another column under [evaluation] folds, or a number of folds"
        )
    tests = ["test"] if distinct == ["test", "train"] else distinct
    return [(labels != label, labels == label) for label in tests]


def _families(
    event: Mask, group: NDArray[np.str_] | None, key: bytes, repeat: int, patient_ids: Sequence[str]
) -> list[_Family]:
    if len(event) != len(patient_ids) or (group is not None and len(group) != len(patient_ids)):
        raise ValueError("events, relatives and patient identifiers must be of one length")
    digests = [_digest(key, repeat, patient) for patient in patient_ids]
    members: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row, patient in enumerate(patient_ids):
        label = "" if group is None else str(group[row])
        members[("family", label) if label else ("alone", patient)].append(row)
    return [
        _Family(tuple(rows), int(event[rows].sum()), min(digests[row] for row in rows)) for rows in members.values()
    ]


def _digest(key: bytes, repeat: int, patient: str) -> bytes:
    # The number ends at the first zero byte, so no two (repeat, patient) share a message.
    return hmac.new(key, f"{repeat}\0{patient}".encode(), hashlib.sha256).digest()
