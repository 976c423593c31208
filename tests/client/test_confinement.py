"""A step's process has no network, no key and nothing to write, and computes what it computed before."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from archipel import site_status
from client import confinement, landlock, seccomp, site_process
from client.confinement import ConfinementError, Support, confine_step, supported
from client.execute import execute
from client.link import AgentEnd
from client.site_process import create_node_key
from client.state import SitePaths
from schemas.codes import Code
from schemas.errors import FaultsError
from schemas.messages import Draft, decode_as
from tests.client.test_execute import begin, make_site, moments_request, setup_request
from tests.doubles.federation import ROOT


@pytest.fixture
def home(tmp_path: Path) -> Path:
    made = make_site(tmp_path / "A")
    begin(made, setup_request())
    create_node_key(made)
    (made / "keys" / "identity.key").write_text("secret")
    (made / "copy-of-ledger").write_bytes((made / "state" / "ledger.jsonl").read_bytes())
    return made


@contextlib.contextmanager
def runner_of(home: Path, module: str, environment: dict[str, str] | None = None) -> Iterator[AgentEnd]:
    """A real runner process, and this process in the place of its agent."""
    agent = AgentEnd(home)
    with (home / "runner.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", module, "--home", str(home)],
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        yield agent
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)
        agent.close()


@pytest.fixture
def hub_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield int(listener.getsockname()[1])


def probed(home: Path, port: int, environment: dict[str, str] | None = None) -> dict[str, str]:
    with runner_of(home, "tests.doubles.probe", environment) as agent:
        draft = agent.ask(b"%d" % port, 60)
    assert draft is not None, (home / "runner.log").read_text()
    found = json.loads(draft)
    assert isinstance(found, dict)
    return found


# ---------------------------------------------------------------- from inside a step's process
@pytest.mark.processes
def test_a_step_reaches_no_network_no_key_and_no_other_process(home: Path, hub_port: int) -> None:
    SitePaths(home).fold_key.write_bytes(bytes(32))
    found = probed(home, hub_port)
    assert found.pop("signal itself") == "allowed"
    refused = {"EPERM", "EACCES"}
    assert found.pop("use the agent's connection") == "EBADF"
    assert {name for name, outcome in found.items() if outcome not in refused} == set()
    assert not (home / "stolen").exists()
    assert (home / "keys" / "node.key").stat().st_mode & 0o777 == 0o600


@pytest.mark.processes
def test_without_confinement_the_same_step_reaches_them(home: Path, hub_port: int) -> None:
    """The attempts work, so that what was refused above was refused by the confinement."""
    SitePaths(home).fold_key.write_bytes(bytes(32))
    found = probed(home, hub_port, {"TEST_UNCONFINED": "1"})
    beyond_us = {"set up io_uring", "copy the runner's memory"}  # some machines switch these off for everybody
    blocked = {name for name, outcome in found.items() if outcome != "allowed"} - beyond_us
    assert blocked == set()


@pytest.mark.processes
def test_the_runner_itself_has_no_network_but_the_agents_socket(home: Path) -> None:
    code = (
        "import errno, os, socket, sys; from pathlib import Path; from client.confinement import confine_runner\n"
        "from tests.doubles.probe import tried, _start_program\n"
        "confine_runner(Path(sys.argv[1]))\n"
        "kinds = (socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, socket.AF_PACKET, socket.AF_VSOCK)\n"
        "print([tried(lambda: socket.socket(kind, socket.SOCK_DGRAM)) for kind in kinds], tried(_start_program))\n"
        "print(tried(lambda: socket.socket(socket.AF_UNIX)), tried(lambda: Path(sys.argv[1], 'x').touch()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(home)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [f"{['EPERM'] * 5} EPERM", "allowed allowed"]


@pytest.mark.processes
def test_a_confined_step_drafts_the_same_bytes(tmp_path: Path) -> None:
    """At the set-up, which reads tables and writes fingerprints, and at a step, which finds them in memory."""
    home = make_site(tmp_path / "A")
    with runner_of(home, "client.runner") as agent:
        assert agent.ask(b"no request", 60) is None, "it is up now, and knows of no run that it could prepare for"
        begin(home, setup_request())
        drafts = [agent.ask(request, 60) for request in (setup_request(), moments_request())]
    members = SitePaths(home).members("run-1")
    kept = members.read_bytes()
    members.unlink()
    assert drafts == [execute(home, request) for request in (setup_request(), moments_request())]
    assert members.read_bytes() == kept
    assert decode_as(drafts[1] or b"", Draft).arrays


@pytest.mark.processes
def test_a_confined_step_says_what_is_wrong_with_the_tables(tmp_path: Path) -> None:
    home = make_site(tmp_path / "A")
    (home / "tables" / "clinical.csv").write_text("nothing\n")
    with runner_of(home, "client.runner") as agent:
        assert agent.ask(b"no request", 60) is None
        begin(home, setup_request())
        assert decode_as(agent.ask(setup_request(), 60) or b"", Draft).code == Code.TABLES_REFUSED
        (home / "tables" / "clinical.csv").write_text("other\n")
        assert decode_as(agent.ask(moments_request(), 60) or b"", Draft).code == Code.TABLES_CHANGED
    assert "clinical" in (home / "runner.log").read_text()


# ---------------------------------------------------------------- decisions
def verdict(rules: seccomp.Rules, machine: str, number: int, *arguments: int, architecture: int | None = None) -> int:
    """Run a filter as the kernel would, slowly."""
    words = {0: number, 4: seccomp.ARCHITECTURES[machine][1] if architecture is None else architecture}
    for position in range(6):
        words[16 + 8 * position] = arguments[position] if position < len(arguments) else 0
    code = seccomp.program(rules, machine)
    at, held = 0, 0
    while True:
        operation, if_true, if_false, constant = code[at]
        at += 1
        if operation == 0x06:
            return constant
        if operation == 0x20:
            held = words[constant]
        else:
            tests = {0x15: held == constant, 0x35: held >= constant, 0x45: bool(held & constant)}
            at += if_true if tests[operation] else if_false


ALLOW, EPERM, ENOSYS, KILL = 0x7FFF0000, 0x50001, 0x50026, 0x80000000
STEP, RUNNER = seccomp.Rules.of_step(77), seccomp.Rules.of_runner()
CALLS: list[tuple[str, seccomp.Rules, tuple[int, ...], tuple[int, ...], int]] = [
    ("socket of the network", STEP, (41, 2), (198, 2), EPERM),
    ("socket of this machine", STEP, (41, 1), (198, 1), EPERM),
    ("socket of the network, runner", RUNNER, (41, 2), (198, 2), EPERM),
    ("socket of this machine, runner", RUNNER, (41, 1), (198, 1), ALLOW),
    ("execve", STEP, (59,), (221,), EPERM),
    ("execve, runner", RUNNER, (59,), (221,), EPERM),
    ("new process", STEP, (56, 0x11), (220, 0x11), EPERM),
    ("new thread", STEP, (56, 0x3D0F00), (220, 0x3D0F00), ALLOW),
    ("new process, runner", RUNNER, (56, 0x11), (220, 0x11), ALLOW),
    ("call without readable flags", STEP, (435,), (435,), ENOSYS),
    ("signal to itself", STEP, (62, 77, 6), (129, 77, 6), ALLOW),
    ("signal to another", STEP, (62, 78, 9), (129, 78, 9), EPERM),
    ("signal to all", STEP, (62, 0xFFFFFFFF, 9), (129, 0xFFFFFFFF, 9), EPERM),
    ("open to read", STEP, (257, 0, 0, 0o2000000), (56, 0, 0, 0o2000000), ALLOW),
    ("open to write", STEP, (257, 0, 0, 1), (56, 0, 0, 1), EPERM),
    ("open to make", STEP, (257, 0, 0, 0o100), (56, 0, 0, 0o100), EPERM),
    ("ptrace", STEP, (101,), (117,), EPERM),
    ("io_uring", RUNNER, (425,), (425,), EPERM),
    ("limits of another", STEP, (302, 78), (261, 78), EPERM),
    ("signal by a descriptor", STEP, (72, 1, 8, 1), (25, 1, 8, 1), EPERM),
    ("flags of a descriptor", STEP, (72, 1, 2, 1), (25, 1, 2, 1), ALLOW),
    ("typing at a terminal", STEP, (16, 0, 0x5412), (29, 0, 0x5412), EPERM),
    ("size of a terminal", STEP, (16, 0, 0x5413), (29, 0, 0x5413), ALLOW),
    ("read", STEP, (0,), (63,), ALLOW),
    ("write", STEP, (1,), (64,), ALLOW),
    ("mmap", STEP, (9,), (222,), ALLOW),
]


@pytest.mark.parametrize(("name", "rules", "on_x86", "on_arm", "expected"), CALLS, ids=[call[0] for call in CALLS])
def test_both_architectures_refuse_the_same_calls(
    name: str, rules: seccomp.Rules, on_x86: tuple[int, ...], on_arm: tuple[int, ...], expected: int
) -> None:
    found = (verdict(rules, "x86_64", *on_x86), verdict(rules, "aarch64", *on_arm))
    assert found == (expected, expected), name


def test_another_architectures_numbers_pass_no_filter() -> None:
    assert verdict(STEP, "x86_64", 1, architecture=0x40000003) == KILL, "32-bit calls"
    assert verdict(STEP, "x86_64", 0x40000000 + 41, 2) == EPERM, "x32 calls"
    assert verdict(STEP, "aarch64", 1, architecture=0x40000028) == KILL, "32-bit calls"


@pytest.mark.parametrize("machine", seccomp.ARCHITECTURES)
def test_no_jump_leaves_the_program_and_the_kernel_takes_its_length(machine: str) -> None:
    code = seccomp.program(STEP, machine)
    assert len(code) < 4096
    for at, (operation, if_true, if_false, _) in enumerate(code):
        if operation in (0x15, 0x35, 0x45):
            assert at + 1 + max(if_true, if_false) < len(code)


@pytest.mark.parametrize(
    ("version", "expected"),
    [(1, (0x1FFF, 0, 0)), (2, (0x3FFF, 0, 0)), (3, (0x7FFF, 0, 0)), (4, (0x7FFF, 3, 0)), (5, (0xFFFF, 3, 0)),
     (6, (0xFFFF, 3, 3)), (7, (0xFFFF, 3, 3))],
)  # fmt: skip
def test_a_kernel_is_asked_for_what_it_knows(version: int, expected: tuple[int, int, int]) -> None:
    assert landlock.rights_of(version) == expected


def test_what_a_kernel_lacks_is_said() -> None:
    assert Support(7, seccomp=True).lacking == ()
    no_files, no_calls = Support(0, seccomp=False).lacking
    assert "read this site's keys" in no_files
    assert "firewall" in no_calls


def test_a_code_folder_around_the_home_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tmp_path / "lib" / "site"
    inner.mkdir(parents=True)
    monkeypatch.setattr(confinement, "code_folders", lambda: (tmp_path / "lib", Path("/usr/lib")))
    confinement._code_rules.cache_clear()
    assert [path for path, _ in confinement._code_rules(inner)] == [Path("/usr/lib")]
    confinement._code_rules.cache_clear()


def in_a_child(work: Callable[[int], object]) -> str:
    """Fork, give `work` a pipe, and return what it wrote, or the error that it ended with."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        text = "done"
        try:
            text = str(work(writing))
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        finally:
            os.write(writing, text.encode())
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as file:
        return file.read()


@pytest.mark.parametrize("place", ["landlock.restrict", "seccomp.install", "seccomp.forget_privileges"])
def test_what_the_kernel_offers_and_refuses_ends_the_request(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(1, place)

    supported()
    monkeypatch.setattr(f"client.{place}", refuse)
    assert (
        in_a_child(lambda pipe: confine_step(tmp_path, (), pipe))
        == f"{ConfinementError.__name__}: {place} was refused"
    )


def test_an_old_kernel_computes_with_what_protection_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confinement, "supported", lambda: Support(0, seccomp=True))

    def work(pipe: int) -> str:
        confine_step(tmp_path, (), pipe)
        try:
            socket.socket()
        except OSError as error:
            return error.strerror or ""
        return "a socket"

    assert in_a_child(work) == "Operation not permitted"


def test_a_table_is_read_and_its_neighbours_are_not(tmp_path: Path) -> None:
    """Also where somebody keeps the tables in the site's own folder, beside its keys."""
    (tmp_path / "clinical.csv").write_text("x")
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "node.key").write_text("secret")

    def work(pipe: int) -> list[str]:
        confine_step(tmp_path, (tmp_path, tmp_path / "clinical.csv"), pipe)
        found = [(tmp_path / "clinical.csv").read_text(), *sorted(os.listdir(tmp_path))]
        try:
            found.append((tmp_path / "keys" / "node.key").read_text())
        except OSError as error:
            found.append(error.strerror or "")
        return found

    assert in_a_child(work) == str(["x", "clinical.csv", "keys", "Permission denied"])


# ---------------------------------------------------------------- a kernel that cannot
def test_a_site_on_an_old_kernel_starts_unless_it_must_be_confined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = make_site(tmp_path / "A")
    create_node_key(home)
    (home / "keys" / "hub-ca.crt").touch()
    monkeypatch.setattr(site_process, "supported", lambda: Support(0, seccomp=True))
    assert site_process.verify_site(home).confinement == "if-possible"
    monkeypatch.setenv("ARCHIPEL_SITE__CONFINEMENT", "required")
    with pytest.raises(FaultsError, match="Landlock is missing"):
        site_process.verify_site(home)


def test_status_says_what_the_kernel_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = make_site(tmp_path / "A")
    site_status.show_site_status(site_status.site_status(home))
    assert "Warning" not in capsys.readouterr().out
    monkeypatch.setattr(site_status, "supported", lambda: Support(7, seccomp=False))
    site_status.show_site_status(site_status.site_status(home))
    assert "Warning: This kernel does not keep a step's process from the network" in capsys.readouterr().out
