"""Importing any module of ours loads no torch: it costs seconds and memory in each process of a site."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_names import PACKAGES, ROOT

# torch is made to look installed and to fail, so that the test means the same with and without it.
_IMPORT_ALL = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise AssertionError("torch was imported")
sys.meta_path.insert(0, Refuse())
import importlib
for name in sys.argv[1:]:
    importlib.import_module(name)
assert "torch" not in sys.modules
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
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT_ALL, *modules_of(package)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
