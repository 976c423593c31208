"""`archipel study features`, and what happens where a list of features is missing."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from archipel.features import complete_dictionary, list_features, tables_of, tables_of_sites
from schemas.dictionary import Dictionary, load_dictionary
from schemas.errors import FaultsError
from schemas.features import read_features
from schemas.study import load_study
from tests.command_line import runner

run = pytest.fixture(runner)

DICTIONARY = """
kind = "dictionary"
version = 1
name = "lists"
[[columns]]
name = "patient_id"
type = "identifier"
required = true
[[columns]]
name = "time_days"
type = "number"
unit = "day"
max = 900
[[columns]]
name = "event"
type = "boolean"
[[layers]]
name = "rna"
features = "rna.features"
genome_build = "GRCh38"
[[layers]]
name = "assay"
columns = "lysis_*"
features = "assay.features"
"""
STUDY = """
kind = "study"
version = 1
name = "lists"
dictionary = "dictionary.toml"
endpoint = { time = "time_days", event = "event" }
model = { layers = ["rna"], components = 1 }
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "dictionary.toml").write_text(DICTIONARY)
    (tmp_path / "study.toml").write_text(STUDY)
    for name, rna in {"a": "TP53,MYC", "b": "MYC,KRAS"}.items():
        folder = tmp_path / "sites" / name
        folder.mkdir(parents=True)
        (folder / "clinical.csv").write_text(f"patient_id,time_days,event\n{name}1,5,1\n{name}2,9,0\n")
        (folder / "rna.csv").write_text(f"patient_id,{rna}\n{name}1,1,2\n")
    (tmp_path / "sites" / "b" / "assay.csv").write_text("patient_id,plate,lysis_8h,lysis_4h\nb1,x,1,2\n")
    return tmp_path


def dictionary_of(home: Path) -> Dictionary:
    return load_dictionary(home / "dictionary.toml")


def test_the_list_is_the_union_of_the_tables_in_their_order(home, run):
    code, out, _ = run("study", "features", home / "study.toml", "--sites", home / "sites")
    assert code == 0
    assert f"rna: 3 features in 2 tables; written to {home / 'rna.features'}" in out
    rna = read_features(home / "rna.features")
    assert (rna.identifiers, rna.genome_build) == (("TP53", "MYC", "KRAS"), "GRCh38")
    assert read_features(home / "assay.features").identifiers == ("lysis_8h", "lysis_4h")
    assert dictionary_of(home).wide_layer("rna").identifiers == ("TP53", "MYC", "KRAS")


def test_a_list_that_is_there_is_kept_until_it_is_to_be_replaced(home, run):
    (home / "rna.features").write_text("BRAF\n")
    words = ("study", "features", home / "study.toml", "--sites", home / "sites")
    assert "lists 1 others and was left as it is" in run(*words)[1]
    assert read_features(home / "rna.features").identifiers == ("BRAF",)
    assert run(*words, "--replace")[0] == 0
    assert read_features(home / "rna.features").identifiers == ("TP53", "MYC", "KRAS")
    assert "says so already" in run(*words)[1]


def test_tables_can_be_given_one_by_one(home, run):
    pq.write_table(pa.table({"patient_id": ["z"], "NRAS": [1.0]}), home / "rna.parquet")
    files = (home / "rna.parquet", home / "sites" / "a" / "rna.csv")
    code, out, _ = run("study", "features", home / "study.toml", "--from", files[0], "--from", files[1])
    assert code == 0
    assert read_features(home / "rna.features").identifiers == ("NRAS", "TP53", "MYC")
    assert "assay: no table of this layer was given" in out


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        ((), 2, "either --sites DIR or --from FILE"),
        (("--from", "absent.csv"), 1, "there is no such file"),
        (("--from", "dictionary.toml"), 1, "is no table of a layer"),
        (("--sites", "absent"), 1, "is not a folder"),
    ],
)
def test_wrong_tables_are_named(home, run, monkeypatch, words, code, sentence):
    monkeypatch.chdir(home)
    got, _, err = run("study", "features", "study.toml", *words)
    assert got == code
    assert sentence in " ".join(err.replace("│", " ").split())


@pytest.mark.parametrize(
    ("header", "sentence"),
    [
        ("patient_id,b1,b2", "columns are called like patients"),
        ("gene,TP53", "none of the dictionary's column names"),
        ("patient_id,<script>", "with a line break or < >"),
        ("patient_id,#TP53", "with # in front"),
        ("patient_id,TP\u202853", "with a line break"),
        ("patient_id", "no column of its tables fits the pattern"),
    ],
)
def test_a_header_that_lists_no_features_is_refused_and_nothing_written(home, header, sentence):
    for name in "ab":
        (home / "sites" / name / "rna.csv").write_text(header + "\nb1" + ",1" * header.count(",") + "\n")
    tables = tables_of_sites(dictionary_of(home), home / "sites")
    with pytest.raises(FaultsError, match=sentence) as caught:
        list_features(dictionary_of(home), home, tables)
    assert "script" not in str(caught.value)
    assert not list(home.glob("*.features"))


def test_more_features_than_a_layer_may_have_are_refused(home):
    names = ",".join(f"G{i}" for i in range(50_001))
    (home / "sites" / "a" / "rna.csv").write_text(f"patient_id,{names}\n")
    (home / "rna.csv").write_text(f"patient_id,{names}\nb9{',1' * 50_001}\n")
    with pytest.raises(FaultsError, match=r"50,001 features are more than the 50,000"):
        list_features(dictionary_of(home), home, tables_of(dictionary_of(home), [home / "rna.csv"]))


def test_study_check_says_which_list_is_missing_and_how_to_write_it(home, run):
    code, _, err = run("study", "check", home / "study.toml")
    assert code == 1
    said = " ".join(err.split())
    assert "dictionary.toml, layer rna: its features are not listed" in said
    assert f"archipel study features {home / 'study.toml'} --sites DIR" in said
    assert "assay" not in said  # the study does not name it
    run("study", "features", home / "study.toml", "--sites", home / "sites")
    assert run("study", "check", home / "study.toml")[0] == 0


def test_a_simulation_lists_what_is_missing_writes_it_and_says_so(home):
    study, dictionary = load_study(home / "study.toml")
    complete, (sentence,) = complete_dictionary(study, dictionary, home, home / "sites")
    assert complete.wide_layer("rna").identifiers == ("TP53", "MYC", "KRAS")
    assert complete.wide_layer("assay").identifiers == ()
    assert "3 features of layer rna were listed from the sites' tables and written to rna.features" in sentence
    assert dictionary_of(home).wide_layer("rna") == complete.wide_layer("rna")
    assert complete_dictionary(study, dictionary_of(home), home, home / "sites")[1] == ()


def test_a_list_that_cannot_be_written_serves_this_run_alone(home):
    study, dictionary = load_study(home / "study.toml")
    complete, (sentence,) = complete_dictionary(study, dictionary, home / "no-folder", home / "sites")
    assert complete.wide_layer("rna").identifiers == ("TP53", "MYC", "KRAS")
    assert "for this run alone" in sentence
    assert not list(home.rglob("*.features"))


def test_a_layer_that_no_site_has_and_nobody_lists_is_a_fault(home):
    for path in home.rglob("rna.csv"):
        path.unlink()
    study, dictionary = load_study(home / "study.toml")
    with pytest.raises(FaultsError, match=r"no file rna.features and no site has a table of this layer"):
        complete_dictionary(study, dictionary, home, home / "sites")


NAMES = st.lists(st.text(st.characters(codec="utf-8"), max_size=12), min_size=1, max_size=6)


@given(NAMES, NAMES)
def test_whatever_a_header_holds_what_is_written_is_read_back(tmp_path_factory, first, second):
    home = tmp_path_factory.mktemp("lists")
    described = Dictionary(**{**dict(_RNA_ALONE), "name": "any"})
    folders = []
    for number, names in enumerate((first, second)):
        folders.append(home / str(number) / "rna.parquet")
        folders[-1].parent.mkdir()
        columns = ["patient_id", *dict.fromkeys(name for name in names if name != "patient_id")]
        pq.write_table(pa.table([pa.array(["p"])] * len(columns), names=columns), folders[-1])
    try:
        (listed,) = list_features(described, home, tables_of(described, folders))
    except FaultsError:
        assert not (home / "rna.features").exists()
        return
    assert read_features(home / "rna.features").identifiers == listed.identifiers
    assert set(listed.identifiers) <= {name.strip() for name in (*first, *second)}


_RNA_ALONE = Dictionary.model_validate(
    {
        "kind": "dictionary",
        "version": 1,
        "name": "rna",
        "columns": ({"name": "patient_id", "type": "identifier"},),
        "layers": ({"name": "rna", "features": "rna.features"},),
    }
)
