"""A site with a signed and accepted model and tables of current patients, made without any process."""

from __future__ import annotations

import csv
import datetime
from dataclasses import replace
from pathlib import Path

import numpy as np
from argon2 import PasswordHasher

from client.models import accept_model, store_model
from client.page.accounts import Accounts
from privacy.model_signature import public_text, sign_artefact
from schemas.artefact import Artefact, ArtefactColumn, ArtefactLayer, Manifest, write_artefact
from schemas.canonical import sha256_hex
from schemas.model_card import ModelCard
from tests.client.page.page_kit import small_model
from tests.model_release import SmallHub

ACCOUNT, PASSWORD = "dr.weiss", "correct horse battery"
NOW = datetime.datetime.now(datetime.UTC)
CARD = ModelCard(
    study="small", title="A small study", question="Who lives how long?", run_id="run", mode="federation",
    plan_hash="a" * 64, dictionary="small", dictionary_hash="b" * 64, code_version="0.1.0", created_at=NOW,
    contact="", ethics_reference="",
    intended_use="To show a page.", not_for=("Anything else.",),
    expires=None, endpoint="death", time_unit="day", horizons=(365.0,), eligibility=("all",),
    missing_values="The mean.", sites=("brest",),
    n_patients="500", n_events="200", events_by_horizon=((365.0, "50"),), method="Cox", penalty="none", predictors=(),
    layers=(), evaluation_kind="None.", performance=(), calibration_basis="", calibration=(), floors=("10 patients",),
    privacy=("No noise is added.",), attack=None, attack_reason="A test.", limits=("Made up.",),
    tripod={"1 Title": "title"},
)  # fmt: skip


def ready_site(folder: Path, artefact: Artefact | None = None, *, rate: int = 1000) -> tuple[Path, str]:
    """Make the site and return its folder and the model's hash."""
    hub = SmallHub(folder / "hub")
    site = hub.site(folder / "site")
    bare = small_model().artefact if artefact is None else artefact
    changes = {"card_hash": sha256_hex(CARD.content), "expires": None, "run_id": "another-run"}
    model = sign_artefact(replace(bare, manifest=Manifest(**{**dict(bare.manifest), **changes})), hub.key)
    data = write_artefact(model)
    listed = hub.listed(data, model, CARD.content)
    store_model(site, listed, data, CARD.content, public_text(hub.key), now=lambda: NOW)
    accept_model(site, listed.hash, who="Dr. Weiß", now=lambda: NOW)
    (site / "tables").mkdir(exist_ok=True)
    settings = site / "site.toml"
    settings.write_text(settings.read_text() + f"\n[view]\nviews_per_minute = {rate}\n")
    quick = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    Accounts(site, hasher=quick).add(ACCOUNT, "clinician", PASSWORD)
    return site, listed.hash


def write_small_tables(site: Path) -> None:
    """Three patients of the small model: one whole, one out of range, one without the layer."""
    rows = [("P-1", "50", "II", "0"), ("P-2", "130", "II", "0"), ("P-3", "61", "III", "1")]
    _write(site / "tables" / "clinical.csv", ["patient_id", "age", "stage", "treated"], rows)
    _write(site / "tables" / "rna.csv", ["patient_id", "A", "B", "C", "D"], [("P-1", "0.1", "0.4", "0.2", "0.3")])


def wide_model(n_features: int = 20_000, n_components: int = 10) -> Artefact:
    """A model of age and a wide layer in components."""
    rng = np.random.default_rng(3)
    small = small_model().artefact
    features = tuple(f"ENSG{i:011d}" for i in range(n_features))
    columns = (
        small.manifest.columns[0],
        *(ArtefactColumn(name=f"rna {k + 1}", column="rna", layer="rna", component=k) for k in range(n_components)),
    )
    layer = ArtefactLayer(name="rna", features=features, n_components=n_components)
    p, k = 1 + n_components, 6
    arrays = {
        "mean": np.zeros(p), "scale": np.ones(p), "beta": rng.normal(size=p) / 10,
        "edges": small.edges, "cumulative_hazard": small.cumulative_hazard, "covariance": np.eye(p) / 100,
        "hazard_variance": np.full(k, 1e-4), "hazard_slope": rng.normal(size=(k, p)) / 100,
        "rna_mean": rng.normal(size=n_features), "rna_scale": np.ones(n_features),
        "rna_loadings": rng.normal(size=(n_features, n_components)) / 141,
    }  # fmt: skip
    arrays["mean"][0], arrays["scale"][0] = 55, 10
    content = {**dict(small.manifest), "columns": columns, "layers": (layer,), "treatment": None, "arrays": {}}
    return Artefact(Manifest(**content), arrays)


def write_wide_tables(site: Path, n_patients: int, n_features: int = 20_000) -> None:
    """Patients P-0, P-1 ... of the wide model."""
    rng = np.random.default_rng(4)
    names = [f"P-{i}" for i in range(n_patients)]
    _write(
        site / "tables" / "clinical.csv",
        ["patient_id", "age"],
        [(name, str(40 + i % 30)) for i, name in enumerate(names)],
    )
    values = rng.normal(size=(n_patients, n_features)).round(3)
    rows = [(name, *map(str, values[i])) for i, name in enumerate(names)]
    _write(site / "tables" / "rna.csv", ["patient_id", *(f"ENSG{i:011d}" for i in range(n_features))], rows)


def _write(path: Path, header: list[str], rows: list[tuple[str, ...]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
