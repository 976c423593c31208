"""Models from run to withdrawal: released with a card, refused without its terms, shown to people, as commands."""

from __future__ import annotations

import datetime
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from archipel.demo import CONFIGS, make_sites
from archipel.homes import enrol_site, init_hub, init_site, join_site, model_key, utc_now
from archipel.local_run import run_plan
from archipel.membership import attack_study
from archipel.model_card import card_text, render_card
from archipel.models import ReleaseError, Terms, list_models, model_log, release, withdraw
from archipel.report import could_see
from archipel.site_folders import read_sites
from archipel.studies import compile_study
from client import hub_post, model_fetch
from client.models import ModelRefusedError, usable_model
from models.prediction import predict
from privacy.model_signature import public_text, read_signed_artefact
from schemas.errors import MessageError
from schemas.model_card import MembershipAttack, ModelCard, read_card, study_hash
from schemas.study import load_study
from server.database import DATABASE
from server.hub_home import load_hub_settings
from server.model_calls import ModelCalls
from server.models import ModelStore
from server.records import Checkpoint, UnknownRunError
from server.store import Store
from tests.archipel.results import changed, federation_result
from tests.command_line import Run, runner

WHO = "Dr. Chef"


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    make_sites("cgd", folder)
    return folder


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's study without evaluation; its horizons include one before ten events."""
    folder = tmp_path_factory.mktemp("study")
    text = (CONFIGS / "cgd" / "study.toml").read_text()
    text = re.sub(r"^folds = 5$", "folds = 0", text, flags=re.MULTILINE)
    text = text.replace("[90, 180, 270, 360]", "[10, 180, 360]")
    text = text.replace("First serious infection in", "<script>alert(1)</script> in")
    (folder / "study.toml").write_text(text)
    (folder / "dictionary.toml").write_text((CONFIGS / "cgd" / "dictionary.toml").read_text())
    return folder / "study.toml"


@pytest.fixture(scope="module")
def finished(tables: Path, study: Path) -> dict[str, np.ndarray]:
    plan = compile_study(study)
    return dict(run_plan(plan, read_sites(tables, plan.study, plan.dictionary).cohorts).progress.arrays)


@pytest.fixture
def hub(tmp_path: Path, study: Path, finished: dict[str, np.ndarray]) -> Path:
    """A hub with one run that is done and one that is not."""
    home = tmp_path / "hub"
    init_hub(home, public_port=0, internal_port=0)
    plan = compile_study(study)
    with Store(home / DATABASE) as store:
        store.create_run("done-run", plan, ["a", "b", "c"])
        hold = store.claim("done-run")
        store.settle(hold, ["a", "b", "c"], {}, Checkpoint(1, "moments", 0, b""))
        store.finish(hold, finished, {}, "Done.")
        store.create_run("open-run", plan, ["a", "b", "c"])
    return home


@pytest.fixture(scope="module")
def attack(tables: Path, study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("attack") / "membership.json"
    path.write_text(attack_study(study, tables, n_models=10).model_dump_json())
    return path


def released(hub: Path, attack: Path) -> str:
    return release(hub, "done-run", Terms(WHO, attack=attack)).hash


def test_a_release_is_signed_and_bound_to_its_card(hub: Path, attack: Path) -> None:
    done = release(hub, "done-run", Terms(WHO, attack=attack, intended_use="To rank patients for a trial."))
    model = read_signed_artefact(done.artefact, public_text(model_key(hub)))
    assert model.manifest.card_hash == done.card.hash
    assert model.manifest.expires == utc_now().date() + datetime.timedelta(days=730)
    assert model.manifest.intended_use == done.card.intended_use == "To rank patients for a trial."
    assert model.manifest.not_for == done.card.not_for
    assert len(done.card.not_for) == 3
    with Store(hub / DATABASE) as store:
        assert ModelStore(store).artefact(done.hash) == done.artefact
        assert read_card(ModelStore(store).card(done.hash) or b"") == done.card
    assert [entry.who for entry in model_log(hub)] == [WHO]


def test_no_exact_count_leaves_with_a_model(hub: Path, attack: Path, finished: dict[str, np.ndarray]) -> None:
    done = release(hub, "done-run", Terms(WHO, attack=attack))
    manifest = read_signed_artefact(done.artefact, public_text(model_key(hub))).manifest
    assert (finished["fit.n_patients"], finished["fit.n_events"]) == (128, 44)
    assert (manifest.n_patients, manifest.n_events) == ("130", "45")
    assert [one.events for one in manifest.events_by_horizon] == ["<10", "20", "35"]
    assert all(round(one.share, 2) == one.share for one in manifest.log_hazards)
    text = done.card.content.decode() + manifest.model_dump_json()
    assert not re.search(r"[^0-9.]128[^0-9]", text)


@pytest.mark.parametrize(
    ("terms", "what"),
    [
        (Terms(WHO), "membership attack belongs to a release"),
        (Terms(WHO, no_attack=" "), "membership attack belongs to a release"),
        (Terms(WHO, attack=Path("nowhere.json"), no_attack="both"), "membership attack belongs to a release"),
        (Terms(WHO, attack=Path("nowhere.json")), "cannot be read"),
        (Terms("", no_attack="x"), "must be named"),
        (Terms("a\nb", no_attack="x"), "must be named"),
        (Terms(WHO, no_attack="x", expires=datetime.date(2020, 1, 1)), "has passed"),
    ],
)
def test_a_release_without_its_terms_is_refused(hub: Path, terms: Terms, what: str) -> None:
    with pytest.raises(ReleaseError, match=what):
        release(hub, "done-run", terms)
    assert list_models(hub) == ()


def test_an_attack_on_another_study_is_refused(hub: Path, attack: Path, tmp_path: Path) -> None:
    content = json.loads(attack.read_text()) | {"study_hash": "0" * 64}
    (tmp_path / "other.json").write_text(json.dumps(content))
    with pytest.raises(ReleaseError, match="another study"):
        release(hub, "done-run", Terms(WHO, attack=tmp_path / "other.json"))
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(MessageError, match="not the outcome"):
        release(hub, "done-run", Terms(WHO, attack=tmp_path / "other.json"))


def test_a_run_that_is_not_done_has_no_model(hub: Path) -> None:
    with pytest.raises(UnknownRunError):
        release(hub, "open-run", Terms(WHO, no_attack="x"))


def test_a_withdrawal_has_a_reason_and_a_person(hub: Path, attack: Path) -> None:
    model = released(hub, attack)
    for reason, who in (("", WHO), ("a\nb", WHO), ("x" * 2000, WHO), ("fine", "")):
        with pytest.raises(ReleaseError):
            withdraw(hub, model, reason, who=who)
    with pytest.raises(ReleaseError, match="six characters"):
        withdraw(hub, model[:3], "fine", who=WHO)
    assert withdraw(hub, model[:6], "fine", who=WHO).listed.reason == "fine"


# ---------------------------------------------------------------- the card
@pytest.fixture
def card(hub: Path, attack: Path) -> ModelCard:
    return release(hub, "done-run", Terms(WHO, attack=attack)).card


def test_the_card_says_what_the_run_found(card: ModelCard, finished: dict[str, np.ndarray], study: Path) -> None:
    assert card.attack is not None
    assert card.attack.study_hash == study_hash(load_study(study)[0])
    age = next(one for one in card.predictors if one.name == "age")
    beta = finished["fit.beta"][2] / finished["moments.scale"][2]
    assert age.hazard_ratio == pytest.approx(np.exp(beta))
    assert (age.low, age.high) == (3.125, 29.6875)
    assert [layer.importance for layer in card.layers] == [1.0]
    assert card.performance[0].value is None
    assert "no evaluation" in card.performance[0].reason
    assert any("Fewer than ten events by 10 days" in limit for limit in card.limits)
    assert len(card.tripod) >= 20


def test_the_card_is_one_text_and_reads_back(card: ModelCard) -> None:
    assert read_card(card.content) == card
    for damaged in (
        card.content + b" ",
        card.content[:-1],
        b"{}",
        b"[" * 100_000,
        json.dumps(json.loads(card.content)).encode(),
    ):
        with pytest.raises(MessageError):
            read_card(damaged)


def test_a_hostile_title_is_inert_on_the_page_and_in_the_terminal(card: ModelCard) -> None:
    page = render_card(card)
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "default-src 'none'" in page
    nasty = card.model_copy(update={"title": "\x1b[31mred\x1b[0m"})
    assert "\x1b" not in card_text(nasty)


def test_the_page_holds_every_section_and_no_python(card: ModelCard) -> None:
    page = render_card(card)
    for words in (
        "Do not use it for",
        "On whom it was trained",
        "How well it does",
        "Membership attack: AUC",
        "Limits",
        "TRIPOD+AI",
    ):
        assert words in page
    assert ">None<" not in page
    assert "Research use only" in page


# ---------------------------------------------------------------- the command line, over a call without a wire
@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(monkeypatch, capsys)


@pytest.fixture
def site(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "site"
    request = init_site(home, "brest", home / "tables", utc_now())
    join_site(home, enrol_site(hub, request.to_json().encode(), utc_now()).to_json().encode(), utc_now())
    calls = ModelCalls(load_hub_settings(hub))

    def direct(place: Path) -> model_fetch.Call:
        key = hub_post.node_key(place)

        def call(path: str, body: bytes, limit: int) -> bytes | None:
            found = calls.answer(path, hub_post.signed_headers(key, path, body, int(utc_now().timestamp())), body)
            return found.body if found.status == 200 else None

        return call

    monkeypatch.setattr(model_fetch, "hub_call", direct)
    return home


def test_release_fetch_accept_predict_withdraw_refuse(
    run: Run, hub: Path, site: Path, attack: Path, tables: Path, study: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    code, text, _ = run(
        "models", "release", "done", "--hub", hub, "--attack", attack, "--by", WHO, "--out", out, answer="y"
    )
    assert code == 0
    assert "Released:" in text
    assert {path.name for path in out.iterdir()} == {"model.safetensors", "card.json", "card.html"}
    model = json.loads(run("models", "list", "--hub", hub, "--json")[1])[0]["hash"]

    assert "signature verified" in run("site", "models", "fetch", "--home", site)[1]
    code, text, err = run("site", "models", "accept", model[:8], "--home", site, "--by", "Dr. Weiß", answer="n")
    assert (code, "Not accepted" in err) == (1, True)
    assert "Not for" in text
    assert run("site", "models", "accept", model[:8], "--home", site, "--by", "Dr. Weiß", answer="y")[0] == 0
    assert "accepted   cgd-infection" in run("site", "models", "list", "--home", site)[1]

    plan = compile_study(study)
    patients = next(iter(read_sites(tables, plan.study, plan.dictionary).cohorts.values()))
    curve = predict(usable_model(site, model, now=utc_now), patients, np.array([180.0, 360.0]))
    assert curve.lower is not None
    assert ((curve.lower > 0) & (curve.survival < 1)).all()

    code, text, _ = run("models", "withdraw", model[:8], "--hub", hub, "--by", WHO, "--reason", "wrong units")
    assert (code, "brest" in text) == (0, True)
    assert "not yet heard by: brest" in run("models", "list", "--hub", hub)[1]
    assert "Withdrawn by the hub" in run("site", "models", "fetch", "--home", site)[1]
    assert "every site that holds it knows" in run("models", "list", "--hub", hub)[1]
    with pytest.raises(ModelRefusedError, match="wrong units"):
        usable_model(site, model, now=utc_now)
    assert run("site", "models", "accept", model[:8], "--home", site, answer="y")[0] == 1
    assert json.loads(run("site", "models", "list", "--home", site, "--json")[1])[0]["state"] == "withdrawn"
    assert run("site", "models", "remove", model[:8], "--home", site, "--by", "Dr. Weiß")[0] == 0
    assert "The log is sound: 2 entries" in run("models", "log", "--hub", hub)[1]


def test_the_hub_can_show_a_card_again(run: Run, hub: Path, attack: Path, tmp_path: Path) -> None:
    model = released(hub, attack)
    assert run("models", "card", model[:8], "--hub", hub, "--out", tmp_path / "card")[0] == 0
    assert read_card((tmp_path / "card" / "card.json").read_bytes()).run_id == "done-run"


def test_a_person_may_say_no(run: Run, hub: Path) -> None:
    code, _, err = run("models", "release", "done", "--hub", hub, "--no-attack", "x", answer="n")
    assert (code, "Nothing was released" in err) == (1, True)
    assert "No model yet" in run("models", "list", "--hub", hub)[1]


def test_the_attack_is_a_command(run: Run, tables: Path, study: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "membership.json"
    code, text, _ = run(
        "models", "attack", study, "--sites", tables, "--out", out, "--models", "8", "--basis", "Demo."
    )
    assert code == 0
    assert "0.5 is guessing" in text
    found = MembershipAttack.model_validate_json(out.read_text())
    assert (found.models, found.targets, found.patients, found.basis) == (8, 8, "130", "Demo.")


def test_the_model_key_stays_at_home(hub: Path) -> None:
    secret = hub / "keys" / "models.key"
    assert os.stat(secret).st_mode & 0o077 == 0
    body = b"".join(secret.read_bytes().splitlines()[1:-1])
    assert body not in (hub / DATABASE).read_bytes()


def test_a_run_that_counted_its_patients_says_so_in_its_report() -> None:
    masked = changed(federation_result(), sums_masked=True)
    counted = masked.releases[0].model_copy(update={"step": "population", "times": 1})
    said = set(could_see(changed(masked, releases=(*masked.releases, counted)))) - set(could_see(masked))
    assert [sentence for sentence in said if "64 parts of the range" in sentence]
