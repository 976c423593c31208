"""A settings file under an environment reads like the file that says the same; what cannot be meant is named."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.settings import SiteSettings, load_settings
from schemas.environment import SITE_PREFIX, overlay, variables
from schemas.errors import FaultsError
from server.hub_settings import HubSettings, load_hub_settings

REQUIRED = {"kind": "site", "version": 1, "name": "chu-nord", "hub_address": "hub.example.org:9092", "tables": "t"}
TEXT = st.text(st.characters(min_codepoint=32, exclude_categories=["Cs", "Cc"]), max_size=20)
PORT = st.integers(0, 65_535)
VALUES: dict[tuple[str, ...], st.SearchStrategy[Any]] = {
    ("title",): TEXT,
    ("hub_address",): st.sampled_from(["hub.example.org:9092", "[::1]:1", "10.0.0.1:443"]),
    ("tables",): st.sampled_from(["tables", "/data", "a b/ü", "7", "true"]),
    ("runtime_port",): PORT,
    ("max_rounds",): st.integers(1, 1000),
    ("logs",): st.sampled_from(["files", "stdout"]),
    ("metrics_port",): PORT,
    ("csv", "delimiter"): st.sampled_from([",", ";", "\t", "|"]),
    ("csv", "encoding"): st.sampled_from(["utf-8", "cp1252"]),
    ("csv", "missing"): st.lists(TEXT.map(str.strip), max_size=3),
    ("floors", "min_patients"): st.integers(10, 100),
    ("floors", "accept_time_zero"): st.just(False),
    ("budget", "dataset"): st.sampled_from(["registry", "7", "true", "1e5"]),
    ("budget", "epsilon"): st.integers(0, 9) | st.floats(0, 9),
    ("view", "recalibrate"): st.booleans(),
    ("view", "idle_minutes"): st.integers(1, 480),
}


def toml(given: dict[tuple[str, ...], Any]) -> str:
    top = {path[0]: value for path, value in given.items() if len(path) == 1}
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in {**REQUIRED, **top}.items()]
    for section in sorted({path[0] for path in given if len(path) == 2}):
        lines.append(f"[{section}]")
        lines += [
            f"{path[1]} = {json.dumps(value, ensure_ascii=False)}"
            for path, value in given.items()
            if path[0] == section
        ]
    return "\n".join(lines) + "\n"


def named(path: tuple[str, ...]) -> str:
    return SITE_PREFIX + "__".join(path).upper()


def read(text: str, environ: dict[str, str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as home:
        (Path(home) / "site.toml").write_text(text, encoding="utf-8")
        found = load_settings(Path(home), environ).model_dump()
        # Paths start at this home, which is another one at each reading.
        return found | {"tables": str(found["tables"]).replace(str(Path(home).resolve()), "")}


@st.composite
def chosen(draw: st.DrawFn) -> tuple[dict[tuple[str, ...], Any], set[tuple[str, ...]]]:
    paths = draw(st.sets(st.sampled_from(sorted(VALUES))))
    if ("budget", "epsilon") in paths or ("budget", "dataset") in paths:
        paths |= {("budget", "epsilon"), ("budget", "dataset")}
    said = {path: draw(VALUES[path]) for path in sorted(paths)}
    return said, draw(st.sets(st.sampled_from(sorted(said)))) if said else set()


@given(chosen())
@settings(max_examples=150, deadline=None)
def test_an_overlaid_file_reads_like_the_file_that_says_the_same(
    drawn: tuple[dict[tuple[str, ...], Any], set[tuple[str, ...]]],
) -> None:
    said, from_environment = drawn
    other = {path: value for path, value in said.items() if path not in from_environment}
    environ = {
        named(path): said[path] if isinstance(said[path], str) else json.dumps(said[path], ensure_ascii=False)
        for path in from_environment
    }
    assert read(toml(other), environ) == read(toml(said), {})


@given(chosen())
@settings(max_examples=50, deadline=None)
def test_the_environment_wins_over_the_file(
    drawn: tuple[dict[tuple[str, ...], Any], set[tuple[str, ...]]],
) -> None:
    said, from_environment = drawn
    environ = {
        named(path): said[path] if isinstance(said[path], str) else json.dumps(said[path], ensure_ascii=False)
        for path in from_environment
    }
    before = {"title": "before", "max_rounds": 1}
    in_file = {**said, **{(key,): value for key, value in before.items() if (key,) in from_environment}}
    assert read(toml(in_file), environ) == read(toml(said), {})


@given(st.dictionaries(st.sampled_from(sorted(variables(SiteSettings, SITE_PREFIX))), st.text(max_size=30)))
@settings(max_examples=150, deadline=None)
def test_no_value_does_more_than_set_its_own_key_or_be_a_fault_that_names_its_variable(
    environ: dict[str, str],
) -> None:
    known = variables(SiteSettings, SITE_PREFIX)
    found = overlay(REQUIRED, environ, SITE_PREFIX, SiteSettings)
    assert {fault.where for fault in found.faults} | {f"variable {name}" for name in found.variables.values()} == {
        f"variable {name}" for name in environ
    }
    for path, name in found.variables.items():
        assert known[name].path == path
    untouched = {key: value for key, value in REQUIRED.items() if (key,) not in found.variables}
    assert untouched.items() <= found.data.items()
    assert REQUIRED["name"] == "chu-nord", "the file's own table is left as it is"


def test_every_key_of_both_files_has_its_variable() -> None:
    site = variables(SiteSettings, SITE_PREFIX)
    assert {"ARCHIPEL_SITE__HUB_ADDRESS", "ARCHIPEL_SITE__FLOORS__MIN_PATIENTS", "ARCHIPEL_SITE__VIEW__PORT"} < set(
        site
    )
    assert site["ARCHIPEL_SITE__CSV__MISSING"].path == ("csv", "missing")
    assert "ARCHIPEL_HUB__PUBLIC_PORT" in variables(HubSettings, "ARCHIPEL_HUB__")


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("ARCHIPEL_SITE__RUNTIME_PORT", "70000", "at most 65535"),
        ("ARCHIPEL_SITE__RUNTIME_PORT", "seven", "a whole number"),
        ("ARCHIPEL_SITE__RUNTIME_PORT", "7000.0", "a whole number"),
        ("ARCHIPEL_SITE__RUNTIME_PORT", "", "a whole number"),
        ("ARCHIPEL_SITE__RUNTIME_PORT", "1\nmetrics_port = 2", "a whole number"),
        ("ARCHIPEL_SITE__VIEW__RECALIBRATE", "yes", "true or false"),
        ("ARCHIPEL_SITE__CSV__MISSING", "NA", "a list"),
        ("ARCHIPEL_SITE__CSV__MISSING", '["NA "]', "spaces"),
        ("ARCHIPEL_SITE__FLOORS__MIN_PATIENTS", "3", "floor of 10 patients"),
        ("ARCHIPEL_SITE__FLOORS", "3", "takes no value"),
        ("ARCHIPEL_SITE__FLOOR__MIN_PATIENTS", "12", "did you mean ARCHIPEL_SITE__FLOORS__MIN_PATIENTS?"),
        ("ARCHIPEL_SITE__hub_address", "h:1", "did you mean ARCHIPEL_SITE__HUB_ADDRESS?"),
        ("ARCHIPEL_SITE__", "x", "not a known setting"),
        ("ARCHIPEL_SITE__TITLE", "\udcff", "not UTF-8"),
        ("ARCHIPEL_SITE__VIEW__HOST", "0.0.0.0", "reached from other machines"),
        ("ARCHIPEL_SITE__BUDGET__DATASET", "registry", "`budget.epsilon` is missing"),
    ],
)
def test_a_fault_names_its_variable(tmp_path: Path, variable: str, value: str, words: str) -> None:
    (tmp_path / "site.toml").write_text(toml({}), "utf-8")
    with pytest.raises(FaultsError) as caught:
        load_settings(tmp_path, {variable: value, "ARCHIPEL_SITE_HOME": "elsewhere", "PATH": "/bin"})
    (fault,) = caught.value.faults
    assert f"variable {variable}" in fault.where
    assert words in str(fault)


def test_all_faults_of_file_and_environment_at_once(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text(toml({("logs",): "nowhere", ("csv", "delimiter"): "-"}), "utf-8")
    environ = {"ARCHIPEL_SITE__METRICS_PORT": "-1", "ARCHIPEL_SITE__COLOUR": "red", "ARCHIPEL_SITE__KIND": "hub"}
    with pytest.raises(FaultsError) as caught:
        load_settings(tmp_path, environ)
    assert {fault.where for fault in caught.value.faults} == {
        "site.toml line 6", "site.toml line 8", *(f"variable {name}" for name in environ),
    }  # fmt: skip


def test_a_dialect_given_by_environment_knows_its_variable(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text(toml({("csv", "decimal"): "."}), "utf-8")
    dialect = load_settings(tmp_path, {"ARCHIPEL_SITE__CSV__DELIMITER": ";"}).dialect
    assert dialect.where("delimiter") == "variable ARCHIPEL_SITE__CSV__DELIMITER"
    assert dialect.where("decimal") == "site.toml line 7"


def test_the_process_environment_is_what_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "site.toml").write_text(toml({}), "utf-8")
    monkeypatch.setenv("ARCHIPEL_SITE__NAME", "chu-sud")
    assert load_settings(tmp_path).name == "chu-sud"
    (tmp_path / "hub.toml").write_text('kind = "hub"\nversion = 1\nhost = "h"\nlisten = "::"\npublic_port = 1\n')
    monkeypatch.setenv("ARCHIPEL_HUB__INTERNAL_PORT", "2")
    assert load_hub_settings(tmp_path).internal_port == 2


def test_a_file_with_a_value_in_the_place_of_a_section_is_its_own_fault(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text(toml({}) + "csv = 3\n", "utf-8")
    with pytest.raises(FaultsError, match=r"line 6: `csv`: must be a section"):
        load_settings(tmp_path, {"ARCHIPEL_SITE__CSV__DELIMITER": ";"})
