"""Our import names are generic words (docs/adr/0001): nobody else in the environment may own them."""

import subprocess
import sys
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("schemas", "privacy", "models", "client", "server", "archipel")


@pytest.mark.parametrize("package", PACKAGES)
def test_nobody_else_owns_the_name(package: str) -> None:
    owners = set(packages_distributions().get(package, []))
    assert owners <= {"archipel"}


@pytest.mark.parametrize("package", PACKAGES)
def test_the_name_is_ours_from_any_folder(package: str, tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-c", f"import {package}; print({package}.__file__)"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(found.stdout.strip()) == ROOT / package / "__init__.py"


@pytest.mark.parametrize("package", PACKAGES)
def test_every_folder_of_a_package_has_an_init(package: str) -> None:
    folders = {module.parent for module in (ROOT / package).rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_no_top_level_folder_hides_an_installed_package() -> None:
    # opacus installs a top-level `benchmarks`; a folder of ours by that name would hide it.
    assert not (ROOT / "benchmarks").exists()
    assert find_spec("tests") is not None
