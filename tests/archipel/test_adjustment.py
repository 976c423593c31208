"""A layer that sites correct, as a study asks for it: the plan, a site's checks, the model file, the card."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from archipel.fold_fits import fit
from models.compile import compile_plan
from models.folds import deal
from privacy.inbound import Limits
from schemas.artefact_manifest import ArtefactLayer
from schemas.card import data_use_card
from schemas.cohort import concatenate
from schemas.design import layer_designs
from schemas.study import study_faults
from tests.models.test_layers import DICTIONARY, SITES, study_of
from tests.privacy.test_inbound import honest_run

STUDY = study_of(adjust={"rna": "site"})
MEASURED_APART = {
    name: replace(site, layers={**site.layers, "rna": replace(site.layers["rna"], values=values)})
    for k, (name, site) in enumerate(SITES.items())
    for values in [(1 + 0.5 * k) * site.layers["rna"].values + 3.0 * k]
}


def test_the_plan_s_layer_says_so_and_the_card_too() -> None:
    plan = compile_plan(STUDY, DICTIONARY)
    assert [layer.adjust for layer in layer_designs(STUDY, DICTIONARY)] == ["site", ""]
    assert "corrected by each site for its own location and scale" in re.sub(r"\s+", " ", data_use_card(plan))
    plain = compile_plan(study_of(), DICTIONARY)
    # Nothing more leaves a site for it.
    assert [step.parts for step in plan.steps] == [step.parts for step in plain.steps]


@pytest.mark.parametrize("components", [0, 5])
def test_no_honest_run_is_refused_where_sites_measure_far_apart(components: int) -> None:
    study = study_of(adjust={"rna": "site"}, components=components)
    honest_run(compile_plan(study, DICTIONARY), list(MEASURED_APART.values()), Limits(points=100))


def test_folds_of_a_federation_pass_too() -> None:
    sites = [replace(c, fold_of=deal(c.event, None, 3, b"key", 0, c.patient_ids)) for c in MEASURED_APART.values()]
    honest_run(compile_plan(study_of(folds=3, adjust={"rna": "site"}), DICTIONARY), sites)


def test_a_federation_and_one_pooled_table_give_the_same_model_and_the_platforms_do_not_move_it() -> None:
    federated = fit(STUDY, DICTIONARY, MEASURED_APART)
    pooled = fit(STUDY, DICTIONARY, {"pooled": concatenate(list(MEASURED_APART.values()))})
    np.testing.assert_allclose(federated.model["beta"], pooled.model["beta"], atol=1e-7)
    as_measured_alike = fit(STUDY, DICTIONARY, SITES)
    one, other = (
        np.concatenate([model.log_hazard(c) for c in sites.values()])
        for model, sites in ((federated, MEASURED_APART), (as_measured_alike, SITES))
    )
    assert np.corrcoef(one, other)[0, 1] > 0.98


def test_a_model_file_keeps_it_and_an_older_one_has_none() -> None:
    layer = ArtefactLayer(name="rna", features=("a", "b"), n_components=1, adjust="site")
    assert ArtefactLayer.model_validate_json(layer.model_dump_json()).adjust == "site"
    assert ArtefactLayer(name="rna", features=("a",), n_components=1).adjust == ""


def test_a_layer_that_the_model_has_not_is_a_fault() -> None:
    faults = study_faults(study_of(layers=("rna",), adjust={"cnv": "site"}), DICTIONARY)
    assert any("no wide layer `cnv`" in fault.what for fault in faults)
    assert not study_faults(STUDY, DICTIONARY)
