"""Finding one patient, typing one in, and who trained a model."""

from __future__ import annotations

import hmac
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.errors import TablesRefusedError
from client.members import Members
from client.page.patients import Patients, dictionary_of, form_fields, typed
from client.page.prognosis import prognose
from client.page.rows import patient_of
from client.page.shapes import Prognosis, Refused, Row
from client.page.typing_in import criteria_notices
from client.state import SitePaths, fold_key
from models.compile import compile_plan
from models.prediction import log_hazards
from privacy.differencing import fingerprints
from privacy.ledger import Event, Ledger
from schemas.artefact import Manifest
from tests.client import tables_kit
from tests.client.page.page_kit import ASKED, codes, small_model

SITE = 'kind = "site"\nversion = 1\nname = "brest"\nhub_address = "hub.example.org:9092"\ntables = "tables"\n'
CLINICAL = """patient_id,age,stage,treated,remark
P-1,50,II,0,x
P-2,,I,1,x
P-3,140,II,0,x
P-4,50.5,IV,1,x
P-5,61,,,=HYPERLINK(1)
P-6,30,I,1,x
"""
RNA = "patient_id,A,B,C,D\nP-1,1,,2,3\nP-9,1,1,1,1\n"


def site(home: Path, *, view: str = "", clinical: str = CLINICAL, rna: str = RNA) -> Path:
    (home / "tables").mkdir(parents=True)
    (home / "site.toml").write_text(SITE + view)
    (home / "tables" / "clinical.csv").write_text(clinical)
    (home / "tables" / "rna.csv").write_text(rna)
    return home


def row_of(home: Path, patient_id: str = "P-1") -> Row:
    found = Patients(home).find(small_model(), patient_id)
    assert found is not None
    return found


def refused(row: Row) -> list[str]:
    found = prognose(small_model(), row, asked=ASKED)
    assert isinstance(found, Refused), "a number was shown"
    return codes(found)


def test_a_patient_is_found_with_every_cell_and_without_outcomes(tmp_path: Path) -> None:
    row = row_of(site(tmp_path))
    assert dict(row.cells) == {"age": 50.0, "stage": 1.0, "treated": 0.0}
    np.testing.assert_array_equal(row.blocks["rna"], [1, np.nan, 2, 3])
    assert (row.source, row.patient_id, row.problems) == ("table", "P-1", ())
    assert isinstance(prognose(small_model(), row, asked=ASKED), Prognosis)
    assert np.isnan(row_of(tmp_path, "P-6").blocks["rna"]).all()


@pytest.mark.parametrize("almost", ["p-1", "P-1 ", "P", "P-", "", "P-1\n", "*", "P-1' OR '1'='1", "P-9", "%"])
def test_only_the_exact_identifier_finds_anybody(tmp_path: Path, almost: str) -> None:
    assert Patients(site(tmp_path)).find(small_model(), almost) is None


def test_a_cell_that_the_dictionary_does_not_allow_refuses_its_patient_and_no_other(tmp_path: Path) -> None:
    home = site(tmp_path)
    assert refused(row_of(home, "P-2")) == ["required-missing"]
    assert refused(row_of(home, "P-3")) == ["unreadable"]
    assert refused(row_of(home, "P-4")) == ["unreadable"]
    assert isinstance(prognose(small_model(), row_of(home, "P-5"), asked=ASKED), Prognosis)


def test_a_patient_who_opted_out_is_not_found(tmp_path: Path) -> None:
    home = site(tmp_path)
    patients = Patients(home)
    assert patients.find(small_model(), "P-1") is not None
    (home / "optout.txt").write_text("P-1\n")
    assert patients.find(small_model(), "P-1") is None, "from the next look on"


def test_tables_are_read_anew_when_they_change(tmp_path: Path) -> None:
    home = site(tmp_path)
    patients = Patients(home)
    assert patients.find(small_model(), "P-7") is None
    with (home / "tables" / "clinical.csv").open("a") as table:
        table.write("P-7,44,III,0,x\n")
    assert patients.find(small_model(), "P-7") is not None


def test_current_patients_may_lie_in_a_folder_of_their_own(tmp_path: Path) -> None:
    home = site(tmp_path, view='[view]\ntables = "current"\n')
    (home / "current").mkdir()
    (home / "current" / "clinical.csv").write_text("patient_id,age,stage,treated\nNEW,50,I,1\n")
    assert row_of(home, "NEW").blocks == {}
    assert Patients(home).find(small_model(), "P-1") is None


def test_an_identifier_that_stands_twice_shows_nobody(tmp_path: Path) -> None:
    home = site(tmp_path, clinical=CLINICAL + "P-1,80,III,1,x\n")
    with pytest.raises(TablesRefusedError) as caught:
        Patients(home).find(small_model(), "P-6")
    assert "repeats an identifier" in str(caught.value)
    assert "P-1" not in str(caught.value)


def test_tables_that_are_not_there_are_said_to_be(tmp_path: Path) -> None:
    home = site(tmp_path)
    (home / "tables" / "clinical.csv").unlink()
    with pytest.raises(TablesRefusedError, match="no clinical"):
        Patients(home).find(small_model(), "P-1")


def test_a_site_whose_tables_follow_another_dictionary_shows_no_number(tmp_path: Path) -> None:
    home = site(tmp_path, view='[view]\ndictionary = "dictionary.toml"\n')
    text = 'kind = "dictionary"\nversion = 1\nname = "newer"\n[[columns]]\nname = "patient_id"\ntype = "identifier"\n'
    (home / "dictionary.toml").write_text(text + '[[columns]]\nname = "age"\ntype = "number"\nunit = "month"\n')
    assert refused(row_of(home)) == ["dictionary-version"]
    same = small_model()
    dictionary, expected = dictionary_of(same, home / "dictionary.toml")
    manifest = Manifest(**{**dict(same.artefact.manifest), "dictionary_hash": expected})
    model = replace(same, artefact=replace(same.artefact, manifest=manifest))
    found = Patients(home).find(model, "P-1")
    assert found is not None
    assert (dictionary.name, found.cells["age"]) == ("newer", 50.0)
    assert "dictionary-version" not in codes(prognose(model, found, asked=ASKED))


# ---------------------------------------------------------------- who trained
def members(home: Path, *patients: str) -> None:
    paths = SitePaths(home)
    salt = hmac.digest(fold_key(paths), b"archipel fingerprints of cohorts", "sha256")
    rows = fingerprints(dict.fromkeys(patients, b"row"), salt)
    content = Members(question="q", reads="r", masked=True, sites=("brest",), rows=rows).model_dump(mode="json")
    paths.members("small-1").parent.mkdir(parents=True, exist_ok=True)
    paths.members("small-1").write_text(json.dumps(content))


def test_a_patient_who_trained_the_model_is_marked_and_gets_no_number(tmp_path: Path) -> None:
    home = site(tmp_path)
    members(home, "P-1", "P-4")
    assert (row_of(home, "P-1").in_sample, row_of(home, "P-6").in_sample) == (True, False)
    assert refused(row_of(home, "P-1")) == ["in-sample"]
    assert isinstance(prognose(small_model(), row_of(home, "P-6"), asked=ASKED), Prognosis)


def test_a_site_that_took_no_part_in_the_run_knows_that_its_patients_did_not_train(tmp_path: Path) -> None:
    assert row_of(site(tmp_path)).in_sample is False


def test_a_site_that_took_part_and_lost_its_list_cannot_tell(tmp_path: Path) -> None:
    home = site(tmp_path)
    Ledger(SitePaths(home).ledger).append(Event("release", run="small-1", study="small"))
    assert row_of(home).in_sample is None
    members(home, "P-6")
    assert row_of(home).in_sample is False
    SitePaths(home).members("small-1").write_text("{")
    assert row_of(home).in_sample is None


def test_nobody_can_tell_who_trained_a_model_of_a_simulation(tmp_path: Path) -> None:
    found = Patients(site(tmp_path)).find(small_model(mode="simulate"), "P-1")
    assert found is not None
    assert found.in_sample is None


# ---------------------------------------------------------------- the form
def test_the_form_asks_for_each_column_once_with_its_range_and_codes() -> None:
    fields = {field.name: field for field in form_fields(small_model())}
    assert list(fields) == ["age", "stage", "treated"]
    age = fields["age"]
    assert (age.label, age.unit, age.low, age.high, age.required) == ("Age at diagnosis", "year", 0, 110, True)
    assert (fields["stage"].type, fields["stage"].codes) == ("category", ("I", "II", "III"))
    assert (fields["treated"].type, fields["treated"].required) == ("boolean", False)


def test_a_typed_patient_has_the_prognosis_of_the_same_patient_in_the_table(tmp_path: Path) -> None:
    given = {"age": "50", "stage": "II", "treated": "no", "rna:A": "1", "rna:C": "2", "rna:D": "3", "rna:B": ""}
    row = typed(small_model(), given)
    assert isinstance(row, Row)
    assert (row.source, row.patient_id, row.in_sample) == ("form", "", None)
    one = prognose(small_model(), row, asked=ASKED)
    other = prognose(small_model(), row_of(site(tmp_path)), asked=ASKED)
    assert isinstance(one, Prognosis)
    assert isinstance(other, Prognosis)
    assert (one.horizons, one.moved, one.arms) == (other.horizons, other.moved, other.arms)


def test_all_faults_of_a_typed_patient_are_named_at_once() -> None:
    found = typed(small_model(), {"age": "111", "stage": "IV", "treated": "maybe", "colour": "red", "rna:A": "1,5"})
    assert isinstance(found, tuple)
    assert sorted((one.code, one.values["column"]) for one in found) == [
        ("beyond-range", "age"), ("not-a-number", "rna:A"), ("unknown-code", "stage"), ("unknown-code", "treated"),
        ("unreadable", "colour"),
    ]  # fmt: skip
    missing = typed(small_model(), {"stage": "I"})
    assert isinstance(missing, tuple)
    assert [one.code for one in missing] == ["required-missing"]


@given(st.text(max_size=80))
def test_whatever_is_typed_is_a_number_within_the_range_or_a_fault(text: str) -> None:
    found = typed(small_model(), {"age": text, "stage": text, "treated": text})
    if isinstance(found, Row):
        assert 0 <= found.cells["age"] <= 110
        assert math.isnan(found.cells["stage"]) or found.cells["stage"] in (0, 1, 2)
    else:
        assert found
        assert text not in {value for one in found for value in one.values.values()} or text in ("age", "stage", "")


# ---------------------------------------------------------------- who the model is for
def test_a_known_cell_that_does_not_meet_a_criterion_of_the_study_is_named() -> None:
    criteria = [
        {"column": "age_years", "op": ">=", "value": 18},
        {"column": "sex", "op": "==", "value": "female"},
        {"column": "lesions", "op": "<", "value": 5},
    ]
    plan = compile_plan(tables_kit.study(eligibility={"criteria": criteria}), tables_kit.dictionary())
    child = criteria_notices(plan, {"age_years": 17.0, "sex": 0.0, "lesions": 4.0})
    assert [(one.code, one.values["column"]) for one in child] == [("ineligible", "age_years"), ("ineligible", "sex")]
    assert criteria_notices(plan, {"age_years": 18.0, "sex": 1.0}) == ()
    assert criteria_notices(plan, {"age_years": math.nan}) == ()


def test_a_layer_that_each_site_corrects_is_corrected_by_the_sites_other_patients(tmp_path: Path) -> None:
    """A laboratory that measures everything two units higher changes nothing, once the site's patients show it."""
    rng = np.random.default_rng(2)
    cells = np.round(rng.normal(0.1, [1.0, 2.0, 1.0, 1.0], (40, 4)), 3)
    layers = tuple(layer.model_copy(update={"adjust": "site"}) for layer in small_model().artefact.manifest.layers)
    model = small_model(layers=layers)
    eta = []
    for name, shift in (("here", 0.0), ("shifted", 2.0)):
        ids = [f"P-{i}" for i in range(40)]
        clinical = "patient_id,age,stage,treated\n" + "".join(f"{one},50,II,0\n" for one in ids)
        lines = (
            f"{one}," + ",".join(f"{cell + shift:.3f}" for cell in row) for one, row in zip(ids, cells, strict=True)
        )
        home = site(tmp_path / name, clinical=clinical, rna="patient_id,A,B,C,D\n" + "\n".join(lines) + "\n")
        row = Patients(home).find(model, "P-3")
        assert row is not None
        assert row.neighbours["rna"].shape == (39, 4)
        eta.append(float(log_hazards(model.artefact, patient_of(model.artefact, row))[0]))
        eta.append(float(log_hazards(model.artefact, patient_of(model.artefact, replace(row, neighbours={})))[0]))
    here, _, shifted, uncorrected = eta
    assert shifted == pytest.approx(here, abs=0.05)
    assert abs(uncorrected - here) > 0.2
