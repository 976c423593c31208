"""From inside a step's process, in a site's image and under its flags: no network, no key, nothing to write.

The probe is that of `tests/client/test_confinement.py`. What a container allows is less than what a machine does, and
a container's runtime may also refuse the calls by which a process confines itself: so it is tried here once more.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.site_process import create_node_key
from client.state import SitePaths
from tests.client.test_execute import begin, make_site, setup_request
from tests.containers.kit import HARDENED, SITE_IMAGE, STATE, fill
from tests.containers.podman import create_volume, podman, prefix, remove_all
from tests.test_names import ROOT

# The runner with the probe inside, and a stand-in for its agent; the answer is what each attempt came to.
_DRIVE = """
import os, socket, subprocess, sys
from pathlib import Path
from client.link import AgentEnd
home = Path("/var/lib/archipel")
with socket.create_server(("127.0.0.1", 0)) as listener:
    agent = AgentEnd(home)
    runner = subprocess.Popen([sys.executable, "-m", "tests.doubles.probe", "--home", str(home)])
    draft = agent.ask(b"%d" % listener.getsockname()[1], 120)
    runner.terminate()
    runner.wait()
print(draft.decode())
"""


@pytest.fixture
def home(engine: None, tmp_path: Path) -> Iterator[str]:
    """The volume of a site in the middle of a run."""
    made = make_site(tmp_path / "A")
    begin(made, setup_request())
    create_node_key(made)
    (made / "keys" / "identity.key").write_text("secret")
    SitePaths(made).fold_key.write_bytes(bytes(32))
    (made / "copy-of-ledger").write_bytes((made / "state" / "ledger.jsonl").read_bytes())
    name = f"{prefix()}-step"
    try:
        fill(create_volume(name), made)
        yield name
    finally:
        remove_all(name)


def _probed(home: str, *words: str) -> dict[str, str]:
    mounts = (f"--volume={home}:{STATE}", f"--volume={ROOT / 'tests'}:/probe/tests:ro", "--env=PYTHONPATH=/probe")
    start = ("run", "--rm", "--name", f"{home}-probe", *HARDENED, "--network=none", *mounts, *words)
    said = podman(*start, "--entrypoint", "python", SITE_IMAGE, "-c", _DRIVE)
    return dict(json.loads(said.splitlines()[-1]))


def test_a_step_in_a_container_reaches_no_network_and_no_key(home: str) -> None:
    found = _probed(home)
    assert found.pop("signal itself") == "allowed"
    assert found.pop("use the agent's connection") == "EBADF"
    assert {name for name, outcome in found.items() if outcome not in ("EPERM", "EACCES")} == set()


def test_without_confinement_the_same_step_would_reach_them(home: str) -> None:
    """So what was refused above was refused by the confinement, and not by the container alone."""
    found = _probed(home, "--env=TEST_UNCONFINED=1")
    keys = {f"read {name}.key" for name in ("identity", "node", "fold")}
    reached = {
        "connect to the hub",
        "connect to the agent",
        "read the tables",
        "write in the home",
        "start a program",
    }
    assert {found[name] for name in keys | reached} == {"allowed"}
