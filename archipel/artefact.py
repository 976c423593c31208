"""Makes the artefact of a finished run from its arrays and its result."""

from __future__ import annotations

from collections.abc import Mapping

from models.step import Floats
from schemas.artefact import Artefact, ArtefactColumn, Manifest, write_artefact
from schemas.result import Result


def artefact_bytes(arrays: Mapping[str, Floats], result: Result) -> bytes:
    """Return the content of ``model.safetensors``.

    Args:
        arrays: ``step.array`` of a finished run.
        result: Of the same run.
    """
    n_intervals = int(arrays["grid.n_intervals"])
    manifest = Manifest(
        study=result.study.name,
        run_id=result.run_id,
        mode=result.mode,
        method=result.method,
        code_version=result.code_version,
        created_at=result.created_at,
        plan_hash=result.plan_hash,
        dictionary=result.dictionary.name,
        dictionary_hash=result.dictionary.hash,
        endpoint=result.study.endpoint,
        time_unit=result.study.time_unit,
        exact_times=result.exact_times,
        columns=tuple(
            ArtefactColumn(name=column.name, column=column.column, layer=column.layer, code=column.code)
            for column in result.covariates
        ),
        epsilon=result.differential.epsilon if result.differential is not None else None,
        delta=result.differential.delta if result.differential is not None else None,
        arrays={},
    )
    return write_artefact(
        Artefact(
            manifest=manifest,
            mean=arrays["moments.mean"],
            scale=arrays["moments.scale"],
            beta=arrays["fit.beta"],
            covariance=arrays["fit.covariance"],
            edges=arrays["grid.edges"][:n_intervals],
            cumulative_hazard=arrays["baseline.cumulative_hazard"][:n_intervals],
        )
    )
