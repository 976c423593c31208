"""Study files, as every command and the notebook take them: read, judged, compiled."""

from __future__ import annotations

from pathlib import Path

from models.compile import compile_plan
from schemas.dictionary import Dictionary
from schemas.errors import Fault, FaultsError
from schemas.plan import Plan
from schemas.study import Study, load_study

__all__ = ["compile_study", "read_study", "why_simulate_alone"]


def read_study(path: Path) -> tuple[Study, Dictionary]:
    """Read a study with its dictionary.

    Raises:
        FaultsError: Naming every fault of both at once, each with its line.
    """
    return load_study(path)


def compile_study(path: Path) -> Plan:
    """Return the plan that sites are asked to approve.

    Raises:
        FaultsError: When the study is wrong, or exists in `simulate` alone.
    """
    return compile_plan(*load_study(path))


def why_simulate_alone(study: Study, dictionary: Dictionary) -> tuple[Fault, ...]:
    """Return what keeps a sound study from running in a real federation; empty where nothing does."""
    try:
        compile_plan(study, dictionary)
    except FaultsError as error:
        return error.faults
    return ()
