"""What importing loads: no torch anywhere (seconds and memory in each process of a site), no tables at the hub."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_names import PACKAGES, ROOT

# torch is made to look installed and to fail, so that the test means the same with and without it.
_IMPORT_ALL = """
import sys
refused = sys.argv[1].split(",")
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in refused:
            raise AssertionError(name + " was imported")
sys.meta_path.insert(0, Refuse())
import importlib
for name in sys.argv[2:]:
    importlib.import_module(name)
assert not set(refused) & set(sys.modules)
"""


def modules_of(package: str) -> list[str]:
    """Every importable module of the package but `__main__`, which runs."""
    names = []
    for file in sorted((ROOT / package).rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        if parts[-1] != "__main__":
            names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_imports_torch(package: str, tmp_path: Path) -> None:
    _assert_imports_without("torch", modules_of(package), tmp_path)


# Each command of the hub imports what it needs when it is called, so nothing less than every such line is looked at.
@pytest.mark.parametrize("commands", ["cli_hub", "cli_runs", "cli_models"])
def test_no_command_of_the_hub_needs_what_reads_tables(commands: str, tmp_path: Path) -> None:
    """Its image has neither pandas nor pyarrow."""
    tree = ast.parse((ROOT / "archipel" / f"{commands}.py").read_text("utf-8"))
    found = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    # `archipel models attack` reads tables, and runs where they are.
    ours = sorted({name for name in found if name.partition(".")[0] in PACKAGES} - {"archipel.membership"})
    assert f"archipel.{commands.removeprefix('cli_')}" in ours or len(ours) > 4
    _assert_imports_without("pandas,pyarrow", ours, tmp_path)


def _assert_imports_without(refused: str, modules: list[str], folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _IMPORT_ALL, refused, *modules],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
