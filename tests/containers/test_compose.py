"""`docker/compose.yaml` from nothing: five containers come up, enrol, approve, train, and leave what a person reads.

The demo's tables of adrenocortical carcinoma; the same command as in the README, under podman-compose.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from archipel.local_run import run_plan
from archipel.report import read_result
from archipel.simulate import simulate
from archipel.site_folders import read_sites
from archipel.studies import compile_study
from client.state import SitePaths, fold_key
from models.folds import deal
from schemas.cohort import Cohort
from schemas.plan import Plan
from schemas.result import Result
from server.database import DATABASE
from server.store import Store
from tests.containers.conftest import Say
from tests.containers.kit import assert_same
from tests.containers.podman import Container, attempt, prefix, remove_all, run, until, volume
from tests.test_names import ROOT

SITES = ("site-a", "site-b", "site-c", "site-d")
STUDY = ROOT / "configs" / "acc" / "study.toml"
TOLERANCE = 1e-6
RESULTS = "results/demo"

# Tried inside a site, with a time limit on every attempt. Nothing of it leaves this machine: a connection without a
# route fails before a packet is made, and where there is a default route nothing is tried.
_REACH = """
import errno, http.client, json, socket, ssl, sys
asked = json.loads(sys.argv[1])
def connect(host, port):
    try:
        socket.create_connection((host, port), 3).close()
        return "open"
    except socket.gaierror:
        return "no such name"
    except OSError as error:
        return errno.errorcode.get(error.errno, type(error).__name__)
def ask(method, path):
    context = ssl.create_default_context(cafile="/var/lib/archipel/keys/hub-ca.crt")
    connection = http.client.HTTPSConnection("hub", 8443, timeout=10, context=context)
    connection.request(method, path)
    return connection.getresponse().status
routes = [line.split()[1] for line in open("/proc/net/route").read().splitlines()[1:]]
assert "00000000" not in routes, "there is a default route, so nothing further is tried"
print(json.dumps({
    "paths": {f"{method} {path}": ask(method, path) for method, path in asked["paths"]},
    "connects": {f"{host}:{port}": connect(host, port) for host, port in asked["connects"]},
}))
"""
# Addresses on which something listens, but for loopback.
_LISTENING = """
import json
lines = [line.split() for name in ("tcp", "tcp6") for line in open(f"/proc/net/{name}").read().splitlines()[1:]]
open_ones = [words[1].split(":") for words in lines if words[3] == "0A"]
print(json.dumps(sorted({int(port, 16) for address, port in open_ones if not address.endswith("7F")
                         and not address.endswith("01000000")})))
"""
_CONFINED = """
import json
status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
try:
    open("/written", "w")
    root = "written"
except OSError as error:
    root = error.strerror
print(json.dumps({
    "user": sorted(set(status["Uid"].split() + status["Gid"].split())),
    "capabilities": [int(status[name], 16) for name in ("CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb")],
    "no new privileges": status["NoNewPrivs"].strip(),
    "root": root,
}))
"""


@dataclass(frozen=True)
class Composed:
    """What the compose file started, with its study done.

    Attributes:
        seconds: From `up` to the report.
        result: The hub's result.json.
        tables: Copy of what the sites had, one folder each.
    """

    name: str
    seconds: float
    result: Result
    tables: Path

    def container(self, service: str) -> Container:
        """Return a service's container."""
        return Container(f"{self.name}_{service}_1")

    def volume(self, service: str) -> Path:
        """Return where a volume lies on this machine."""
        return volume(f"{self.name}_{service}")


@pytest.fixture(scope="module")
def composed(engine: None, say: Say, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Composed]:
    name = prefix()
    compose = ("podman-compose", "-p", name, "-f", str(ROOT / "docker" / "compose.yaml"))
    containers = [Container(f"{name}_{service}_1") for service in ("hub", *SITES)]
    began = time.monotonic()
    try:
        run(*compose, "up", "-d", within_s=300)

        report = volume(f"{name}_hub") / RESULTS / "report.html"
        until(report.is_file, "the report in the hub's volume", 1200, 1)
        seconds = time.monotonic() - began
        say(f"podman-compose up to the report of the carcinoma study over four sites: {seconds:.0f} s")
        tables = tmp_path_factory.mktemp("tables")
        for site in SITES:
            shutil.copytree(volume(f"{name}_tables-{site[-1]}"), tables / site)
        result = read_result(volume(f"{name}_hub") / RESULTS / "result.json")
        yield Composed(name, seconds, result, tables)
        took = time.monotonic()
        run(*compose, "down", "-t", "10", within_s=300)
        say(f"podman-compose down: {time.monotonic() - took:.0f} s")
    except BaseException:
        for container in containers:
            print(f"---- {container.name}\n{container.logs()}")
        raise
    finally:
        remove_all(f"{name}_")


# ---------------------------------------------------------------- what it finds
def test_the_result_is_the_one_of_simulate(composed: Composed, tmp_path: Path) -> None:
    """All that does not depend on folds; each site deals those by a key of its own, which no simulation knows."""
    simulated = simulate(STUDY, composed.tables, tmp_path)
    assert composed.result.sums_masked
    assert [site.status for site in composed.result.sites] == ["took part"] * len(SITES)
    assert_same(composed.result, simulated, TOLERANCE)


def test_every_number_is_that_of_plain_sums_in_the_same_folds(composed: Composed, tmp_path: Path) -> None:
    """Cross-validation too: dealt by the sites' own keys, which lie on this machine here."""
    for file in composed.volume("hub").glob(f"{DATABASE}*"):
        shutil.copyfile(file, tmp_path / file.name)
    with Store(tmp_path / DATABASE) as store:
        found = store.final_arrays(composed.result.run_id)
    plan = compile_study(STUDY)
    assert plan.hash == composed.result.plan_hash
    expected = run_plan(plan, _dealt(composed, plan)).progress.arrays
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=TOLERANCE, atol=TOLERANCE, err_msg=name)


def test_report_model_and_ledgers_are_in_the_volumes(composed: Composed) -> None:
    files = {path.name for path in (composed.volume("hub") / RESULTS).iterdir()}
    assert {"report.html", "result.json", "model.safetensors"} <= files
    for site in SITES:
        assert "sound" in composed.container(site).run("archipel", "site", "ledger", "verify")


# ---------------------------------------------------------------- what a container may reach
def test_a_site_reaches_the_hubs_public_port_and_nothing_else(composed: Composed) -> None:
    hub = composed.container("hub").addresses()
    others = [address for site in SITES[1:] for address in composed.container(site).addresses().values()]
    beyond = [address for network, address in hub.items() if not network.endswith("_a")]
    assert len(others) == len(beyond) == 3
    paths = [("GET", path) for path in ("/", "/metrics", "/v1/control/list-runs", "/v1/fleet/pull-messages")]
    paths += [("POST", path) for path in ("/v1/control/start-run", "/v1/runtime/acquire-task", "/health")]
    hub_ports = [("hub", 8443), ("hub", 8000)]
    outside = [("192.0.2.1", 443), ("2001:db8::1", 443)]
    names = [(name, 8443) for name in (*SITES[1:], composed.container("site-b").name)]
    asked = {
        "paths": [("GET", "/health"), *paths],
        "connects": [*hub_ports, *((address, 8443) for address in (*others, *beyond)), *outside, *names],
    }
    found = composed.container("site-a").python(_REACH, json.dumps(asked))
    assert found["paths"] == {"GET /health": 200, **{f"{method} {path}": 404 for method, path in paths}}
    connects = found["connects"]
    assert connects.pop("hub:8443") == "open"
    assert connects.pop("hub:8000") == "ECONNREFUSED"
    assert {connects.pop(f"{name}:{port}") for name, port in names} == {"no such name"}
    assert {connects.pop(f"{host}:{port}") for host, port in outside} <= {"ENETUNREACH", "EADDRNOTAVAIL"}
    assert set(connects.values()) == {"ENETUNREACH"}


def test_nothing_listens_but_the_hubs_public_port(composed: Composed) -> None:
    assert composed.container("hub").python(_LISTENING) == [8443]
    for site in SITES:
        assert composed.container(site).python(_LISTENING) == []


# ---------------------------------------------------------------- how the images run, and what is in them
def test_containers_run_without_rights_on_a_root_that_cannot_be_written(composed: Composed) -> None:
    for service in ("hub", *SITES):
        container = composed.container(service)
        known = container.inspect()
        assert known["HostConfig"]["ReadonlyRootfs"] is True
        assert known["HostConfig"]["Privileged"] is False
        assert not known["EffectiveCaps"]
        assert any("no-new-privileges" in option for option in known["HostConfig"]["SecurityOpt"])
        assert container.python(_CONFINED) == {
            "user": ["10001"],
            "capabilities": [0] * 5,
            "no new privileges": "1",
            "root": "Read-only file system",
        }


def test_hub_and_sites_say_that_they_are_well(composed: Composed) -> None:
    for service in ("hub", *SITES):
        done = attempt("podman", "healthcheck", "run", composed.container(service).name)
        assert done.code == 0, f"{service}: {done.out}{done.err}"


def _dealt(composed: Composed, plan: Plan) -> dict[str, Cohort]:
    """Return the cohorts in the folds that each site deals itself."""
    cohorts = read_sites(composed.tables, plan.study, plan.dictionary).cohorts
    folds = plan.study.evaluation.folds
    assert isinstance(folds, int)
    for name, cohort in cohorts.items():
        key = fold_key(SitePaths(composed.volume(name)))
        fold_of = deal(cohort.event, cohort.group, folds, key, 0, cohort.patient_ids)
        cohorts[name] = replace(cohort, fold_of=fold_of)
    return cohorts
