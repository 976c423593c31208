from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tomli_w
from pydantic import ValidationError

from schemas.design import design_columns, treatment_column
from schemas.dictionary import Column, Dictionary
from schemas.endpoint import Endpoint, outcome_codes
from schemas.errors import FaultsError
from schemas.study import Model, load_study
from tests.plans import small_dictionary, small_study

COLUMNS = (
    Column(name="response", type="boolean"),
    Column(name="grade", type="category", codes=("low", "middle", "high")),
    Column(name="kind", type="category", codes=("none", "relapse", "death")),
    Column(name="number", type="integer"),
    Column(name="arm", type="category", codes=("control", "drug")),
)
DICTIONARY = Dictionary(**{**dict(small_dictionary()), "columns": (*small_dictionary().columns, *COLUMNS)})


def faults_of(folder: Path, **changed: Any) -> list[str]:
    """What `load_study` says of a study file with these sections."""
    dictionary = DICTIONARY.model_dump(mode="json", exclude_defaults=True) | {"kind": "dictionary", "version": 1}
    (folder / "dictionary.toml").write_text(tomli_w.dumps(dictionary))
    study = {
        "kind": "study",
        "version": 1,
        "name": "small-study",
        "dictionary": "dictionary.toml",
        "endpoint": {"time": "time_days", "event": "relapse"},
        "model": {"covariates": ["age_years", "sex"]},
        **changed,
    }
    (folder / "study.toml").write_text(tomli_w.dumps(study))
    try:
        load_study(folder / "study.toml")
    except FaultsError as error:
        return [str(fault) for fault in error.faults]
    return []


LOGISTIC = {"method": "logistic", "covariates": ["age_years"]}


@pytest.mark.parametrize(
    ("endpoint", "model"),
    [
        ({"time": "time_days", "event": "relapse"}, {"covariates": ["sex"]}),
        ({"type": "binary", "outcome": "response"}, LOGISTIC),
        ({"type": "binary", "outcome": "arm"}, LOGISTIC),
        ({"type": "category", "outcome": "grade"}, {**LOGISTIC, "method": "multinomial"}),
        ({"time": "time_days", "event": "kind", "cause": "relapse", "competing": ["death"]}, {"covariates": ["sex"]}),
        ({"time": "time_days", "event": "number", "cause": 1, "competing": [2, 3]}, {"covariates": ["sex"]}),
        ({"time": "time_days", "event": "relapse"}, {"covariates": ["arm", "sex"], "treatment": "arm"}),
    ],
)
def test_studies_of_every_endpoint_are_read(endpoint: dict[str, Any], model: dict[str, Any], tmp_path: Path) -> None:
    assert faults_of(tmp_path, endpoint=endpoint, model=model) == []


@pytest.mark.parametrize(
    ("endpoint", "model", "words"),
    [
        ({"type": "binary"}, LOGISTIC, "needs `outcome`"),
        ({"type": "binary", "outcome": "response", "time": "time_days"}, LOGISTIC, "belong to a time to an event"),
        ({"type": "binary", "outcome": "response", "horizons_days": [9.0]}, LOGISTIC, "belong to a time to an event"),
        ({"type": "binary", "outcome": "grade"}, LOGISTIC, "has 3 codes, and a binary outcome has two"),
        ({"type": "category", "outcome": "response"}, {**LOGISTIC, "method": "multinomial"}, "of type boolean"),
        (
            {"type": "binary", "outcome": "response"},
            {"covariates": ["sex"]},
            "does not fit an endpoint",
        ),
        ({"type": "binary", "outcome": "nothing"}, LOGISTIC, "has no column `nothing`"),
        ({"type": "binary", "outcome": "arm"}, {**LOGISTIC, "covariates": ["arm"]}, "`arm` is part of the endpoint"),
        ({"type": "binary", "outcome": "response"}, {**LOGISTIC, "penalty": "cv"}, "for a time to an event alone"),
        ({"time": "time_days"}, {"covariates": ["sex"]}, "name the columns of `time` and `event`"),
        ({"time": "time_days", "event": "relapse"}, LOGISTIC, "does not fit an endpoint of type time-to-event"),
        ({"time": "time_days", "event": "kind", "cause": "relapse"}, {"covariates": ["sex"]}, "need both"),
        (
            {"time": "time_days", "event": "kind", "cause": "none", "competing": ["death"]},
            {"covariates": ["sex"]},
            "`none` is no event in `kind`",
        ),
        (
            {"time": "time_days", "event": "number", "cause": "relapse", "competing": [2]},
            {"covariates": ["sex"]},
            "`number` is an integer",
        ),
        (
            {"time": "time_days", "event": "relapse", "cause": 1, "competing": [2]},
            {"covariates": ["sex"]},
            "column `relapse` is of type boolean",
        ),
        (
            {"time": "time_days", "event": "kind", "cause": "relapse", "competing": ["death"]},
            {"method": "cox-stratified", "covariates": ["sex"]},
            "has no cumulative incidence",
        ),
        ({"time": "time_days", "event": "relapse"}, {"covariates": ["sex"], "treatment": "arm"}, "not among the cov"),
        (
            {"time": "time_days", "event": "relapse"},
            {"covariates": ["age_years", "sex"], "treatment": "age_years"},
            "no boolean and no category of two codes",
        ),
        (
            {"time": "time_days", "event": "relapse"},
            {"covariates": ["arm", "sex"], "treatment": "arm", "interactions": ["arm"]},
            "no interaction with itself",
        ),
        (
            {"time": "time_days", "event": "relapse"},
            {"covariates": ["sex"], "interactions": ["sex"]},
            "name its column",
        ),
    ],
)
def test_faults_of_an_endpoint_are_in_words(
    endpoint: dict[str, Any], model: dict[str, Any], words: str, tmp_path: Path
) -> None:
    faults = faults_of(tmp_path, endpoint=endpoint, model=model)
    assert any(words in fault for fault in faults), faults


def test_a_code_cannot_stand_twice() -> None:
    with pytest.raises(ValidationError, match="twice"):
        Endpoint(time="time_days", event="kind", cause="relapse", competing=("relapse",))


def test_the_values_of_an_outcome_start_with_the_reference() -> None:
    assert outcome_codes(Endpoint(type="category", outcome="grade"), DICTIONARY) == ("low", "middle", "high")
    assert outcome_codes(Endpoint(type="binary", outcome="response"), DICTIONARY) == ("no", "yes")
    assert outcome_codes(Endpoint(time="time_days", event="relapse"), DICTIONARY) == ()


def test_interactions_stand_after_the_covariates_one_for_each_of_their_columns() -> None:
    model = Model(covariates=("arm", "grade", "age_years"), treatment="arm", interactions=("grade", "age_years"))
    columns = design_columns(small_study(model=model), DICTIONARY)
    assert [column.name for column in columns] == [
        "arm[drug]",
        "grade[middle]",
        "grade[high]",
        "age_years",
        "arm[drug] x grade[middle]",
        "arm[drug] x grade[high]",
        "arm[drug] x age_years",
    ]
    assert {column.treatment for column in columns[4:]} == {"arm[drug]"}
    assert all(column.treatment is None for column in columns[:4])
    assert treatment_column(small_study(model=model), DICTIONARY).name == "arm[drug]"
    with pytest.raises(ValueError, match="no treatment"):
        treatment_column(small_study(), DICTIONARY)
