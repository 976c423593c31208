import socket
from pathlib import Path

import pytest

from client.dialect import Dialect
from client.settings import DatasetBudget, Floors, SiteFloors, load_settings
from client.site_process import verify_site
from schemas.errors import FaultsError

GOOD = """
kind = "site"
version = 1
name = "chu-nord"
title = "CHU Nord, service de pédiatrie"
hub_address = "hub.example.org:9092"
tables = "tables"
"""


def write(home: Path, text: str) -> Path:
    (home / "site.toml").write_text(text, encoding="utf-8")
    return home


def test_relative_tables_start_from_the_home_folder(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, GOOD))
    assert settings.tables == (tmp_path / "tables").resolve()
    assert settings.tables.is_absolute()
    assert (settings.name, settings.hub_address, settings.runtime_port) == ("chu-nord", "hub.example.org:9092", 0)
    assert settings.floors == SiteFloors(min_patients=10, min_events_per_interval=5)
    assert settings.max_rounds is None


def test_absolute_tables_stay_where_they_are(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    settings = load_settings(write(tmp_path, GOOD.replace('"tables"', f"'{elsewhere}'")))
    assert settings.tables == elsewhere.resolve()


def test_dialect_knows_its_lines(tmp_path: Path) -> None:
    text = GOOD + '[csv]\ndelimiter = ";"\ndecimal = ","\nencoding = "cp1252"\n'
    dialect = load_settings(write(tmp_path, text)).dialect
    assert (dialect.delimiter, dialect.decimal, dialect.encoding) == (";", ",", "cp1252")
    assert dialect.where("delimiter") == "site.toml line 9"
    assert dialect.where("missing") == "site.toml line 8"
    assert Dialect().where("delimiter") == "site.toml, section [csv]"


def test_all_faults_at_once_with_their_lines(tmp_path: Path) -> None:
    text = """kind = "site"
version = 2
name = "a/b"
hub_address = "https://hub.example.org"
colour = "red"
runtime_port = 70000
[csv]
delimiter = "-"
encoding = "latin9"
[floors]
min_patients = 5
min_events_per_interval = 1
"""
    with pytest.raises(FaultsError) as caught:
        load_settings(write(tmp_path, text))
    lines = {fault.where for fault in caught.value.faults}
    assert {f"site.toml line {n}" for n in (2, 3, 4, 5, 6, 8, 9, 11, 12)} <= lines
    said = str(caught.value)
    assert "`tables` is missing" in said
    assert "floor of 10 patients" in said
    assert "floor of 5 events" in said


@pytest.mark.parametrize("address", ["hub", "hub:", ":9092", "hub:0", "hub:65536", "http://hub:1", "hub:٣", "a b:1"])
def test_hub_address_is_host_and_port(tmp_path: Path, address: str) -> None:
    with pytest.raises(FaultsError, match="host:port"):
        load_settings(write(tmp_path, GOOD.replace("hub.example.org:9092", address)))


@pytest.mark.parametrize("address", ["127.0.0.1:9092", "[::1]:9092", "hub:1"])
def test_addresses_and_names_are_hosts(tmp_path: Path, address: str) -> None:
    assert load_settings(write(tmp_path, GOOD.replace("hub.example.org:9092", address))).hub_address == address


def test_decimal_comma_needs_another_delimiter(tmp_path: Path) -> None:
    with pytest.raises(FaultsError, match="both"):
        load_settings(write(tmp_path, GOOD + '[csv]\ndecimal = ","\n'))


def test_floors_may_be_raised(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, GOOD + "[floors]\nmin_patients = 30\n"))
    assert settings.floors.min_patients == 30


def test_simulation_may_go_below_the_floors_of_a_site() -> None:
    assert Floors(min_patients=1).min_patients == 1


def test_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FaultsError, match=r"site\.toml"):
        load_settings(tmp_path)


def test_example_settings_load(tmp_path: Path) -> None:
    example = Path(__file__).parents[2] / "configs" / "site.example.toml"
    settings = load_settings(write(tmp_path, example.read_text(encoding="utf-8")))
    assert settings.dialect == settings.dialect.found_at(
        {key: settings.dialect.where(key) for key in Dialect.model_fields}
    )
    assert settings.name == "example-hospital"


@pytest.mark.parametrize("line", ['runtime_port = "7000"', "runtime_port = 7000.0", "runtime_port = true"])
def test_nothing_is_taken_for_another_type(tmp_path: Path, line: str) -> None:
    with pytest.raises(FaultsError, match=r"site\.toml line 8: `runtime_port`"):
        load_settings(write(tmp_path, GOOD + line + "\n"))


def test_a_real_site_does_not_accept_a_time_of_zero(tmp_path: Path) -> None:
    with pytest.raises(FaultsError, match="simulate"):
        load_settings(write(tmp_path, GOOD + "[floors]\naccept_time_zero = true\n"))


def test_words_for_missing_are_a_list_without_spaces_around(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, GOOD + '[csv]\nmissing = ["", "ND", "-9"]\n'))
    assert settings.dialect.missing == ("", "ND", "-9")
    assert Dialect.model_validate({"missing": ["ND"]}).missing == ("ND",)
    with pytest.raises(FaultsError, match=r"site\.toml line 9: `csv\.missing`: .*spaces"):
        load_settings(write(tmp_path, GOOD + '[csv]\nmissing = ["ND "]\n'))


def test_a_title_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(FaultsError, match="one line"):
        load_settings(write(tmp_path, GOOD.replace("CHU Nord,", "CHU Nord\\n")))


def test_floors_of_a_site_include_an_event(tmp_path: Path) -> None:
    with pytest.raises(FaultsError, match="floor of 1 event"):
        load_settings(write(tmp_path, GOOD + "[floors]\nmin_events = 0\n"))


def test_the_example_shows_how_to_set_a_privacy_budget(tmp_path: Path) -> None:
    example = (Path(__file__).parents[2] / "configs" / "site.example.toml").read_text(encoding="utf-8")
    assert load_settings(write(tmp_path, example)).budget is None, "nothing is spent that nobody has decided to spend"
    section = example[example.index("# [budget]") :].replace("# [budget]", "[budget]")
    section = section.replace("# dataset", "dataset").replace("# epsilon", "epsilon").replace("# delta", "delta")
    budget = load_settings(write(tmp_path, GOOD + section)).budget
    assert budget == DatasetBudget(dataset="cgd-registry", epsilon=3.0, delta=1e-5)


@pytest.mark.parametrize(
    "line", ["epsilon = -1", "epsilon = inf", "epsilon = 101", "epsilon = 3\ndelta = 0", "epsilon = 3\ndelta = 1", ""]
)
def test_a_budget_that_promises_nothing_is_refused(tmp_path: Path, line: str) -> None:
    with pytest.raises(FaultsError, match=r"site\.toml"):
        load_settings(write(tmp_path, GOOD + f'[budget]\ndataset = "registry"\n{line}\n'))


def test_the_patient_page_stays_on_this_machine_without_a_certificate(tmp_path: Path) -> None:
    view = load_settings(write(tmp_path, GOOD)).view
    assert (view.host, view.tables, view.recalibrate, view.log_patient_ids) == ("127.0.0.1", None, False, False)
    with pytest.raises(FaultsError, match="reached from other machines"):
        load_settings(write(tmp_path, GOOD + '[view]\nhost = "0.0.0.0"\n'))
    text = GOOD + '[view]\nhost = "10.0.0.7"\ntls_certificate = "keys/view.crt"\ntls_key = "keys/view.key"\n'
    assert load_settings(write(tmp_path, text)).view.tls_key == (tmp_path / "keys/view.key").resolve()


def test_faults_of_the_patient_page_are_named_with_all_others(tmp_path: Path) -> None:
    text = GOOD.replace("chu-nord", "a/b") + '[view]\nport = 70000\nidle_minutes = 0\ntable = "x"\ntls_key = 3\n'
    with pytest.raises(FaultsError) as caught:
        load_settings(write(tmp_path, text))
    assert [fault.where for fault in caught.value.faults] == [f"site.toml line {n}" for n in (4, 9, 10, 11, 12)]
    with pytest.raises(FaultsError, match="belong together"):
        load_settings(write(tmp_path, GOOD + '[view]\ntls_key = "k"\n'))


def test_a_start_names_faults_of_settings_keys_and_ports_together(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text(GOOD + "colour = 1\n")
    with pytest.raises(FaultsError) as caught:
        verify_site(tmp_path)
    assert [fault.where for fault in caught.value.faults] == ["site.toml line 8", "keys/node.key", "keys/hub-ca.crt"]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        (tmp_path / "site.toml").write_text(GOOD + f"metrics_port = {taken.getsockname()[1]}\n")
        with pytest.raises(FaultsError) as caught:
            verify_site(tmp_path)
    assert [fault.where for fault in caught.value.faults] == ["metrics_port", "keys/node.key", "keys/hub-ca.crt"]
    with pytest.raises(FaultsError, match="this folder is no site's"):
        verify_site(tmp_path / "nowhere")
