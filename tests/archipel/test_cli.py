"""The command line: what each command says, its exit codes, and that no error becomes a traceback."""

import json
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from archipel import cli, command_docs
from archipel.demo import make_sites
from archipel.homes import enrol_site, init_hub, init_site, utc_now
from models.compile import compile_plan
from schemas.study import load_study
from tests.command_line import runner

CONFIGS = Path(__file__).parents[2] / "configs"
STUDY = CONFIGS / "cgd" / "study.toml"


@pytest.fixture
def run(monkeypatch, capsys):
    return runner(monkeypatch, capsys)


@pytest.fixture
def broken_study(tmp_path):
    text = STUDY.read_text().replace(
        'dictionary = "dictionary.toml"', f'dictionary = "{STUDY.parent}/dictionary.toml"'
    )
    text = text.replace('time = "time_days"', 'time = "time_dayz"').replace('method = "hazard"', 'method = "magic"')
    (tmp_path / "study.toml").write_text(text)
    return tmp_path / "study.toml"


def _commands():
    def walk(command, words):
        if hasattr(command, "commands"):
            for name, child in sorted(command.commands.items()):
                yield from walk(child, (*words, name))
        else:
            yield words, command

    return list(walk(cli.build(), ()))


# ---------------------------------------------------------------- help and use
@pytest.mark.parametrize("words", [words for words, _ in _commands()], ids=" ".join)
def test_every_command_has_help_that_explains_each_option(run, words):
    code, out, _ = run(*words, "-h")
    assert code == 0
    assert out == run(*words, "--help")[1]
    command = dict(_commands())[words]
    assert command.help
    for parameter in command.params:
        name, text = parameter.get_help_record(click.Context(command))
        assert name
        assert text, f"{' '.join(words)} {parameter.name} has no help"
        assert " ".join(out.split()).count(" ".join(text.split())) == 1


def test_documentation_is_the_help_of_the_commands():
    page = (CONFIGS.parent / "docs" / "commands.md").read_text()
    assert page == command_docs.render(), "run: python -m archipel.command_docs > docs/commands.md"


@pytest.mark.parametrize(
    "words",
    [
        ("nonsense",),
        ("study",),
        ("study", "check"),
        ("study", "check", "a", "b"),
        ("hub", "init", "--port", "many"),
        ("hub", "init", "--port", "70000"),
        ("site", "init"),
        ("demo", "--cohort", "secret"),
        ("runs", "compare", "one"),
        ("site", "approve", "abc", "--expires", "tomorrow"),
    ],
    ids=" ".join,
)
def test_wrong_use_is_exit_code_2(run, words):
    code, _, err = run(*words)
    assert code == 2
    assert err or words == ("study",)


def test_version(run):
    assert run("--version")[1].startswith("archipel 0.")


def test_help_loads_nothing_heavy():
    script = (
        "import sys; from archipel import cli; "
        "print([m for m in ('flwr', 'torch', 'pandas', 'matplotlib', 'scipy', 'sqlalchemy') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


# ---------------------------------------------------------------- study
def test_check_of_a_sound_study(run):
    code, out, _ = run("study", "check", STUDY)
    assert (code, out.strip()) == (0, f"{STUDY}: the study cgd-infection is sound.")


def test_check_names_all_faults_with_their_lines(run, broken_study):
    code, _, err = run("study", "check", broken_study)
    assert code == 1
    assert re.search(r"study\.toml line \d+: .*method", err)
    code, out, _ = run("study", "check", broken_study, "--json")
    assert code == 1
    assert json.loads(out)["sound"] is False


def test_check_says_what_runs_in_simulate_alone(run, tmp_path):
    text = STUDY.read_text().replace('"dictionary.toml"', f'"{STUDY.parent}/dictionary.toml"')
    (tmp_path / "study.toml").write_text(text.replace("min_events_per_interval = 5", "min_events_per_interval = 1"))
    code, out, _ = run("study", "check", tmp_path / "study.toml")
    assert code == 0
    assert "runs in `archipel simulate` alone" in out
    code, _, err = run("study", "plan", tmp_path / "study.toml")
    assert code == 1
    assert "exact event times" in err


def test_terms_that_every_site_refuses_are_known_before_a_launch(run, tmp_path):
    text = STUDY.read_text().replace('"dictionary.toml"', f'"{STUDY.parent}/dictionary.toml"')
    text = text.replace("min_patients = 10", "min_patients = 3").replace("_interval = 5", "_interval = 4")
    (tmp_path / "study.toml").write_text(text.replace("version = 1", "version = 1\nexpires = 2020-01-01"))
    code, out, _ = run("study", "check", tmp_path / "study.toml", "--json")
    assert code == 0
    limits = json.loads(out)["simulate_alone_because"]
    assert [limit.split(":")[0] for limit in limits] == [
        "[privacy] min_patients", "[privacy] min_events_per_interval", "expires",
    ]  # fmt: skip
    code, _, err = run("study", "plan", tmp_path / "study.toml")
    assert code == 1
    assert "3 faults" in err
    assert "2020-01-01, has passed" in err


def test_plan_prints_the_card_and_the_same_plan_as_compiled(run, tmp_path):
    plan = compile_plan(*load_study(STUDY))
    code, out, _ = run("study", "plan", STUDY, "--out", tmp_path / "plan.json")
    assert code == 0
    assert plan.hash in out
    assert (tmp_path / "plan.json").read_bytes() == plan.content
    assert json.loads(run("study", "plan", STUDY, "--json")[1])["plan_hash"] == plan.hash


def test_missing_file_is_one_sentence(run, tmp_path):
    code, _, err = run("study", "check", tmp_path / "absent.toml")
    assert code == 1
    assert "cannot be read" in err


# ---------------------------------------------------------------- enrolment
def test_enrolment_from_init_to_join(run, tmp_path):
    hub, site, kit = tmp_path / "hub", tmp_path / "site", tmp_path / "kit.json"
    code, out, _ = run("hub", "init", "--home", hub, "--host", "hub.example.org")
    assert code == 0
    hub_print = re.search(r"([0-9a-f]{4} ){7}[0-9a-f]{4}", out).group()
    code, out, _ = run("site", "init", "--home", site, "--name", "chu-lille", "--tables", tmp_path)
    assert code == 0
    site_print = re.search(r"([0-9a-f]{4} ){7}[0-9a-f]{4}", out).group()
    code, out, _ = run("hub", "enrol", site / "request.json", "--home", hub, "--out", kit)
    assert code == 0
    assert hub_print in out
    assert site_print in out
    code, out, err = run("site", "join", kit, "--home", site, answer="n")
    assert code == 1
    assert "Nothing was changed" in err
    code, out, _ = run("site", "join", kit, "--home", site, answer="y")
    assert code == 0
    assert hub_print in out
    assert 'hub_address = "hub.example.org:8443"' in (site / "site.toml").read_text()


def test_second_site_of_a_name_is_refused(run, tmp_path):
    hub = tmp_path / "hub"
    run("hub", "init", "--home", hub)
    for folder in ("one", "two"):
        run("site", "init", "--home", tmp_path / folder, "--name", "chu-lille")
    assert run("hub", "enrol", tmp_path / "one/request.json", "--home", hub, "--out", tmp_path / "kit")[0] == 0
    code, _, err = run("hub", "enrol", tmp_path / "two/request.json", "--home", hub, "--out", tmp_path / "kit2")
    assert code == 1
    assert "taken by another site (enrolled: chu-lille)" in err
    assert not (tmp_path / "kit2").exists()


def test_status_of_a_hub_at_rest(run, tmp_path):
    hub = tmp_path / "hub"
    init_hub(hub, public_port=0, internal_port=0)
    init_site(tmp_path / "site", "chu-lille", tmp_path, utc_now())
    enrol_site(hub, (tmp_path / "site" / "request.json").read_bytes(), utc_now())
    code, out, _ = run("hub", "status", "--home", hub)
    assert code == 0
    assert "not answering (`archipel hub up`)" in out
    assert "chu-lille" in out
    found = json.loads(run("hub", "status", "--home", hub, "--json")[1])
    assert found["sites"][0]["online"] is None
    assert set(found["certificates"]) == {"authority", "server"}


def test_folder_that_is_no_hub(run, tmp_path):
    for words in (("hub", "up"), ("hub", "status")):
        code, _, err = run(*words, "--home", tmp_path)
        assert code == 1
        assert "archipel hub init" in err
    code, _, err = run("runs", "list", "--hub", tmp_path)
    assert code == 1
    assert "archipel hub init" in err


def test_second_start_from_one_folder_is_refused(run, tmp_path):
    init_hub(tmp_path / "hub", public_port=0, internal_port=0)
    init_site(tmp_path / "site", "chu-lille", tmp_path, utc_now())
    for side in ("hub", "site"):
        home = tmp_path / side
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", str(home)])
        try:
            (home / "run").mkdir(exist_ok=True)
            (home / "run" / "agent.pid").write_text(f"{child.pid}\n")
            code, _, err = run(side, "up", "--home", home)
        finally:
            child.kill()
            child.wait()
        assert code == 1
        assert f"runs already (agent {child.pid})" in err


def test_site_up_before_join_names_what_to_do(run, tmp_path):
    init_site(tmp_path / "site", "chu-lille", tmp_path, utc_now())
    code, _, err = run("site", "up", "--home", tmp_path / "site")
    assert code == 1
    assert "archipel site join" in err


# ---------------------------------------------------------------- a site's decisions
@pytest.fixture
def site(tmp_path):
    make_sites("cgd", tmp_path / "tables")
    init_site(tmp_path / "site", "nih", tmp_path / "tables" / "nih", utc_now())
    return tmp_path / "site"


def test_check_ends_in_yes_or_no(run, site, tmp_path):
    code, out, _ = run("site", "check", STUDY, "--home", site)
    assert code == 0
    assert out.strip().endswith("This site can take part in study cgd-infection: yes")
    table = tmp_path / "tables" / "nih" / "clinical.csv"
    table.write_text(table.read_text().replace("time_days", "time_months"))
    code, out, _ = run("site", "check", STUDY, "--home", site)
    assert code == 1
    assert "This site can take part in study cgd-infection: no" in out
    assert json.loads(run("site", "check", STUDY, "--home", site, "--json")[1])["can_take_part"] is False


def test_check_against_a_dictionary_alone(run, site):
    code, out, _ = run("site", "check", STUDY.parent / "dictionary.toml", "--home", site)
    assert code == 0
    assert "agree with dictionary cgd: yes" in out


def test_plan_is_approved_withdrawn_and_written_down(run, site, tmp_path):
    plan = compile_plan(*load_study(STUDY))
    (tmp_path / "plan.json").write_bytes(plan.content)
    assert "No plan has arrived" in run("site", "plans", "--home", site)[1]
    code, out, err = run("site", "approve", tmp_path / "plan.json", "--home", site, answer="n")
    assert code == 1
    assert "Not approved" in err
    assert plan.hash in out
    code, out, _ = run("site", "approve", tmp_path / "plan.json", "--home", site, "--by", "Dr Example", answer="y")
    assert code == 0
    (entry,) = json.loads(run("site", "plans", "--home", site, "--json")[1])
    assert (entry["state"], entry["approver"]) == ("approved", "Dr Example")
    assert run("site", "withdraw", plan.hash[:8], "--home", site)[0] == 0
    assert "withdrawn" in run("site", "plans", "--home", site)[1]
    assert run("site", "pause", "--home", site)[0] == 0
    assert "paused" in run("site", "status", "--home", site)[1]
    assert run("site", "resume", "--home", site)[0] == 0
    code, out, _ = run("site", "ledger", "show", "--home", site)
    assert [kind for kind in ("approval", "withdrawal", "pause", "resume") if kind not in out] == []
    assert "by Dr Example" in out
    assert "4 entries" in run("site", "ledger", "verify", "--home", site)[1]


def test_changed_ledger_is_exit_code_1(run, site):
    run("site", "pause", "--home", site)
    run("site", "resume", "--home", site)
    (file,) = site.rglob("ledger.jsonl")
    file.write_bytes(file.read_bytes().replace(b'"pause"', b'"resume"'))
    for command in ("verify", "show"):
        code, _, err = run("site", "ledger", command, "--home", site)
        assert code == 1
        assert "ledger" in err


def test_unknown_plan_is_one_sentence(run, site):
    code, _, err = run("site", "approve", "0123456789ab", "--home", site, "--yes")
    assert code == 1
    assert "archipel site plans" in err


# ---------------------------------------------------------------- runs
def test_launch_needs_two_enrolled_sites(run, tmp_path):
    hub = tmp_path / "hub"
    init_hub(hub, public_port=0, internal_port=0)
    code, _, err = run("launch", STUDY, "--hub", hub)
    assert code == 1
    assert "at least 2 enrolled sites" in err
    assert "Enrolled: none" in err
    code, _, err = run("launch", STUDY, "--hub", hub, "--sites", "paris, lille")
    assert code == 1
    assert "Not enrolled: lille, paris" in err


def test_launch_without_a_running_hub_says_so(run, tmp_path):
    hub = tmp_path / "hub"
    init_hub(hub, public_port=0, internal_port=0)
    for name in ("lille", "nantes", "paris"):
        request = init_site(tmp_path / name, name, tmp_path, utc_now())
        enrol_site(hub, request.to_json().encode(), utc_now())
    code, _, err = run("launch", STUDY, "--hub", hub)
    assert code == 1
    assert "archipel hub up" in err
    assert run("runs", "list", "--hub", hub, "--json")[1].strip() == "[]"


def test_unknown_run_is_one_sentence(run, tmp_path):
    init_hub(tmp_path / "hub")
    for words in (("show",), ("watch",), ("stop",), ("report",)):
        code, _, err = run("runs", *words, "nothing", "--hub", tmp_path / "hub")
        assert code == 1
        assert "archipel runs list" in err


# ---------------------------------------------------------------- errors
def test_unforeseen_error_shows_no_value(run, monkeypatch):
    def explode(path):
        raise ValueError("patient Jane Doe, born 1970")

    monkeypatch.setattr("archipel.studies.read_study", explode)
    code, out, err = run("study", "check", STUDY)
    assert code == 1
    assert "ValueError" in err
    assert "Jane" not in out + err


def test_system_error_names_the_file(run, tmp_path):
    code, _, err = run("study", "plan", STUDY, "--out", tmp_path / ("x" * 300))
    assert code == 1
    assert err.endswith("xx: File name too long.\n")


def test_output_that_cannot_be_written_is_said_before_any_work(run, tmp_path):
    (tmp_path / "file").write_text("")
    for words in (
        ("demo", "--no-serve"),
        ("simulate", STUDY, "--sites", tmp_path),
        ("trial", STUDY, "--sites", tmp_path),
    ):
        code, out, err = run(*words, "--out", tmp_path / "file")
        assert (code, out) == (1, "")
        assert "is a file or lies inside one: name a folder" in err


@pytest.mark.parametrize("words", [("hub", "status"), ("runs", "list"), ("launch", STUDY)], ids=lambda w: w[0])
def test_folder_that_is_no_hub_is_said_with_both_ways_out(run, tmp_path, monkeypatch, words):
    monkeypatch.setenv("ARCHIPEL_HUB_HOME", str(tmp_path / "nowhere"))
    code, _, err = run(*words)
    assert code == 1
    assert f"{tmp_path / 'nowhere'}" in err
    assert "make one with `archipel hub init`, or name the hub's folder" in err


def test_home_that_is_a_file_is_one_sentence(run, tmp_path):
    (tmp_path / "hub").write_text("")
    code, _, err = run("hub", "init", "--home", tmp_path / "hub")
    assert code == 1
    assert err.count("\n") == 1
