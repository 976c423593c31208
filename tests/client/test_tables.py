from pathlib import Path

import numpy as np

from client.dialect import Dialect
from client.tables import SiteTables, read_site_tables
from tests.client.tables_kit import clinical, dictionary, rna, write


def read(folder: Path, opted_out: frozenset[str] = frozenset()) -> SiteTables:
    return read_site_tables(folder, dictionary(), Dialect(), opted_out)


def errors(tables: SiteTables) -> list[tuple[str, str]]:
    return [(problem.kind, problem.where) for problem in tables.problems if problem.severity == "error"]


def test_layers_are_joined_on_the_identifier_whatever_their_order(tmp_path: Path) -> None:
    patients = [f"P{i:03d}" for i in range(24)]
    write(tmp_path, clinical())
    write(tmp_path, rna(patients[::-1][:15]), "rna.csv")
    tables = read(tmp_path)
    values = tables.columns["rna", "G1"].values
    assert tables.problems == ()
    assert tables.known["rna"].tolist() == [False] * 9 + [True] * 15
    assert np.isnan(values[:9]).all()
    assert values[9:].tolist() == [i + 0.25 for i in range(15)][::-1]
    assert tables.columns["rna", "G1"].empty[:9].all()


def test_a_layer_without_a_file_is_missing_and_no_problem(tmp_path: Path) -> None:
    tables = read(write(tmp_path, clinical()))
    assert tables.problems == ()
    assert not tables.known["rna"].any()
    assert ("rna", "G1") not in tables.columns


def test_a_layer_row_without_a_patient_is_a_problem(tmp_path: Path) -> None:
    write(tmp_path, clinical())
    write(tmp_path, rna(["P001", "X9", "P002"]), "rna.csv")
    assert errors(read(tmp_path)) == [("stray-identifier", "rna.csv row 3, column patient_id")]


def test_opted_out_patients_leave_every_layer_before_their_cells_are_read(tmp_path: Path) -> None:
    table = clinical()
    table["age_years"][3] = "not a number"
    write(tmp_path, table)
    write(tmp_path, rna(["P003", "P004", "GONE"]), "rna.csv")
    tables = read(tmp_path, frozenset({"P003", "GONE", "P999"}))
    assert tables.problems == ()
    assert "P003" not in tables.patient_ids
    assert (tables.n_rows, tables.n_patients, tables.n_opted_out, tables.n_optout_unknown) == (24, 23, 1, 2)
    assert tables.known["rna"].sum() == 1


def test_repeated_and_empty_identifiers_are_named_by_row(tmp_path: Path) -> None:
    table = clinical()
    table["patient_id"][4] = table["patient_id"][9] = "P002"
    table["patient_id"][6] = ""
    tables = read(write(tmp_path, table))
    assert errors(tables) == [
        ("empty", "clinical.csv row 8, column patient_id"),
        ("double-identifier", "clinical.csv rows 6, 11, column patient_id"),
    ]
    assert len(set(tables.patient_ids)) == tables.n_patients == 21


def test_two_files_of_one_layer_are_a_problem(tmp_path: Path) -> None:
    write(tmp_path, clinical())
    write(tmp_path, b"PAR1", "clinical.parquet")
    assert errors(read(tmp_path)) == [("two-files", "clinical.csv")]


def test_a_file_in_other_letters_is_named(tmp_path: Path) -> None:
    write(tmp_path, clinical(), "Clinical.CSV")
    (problem,) = read(tmp_path).problems
    assert problem.kind == "no-file"
    assert "Clinical.CSV" in problem.what


def test_an_absent_folder_is_a_problem(tmp_path: Path) -> None:
    assert errors(read(tmp_path / "nowhere")) == [("no-folder", "tables")]


def test_tables_of_no_layer_are_counted_not_named(tmp_path: Path) -> None:
    write(tmp_path, clinical())
    write(tmp_path, b"x", "dupont_marie.csv")
    (problem,) = read(tmp_path).problems
    assert (problem.kind, problem.severity) == ("unknown-file", "warning")
    assert "dupont" not in str(problem)


def test_a_renamed_column_is_matched_to_its_name(tmp_path: Path) -> None:
    table = clinical()
    table["Age_years"] = table.pop("age_years")
    (error,) = [problem for problem in read(write(tmp_path, table)).problems if problem.severity == "error"]
    assert (error.kind, error.column) == ("missing-column", "age_years")
    assert "the header has `Age_years`" in error.what


def test_a_layer_may_lack_columns_but_not_all(tmp_path: Path) -> None:
    write(tmp_path, clinical())
    genes = rna(["P001"])
    del genes["G2"]
    write(tmp_path, genes, "rna.csv")
    (problem,) = read(tmp_path).problems
    assert (problem.kind, problem.column, problem.severity) == ("missing-column", "G2", "warning")
    write(tmp_path, {"patient_id": ["P001"], "ENSG1": ["1"]}, "rna.csv")
    assert {kind for kind, _ in errors(read(tmp_path))} == {"missing-column"}


def test_wanted_columns_alone_are_read(tmp_path: Path) -> None:
    write(tmp_path, clinical())
    write(tmp_path, b"damaged", "rna.csv")
    tables = read_site_tables(tmp_path, dictionary(), Dialect(), frozenset(), {("clinical", "sex")})
    assert set(tables.columns) == {("clinical", "sex")}
    assert tables.problems == ()
