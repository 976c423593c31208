"""Everything a data manager can get wrong is found, at once, without a single cell on the screen."""

import json
import logging
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.check import check_tables
from client.cohort_of import cohort_from_tables
from client.dialect import Dialect
from client.problems import COLUMNS_SHOWN, ROWS_SHOWN
from client.settings import SiteFloors
from schemas.dictionary import Column, Dictionary
from schemas.errors import FaultsError
from schemas.study import load_study
from tests.client.tables_kit import as_csv, check, clinical, dictionary, kinds, rna, study, write

CONFIGS = Path(__file__).parents[2] / "configs"
GENES_STUDY = study(model={"covariates": ["age_years", "G1", "G2"]})


def test_a_sound_table_can_take_part(tmp_path: Path) -> None:
    report = check(write(tmp_path, clinical()), study())
    assert report.can_take_part
    assert report.problems == ()
    assert (report.n_patients, report.n_events) == (24, 12)
    assert report.text().splitlines()[-1] == "This site can take part in study kit-study: yes"
    assert report.text().count("can take part") == 1


def test_the_time_of_0_in_the_demo_table_is_found_with_and_without_a_study(tmp_path: Path) -> None:
    of, described = load_study(CONFIGS / "acc" / "study.toml")
    table = (CONFIGS / "demo" / "acc_clinical.csv").read_bytes()
    write(tmp_path, table)
    for wanted in (of, None):
        report = check(tmp_path, wanted, dictionary=described)
        (problem,) = [problem for problem in report.problems if problem.blocks]
        assert problem.where == "clinical.csv row 87, column time_days"
        assert problem.kind == "not-positive"
        assert not report.can_take_part
    opted_out = check(tmp_path, of, dictionary=described, opted_out=frozenset({"ACC-086"}))
    assert opted_out.can_take_part


def test_a_time_of_0_is_found_where_the_dictionary_allows_it(tmp_path: Path) -> None:
    table = clinical()
    table["time_days"][7] = "0"
    report = check(write(tmp_path, table), study())
    (problem,) = report.problems
    assert (problem.kind, problem.where) == ("not-positive", "clinical.csv row 9, column time_days")
    positive = study(eligibility={"criteria": [{"column": "time_days", "op": ">", "value": 0}]})
    assert check(tmp_path, positive).can_take_part


@pytest.mark.parametrize(
    ("column", "cell", "kind"),
    [
        ("patient_id", "", "empty"),
        ("patient_id", "P000", "double-identifier"),
        ("patient_id", "=P1", "formula"),
        ("patient_id", "two\nlines", "control-character"),
        ("time_days", "", "empty"),
        ("time_days", "-4", "out-of-range"),
        ("time_days", "500", "out-of-range"),
        ("event", "2", "not-boolean"),
        ("event", "", "empty"),
        ("age_years", "12 ans", "not-a-number"),
        ("age_years", "41,5", "decimal"),
        ("sex", "f", "unknown-code"),
        ("sex", '=HYPERLINK("http://x")', "formula"),
        ("lesions", "1.5", "not-integer"),
    ],
)
def test_one_wrong_cell_keeps_the_site_out_and_has_its_row(tmp_path: Path, column: str, cell: str, kind: str) -> None:
    table = clinical()
    table[column][7] = cell
    report = check(write(tmp_path, table), study())
    (problem,) = report.problems
    assert (problem.kind, problem.rows, problem.column) == (kind, (9,), column)
    assert report.text().endswith("no, because 1 problem has to be corrected in clinical.csv")


def test_all_problems_are_named_at_once(tmp_path: Path) -> None:
    table = clinical()
    table["patient_id"][5] = "P000"
    table["time_days"][6] = "never"
    table["sex"][8] = "x"
    del table["steroids"]
    table["weather"] = ["wet"] * 24
    write(tmp_path, table)
    write(tmp_path, rna(["P001", "STRAY"]), "rna.csv")
    report = check(tmp_path)
    assert kinds(report) >= {
        "double-identifier", "not-a-number", "unknown-code", "missing-column", "unknown-column", "stray-identifier",
    }  # fmt: skip
    said = [line for line in report.text().splitlines() if line.strip().startswith(("error", "warning"))]
    assert len(said) == len(report.problems)
    severities = [problem.severity for problem in report.problems]
    assert severities == sorted(severities)


def test_a_wrong_dialect_does_not_hide_what_else_is_wrong_and_is_refused(tmp_path: Path) -> None:
    table = clinical()
    table["family"][1] = "Forêt"
    table["age_years"] = [cell.replace(".", ",") for cell in table["age_years"]]
    table["sex"][4] = "x"
    write(tmp_path, as_csv(table, Dialect(delimiter=";", encoding="cp1252", quote="'"), quote_all=True))
    report = check(tmp_path, study())
    assert [problem.kind for problem in report.problems] == [
        "encoding",
        "delimiter",
        "quote",
        "decimal",
        "unknown-code",
    ]
    assert all(problem.blocks for problem in report.problems)
    with pytest.raises(FaultsError, match=r"set delimiter = \";\""):
        cohort_from_tables(tmp_path, dictionary(), study(), Dialect(), SiteFloors())


def test_a_table_that_cannot_be_read_is_not_called_small(tmp_path: Path) -> None:
    report = check(write(tmp_path, "patient_id,sex".encode("utf-16")), study())
    assert report.n_patients is None
    assert report.reasons == ("1 problem has to be corrected in clinical.csv",)
    assert "could not be read" in report.text()


def test_many_rows_are_capped_with_a_count(tmp_path: Path) -> None:
    table = clinical(150)
    table["time_days"] = ["100"] * 150
    table["age_years"] = ["?!"] * 150
    (problem,) = [p for p in check(write(tmp_path, table), study()).problems if p.column == "age_years"][:1]
    assert len(problem.rows) == ROWS_SHOWN
    assert problem.n_rows == 150
    assert "and 140 more rows" in problem.where


def test_many_columns_are_capped_with_a_count(tmp_path: Path) -> None:
    genes = [f"G{i}" for i in range(40)]
    described = Dictionary(
        kind="dictionary",
        version=1,
        name="wide",
        columns=(Column(name="patient_id", type="identifier"), *(Column(name=g, type="number") for g in genes)),
    )
    table = {"patient_id": [f"P{i}" for i in range(12)], **{gene: ["1,5"] * 12 for gene in genes}}
    write(tmp_path, as_csv(table, Dialect(delimiter=";")))
    report = check(tmp_path, dictionary=described, dialect=Dialect(delimiter=";"))
    decimal = [problem for problem in report.problems if problem.kind == "decimal"]
    assert len(decimal) == COLUMNS_SHOWN + 1
    assert decimal[-1].what == "the same in 30 more columns"


@pytest.mark.parametrize(("factor", "unit"), [(1 / 30.4375, "months"), (1 / 365.25, "years")])
def test_months_or_years_for_days_are_refused_even_inside_the_range(tmp_path: Path, factor: float, unit: str) -> None:
    table = clinical()
    table["time_days"] = [f"{float(days) * factor:.4f}" for days in table["time_days"]]
    report = check(write(tmp_path, table), study())
    (problem,) = report.problems
    assert (problem.kind, problem.column) == ("unit", "time_days")
    assert "check the unit" in problem.remedy
    assert not report.can_take_part, unit


def test_metres_for_centimetres_get_a_hint(tmp_path: Path) -> None:
    table = clinical()
    table["height_cm"] = [f"{float(height) / 100:.2f}" for height in table["height_cm"]]
    (problem,) = [p for p in check(write(tmp_path, table)).problems if p.severity == "error"]
    assert problem.kind == "out-of-range"
    assert problem.remedy == "check the unit: this looks like metres, and the dictionary says cm"


def test_what_the_study_does_not_read_does_not_keep_it_out(tmp_path: Path) -> None:
    table = clinical()
    table["height_cm"][3] = "tall"
    write(tmp_path, table)
    write(tmp_path, b"not a table", "rna.csv")
    report = check(tmp_path, study())
    assert report.can_take_part
    assert {problem.needed for problem in report.problems} == {False}
    assert "note, not read by this study" in report.text()
    assert not check(tmp_path).can_take_part
    assert not check(tmp_path, GENES_STUDY).can_take_part


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"event": ["0"] * 24}, "it has no observed event in this study"),
        ({"age_years": ["10"] * 20 + ["60"] * 4}, "it has fewer than 10 patients for this study"),
    ],
)
def test_too_few_patients_or_events_keep_the_site_out(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    adults = study(eligibility={"criteria": [{"column": "age_years", "op": ">=", "value": 18}]})
    report = check(write(tmp_path, {**clinical(), **change}), adults)
    assert report.reasons == (reason,)
    assert report.verdict.endswith(f"no, because {reason}")


def test_late_entry_must_lie_before_the_end(tmp_path: Path) -> None:
    table = clinical()
    table["entry_days"][2] = table["time_days"][2]
    table["entry_days"][3] = "-1"
    late = study(endpoint={"time": "time_days", "event": "event", "entry": "entry_days"})
    report = check(write(tmp_path, table), late)
    assert {(problem.kind, problem.rows) for problem in report.problems} == {
        ("entry-after-time", (4,)),
        ("negative-entry", (5,)),
    }


def test_an_empty_group_is_a_problem(tmp_path: Path) -> None:
    table = clinical()
    table["family"][2] = ""
    report = check(write(tmp_path, table), study(evaluation={"folds": 5, "group": "family"}))
    (problem,) = report.problems
    assert (problem.kind, problem.column, problem.rows) == ("empty", "family", (4,))


def test_columns_that_say_nothing_are_warnings(tmp_path: Path) -> None:
    table = {**clinical(), "lesions": ["3"] * 24, "steroids": [""] * 24}
    report = check(write(tmp_path, table), study())
    assert report.can_take_part
    assert {(problem.column, problem.severity) for problem in report.problems} == {
        ("lesions", "warning"),
        ("steroids", "warning"),
    }


def test_a_layer_of_few_patients_is_a_warning(tmp_path: Path) -> None:
    write(tmp_path, clinical())
    assert "missing-layer" in kinds(check(tmp_path, GENES_STUDY))
    write(tmp_path, rna([f"P{i:03d}" for i in range(9)]), "rna.csv")
    report = check(tmp_path, GENES_STUDY)
    assert report.can_take_part
    assert kinds(report) == {"thin-layer"}
    write(tmp_path, rna([f"P{i:03d}" for i in range(10)]), "rna.csv")
    assert kinds(check(tmp_path, GENES_STUDY)) == set()


def test_a_covariate_known_of_few_patients_is_a_warning(tmp_path: Path) -> None:
    table = {**clinical(), "lesions": [str(i) for i in range(9)] + [""] * 15}
    report = check(write(tmp_path, table), study())
    assert report.can_take_part
    assert [(problem.kind, problem.column) for problem in report.problems] == [("thin-column", "lesions")]


def test_unknown_opt_outs_are_counted(tmp_path: Path) -> None:
    report = check(write(tmp_path, clinical()), study(), opted_out=frozenset({"P001", "SECRET8", "SECRET9"}))
    (problem,) = report.problems
    assert (problem.file, problem.severity) == ("optout.txt", "warning")
    assert problem.what.startswith("2 of its identifiers")
    assert "SECRET" not in report.text()
    assert report.n_patients == 23


def test_small_counts_are_not_shown(tmp_path: Path) -> None:
    table = clinical()
    table["event"] = ["1"] * 7 + ["0"] * 17
    report = check(write(tmp_path, table), study(), opted_out=frozenset({"P020"}))
    assert report.n_events == 7
    assert "fewer than 10 with an observed event" in report.text()
    assert "Left out, opted out: fewer than 10" in report.text()
    body = json.loads(report.as_json())
    assert (body["kind"], body["version"], body["n_patients"]) == ("check", 1, 23)
    assert body["n_events"] == body["n_opted_out"] == "<10"
    assert body["can_take_part"] is True


def test_csv_without_a_header_shows_nothing_of_its_first_patient(tmp_path: Path) -> None:
    rows = as_csv({"SECRET1": ["SECRET2"], "SECRET3": ["SECRET4"]})
    report = check(write(tmp_path, rows), study())
    assert kinds(report) == {"no-header"}
    assert "SECRET" not in report.text() + report.as_json()


MARK = "Zq7x"
BAD_CELLS = st.sampled_from(
    [
        MARK,
        f"={MARK}",
        f"1 {MARK}",
        f"{MARK},5",
        f"<{MARK}",
        f"{MARK}\n{MARK}",
        f'"{MARK}',
        f"{MARK};{MARK}",
        f"{MARK}é",
    ]
)


@settings(max_examples=60)
@given(
    data=st.data(),
    encoding=st.sampled_from(["utf-8", "cp1252", "utf-16"]),
    declared=st.sampled_from([Dialect(), Dialect(delimiter=";", decimal=","), Dialect(encoding="cp1252")]),
)
def test_no_cell_of_a_marked_table_is_in_any_message_or_log(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, encoding: str, declared: Dialect
) -> None:
    table = {name: [f"{MARK}{i}" for i in range(24)] if name == "patient_id" else c for name, c in clinical().items()}
    for name in data.draw(st.sets(st.sampled_from(sorted(table)), max_size=4)):
        for row in data.draw(st.sets(st.integers(0, 23), max_size=3)):
            table[name][row] = data.draw(BAD_CELLS)
    text = as_csv(table, Dialect(delimiter=data.draw(st.sampled_from([",", ";"])))).decode()
    if data.draw(st.booleans()):
        text = text.partition("\n")[2]
    folder = write(tmp_path_factory.mktemp("marked"), text.encode(encoding, errors="replace"))
    write(folder, rna([f"{MARK}{i}" for i in range(20, 30)]), "rna.csv")
    logged: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: logged.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    try:
        report = check_tables(folder, dictionary(), GENES_STUDY, declared, frozenset({f"{MARK}3", f"{MARK}99"}))
        said = [report.text(), report.as_json(), repr(report)]
        try:
            cohort_from_tables(folder, dictionary(), GENES_STUDY, declared, SiteFloors())
        except FaultsError as error:
            said += [str(error), repr(error), repr(error.__context__), repr(error.faults)]
    finally:
        logging.getLogger().removeHandler(handler)
    assert MARK not in "".join(said + logged)


@settings(max_examples=150)
@given(
    data=st.binary(max_size=300), name=st.sampled_from(["clinical.csv", "clinical.parquet", "rna.csv", "rna.parquet"])
)
def test_hostile_bytes_raise_nothing_but_faults(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, name: str
) -> None:
    folder = tmp_path_factory.mktemp("hostile")
    if name.startswith("rna"):
        write(folder, clinical())
    write(folder, data, name)
    report = check(folder, GENES_STUDY)
    assert report.problems
    assert not report.can_take_part
    with pytest.raises(FaultsError):
        cohort_from_tables(folder, dictionary(), GENES_STUDY, Dialect(), SiteFloors())


def test_a_study_whose_terms_no_site_accepts_is_a_no_with_its_reason(tmp_path: Path) -> None:
    write(tmp_path, clinical())
    over = check_tables(tmp_path, dictionary(), study(expires="2026-11-20"), Dialect(), today=date(2026, 11, 21))
    assert over.reasons == ("the study's last day, 2026-11-20, has passed",)
    last = check_tables(tmp_path, dictionary(), study(expires="2026-11-20"), Dialect(), today=date(2026, 11, 20))
    assert last.can_take_part
    low = study(privacy={"min_patients": 3, "min_events_per_interval": 2})
    assert check(tmp_path, low).reasons == (
        "the study's min_patients is 3, and this site answers from 10 on",
        "the study's min_events_per_interval is 2, and this site answers from 5 on",
    )
