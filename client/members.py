"""Who stands behind a run's sums at this site, as keyed fingerprints, and whether a new run comes too close to them.

The runner writes the fingerprints of a run's cohort when it is set up; the guard compares them with those of every
run in which a summand has left, before anything of the new run leaves (`privacy.differencing`). They are HMACs under
a secret of the site, lie in the run's own folder (mode 0600) and never leave it.

Patients count over all studies, since two studies that share one column are enough for a difference. Rows count where
two studies read the same columns. Lists of sites count where two studies have the same endpoint and cohort and their
sums are masked: in clear the hub has each site's own numbers anyway.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from client.state import SitePaths, fold_key
from privacy.differencing import (
    differs_too_little,
    fingerprints,
    isolates_too_few,
    sites_differ_too_little,
)
from privacy.storage import StorageError, storage_error, write_durably
from schemas.canonical import canonical_json, sha256_hex
from schemas.codes import Code
from schemas.cohort import Cohort
from schemas.plan import Plan

__all__ = ["Members", "closeness", "is_member", "load_members", "members_of", "record_members", "salt_of"]

_SALT_PURPOSE = b"archipel fingerprints of cohorts"
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}")


class Members(BaseModel):
    """One run's cohort at this site.

    Attributes:
        question: Hash of endpoint and eligibility.
        reads: Hash of the columns that are read of each patient.
        masked: Whether the hub sees sums over sites alone.
        exact: Whether they leave without the noise of differential privacy, under which no difference tells anything.
        sites: Of the run.
        rows: Fingerprint of each patient -> of what is read of them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["members"] = "members"
    version: Literal[1] = 1
    question: str
    reads: str
    masked: bool
    exact: bool = True
    sites: tuple[str, ...]
    rows: dict[str, str]


def closeness(now: Members, previous: Sequence[Members]) -> Code | None:
    """Judge a run against those in which this site has released sums.

    Returns:
        `COHORT_TOO_CLOSE`, `SITES_TOO_CLOSE`, or None.
    """
    if not now.exact:
        return None
    previous = [known for known in previous if known.exact]
    lists = [known.sites for known in previous if known.masked and known.question == now.question]
    if now.masked and sites_differ_too_little(lists, now.sites):
        return Code.SITES_TOO_CLOSE
    patients = [dict.fromkeys(known.rows, "") for known in previous]
    alike = [known.rows for known in previous if known.reads == now.reads]
    own = dict.fromkeys(now.rows, "")
    if differs_too_little(patients, own) or differs_too_little(alike, now.rows):
        return Code.COHORT_TOO_CLOSE
    isolates = isolates_too_few(patients, own) or isolates_too_few(alike, now.rows)
    return Code.COHORT_TOO_CLOSE if isolates else None


def members_of(cohort: Cohort, plan: Plan, sites: Sequence[str], salt: bytes) -> Members:
    """Return the fingerprints of a cohort.

    Args:
        cohort: As the run computes on it.
        plan: Of the run.
        sites: Of the run.
        salt: The site's secret.
    """
    columns = [(name, *layer.columns) for name, layer in sorted(cohort.layers.items())]
    values = np.column_stack(
        [cohort.time, cohort.event.astype(np.float64), cohort.entry]
        + [layer.values for _, layer in sorted(cohort.layers.items())]
    )
    groups = cohort.group if cohort.group is not None else np.full(cohort.n_patients, "")
    rows = {
        patient: np.ascontiguousarray(row).tobytes() + str(group).encode()
        for patient, row, group in zip(cohort.patient_ids, values, groups, strict=True)
    }
    study = plan.study
    question = {
        "endpoint": study.endpoint.model_dump(mode="json", include={"time", "event", "entry"}),
        "eligibility": study.eligibility.model_dump(mode="json"),
        "complete": sorted(study.model.covariates) if study.eligibility.complete_cases else [],
    }
    reads = {"endpoint": question["endpoint"], "columns": columns, "group": study.evaluation.group}
    return Members(
        question=sha256_hex(canonical_json(question)),
        reads=sha256_hex(canonical_json(reads)),
        masked=study.privacy.secure_sum,
        exact=study.privacy.differential is None,
        sites=tuple(sites),
        rows=fingerprints(rows, salt),
    )


def salt_of(key: bytes) -> bytes:
    """Return the secret of the fingerprints.

    Args:
        key: The site's secret (`client.state.fold_key`).
    """
    return hmac.digest(key, _SALT_PURPOSE, "sha256")


def record_members(paths: SitePaths, run_id: str, members: Members) -> None:
    """Write the fingerprints of a run's cohort.

    Raises:
        StorageError: When they cannot be written.
    """
    write_durably(paths.members(run_id), canonical_json(members.model_dump(mode="json")))


def is_member(paths: SitePaths, run_id: str, patient_id: str) -> bool | None:
    """Return whether a patient of this site was in a run's cohort; None where the site does not know its members.

    Args:
        paths: Of the site.
        run_id: Of the run; one that is not well formed names no folder of this site.
        patient_id: The site's identifier.

    Raises:
        StorageError: When the site's secret cannot be read.
    """
    if not _RUN_ID.fullmatch(run_id) or not paths.members(run_id).exists():
        return None
    try:
        members = load_members(paths, run_id)
    except StorageError:  # damaged: that nobody trained would be a guess
        return None
    salt = salt_of(fold_key(paths))
    return next(iter(fingerprints({patient_id: b""}, salt))) in members.rows


def load_members(paths: SitePaths, run_id: str) -> Members:
    """Return the fingerprints of a run's cohort.

    Raises:
        StorageError: When they are missing or damaged: a run that cannot be compared releases nothing.
    """
    path = paths.members(run_id)
    try:
        return Members.model_validate_json(path.read_bytes())
    except OSError as error:
        raise storage_error(path, error) from None
    except ValidationError:
        raise StorageError(f"{path.name} of run {run_id} is damaged: restore it from backup") from None
