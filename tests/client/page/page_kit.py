"""Small models and rows for the patient page's tests."""

from __future__ import annotations

import datetime
from dataclasses import replace
from typing import Any

import numpy as np

from client.page.open_model import OpenModel
from client.page.shapes import Asked, Notice, Prognosis, Refused, Row
from schemas.artefact import (
    Artefact,
    ArtefactCause,
    ArtefactColumn,
    ArtefactLayer,
    HorizonEvents,
    LogHazardQuantile,
    Manifest,
)
from schemas.artefact_manifest import PopulationRange

TODAY = datetime.date(2026, 11, 21)
HASH = "b" * 64
ASKED = Asked(TODAY)
GOOD_CELLS = {"age": 50.0, "stage": 1.0, "treated": 0.0}

COLUMNS = (
    ArtefactColumn(
        name="age", column="age", layer="clinical", type="number", unit="year", min=0, max=110, required=True,
        description="Age at diagnosis",
    ),
    ArtefactColumn(name="stage[II]", column="stage", layer="clinical", code="II", type="category",
                   codes=("I", "II", "III")),
    ArtefactColumn(name="stage[III]", column="stage", layer="clinical", code="III", type="category",
                   codes=("I", "II", "III")),
    ArtefactColumn(name="treated", column="treated", layer="clinical", type="boolean"),
    ArtefactColumn(name="treated x age", column="age", layer="clinical", type="number", unit="year", min=0, max=110,
                   treatment="treated"),
    ArtefactColumn(name="rna 1", column="rna", layer="rna", component=0),
    ArtefactColumn(name="rna 2", column="rna", layer="rna", component=1),
)  # fmt: skip
BETA = np.array([0.3, 0.4, 0.9, -0.5, 0.2, 0.5, -0.3])


def small_model(*, interval: bool = True, treatment: bool = True, **changes: Any) -> OpenModel:
    """A model of age, stage, a treatment with its interaction, and a layer of four features in two components."""
    layer = ArtefactLayer(name="rna", features=("A", "B", "C", "D"), n_components=2)
    content: dict[str, Any] = {
        "study": "small", "title": "A small study", "run_id": "small-1", "mode": "federation", "method": "hazard",
        "code_version": "0.1.0", "created_at": datetime.datetime(2026, 11, 1, tzinfo=datetime.UTC),
        "plan_hash": "a" * 64, "dictionary": "small", "dictionary_hash": HASH, "time_unit": "day",
        "endpoint": "Death of any cause", "exact_times": False, "horizons": (365.0, 1095.0, 1825.0),
        "columns": COLUMNS, "layers": (layer,), "treatment": "treated" if treatment else None,
        "events_by_horizon": (
            HorizonEvents(horizon=365, events="<10", at_least=0),
            HorizonEvents(horizon=1095, events="40", at_least=38),
            HorizonEvents(horizon=1825, events="80", at_least=78),
        ),
        "population": (PopulationRange(column="age", low=20.0, high=80.0),),
        "log_hazards": tuple(
            LogHazardQuantile(share=share, log_hazard=edge) for share, edge in ((0.1, -1.0), (0.5, 0.0), (0.9, 1.0))
        ),
        "arrays": {},
    }  # fmt: skip
    k, p = 6, len(COLUMNS)
    rng = np.random.default_rng(5)
    root = rng.normal(size=(p, p)) / 20
    hazard = np.array([0.02, 0.03, 0.05, 0.06, 0.08, 0.1])
    arrays = {
        "mean": np.array([55.0, 0.4, 0.2, 0.5, 54.0, 0.0, 0.0]), "scale": np.array([10.0, 1, 1, 1, 10.0, 1, 1]),
        "beta": BETA, "edges": np.array([365.0, 730, 1095, 1460, 1825, 2000]), "cumulative_hazard": np.cumsum(hazard),
        "rna_mean": np.full(4, 0.1), "rna_scale": np.array([1.0, 2.0, 0.0, 1.0]),
        "rna_loadings": rng.normal(size=(4, 2)) / 4,
    }  # fmt: skip
    if interval:
        arrays |= {
            "covariance": root @ root.T,
            "hazard_variance": hazard**2 / np.array([6.0, 12, 20, 20, 20, 20]),
            "hazard_slope": -hazard[:, None] * rng.normal(size=(k, p)) / 5,
        }
    return OpenModel("c" * 64, Artefact(Manifest(**{**content, **changes}), arrays))


def competing_model(**changes: Any) -> OpenModel:
    """The same model of a relapse that death or a transplant can forestall; fewer than ten had a transplant."""
    one = small_model()
    arrays = dict(one.artefact.arrays)
    rng = np.random.default_rng(6)
    for number, rate in ((2, 0.04), (3, 0.01)):
        hazard = np.full(6, rate)
        arrays |= {
            f"cause_{number}_beta": BETA[::-1] / 2, f"cause_{number}_cumulative_hazard": np.cumsum(hazard),
            f"cause_{number}_covariance": arrays["covariance"] * number,
            f"cause_{number}_hazard_variance": hazard**2 / 15,
            f"cause_{number}_hazard_slope": -hazard[:, None] * rng.normal(size=(6, len(BETA))) / 5,
        }  # fmt: skip
    manifest = one.artefact.manifest
    transplants = (HorizonEvents(horizon=1825, events="<10", at_least=0),)
    deaths = (HorizonEvents(horizon=1825, events="40", at_least=38),)
    causes = (
        ArtefactCause(code="relapse", n_events="90", events_by_horizon=manifest.events_by_horizon),
        ArtefactCause(code="death", n_events="45", events_by_horizon=deaths),
        ArtefactCause(code="3", n_events="<10", events_by_horizon=transplants),
    )
    said = {"title": "Relapse after surgery (made-up figures)", "endpoint": "Relapse", "causes": causes}
    content = {**dict(manifest), **said, **changes}
    return OpenModel("e" * 64, Artefact(Manifest(**content), arrays))


def small_row(**changes: Any) -> Row:
    """A patient of whom everything but the rna layer is known."""
    return replace(Row("table", HASH, GOOD_CELLS, in_sample=False, patient_id="P-1"), **changes)


def with_cells(**cells: float) -> Row:
    """The same patient with other cells."""
    return small_row(cells={**GOOD_CELLS, **cells})


def codes(found: Prognosis | Refused | tuple[Notice, ...]) -> list[str]:
    """The codes of a refusal's reasons, of a prognosis' warnings, or of notices."""
    notices = (
        found.reasons if isinstance(found, Refused) else found.warnings if isinstance(found, Prognosis) else found
    )
    return [notice.code for notice in notices]
