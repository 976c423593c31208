"""The import contracts of pyproject.toml hold for our code, and each of them can fail."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.test_names import PACKAGES, ROOT

LAYERS = "archipel -> client | server -> models | privacy -> schemas"
FLOWER = "flwr stays at the edge: six modules know it"
TABLES = "the hub reads no patient table: pandas, pyarrow only in client, archipel"
SECRETS = "the hub holds no secret of a site: its half of the secure sum, its signature, gate, ledger, budget, noise"
TORCH = "torch only in models"
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
(SITE_ONLY,) = (contract["forbidden_modules"] for contract in CONTRACTS if contract["name"] == SECRETS)


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """Six empty packages under our contracts, with the modules that these name."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for package in PACKAGES:
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    for module in [*SITE_ONLY, "privacy.secure_total"]:
        (tmp_path / module.replace(".", "/")).with_suffix(".py").touch()
    return tmp_path


def broken_contracts(house: Path) -> set[str]:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=house,
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "COLUMNS": "200"},
    )
    assert "Contracts:" in done.stdout, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    return {name for name in (LAYERS, FLOWER, TABLES, SECRETS, TORCH) if f"{name} BROKEN" in lines}


BREACHES = [
    ("schemas/study.py", "import privacy", {LAYERS}),
    ("models/cox.py", "import privacy", {LAYERS}),
    ("privacy/gate.py", "import models", {LAYERS}),
    ("client/runner.py", "import server", {LAYERS}),
    ("server/app.py", "import client", {LAYERS}),
    ("server/rounds.py", "import archipel", {LAYERS}),
    ("server/rounds.py", "import flwr", {FLOWER}),
    ("models/cox.py", "from flwr.app import Message", {FLOWER}),
    ("archipel/cli.py", "def main():\n    import flwr", {FLOWER}),
    ("server/store.py", "import pandas", {TABLES}),
    ("models/hazard.py", "import pyarrow.parquet", {TABLES}),
    ("server/rounds.py", "from privacy import secure_sum", {SECRETS}),
    ("server/app.py", "def main():\n    import privacy.approval", {SECRETS}),
    ("client/runner.py", "import torch", {TORCH}),
]

ALLOWED = [
    ("archipel/cli.py", "import client, server, models, privacy, schemas, pandas"),
    ("client/tables.py", "import models, privacy, schemas, pandas, pyarrow"),
    ("client/agent.py", "import flwr"),
    ("client/runner.py", "import flwr"),
    ("server/app.py", "import flwr, models"),
    ("server/launcher.py", "from flwr.app import Message"),
    ("server/superlink.py", "import flwr"),
    ("server/secure_rounds.py", "from privacy import secure_total"),
    ("client/secure.py", "from privacy import secure_sum, approval"),
    ("schemas/wire.py", "import flwr"),
    ("models/network.py", "import torch"),
]


@pytest.mark.parametrize(("file", "line", "expected"), BREACHES)
def test_a_breach_is_found(house: Path, file: str, line: str, expected: set[str]) -> None:
    (house / file).write_text(line + "\n")
    assert broken_contracts(house) == expected


def test_what_the_contracts_allow_passes(house: Path) -> None:
    for file, line in ALLOWED:
        (house / file).write_text(line + "\n")
    (house / "archipel/train.py").write_text("import client.agent, models.network\n")
    assert broken_contracts(house) == set()
