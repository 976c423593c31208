"""What people see of a study under differential privacy: result, report, terminal, card, price and account."""

from __future__ import annotations

import datetime
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from archipel.compare import compare
from archipel.demo import CONFIGS, make_sites
from archipel.local_run import run_plan
from archipel.private_events import noise_of_sum, private_horizon_events
from archipel.report import read_result, render_report
from archipel.runs import LaunchError, verify_enough
from archipel.simulate import simulate
from archipel.site_folders import read_sites
from archipel.site_status import budget_lines, price_lines
from archipel.studies import compile_study, why_simulate_alone
from archipel.terminal import terminal_table
from archipel.wording import hazard_ratios, promise
from client.noising import Account
from client.page.open_model import OpenModel
from client.page.prognosis import prognose
from client.page.rows import clinical_columns
from client.page.shapes import Asked, Prognosis, Refused, Row
from client.settings import SETTINGS_FILE
from models.private_plan import SHARES
from privacy.accountant import mu_of, plan_delta
from privacy.budget import Limit, account
from schemas.artefact import Artefact, read_artefact
from schemas.card import data_use_card
from schemas.errors import FaultsError
from schemas.result import Result
from schemas.study import load_study
from tests.archipel.results import changed, federation_result
from tests.private_guards import private_plan

Write = Callable[..., Path]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    make_sites("cgd", folder)
    return folder


@pytest.fixture(scope="module")
def write(tmp_path_factory: pytest.TempPathFactory) -> Write:
    def study(*, folds: int = 0, honest_sites: int = 3, epsilon: float = 8.0) -> Path:
        folder = tmp_path_factory.mktemp("study")
        shutil.copy(CONFIGS / "cgd" / "dictionary.toml", folder)
        text = (CONFIGS / "cgd" / "study.toml").read_text()
        text = re.sub(r"^folds = .*$", f"folds = {folds}", text, flags=re.MULTILINE)
        text += f"\n[privacy.differential]\nepsilon = {epsilon}\nrounds = 4\nhonest_sites = {honest_sites}\n"
        (folder / "study.toml").write_text(text)
        return folder / "study.toml"

    return study


@pytest.fixture(scope="module")
def done(write: Write, tables: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    out = tmp_path_factory.mktemp("out")
    return simulate(write(), tables, out, secure_sum=True), out


# ---------------------------------------------------------------- what a run gives
def test_the_result_states_the_terms_and_why_numbers_are_missing(done: tuple[Result, Path], write: Write) -> None:
    result, out = done
    assert read_result(out / "result.json") == result
    assert result.differential is not None
    assert (result.differential.epsilon, result.differential.honest_sites) == (8.0, 3)
    assert result.differential.delta == plan_delta(compile_study(write()))
    assert result.plan_hash == compile_study(write()).hash, "what real sites would approve"
    assert result.log_likelihood is None
    assert set(result.standard_errors.values()) == {None}
    assert result.kaplan_meier is None
    for missing in ("log_likelihood", "kaplan_meier", "calibration", "standard_errors.steroids"):
        assert re.search("noise|differential privacy", result.reasons[missing])
    assert any("carries noise" in warning for warning in result.warnings)


def test_the_model_file_states_epsilon_and_delta(done: tuple[Result, Path]) -> None:
    result, out = done
    artefact = read_artefact((out / "model.safetensors").read_bytes())
    assert result.differential is not None
    assert (artefact.manifest.epsilon, artefact.manifest.delta) == (8.0, result.differential.delta)
    assert artefact.covariance is None or not artefact.covariance.any()
    with pytest.raises(ValueError, match="null without a reason"):
        changed(federation_result(), log_likelihood=None)


def _words(seed: int) -> Callable[[int], np.ndarray]:
    rng = np.random.default_rng(seed)
    return lambda n: rng.integers(0, 2**64, n, dtype=np.uint64)


def test_the_model_file_says_of_how_many_events_it_stands_on_at_least(write: Write, tables: Path) -> None:
    plan = compile_study(write())
    cohorts = read_sites(tables, plan.study, plan.dictionary).cohorts
    time, event = (np.concatenate([getattr(one, name) for one in cohorts.values()]) for name in ("time", "event"))
    true = [int((event & (time <= horizon)).sum()) for horizon in plan.study.endpoint.horizons_days]
    held, said = 0, np.zeros(len(true))
    for seed in range(40):
        run = run_plan(plan, cohorts, randomness=_words(seed))
        counts = [one.at_least for one in private_horizon_events(run.progress.arrays, plan, len(cohorts))]
        held += sum(count <= of for count, of in zip(counts, true, strict=True))
        said += np.array(counts) / 40
    assert held >= 0.95 * 160 - 10, "each is said with 95 %; they share their noise"
    assert said[-1] >= 10, (said, true)
    # A run before this was released says nothing.
    assert private_horizon_events({}, plan, 5) == ()


def test_a_model_under_noise_has_numbers_on_the_page(done: tuple[Result, Path]) -> None:
    artefact = read_artefact((done[1] / "model.safetensors").read_bytes())
    horizons = artefact.manifest.events_by_horizon
    assert [one.horizon for one in horizons] == [90, 180, 270, 360]
    assert all(one.events == f"≥{one.at_least}" for one in horizons)
    manifest = artefact.manifest
    enough = tuple(
        one.model_copy(update={"at_least": count}) for one, count in zip(horizons, (3, 9, 10, 30), strict=True)
    )
    model = OpenModel("c" * 64, Artefact(manifest.model_copy(update={"events_by_horizon": enough}), artefact.arrays))
    cells = {column.column: 0.0 for column in clinical_columns(model.artefact)}
    cells |= {"age_years": 12.0, "height_cm": 140.0, "weight_kg": 35.0}
    row = Row("form", manifest.dictionary_hash, cells)
    found = prognose(model, row, asked=Asked(datetime.date(2026, 11, 21)))
    assert isinstance(found, Prognosis)
    assert [one.time for one in found.horizons] == [270, 360], "from ten events on that there were surely"
    assert {one.code for one in found.warnings} >= {"interval-none", "floor-unsure"}
    # From a later day on nothing tells how many events lie between.
    later = prognose(model, row, asked=Asked(datetime.date(2026, 11, 21), event_free_until=30.0))
    assert isinstance(later, Refused)
    assert {one.code for one in later.reasons} >= {"floor-unknown"}


def test_the_noise_of_a_sum_is_that_of_its_sites(write: Write) -> None:
    plan = compile_study(write())
    part = plan.by_name["baseline"].parts[0]
    assert part.noise is not None
    mu = mu_of(8.0, 1e-5) * math.sqrt(SHARES["baseline"])
    alone = part.noise.sensitivity / (mu * math.sqrt(3))
    assert noise_of_sum(plan, part, 5) == pytest.approx(math.sqrt(5) * alone, rel=1e-5)


def test_a_simulated_run_adds_the_noise_of_every_site(write: Write, tables: Path) -> None:
    plan = compile_study(write())
    cohorts = read_sites(tables, plan.study, plan.dictionary).cohorts

    def found(*, seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        run = run_plan(plan, cohorts, randomness=lambda n: rng.integers(0, 2**64, n, dtype=np.uint64))
        return run.progress.arrays["fit.beta"]

    assert np.array_equal(found(seed=1), found(seed=1))
    assert not np.any(found(seed=1) == found(seed=2))


def test_a_simulation_may_judge_by_folds_and_shows_what_the_noise_costs(
    write: Write, tables: Path, tmp_path: Path
) -> None:
    path = write(folds=3)
    assert why_simulate_alone(*load_study(path)), "a held-out evaluation would release counts without noise"
    result = simulate(path, tables, tmp_path)
    assert set(result.evaluation) >= {"federated", "site_only", "pooled"}
    assert result.differential is not None


# ---------------------------------------------------------------- what people read
def test_the_report_says_what_each_patient_is_promised(done: tuple[Result, Path]) -> None:
    page = (done[1] / "report.html").read_text()
    text = re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", page))
    for words in (
        "What each patient is promised", "as if any one patient had not taken part", "ε = 8, δ = 1e-05",
        "by a factor of at most 3,000 (a weak promise)", "at most 1 in 100,000",
        "as long as 3 of the 5 sites do not help", "Nothing more about any one patient than the promise",
        "Of about", "equal intervals, fixed in the plan", "each the site’s term of a sum, with noise, masked",
        "No standard errors: noise and clipping leave no standard error that would be honest.",
    ):  # fmt: skip
        assert words in text, words
    assert text.count("leave no standard error") == 1, "once, not once a covariate"
    assert "95 % interval that excludes" not in text
    assert "None " not in text.replace("None needed", "")


def test_without_differential_privacy_nothing_is_promised() -> None:
    page = render_report(federation_result())
    assert "What each patient is promised" not in page
    assert promise(federation_result()) == []


@pytest.mark.parametrize(("epsilon", "strength"), [(1.0, "a strong"), (3.0, "a moderate"), (8.0, "a weak")])
def test_a_promise_is_called_what_it_is(done: tuple[Result, Path], epsilon: float, strength: str) -> None:
    terms = done[0].differential
    assert terms is not None
    alone = terms.model_copy(update={"epsilon": epsilon, "honest_sites": 1})
    said = " ".join(promise(done[0].model_copy(update={"differential": alone})))
    assert f"({strength} promise)" in said
    assert "against the hub and all other sites together" in said


def test_the_terminal_shows_ratios_without_intervals(done: tuple[Result, Path]) -> None:
    console = Console(width=140, record=True)
    console.print(terminal_table(done[0]))
    text = console.export_text()
    assert "noise leaves no interval" in text
    for row in hazard_ratios(done[0]):
        assert float(row.unit_text) == pytest.approx(math.exp(row.coefficient), rel=0.06)
        assert row.per_unit is None
        assert row.unit_text in text


def test_a_comparison_says_that_noise_differs(done: tuple[Result, Path]) -> None:
    cautions = " ".join(compare([("noisy", done[0]), ("exact", federation_result())]).cautions)
    assert "Differential privacy differs" in cautions
    assert "not the same patients" not in cautions, "counts differ by the noise alone"


def test_the_card_says_what_is_promised_and_what_it_costs() -> None:
    shared = re.sub(r"\s+", " ", data_use_card(private_plan(epsilon=3.0, honest_sites=2)))
    for words in (
        "What every patient is promised (differential privacy)", "epsilon 3, delta 1e-05", "one patient more or less",
        "a factor of at most 20", "as long as 2 sites of a sum do not help the hub", "privacy budget",
        "with noise; one patient moves all numbers by 2 at most", "every run costs the same again",
        "Patients may differ between runs as they like",
    ):  # fmt: skip
        assert words in shared, words
    alone = re.sub(r"\s+", " ", data_use_card(private_plan(secure_sum=False)))
    assert "This site adds all of the noise itself" in alone
    assert "NOT MASKED: the hub sees this site's own numbers, as listed above, each with the noise" in alone
    assert all(len(line) <= 100 for line in data_use_card(private_plan()).splitlines())


# ---------------------------------------------------------------- the site's account, and too few sites
def test_accounts_in_words() -> None:
    limit = Limit(epsilon=3.0, delta=1e-5)
    fresh, used = account(0.0, 0, limit), account(limit.mu_squared / 2, 1, limit)
    assert budget_lines([Account("registry", fresh, True)]) == [
        "Privacy budget of registry: epsilon 0 of 3 spent (at delta 1e-05, 0 releases); "
        "a further study of up to 3 fits"
    ]
    former = budget_lines([Account("registry", fresh, True), Account("old", used, False)])[1]
    assert former.startswith("Privacy budget of old: epsilon 2")
    assert former.endswith("1 release); site.toml names this account no longer")
    assert "studies under differential privacy are refused" in budget_lines([])[0]
    assert budget_lines([], "is damaged") == ["Privacy budget: NOT SOUND. is damaged"]


@pytest.mark.parametrize(
    ("epsilon", "says"),
    [
        (8.0, "to epsilon 8; 1 run of this plan fits"),
        (20.0, "runs of this plan fit."),
        (2.0, "MORE than is allowed"),
    ],
)
def test_the_price_of_a_run_is_shown_before_it_is_approved(tmp_path: Path, epsilon: float, says: str) -> None:
    (tmp_path / SETTINGS_FILE).write_text(
        'kind = "site"\nversion = 1\nname = "a"\nhub_address = "hub:9092"\ntables = "tables"\n'
        f'[budget]\ndataset = "registry"\nepsilon = {epsilon}\n'
    )
    assert says in price_lines(tmp_path, private_plan())[-1]
    assert len(price_lines(tmp_path, private_plan())) == 2


def test_so_few_sites_that_their_noise_does_not_suffice_are_refused(
    write: Write, tables: Path, tmp_path: Path
) -> None:
    plan = private_plan(honest_sites=3)
    verify_enough(plan, ["a", "b", "c", "d"])
    with pytest.raises(LaunchError, match="3 sites guarantee the noise of 2 honest ones, not of 3"):
        verify_enough(plan, ["a", "b", "c"])
    with pytest.raises(FaultsError, match="5 sites guarantee the noise of 4 honest ones, not of 5"):
        simulate(write(honest_sites=5), tables, tmp_path)
