"""No two releases may differ by few: their difference would be a patient's, or a site's, numbers. Pure, no IO.

A sum over a cohort and a sum over the same cohort with one patient more are each harmless; their difference is that
patient's row (privacy decision 5). So a site keeps, of every cohort that it released exact sums over, one keyed
fingerprint for each patient, and refuses a cohort that differs from an earlier one by one to nine patients: ages from
18 and then from 19, an opt-out between two runs, a corrected cell. In the same way nobody may ask the same of all
sites and then of all but one.

Pairs of releases are not the whole danger: A - (A without S) - (A without T) + (A without S and T) is what S and T
share, which may be one patient while all four differ by ten and more. `isolates_too_few` looks at all combinations.

What the caller decides: which earlier releases count (all exact ones over the same tables, of whatever study; those
under differential privacy need not, and a study under it may differ as it likes), and where the sets are kept (at
the site, with its key; they never leave it).
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from schemas.plan import Plan
from schemas.study import MIN_PATIENTS_FLOOR

Members = Mapping[str, str]
"""Who stands behind a release: fingerprint of each patient (or name of a site) -> of the patient's row (or '')."""

MIN_SITES = 3
_MOST_SYSTEMS = 20_000
_ZERO = 1e-9


def fingerprints(rows: Mapping[str, bytes], salt: bytes) -> dict[str, str]:
    """Return the fingerprints of a cohort, HMAC-SHA256 (RFC 2104) under the site's own secret.

    Args:
        rows: Identifier of each patient -> what the study reads of them, as bytes; a corrected cell makes another
            row, and the difference of sums before and after is that correction.
        salt: Secret of the site, at least 16 bytes.

    Raises:
        ValueError: For a short secret: identifiers could be found by trying them all.
    """
    if len(salt) < 16:
        raise ValueError("the secret of the fingerprints is shorter than 16 bytes")
    return {
        _mac(salt, b"patient", patient.encode()): _mac(salt, b"row", patient.encode() + b"\0" + row)
        for patient, row in rows.items()
    }


def site_members(sites: Iterable[str]) -> dict[str, str]:
    """Return a run's list of sites in the form that the rules below take."""
    return dict.fromkeys(sites, "")


def n_different(one: Members, other: Members) -> int:
    """Return how many patients (or sites) are in one of two releases alone, or in both with different rows."""
    return sum(one.get(member) != other.get(member) for member in one.keys() | other.keys())


def differs_too_little(previous: Iterable[Members], now: Members, *, at_least: int = MIN_PATIENTS_FLOOR) -> bool:
    """Whether the cohort differs from an earlier released one by some, but fewer than `at_least` patients."""
    return any(0 < n_different(before, now) < at_least for before in previous)


def sites_differ_too_little(previous: Iterable[Iterable[str]], now: Iterable[str]) -> bool:
    """Whether a list of sites differs from one that answered the same question by one or two sites."""
    lists = [site_members(sites) for sites in previous]
    return differs_too_little(lists, site_members(now), at_least=MIN_SITES)


def isolates_too_few(previous: Sequence[Members], now: Members, *, at_least: int = MIN_PATIENTS_FLOOR) -> bool:
    """Whether some combination of the releases so far and this one covers some, but fewer than `at_least` patients.

    Patients who were in exactly the same releases can never be told apart: they are one cell. A combination of the
    releases gives every cell a weight; it must give 0 to every cell of `at_least` patients, or it covers enough.
    Among the combinations that do, the smallest cover is found by trying which further cells can be 0 as well.
    Where that is too much to try, the answer is yes.

    Args:
        previous: Members of each exact release over the same tables.
        now: Of the release that is asked for.
        at_least: Patients, or sites.
    """
    releases = [dict(members) for members in {tuple(sorted(m.items())): m for m in [*previous, now]}.values()]
    weights, covers = _cells(releases)
    size = np.array([len(cover) for cover in covers])
    free = _null_space(weights[size >= at_least])
    small = np.flatnonzero(size < at_least)
    values = weights[small] @ free
    touched = small[np.abs(values).max(axis=1, initial=0.0) > _ZERO]
    if not touched.size:
        return False
    return _has_small_cover(weights[touched] @ free, [covers[int(cell)] for cell in touched], at_least)


def plan_fault(plan: Plan, n_sites: int) -> Literal["sites", "patients"] | None:
    """Return why two releases of a plan differ by too little, as far as a plan can know.

    Steps look at all patients, at those that train, and at those held out; the difference of any two is one of
    these parts. Each must stand on `MIN_SITES` sites, and on ten patients: of each site where a step is not folded,
    of the federation (checked in the run, `models.folded`) where it is. How many sites hold somebody out, and who
    meets the criteria, no plan knows: that is what `differs_too_little` is for.

    Args:
        plan: To be approved.
        n_sites: Of the run; `MIN_SITES` where they are not known yet.

    Returns:
        What is too few, or None.
    """
    parts = {step.cohort for step in plan.steps} | {
        str(step.settings["look_at"]) for step in plan.steps if "look_at" in step.settings
    }
    if len(parts) > 1 and n_sites < MIN_SITES:
        return "sites"
    floors = [step.min_patients for step in plan.steps if "look_at" not in step.settings]
    return "patients" if any(floor < MIN_PATIENTS_FLOOR for floor in floors) else None


def _mac(salt: bytes, purpose: bytes, content: bytes) -> str:
    return hmac.new(salt, purpose + b"\0" + content, hashlib.sha256).hexdigest()[:32]


def _cells(releases: Sequence[Members]) -> tuple[NDArray[np.float64], list[frozenset[str]]]:
    """Return the (cells, releases) memberships, 0 or 1, and the members of each cell."""
    elements = {item for members in releases for item in members.items()}
    cells: dict[tuple[bool, ...], set[str]] = {}
    for member, row in elements:
        cells.setdefault(tuple(members.get(member) == row for members in releases), set()).add(member)
    weights = np.array(list(cells), dtype=np.float64).reshape(len(cells), len(releases))
    return weights, [frozenset(members) for members in cells.values()]


def _null_space(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (releases, d) combinations that give 0 to every row."""
    if not matrix.shape[0]:
        return np.eye(matrix.shape[1])
    _, singular, basis = np.linalg.svd(matrix, full_matrices=True)
    return np.asarray(basis[int((singular > _ZERO * max(1.0, singular[0])).sum()) :].T)


def _has_small_cover(values: NDArray[np.float64], covers: Sequence[frozenset[str]], at_least: int) -> bool:
    """Whether some combination of the columns of `values` (cells, d) is not 0 on fewer than `at_least` members.

    A combination of smallest cover is 0 on d - 1 cells that determine it up to its size.
    """
    rank = int(np.linalg.matrix_rank(values, tol=_ZERO))
    left, singular, _ = np.linalg.svd(values, full_matrices=False)
    basis = left[:, :rank] * singular[:rank]
    if _n_systems(len(covers), rank - 1) > _MOST_SYSTEMS:
        return True
    for zeros in itertools.combinations(range(len(covers)), rank - 1):
        space = _null_space(basis[list(zeros)])
        if space.shape[1] != 1:
            continue
        reached = np.flatnonzero(np.abs(basis @ space[:, 0]) > _ZERO)
        if len(frozenset().union(*(covers[int(cell)] for cell in reached))) < at_least:
            return True
    return False


def _n_systems(n: int, k: int) -> float:
    return float(np.prod([(n - i) / (i + 1) for i in range(k)]))
