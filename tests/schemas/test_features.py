"""The list of a wide layer's features, and what study, dictionary and design make of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.design import design_columns, layer_designs
from schemas.dictionary import Dictionary, WideLayer, load_dictionary
from schemas.errors import FaultsError
from schemas.features import read_features, write_features
from schemas.study import Study, load_study

Factory = pytest.TempPathFactory
DICTIONARY = """
kind = "dictionary"
version = 1
name = "wide"
[[columns]]
name = "patient_id"
type = "identifier"
[[columns]]
name = "time_days"
type = "number"
min = 0
max = 400
[[columns]]
name = "event"
type = "boolean"
[[columns]]
name = "age"
type = "number"
[[layers]]
name = "rna"
transform = "sign-log1p"
features = "rna.features"
[[layers]]
name = "mutation"
type = "boolean"
min_prevalence = 0.03
features = "mutation.features"
"""
STUDY = """
kind = "study"
version = 1
name = "wide-study"
dictionary = "dictionary.toml"
[endpoint]
time = "time_days"
event = "event"
[model]
layers = ["clinical", "rna", "mutation"]
covariates = ["age"]
components = 2
penalty = "cv"
"""


def _written(folder: Path, study: str = STUDY, dictionary: str = DICTIONARY) -> tuple[Study, Dictionary]:
    write_features(folder / "rna.features", ("TP53", "ERBB2", "MYC"), "GRCh38")
    write_features(folder / "mutation.features", ("TP53",))
    (folder / "dictionary.toml").write_text(dictionary)
    (folder / "study.toml").write_text(study)
    return load_study(folder / "study.toml")


_NAMES = st.lists(
    st.text(
        st.characters(min_codepoint=33, max_codepoint=0x24F, exclude_characters="<>[]\x7f\x85\xa0\xad"), min_size=1
    )
    .map(str.strip)
    .filter(lambda name: bool(name) and not name.startswith("#") and name.isprintable()),
    min_size=1,
    unique=True,
)


@given(_NAMES)
def test_what_is_written_is_read_in_the_same_order(tmp_path_factory: Factory, names: list[str]) -> None:
    path = tmp_path_factory.mktemp("features") / "x.features"
    write_features(path, names, "GRCh38")
    found = read_features(path)
    assert found.identifiers == tuple(names)
    assert found.genome_build == "GRCh38"


@given(st.binary(max_size=300))
def test_no_bytes_do_more_than_name_faults(tmp_path_factory: Factory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("features") / "x.features"
    path.write_bytes(content)
    try:
        found = read_features(path)
    except FaultsError:
        return
    assert found.identifiers


def test_a_feature_listed_twice_is_named_with_both_lines(tmp_path: Path) -> None:
    (tmp_path / "x.features").write_text("TP53\nMYC\nTP53\n")
    with pytest.raises(FaultsError, match="line 3: repeats line 1"):
        read_features(tmp_path / "x.features")


def test_the_dictionary_carries_its_features(tmp_path: Path) -> None:
    _, dictionary = _written(tmp_path)
    rna = dictionary.wide_layer("rna")
    assert rna is not None
    assert (rna.identifiers, rna.genome_build) == (("TP53", "ERBB2", "MYC"), "GRCh38")
    assert dictionary.layer_names == ("clinical", "rna", "mutation")


def test_one_feature_more_is_another_dictionary(tmp_path: Path) -> None:
    _, before = _written(tmp_path)
    write_features(tmp_path / "rna.features", ("TP53", "ERBB2", "MYC", "KRAS"), "GRCh38")
    assert load_dictionary(tmp_path / "dictionary.toml").hash != before.hash


def test_the_design_has_components_after_the_covariates_and_never_more_than_features(tmp_path: Path) -> None:
    study, dictionary = _written(tmp_path)
    names = [column.name for column in design_columns(study, dictionary)]
    assert names == ["age", "rna 1", "rna 2", "mutation 1"]
    assert [(layer.name, layer.n_components) for layer in layer_designs(study, dictionary)] == [
        ("rna", 2),
        ("mutation", 1),
    ]


def test_without_components_every_feature_is_a_column(tmp_path: Path) -> None:
    study, dictionary = _written(tmp_path, STUDY.replace("components = 2", "components = 0"))
    names = [column.name for column in design_columns(study, dictionary)]
    assert names == ["age", "rna:TP53", "rna:ERBB2", "rna:MYC", "mutation:TP53"]


def test_a_layer_whose_features_nobody_listed_is_a_fault_that_names_the_file(tmp_path: Path) -> None:
    study, _ = _written(tmp_path)
    (tmp_path / "rna.features").unlink()
    dictionary = load_dictionary(tmp_path / "dictionary.toml")
    with pytest.raises(FaultsError, match=r"rna\.features"):
        design_columns(study, dictionary)


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ('"rna", "mutation"]', '"rna", "protein"]', "no layer `protein`"),
        ('"rna", "mutation"]', '"rna", "rna"]', "named twice: rna"),
        ('layers = ["clinical", "rna", "mutation"]\ncovariates = ["age"]', "", "at least one of `covariates`"),
        ('penalty = "cv"', "penalty = { protein = 3.0 }", "no covariate is of layer `protein`"),
        ('penalty = "cv"', 'penalty = "best"', "penalty"),
    ],
)
def test_what_a_study_says_wrongly_of_layers_is_named(tmp_path: Path, before: str, after: str, words: str) -> None:
    with pytest.raises(FaultsError, match=words):
        _written(tmp_path, STUDY.replace(before, after))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": "clinical"}, "column by column"),
        ({"identifiers": ("TP53", "TP53")}, "listed twice"),
        ({"identifiers": ("patient_id",)}, "is no feature"),
        ({"min": 2.0, "max": 1.0}, "min >= max"),
    ],
)
def test_a_wide_layer_that_contradicts_itself_is_refused(fields: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        WideLayer(**{"name": "rna", "features": "rna.features", **fields})  # type: ignore[arg-type]


def test_a_layer_stands_either_under_columns_or_under_layers(tmp_path: Path) -> None:
    twice = DICTIONARY + '[[columns]]\nname = "TP53"\ntype = "number"\nlayer = "rna"\n'
    with pytest.raises(FaultsError, match="described twice"):
        _written(tmp_path, dictionary=twice)
