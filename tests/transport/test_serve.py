"""`hub_process.serve` as a person runs it: up, then down with nothing left; or every fault at once."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from schemas.errors import FaultsError
from server import hub_process
from server.hub_home import hub_init

pytestmark = pytest.mark.processes


def test_a_hub_goes_up_and_leaves_nothing_behind(tmp_path: Path) -> None:
    settings = hub_init(tmp_path / "hub", public_port=0, internal_port=0)
    code = "import sys, pathlib; from server import hub_process as p; sys.exit(p.serve(pathlib.Path(sys.argv[1])))"
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", code, str(settings.home)])
    try:
        assert hub_process.await_hub(settings, 90)
        pids = [int((settings.home / "run" / f"{name}.pid").read_text()) for name in ("superlink", "launcher")]
        command_lines = b"".join(Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids)
        for secret in (settings.control_token, settings.superexec_secret):
            assert secret.read_bytes() not in command_lines
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
    assert not hub_process.is_up(settings)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert list((settings.home / "run").glob("*.pid")) == []


def test_wrong_settings_are_named_before_anything_starts(tmp_path: Path) -> None:
    settings = hub_init(tmp_path / "hub", public_port=0, internal_port=0)
    settings.superexec_secret.unlink()
    settings.server_key.chmod(0o640)
    with pytest.raises(FaultsError) as caught:
        hub_process.serve(settings.home)
    assert len(caught.value.faults) == 2
    assert not (settings.home / "run" / "superlink.pid").exists()
