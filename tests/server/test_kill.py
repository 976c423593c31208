"""A real process that conducts, killed with -9 at moments nobody chose, while others read its store."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from server.conduct import DATABASE
from server.runs import list_rounds, standing
from server.store import Store
from tests.simulated_federation import SITES, federation, pooled_result, real_plan
from tests.test_names import ROOT

CONDUCTOR = """
import sys, time
from pathlib import Path
from server.conduct import conduct
from tests.simulated_federation import SITES, federation, real_plan

sites = federation()
for site in sites.sites.values():  # their homes outlived the hub
    site.plan, site.sites = real_plan(), SITES
sites.on_ask = lambda call: time.sleep(0.02)
print("ready", flush=True)
conduct("run", Path(sys.argv[1]), sites)
"""


@pytest.mark.processes
def test_killed_with_9_again_and_again_it_ends_at_the_same_bits(tmp_path: Path) -> None:
    plan = real_plan()
    kills = 0
    with Store(tmp_path / DATABASE) as store:
        store.create_run("run", plan, SITES)
        for delay_s in (0.0, 0.03, 0.055, 0.08, 0.1, 0.12, 60.0):
            done_before = standing(store, "run").rounds_done
            with subprocess.Popen(
                [sys.executable, "-c", CONDUCTOR, str(tmp_path)],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=ROOT,
            ) as child:
                assert child.stdout is not None
                assert child.stdout.readline() == b"ready\n"
                until = time.monotonic() + delay_s
                while child.poll() is None and time.monotonic() < until:
                    assert standing(store, "run").rounds_done >= done_before
                child.kill()
            kills += child.returncode == -signal.SIGKILL
            if store.run("run").status == "done":
                break
        assert kills >= 2, "it was never killed while it worked"
        assert store.run("run").status == "done"
        found = {name: array.tobytes() for name, array in store.final_arrays("run").items()}
        questions = [(done.step, done.number) for done in list_rounds(store, "run")]
    assert found == {name: array.tobytes() for name, array in pooled_result(plan, federation().sites).items()}
    assert len(set(questions)) == len(questions)
