"""A site's own check of its tables, from the folder of a site or of tables alone."""

from __future__ import annotations

from pathlib import Path

from archipel.local_federation import read_dialect
from client.check import CheckReport, check_tables
from client.optout import OPTOUT_FILE, load_optout
from client.settings import load_settings
from schemas.dictionary import Dictionary, load_dictionary
from schemas.study import Study, load_study
from schemas.toml_source import TomlSource

__all__ = ["check_folder", "check_site", "read_question"]


def read_question(path: Path) -> tuple[Study | None, Dictionary]:
    """Read what tables are held against: a study with its dictionary, or a dictionary alone.

    Raises:
        FaultsError: Naming every fault of the file at once.
    """
    if path.suffix == ".toml" and TomlSource(path).data.get("kind") == "study":
        return load_study(path)
    return None, load_dictionary(path)


def check_site(home: Path, question: Path) -> CheckReport:
    """Hold the tables of a site against a study or a dictionary, with the site's own dialect, floors and opt-outs.

    Raises:
        FaultsError: When the site's settings, its opt-out list, or the study is wrong.
    """
    settings = load_settings(home)
    study, dictionary = read_question(question)
    opted_out = load_optout(home / OPTOUT_FILE)
    return check_tables(settings.tables, dictionary, study, settings.dialect, opted_out, settings.floors)


def check_folder(tables: Path, study: Study, dictionary: Dictionary) -> CheckReport:
    """Hold a folder of tables against a study, with its own dialect and opt-outs and the federation's floors.

    Raises:
        FaultsError: When its declaration of the CSV files or its opt-out list is wrong.
    """
    return check_tables(tables, dictionary, study, read_dialect(tables), load_optout(tables / OPTOUT_FILE))
