"""A federation of containers for the tests: one hub, some sites, each site on an internal network of its own.

The images, and the flags under which they run, are those of `docker/compose.yaml`. What differs is that the folders
are made on this machine and copied into volumes, so that a test needs seconds for it; enrolment with the images' own
commands is shown by `test_compose`. Names begin with a prefix of the test session, and whatever happens, also Ctrl-C,
everything is removed at the end (`podman.sweep` sees to a session that was killed).
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from archipel.homes import enrol_site, init_hub, init_site, join_site, utc_now
from archipel.report import read_result
from archipel.runs import roster_of
from client.approvals import approve
from schemas.plan import Plan
from schemas.result import Result
from server.database import DATABASE
from tests.containers.podman import Container, create_network, create_volume, podman, remove_all, until, volume

HUB_IMAGE = "localhost/archipel-hub:latest"
SITE_IMAGE = "localhost/archipel-site:latest"
USER = 10001
STATE = "/var/lib/archipel"
HARDENED = (
    "--init", "--read-only", "--cap-drop=all", "--security-opt=no-new-privileges", "--stop-timeout=10",
    "--tmpfs=/tmp:size=64m,mode=1777", "--env=ARCHIPEL_HUB__LOGS=stdout", "--env=ARCHIPEL_SITE__LOGS=stdout",
    # Several containers share two cores here: one thread each keeps them out of each other's way.
    "--env=OMP_NUM_THREADS=1", "--env=OPENBLAS_NUM_THREADS=1",
)  # fmt: skip

_ANSWERS = """
import ssl, urllib.request
urllib.request.urlopen("https://127.0.0.1:8443/health", timeout=2, context=ssl._create_unverified_context())
"""


@dataclass(frozen=True)
class Standing:
    """Where a run stands.

    Attributes:
        rounds: Complete ones.
        missing: Sites that a complete round had waited for beyond its deadline.
    """

    status: str
    message: str
    rounds: int
    missing: tuple[str, ...]
    events: tuple[str, ...]


@dataclass
class Federation:
    """A hub and its sites in containers.

    Attributes:
        prefix: Of every name, its own among all that run on this machine.
        tables: Folder of tables of each site, by name.
        small: Sites whose volume holds so many megabytes and no more.
    """

    prefix: str
    folder: Path
    tables: Mapping[str, Path]
    small: Mapping[str, int] = field(default_factory=dict)

    @property
    def hub(self) -> Container:
        """The hub's container."""
        return Container(f"{self.prefix}-hub")

    def site(self, name: str) -> Container:
        """Return a site's container."""
        return Container(f"{self.prefix}-{name}")

    @property
    def containers(self) -> list[Container]:
        """All of them, the hub first."""
        return [self.hub, *(self.site(name) for name in self.tables)]

    def network(self, name: str) -> str:
        """Return the name of a site's network."""
        return f"{self.prefix}-{name}"

    def volume(self, name: str) -> Path:
        """Return where the volume of the hub (``hub``) or of a site lies on this machine."""
        return volume(f"{self.prefix}-{name}")

    # ------------------------------------------------------------ from nothing to running
    def set_up(self, approved: Plan) -> None:
        """Make networks and volumes, enrol every site, and let each approve the plan with the list of sites."""
        hub = self.folder / "hub"
        init_hub(hub, host="hub", public_port=8443, internal_port=8000, listen="0.0.0.0")
        homes = {name: self.folder / name for name in self.tables}
        now = utc_now()
        for name, home in homes.items():
            request = init_site(home, name, Path("/data"), now)
            kit = enrol_site(hub, request.to_json().encode(), now)
            join_site(home, kit.to_json().encode(), now)
        plan = self.folder / "plan.json"
        plan.write_bytes(approved.content)
        roster = roster_of(hub, list(self.tables)) if approved.study.privacy.secure_sum else None
        for name, home in homes.items():
            approve(home, plan, approver="a test", roster=roster)
            create_network(self.network(name))
        for name, home in {"hub": hub, **homes}.items():
            size = self.small.get(name)
            own = () if size is None else ("type=tmpfs", "device=tmpfs", f"o=nr_blocks={size * 256},mode=0700")
            fill(create_volume(f"{self.prefix}-{name}", *own), home)

    def start(self, study: Path) -> None:
        """Create and start every container."""
        networks = [f"--network={self.network(name)}:alias=hub" for name in self.tables]
        _create(self.hub.name, HUB_IMAGE, f"{self.prefix}-hub", *networks, f"--volume={study.parent}:/study:ro")
        for name, tables in self.tables.items():
            words = (f"--network={self.network(name)}", f"--volume={tables}:/data:ro")
            _create(self.site(name).name, SITE_IMAGE, f"{self.prefix}-{name}", *words)

    # ------------------------------------------------------------ runs
    def launch(self, study: str = "study.toml") -> str:
        """Launch a study of the folder that `start` was given, and return the run's id."""
        until(self.hub_answers, "the hub to answer", 300, 1)
        return str(json.loads(self.hub.run("archipel", "launch", f"/study/{study}", "--json"))["run_id"])

    def hub_answers(self) -> bool:
        """Whether the hub's public port answers."""
        return self.hub.attempt("python", "-c", _ANSWERS).code == 0

    def standing(self, run_id: str) -> Standing:
        """Return where a run stands."""
        with self._store() as store:
            run = store.execute("select status, message from runs where run_id = ?", (run_id,)).fetchone()
            rounds = store.execute("select missing from rounds where run_id = ?", (run_id,)).fetchall()
            events = store.execute("select text from events where run_id = ? order by id", (run_id,)).fetchall()
        missing = tuple(name for (names,) in rounds for name in json.loads(names))
        return Standing(run[0], run[1], len(rounds), missing, tuple(text for (text,) in events))

    @contextmanager
    def _store(self) -> Iterator[sqlite3.Connection]:
        """The hub's database, read from outside its container: asking a hundred times costs it nothing."""
        with closing(sqlite3.connect(f"file:{self.volume('hub') / DATABASE}?mode=ro", uri=True)) as store:
            yield store

    def await_rounds(self, run_id: str, number: int, within_s: float = 300.0) -> None:
        """Wait until so many rounds are complete."""
        until(lambda: self.standing(run_id).rounds >= number, f"{number} rounds of {run_id}", within_s, 0.1)

    def finish(self, run_id: str, within_s: float = 600.0) -> Result:
        """Wait for the end of a run and return what it found."""

        def is_done() -> bool:
            found = self.standing(run_id)
            assert found.status not in ("failed", "stopped"), found
            return found.status == "done"

        until(is_done, f"{run_id} to be done", within_s)
        return self.result(run_id)

    def result(self, run_id: str) -> Result:
        """Return what a finished run found."""
        return result_of(self.hub, run_id, self.folder)

    def seconds(self, run_id: str) -> float:
        """Return how long a finished run was conducted."""
        with self._store() as store:
            return float(store.execute("select wall_s from runs where run_id = ?", (run_id,)).fetchone()[0])

    def remove(self) -> None:
        """Remove everything of this federation."""
        remove_all(f"{self.prefix}-")


def result_of(hub: Container, run_id: str, folder: Path) -> Result:
    """Return what a finished run found, from the hub's own command."""
    path = folder / f"{run_id}.json"
    path.write_text(hub.run("archipel", "runs", "report", run_id, "--out", "/tmp/report", "--json"), "utf-8")
    return read_result(path)


@contextmanager
def running(federation: Federation, plan: Plan, study: Path) -> Iterator[Federation]:
    """Run a federation of containers; whatever fails, nothing of it is left, and its logs are in the failure."""
    try:
        federation.set_up(plan)
        federation.start(study)
        yield federation
    except BaseException:
        for container in federation.containers:
            print(f"---- {container.name}\n{container.logs()}")
        raise
    finally:
        federation.remove()


def assert_same(found: Result, expected: Result, tolerance: float) -> None:
    """Hold every estimate of two runs of one plan against each other."""
    assert found.plan_hash == expected.plan_hash
    for quantity in ("coefficients", "standard_errors"):
        one, other = getattr(found, quantity), getattr(expected, quantity)
        assert one.keys() == other.keys()
        assert any(value is not None for value in one.values())
        # A component of a layer has a coefficient and no standard error, in both or in neither.
        values = [np.array(list(each.values()), dtype=np.float64) for each in (one, other)]
        np.testing.assert_allclose(*values, rtol=0, atol=tolerance, equal_nan=True, err_msg=quantity)
    assert found.log_likelihood is not None
    assert expected.log_likelihood is not None
    np.testing.assert_allclose(found.log_likelihood, expected.log_likelihood, rtol=0, atol=tolerance)
    assert found.baseline is not None
    assert expected.baseline is not None
    one, other = found.baseline.cumulative_hazard, expected.baseline.cumulative_hazard
    np.testing.assert_allclose(one, other, rtol=0, atol=tolerance)
    assert (found.n, found.events) == (expected.n, expected.events)


def _create(name: str, image: str, volume: str, *words: str) -> None:
    podman("run", "--detach", "--name", name, *HARDENED, f"--volume={volume}:{STATE}", *words, image)


def fill(volume: Path, home: Path) -> None:
    """Copy a folder into a volume, for the user of the containers."""
    shutil.copytree(home, volume, dirs_exist_ok=True, symlinks=True)
    volume.chmod(0o700)
    for path in (volume, *volume.rglob("*")):
        os.chown(path, USER, USER)


def make_readable(folder: Path) -> None:
    """Let the user of the containers read a folder."""
    folder.chmod(0o755)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
