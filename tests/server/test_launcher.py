"""Starting runs: the bundle is Flower's own format and carries no code; each process refuses another Flower."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from flwr.common.config import get_fab_config
from flwr.supercore.superexec import run_superexec

from schemas import audited
from server import launcher
from server.app import RUN_KEY
from server.hub_home import hub_init


def unzip(bundle: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(bundle)) as file:
        return {name: file.read(name) for name in file.namelist()}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_bundle_is_what_flwr_build_would_make() -> None:
    from flwr.cli.build import build_fab_from_files

    ours = unzip(launcher._bundle())
    theirs = unzip(build_fab_from_files({name: text for name, text in ours.items() if name != ".info/CONTENT"})[0])
    assert set(ours) == set(theirs)
    # Flower writes the project file anew; its content is the same, and the rest is equal to the byte.
    assert get_fab_config(launcher._bundle())["tool"]["flwr"]["app"]["config"] == {RUN_KEY: ""}
    for name in set(ours) - {"pyproject.toml", ".info/CONTENT"}:
        assert ours[name] == theirs[name]
    listed = [line.split(",")[0] for line in ours[".info/CONTENT"].decode().splitlines()]
    assert sorted(listed) == sorted(name for name in ours if name != ".info/CONTENT")


def test_the_bundle_holds_no_code_but_a_name() -> None:
    files = unzip(launcher._bundle())
    assert sorted(files) == [".info/CONTENT", "LICENSE", "archipel_stub.py", "pyproject.toml"]
    code = [line for line in files["archipel_stub.py"].decode().splitlines() if line and not line.startswith("#")]
    assert code == ["from server.app import app as _app", "app = _app", "client = None"]
    assert len(launcher._bundle()) < 5000


def test_the_secret_protects_the_call_that_flower_protects() -> None:
    assert launcher._ACQUIRE in run_superexec._SUPEREXEC_AUTH_METHODS


@pytest.mark.parametrize(
    ("module", "table"),
    [("server.superlink", "SUPERLINK"), ("server.launcher", "LAUNCHER"), ("client.agent", "AGENT")],
)
def test_no_process_starts_with_another_flower(tmp_path: Path, module: str, table: str) -> None:
    home = hub_init(tmp_path / "hub", public_port=0, internal_port=0).home
    name = next(iter(getattr(audited, table)))
    code = (
        f"import sys; from schemas import audited; audited.{table}[{name!r}] = 'another';"
        f"from {module} import main; sys.exit(main(['--home', {str(home)!r}]))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert name in done.stderr
    assert "requirements.lock" in done.stderr
    assert "Traceback" not in done.stderr
