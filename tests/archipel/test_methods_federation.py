"""Every method over real processes: hub and sites with TLS, gate, inbound check, secure sum and the default floors.

The oracle is the plan run in this process over the same tables, dealt into folds by the keys of the same sites: each
array that the hub ends up with has to be the one that plain sums give. What people get from a run (result, report,
model file and card) is made of every one.
"""

from __future__ import annotations

import shutil
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w

from archipel import runs
from archipel.demo import CONFIGS, make_sites
from archipel.local_federation import LocalFederation, find_sites
from archipel.local_run import run_plan
from archipel.model_card import make_card, write_card
from archipel.outputs import write_outputs
from archipel.report import read_result
from archipel.simulate import simulate
from archipel.site_folders import read_sites
from archipel.studies import compile_study
from client.state import SitePaths, fold_key
from experiments.shared_cohorts.make_sites import make_sites as make_cohort_sites
from models.folds import deal, with_inner_folds
from models.step import Floats
from schemas.artefact import read_artefact
from schemas.cohort import Cohort
from schemas.model_card import read_card
from schemas.plan import Plan
from schemas.result import Result
from server.launcher import online_sites
from server.runs import list_rounds

# A loaded machine takes a second a round, and these are some hundred rounds.
pytestmark = [pytest.mark.processes, pytest.mark.timeout(900)]

TOLERANCE = 1e-6
WIDEST_MESSAGE = 32e6
NETWORK = {"method": "hazard-network", "components": 10, "network": {"rounds": 8}}


@dataclass(frozen=True)
class Federation:
    """Running processes, and the study of which the tests run variants."""

    running: LocalFederation
    tables: Path
    study: Path


@dataclass(frozen=True)
class Ran:
    """One finished run.

    Attributes:
        arrays: ``step.array`` as the hub stored them.
        rounds: Of each step.
    """

    plan: Plan
    study: Path
    result: Result
    arrays: Mapping[str, Floats]
    rounds: Mapping[str, int]


@pytest.fixture(scope="module")
def acc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    tables = tmp_path_factory.mktemp("acc")
    make_sites("acc", tables)
    with _running(tmp_path_factory.mktemp("federation"), tables, CONFIGS / "acc" / "study-tuned.toml") as federation:
        yield federation


@pytest.fixture(scope="module")
def acc_outcomes(acc: Federation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """Sites of their own: two patients have no nodes and no stage, and a site that had released sums over all of
    them would refuse sums without those two."""
    study = CONFIGS / "acc" / "study-nodes.toml"
    with _running(tmp_path_factory.mktemp("federation"), acc.tables, study) as federation:
        yield federation


@pytest.fixture(scope="module")
def glioma(cohorts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """The twelve sites of tcga_gbmlgg, put together to three."""
    made = make_cohort_sites(cohorts, "tcga_gbmlgg", tmp_path_factory.mktemp("glioma"), n_sites=3)
    with _running(tmp_path_factory.mktemp("federation"), made.sites, made.study) as federation:
        yield federation


@pytest.fixture(scope="module")
def cgd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """Three of the demo's five sites."""
    tables = tmp_path_factory.mktemp("cgd")
    make_sites("cgd", tables)
    for name in ("amsterdam", "scripps-institute"):
        shutil.rmtree(tables / name)
    with _running(tmp_path_factory.mktemp("federation"), tables, CONFIGS / "cgd" / "study.toml") as federation:
        yield federation


# ---------------------------------------------------------------- six layers, one of them missing at a site
def test_the_demo_chooses_its_penalties_over_processes_and_finds_what_the_simulation_finds(acc, tmp_path):
    ran = _run(acc, tmp_path, "acc-hazard")
    assert ran.rounds["penalties"] <= 40
    assert sum(ran.rounds.values()) - ran.rounds["penalties"] <= 24 + 3  # the three steps of the figures
    _assert_simulated_with_the_chosen_penalties(acc, ran, tmp_path)
    assert ran.result.covariates[-1].name == "mirna 10"


def test_folds_inside_folds_find_what_the_simulation_finds(acc, tmp_path):
    """Nested: the penalties of every fold are chosen on its own training patients."""
    layers = ["clinical", "rna", "mirna"]  # the search of all six is the test before; one site lacks the last
    ran = _run(acc, tmp_path, "acc-nested", model={"layers": layers}, evaluation={"folds": 2})
    assert ran.arrays["cv_penalties.layer_penalties"].shape == (2, 3)
    assert ran.result.evaluation["federated"].c_index.mean is not None


def test_a_network_on_six_layers_finds_what_the_simulation_finds(acc, tmp_path):
    ran = _run(acc, tmp_path, "acc-network", model={**NETWORK, "penalty": 10.0})
    assert not ran.result.coefficients
    assert set(ran.result.layer_importance) == {"clinical", "rna", "cnv", "protein", "mutation", "mirna"}


def test_a_binary_outcome_finds_what_the_simulation_finds(acc_outcomes, tmp_path):
    layers = {"layers": ["clinical", "rna", "mirna"], "components": 5}
    penalty = {"clinical": 3.0, "rna": 100.0, "mirna": 100.0}
    ran = _run(acc_outcomes, tmp_path, "acc-nodes", model={**layers, "penalty": penalty}, evaluation={"folds": 2})
    assert ran.result.outcome is not None
    assert "rna 5" in ran.result.coefficients
    assert ran.result.evaluation["federated"].c_index.mean is not None


def test_an_outcome_of_several_values_finds_what_the_simulation_finds(acc_outcomes, tmp_path):
    ran = _run(
        acc_outcomes,
        tmp_path,
        "acc-stages",
        endpoint={"type": "category", "outcome": "t_stage"},
        model={"method": "multinomial", "covariates": ["age_years", "sex"]},
    )
    assert ran.result.outcome is not None
    assert ran.result.outcome.codes == ("t1", "t2", "t3", "t4")


# ---------------------------------------------------------------- thousands of features
GLIOMA: Mapping[str, Mapping[str, Any]] = {
    "hazard": {"penalty": "cv"},
    "cox": {"method": "cox"},
    "cox-stratified": {"method": "cox-stratified"},
    "all-features": {"components": 0, "penalty": {"clinical": 10.0, "rna": 3e3, "cnv": 1e3, "mut": 1e3}},
    "network": NETWORK,
}


@pytest.mark.parametrize("name", GLIOMA)
def test_glioma_finds_what_the_simulation_finds(glioma, tmp_path, name):
    ran = _run(glioma, tmp_path, f"glioma-{name}", model=GLIOMA[name])
    if name == "all-features":
        assert ran.plan.by_name["fit"].method == "hazard_lbfgs"
        assert len(ran.result.coefficients) > 1500
    if name == "hazard":
        assert sum(ran.rounds[step] for step in ("moments", "components", "grid", "fit", "baseline")) <= 24
        assert ran.rounds["penalties"] <= 40
        _assert_simulated_with_the_chosen_penalties(glioma, ran, tmp_path)


# ---------------------------------------------------------------- a treatment
def test_a_treatment_finds_what_the_simulation_finds(cgd, tmp_path):
    model = {"treatment": "treatment", "interactions": ["age_years"]}
    ran = _run(cgd, tmp_path, "cgd-treatment", model=model)
    assert ran.result.treatment_response is not None


# ---------------------------------------------------------------- the oracle
def _run(
    federation: Federation, folder: Path, name: str, evaluation: Mapping[str, Any] | None = None, **changed: Any
) -> Ran:
    """Run a variant of the federation's study over the processes and hold every array against plain sums."""
    study = _variant(federation.study, folder / "study", name, evaluation=evaluation or {"folds": 0}, **changed)
    plan = compile_study(study)
    hub = federation.running.hub
    federation.running.approve(plan)
    run_id = runs.launch_plan(hub, plan)
    _finish(hub, run_id)
    with runs.open_store(hub) as store:
        found, skipped, rounds = store.final_arrays(run_id), store.skipped_steps(run_id), list_rounds(store, run_id)
    expected = run_plan(plan, _dealt(federation, plan)).progress
    assert skipped == expected.skipped
    assert found.keys() == expected.arrays.keys()
    for array, value in expected.arrays.items():
        np.testing.assert_allclose(found[array], value, rtol=TOLERANCE, atol=TOLERANCE, err_msg=array)
    for done in rounds:
        assert max(done.bytes_up, done.bytes_down) / len(done.heard) < WIDEST_MESSAGE, done.step
    steps = [done.step for done in rounds]
    result = runs.result_of(hub, run_id)
    assert result.sums_masked
    ran = Ran(plan, study, result, found, {step: steps.count(step) for step in steps})
    _assert_all_is_written(hub, ran, folder / "out")
    return ran


def _dealt(federation: Federation, plan: Plan) -> dict[str, Cohort]:
    """The cohorts in the folds that each site deals itself, by the key that here lies on the same machine."""
    cohorts = read_sites(federation.tables, plan.study, plan.dictionary).cohorts
    folds = plan.study.evaluation.folds
    assert isinstance(folds, int)
    for name, cohort in cohorts.items():
        key = fold_key(SitePaths(federation.running.site(name)))
        if plan.study.model.tunes_penalty:
            cohorts[name] = with_inner_folds(cohort, key)
        if folds:
            fold_of = deal(cohort.event, cohort.group, folds, key, 0, cohort.patient_ids)
            cohorts[name] = replace(cohorts[name], fold_of=fold_of)
    return cohorts


def _assert_all_is_written(hub: Path, ran: Ran, out: Path) -> None:
    """A result that can be read again, a page, and for a time to an event a model file with its card."""
    model = runs.model_of(hub, ran.result)
    path, page = write_outputs(out, ran.result, model, plan=ran.plan)
    assert read_result(path) == ran.result
    assert "</html>" in page.read_text("utf-8")
    has_model = ran.plan.study.endpoint.has_time
    assert (model is not None) == has_model
    if model is not None:
        artefact = read_artefact(model)
        assert artefact.manifest.plan_hash == ran.plan.hash
        assert artefact.manifest.method == ran.plan.study.model.method
        card = make_card(ran.result, ran.plan, artefact, None, "no attack was run")
        written, _ = write_card(card, out)
        assert read_card(written.read_bytes()) == card
        assert {layer.name for layer in card.layers} >= set(ran.plan.study.model.wide_layers)


def _assert_simulated_with_the_chosen_penalties(federation: Federation, ran: Ran, folder: Path) -> None:
    """`archipel simulate`, told the penalties that the sites chose, from the files alone."""
    assert isinstance(ran.result.penalty, dict)
    fixed = _variant(ran.study, folder / "fixed", "fixed", model={"penalty": ran.result.penalty})
    simulated = simulate(fixed, federation.tables, folder / "simulated")
    assert simulated.coefficients.keys() == ran.result.coefficients.keys()
    np.testing.assert_allclose(
        list(ran.result.coefficients.values()), list(simulated.coefficients.values()), rtol=0, atol=TOLERANCE
    )
    assert simulated.baseline is not None
    assert ran.result.baseline is not None
    np.testing.assert_allclose(
        ran.result.baseline.cumulative_hazard, simulated.baseline.cumulative_hazard, rtol=0, atol=TOLERANCE
    )


# ---------------------------------------------------------------- doing things
@contextmanager
def _running(home: Path, tables: Path, study: Path) -> Iterator[Federation]:
    with LocalFederation(home, find_sites(tables)) as running:
        running.wait_until_up()
        _until(lambda: online_sites(running.hub) == set(running.sites), "all sites online", 60)
        yield Federation(running, tables, study)


def _variant(study: Path, folder: Path, name: str, **changed: Any) -> Path:
    """Write the study under another name with some keys of its sections changed, its dictionary beside it."""
    folder.mkdir(parents=True)
    content = tomllib.loads(study.read_text("utf-8"))
    for section, keys in changed.items():
        content[section] = dict(keys) if section == "endpoint" else {**content.get(section, {}), **keys}
    (folder / "study.toml").write_text(tomli_w.dumps({**content, "name": name}), "utf-8")
    for file in (study.parent / "dictionary.toml", *study.parent.glob("*.features")):
        (folder / file.name).write_bytes(file.read_bytes())
    return folder / "study.toml"


def _finish(hub: Path, run_id: str, within_s: float = 600) -> None:
    def is_over() -> bool:
        with runs.open_store(hub) as store:
            record = store.run(run_id)
        assert record.status not in ("failed", "stopped"), record.message
        return record.status == "done"

    _until(is_over, f"{run_id} to be done", within_s)


def _until(condition: Callable[[], bool], what: str, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {within_s} s in vain for {what}"
        time.sleep(0.05)
