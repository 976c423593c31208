"""An invented federation with wide layers, as cohorts, dictionary and study in memory."""

from typing import Any

import numpy as np

from schemas.cohort import Cohort, Layer
from schemas.dictionary import Column, Dictionary, WideLayer
from schemas.study import Endpoint, Evaluation, Model, Privacy, Study

N_GENES = 30
GENES = tuple(f"g{j}" for j in range(N_GENES))


def dictionary(*, wide: bool = True) -> Dictionary:
    """Age, stage, and a layer of thirty genes."""
    columns = (
        Column(name="patient_id", type="identifier"),
        Column(name="time", type="number", unit="month", min=0, max=16),
        Column(name="event", type="boolean"),
        Column(name="age", type="number", unit="year", min=-10, max=10),
        Column(name="stage", type="number", unit="1", min=-10, max=10),
    )
    layers = (WideLayer(name="rna", type="number", columns="*", features="rna.features", identifiers=GENES),)
    return Dictionary(kind="dictionary", version=1, name="invented", columns=columns, layers=layers if wide else ())


def study(**changed: Any) -> Study:
    """Both layers, three components, penalties by cross-validation, two folds; `changed` replaces parts."""
    model: dict[str, Any] = {"layers": ("clinical", "rna"), "covariates": ("age", "stage"), "components": 3}
    content: dict[str, Any] = {
        "kind": "study",
        "version": 1,
        "name": "invented",
        "dictionary": "dictionary.toml",
        "endpoint": Endpoint(time="time", event="event", horizons_days=(5.0,)),
        "model": Model(**model, penalty="cv"),
        "evaluation": Evaluation(folds=2),
        "privacy": Privacy(min_patients=1, time_bins=16),
    }
    return Study.model_validate({**content, **changed})


def sites(n: int = 180, seed: int = 0, n_sites: int = 3) -> dict[str, Cohort]:
    """Patients of several sites; age and one direction of the genes matter."""
    rng = np.random.default_rng(seed)
    clinical, factor = rng.normal(size=(n, 2)), rng.normal(size=(n, 2))
    genes = factor @ rng.normal(size=(2, N_GENES)) + rng.normal(size=(n, N_GENES))
    failure = rng.exponential(np.exp(-0.7 * clinical[:, 0] - 0.6 * factor[:, 0]) * 8)
    censoring = rng.uniform(0.5, 16, size=n)
    cohort = Cohort(
        patient_ids=tuple(f"p{i}" for i in range(n)),
        time=np.minimum(failure, censoring),
        event=failure <= censoring,
        entry=np.zeros(n),
        layers={"clinical": Layer(("age", "stage"), clinical), "rna": Layer(GENES, genes)},
        site="",
    )
    return {f"site-{k}": cohort.take(np.arange(n) % n_sites == k) for k in range(n_sites)}
