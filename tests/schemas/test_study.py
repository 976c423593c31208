from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.design import design_columns
from schemas.errors import FaultsError
from schemas.study import load_study

DICTIONARY = """
kind = "dictionary"
version = 1
name = "small"
[[columns]]
name = "patient_id"
type = "identifier"
[[columns]]
name = "time_days"
type = "number"
unit = "day"
min = 0
max = 400
[[columns]]
name = "event"
type = "boolean"
[[columns]]
name = "age"
type = "number"
[[columns]]
name = "sex"
type = "category"
codes = ["male", "female", "intersex"]
[[columns]]
name = "TP53"
type = "number"
layer = "rna"
"""

STUDY = """
kind = "study"
version = 1
name = "small-study"
dictionary = "dictionary.toml"
[endpoint]
time = "time_days"
event = "event"
horizons_days = [100, 200]
[model]
covariates = ["age", "sex", "TP53"]
penalty = { clinical = 1, rna = 10 }
"""


def written(folder: Path, study: str = STUDY, dictionary: str = DICTIONARY) -> Path:
    (folder / "dictionary.toml").write_text(dictionary)
    path = folder / "study.toml"
    path.write_text(study)
    return path


def faults_of(folder: Path, study: str = STUDY, dictionary: str = DICTIONARY) -> list[str]:
    with pytest.raises(FaultsError) as caught:
        load_study(written(folder, study, dictionary))
    return [str(fault) for fault in caught.value.faults]


def test_a_complete_study_is_read(tmp_path: Path) -> None:
    study, dictionary = load_study(written(tmp_path))
    assert study.model.method == "hazard"
    assert study.privacy.min_events_per_interval == 5
    assert [column.name for column in design_columns(study, dictionary)] == [
        "age",
        "sex[female]",
        "sex[intersex]",
        "TP53",
    ]
    assert study.model.penalty_of("rna") == 10
    assert study.model.penalty_of("protein") == 0


def test_all_faults_are_named_at_once_with_their_lines(tmp_path: Path) -> None:
    broken = (
        STUDY.replace('name = "small-study"', 'name = "Small Study"')
        .replace('method = "hazard"', "")
        .replace("[model]", '[model]\nstandardise = 1\nmethod = "coxx"')
        + "\n[privacy]\nmin_patients = '10'\nminimum = 3\n"
    )
    lines = {fault.split(":")[0]: fault for fault in faults_of(tmp_path, broken)}
    assert set(lines) == {f"study.toml line {n}" for n in (4, 11, 12, 17, 18)}
    assert "not a known key" in lines["study.toml line 18"]


def test_what_the_dictionary_contradicts_is_named_beside_keys_at_fault(tmp_path: Path) -> None:
    broken = (
        STUDY.replace('name = "small-study"', 'name = "Small Study"\ntitel = "small"')
        .replace("[100, 200]", "[-5, 100, 900]")
        .replace('"TP53"]', '"TP54"]\nmethod = "coxx"\nties = "none"')
        .replace('event = "event"', 'event = "sex"')
    )
    found = {fault.split(":")[0].removeprefix("study.toml line "): fault for fault in faults_of(tmp_path, broken)}
    assert set(found) == {"4", "5", "9", "10", "12", "13", "14", "15"}
    assert "is of type category" in found["9"]
    assert "has no column `TP54`" in found["12"]
    assert "no covariate is of layer `rna`" in found["15"]


def test_a_key_that_was_not_read_has_no_second_fault(tmp_path: Path) -> None:
    broken = STUDY.replace("[model]", '[model]\nmethod = "logit"').replace("[endpoint]", '[endpoint]\ntype = "binry"')
    assert len(faults_of(tmp_path, broken)) == 2
    assert len(faults_of(tmp_path, STUDY.replace("[100, 200]", '"soon"'))) == 1


def test_faults_of_study_and_dictionary_are_named_together(tmp_path: Path) -> None:
    faults = faults_of(
        tmp_path,
        STUDY.replace('kind = "study"', 'kind = "stduy"'),
        DICTIONARY.replace('type = "boolean"', 'type = "bool"'),
    )
    assert any("study.toml line 2" in fault for fault in faults)
    assert any("dictionary.toml line 16" in fault for fault in faults)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ('"TP53"]', '"TP54"]', "has no column `TP54`"),
        ('["age"', '["time_days"', "part of the endpoint"),
        ("[100, 200]", "[100, 900]", "beyond the largest time"),
        ("rna = 10", "protein = 10", "no covariate is of layer `protein`"),
        ('event = "event"', 'event = "sex"', "is of type category"),
        ('["age", "sex"', '["age", "age"', "named twice: age"),
        ("[endpoint]", "[evaluation]\nfolds = 1\n[endpoint]", "one fold leaves nothing to train on"),
        ("[endpoint]", '[[eligibility.criteria]]\ncolumn = "sex"\nop = "<"\nvalue = "male"\n[endpoint]', "no order"),
        (
            "[endpoint]",
            '[[eligibility.criteria]]\ncolumn = "age"\nop = ">="\nvalue = "old"\n[endpoint]',
            "is a number",
        ),
    ],
)
def test_a_study_that_contradicts_its_dictionary_is_refused(
    tmp_path: Path, before: str, after: str, expected: str
) -> None:
    assert any(expected in fault for fault in faults_of(tmp_path, STUDY.replace(before, after)))


def test_a_missing_dictionary_is_named(tmp_path: Path) -> None:
    assert any(
        "nowhere.toml" in fault for fault in faults_of(tmp_path, STUDY.replace("dictionary.toml", "nowhere.toml"))
    )


def test_yaml_and_toml_dictionaries_are_the_same(tmp_path: Path) -> None:
    import tomllib

    import yaml

    (tmp_path / "dictionary.yaml").write_text(yaml.safe_dump(tomllib.loads(DICTIONARY)))
    from_toml = load_study(written(tmp_path))[1]
    from_yaml = load_study(written(tmp_path, STUDY.replace("dictionary.toml", "dictionary.yaml")))[1]
    assert from_toml == from_yaml


def test_a_fault_in_yaml_has_its_line(tmp_path: Path) -> None:
    (tmp_path / "dictionary.yaml").write_text(
        "kind: dictionary\nversion: 1\nname: x\ncolumns:\n  - name: a\n    type: odd\n"
    )
    faults = faults_of(tmp_path, STUDY.replace("dictionary.toml", "dictionary.yaml"))
    assert any(fault.startswith("dictionary.yaml line 6") for fault in faults)


@given(st.binary(max_size=400))
def test_no_bytes_do_more_than_name_faults(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("hostile")
    for name in ("study.toml", "dictionary.toml", "dictionary.yaml"):
        (folder / name).write_bytes(content)
    with pytest.raises(FaultsError):
        load_study(folder / "study.toml")
    (folder / "study.toml").write_text(STUDY.replace("dictionary.toml", "dictionary.yaml"))
    with pytest.raises(FaultsError):
        load_study(folder / "study.toml")


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("version = 1", "version = 2", "`version`: must be 1"),
        (
            "[model]",
            '[model]\nmethod = "magic"',
            "must be 'hazard', 'cox', 'cox-stratified', 'hazard-network', 'logistic' or 'multinomial'",
        ),
        ("version = 1", 'version = 1\ndeadline_s = "soon"', "`deadline_s`: must be a number, without quotes"),
        ("version = 1", "version = 1\ndeadline_s = 0", "`deadline_s`: must be greater than 0"),
        ("version = 1", 'version = 1\nexpires = "soon"', "must be a date without quotes, as in 2030-12-31"),
        ("version = 1", "version = 1\ntitle = 3", "`title`: must be text, in quotes"),
        ("[model]", '[model]\nstandardise = "yes"', "must be true or false, without quotes"),
        ('dictionary = "', 'layout = 3\ndictionary = "', "`layout` is not a known key"),
    ],
)
def test_faults_are_in_words_and_name_no_tool(tmp_path: Path, before: str, after: str, words: str) -> None:
    assert STUDY.count(before) == 1
    faults = faults_of(tmp_path, STUDY.replace(before, after))
    assert any(words in fault for fault in faults), faults
    assert not any("Input should" in fault or "pydantic" in fault for fault in faults)


def test_name_is_explained_by_its_letters(tmp_path: Path) -> None:
    name = next(line for line in STUDY.splitlines() if line.startswith("name = "))
    (fault,) = faults_of(tmp_path, STUDY.replace(name, 'name = "My Study"'))
    assert "`name`: must consist of lower-case letters, digits and hyphens" in fault
