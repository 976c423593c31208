"""Where the shared cohorts are, decided apart from what a test does about it."""

from collections.abc import Mapping
from pathlib import Path

HOW_TO_SET = (
    "Set ARCHIPEL_COHORTS to the folder that holds cgd/, rhdnase_cf/ and the others, for example: "
    "ARCHIPEL_COHORTS=../shared/data make test"
)


class CohortsAbsentError(Exception):
    """The shared cohorts are not on this machine; the text says how to name them."""


def locate_cohorts(environ: Mapping[str, str]) -> Path:
    """The folder of the shared cohorts.

    Raises:
        CohortsAbsentError: the variable is unset or names no folder.
    """
    named = environ.get("ARCHIPEL_COHORTS", "")
    if not named:
        raise CohortsAbsentError(f"The data is absent: ARCHIPEL_COHORTS is not set. {HOW_TO_SET}")
    folder = Path(named).resolve()
    if not folder.is_dir():
        raise CohortsAbsentError(f"The data is absent: ARCHIPEL_COHORTS names no folder. {HOW_TO_SET}")
    return folder


def must_be_present(environ: Mapping[str, str]) -> bool:
    """In CI absent data fails, so that no test is skipped unseen."""
    return environ.get("CI", "").lower() in {"1", "true", "yes"}
