"""A runner whose steps try what a step must not be able to do: `python -m tests.doubles.probe --home DIR`.

The draft is a JSON object: what was tried -> the name of the error, or "allowed". With TEST_UNCONFINED=1 the same is
tried by a child that is not confined, which shows that the attempts would work.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import importlib
import json
import os
import signal
import socket
import stat
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path

from client.task import Outcome, Task


def _read(path: Path) -> Callable[[], object]:
    return lambda: path.open("rb").read(1)


def _kernel(number: int, *arguments: int) -> Callable[[], None]:
    def call() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syscall(number, *(ctypes.c_long(argument) for argument in arguments)) < 0:
            raise OSError(ctypes.get_errno(), "syscall")

    return call


def _connect(family: int, address: object) -> Callable[[], None]:
    def call() -> None:
        with socket.socket(family, socket.SOCK_STREAM) as one:
            one.connect(address)  # type: ignore[arg-type]

    return call


def _start_program() -> None:
    child = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(child, 0)


def _fork() -> None:
    if (child := os.fork()) == 0:
        os._exit(0)
    os.waitpid(child, 0)


def _use_inherited_socket() -> None:
    for descriptor in range(3, 256):
        try:
            is_socket = stat.S_ISSOCK(os.fstat(descriptor).st_mode)
        except OSError:
            continue
        if is_socket:
            return
    raise OSError(errno.EBADF, "none")


def _read_memory_of(process: int) -> None:
    here = ctypes.create_string_buffer(8)
    vector = (ctypes.c_void_p * 2)(ctypes.addressof(here), 8)
    libc = ctypes.CDLL(None, use_errno=True)
    address = ctypes.c_void_p(ctypes.addressof(vector))  # the fork shares the layout, so this is mapped there too
    if libc.process_vm_readv(process, address, ctypes.c_ulong(1), address, ctypes.c_ulong(1), ctypes.c_ulong(0)) < 0:
        raise OSError(ctypes.get_errno(), "process_vm_readv")


def _in_a_thread(call: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        found: list[OSError] = []

        def body() -> None:
            try:
                call()
            except OSError as error:
                found.append(error)

        thread = threading.Thread(target=body)
        thread.start()
        thread.join()
        if found:
            raise found[0]

    return run


def attempts(home: Path, port: int) -> dict[str, Callable[[], object]]:
    """What is tried, by name."""
    parent = os.getppid()
    scratch = home / "stolen"
    return {
        "read identity.key": _read(home / "keys" / "identity.key"),
        "read identity.key in a thread": _in_a_thread(_read(home / "keys" / "identity.key")),
        "read node.key": _read(home / "keys" / "node.key"),
        "read fold.key": _read(home / "keys" / "fold.key"),
        "read the ledger": _read(home / "state" / "ledger.jsonl"),
        "read the answers": _read(home / "state" / "answers.sqlite"),
        "read the approvals": _read(home / "state" / "approvals.json"),
        "read the settings": _read(home / "site.toml"),
        "read the tables": _read(home / "tables" / "clinical.csv"),
        "read the machine's accounts": _read(Path("/etc/passwd")),
        "list the keys": lambda: os.listdir(home / "keys"),
        "list the home": lambda: os.listdir(home),
        "write in the home": lambda: scratch.write_text("x"),
        "write in /tmp": lambda: Path(f"/tmp/archipel-probe-{os.getpid()}").touch(),
        "write a table": lambda: (home / "tables" / "clinical.csv").open("r+b").close(),
        "make a folder": lambda: os.mkdir(home / "made"),
        "remove the ledger's copy": lambda: os.unlink(home / "copy-of-ledger"),
        "open the keys to others": lambda: os.chmod(home / "keys" / "node.key", 0o644),
        "empty the log": lambda: os.ftruncate(2, os.fstat(2).st_size),
        "signal the runner by a descriptor": lambda: fcntl.fcntl(2, fcntl.F_SETOWN, parent),
        "connect to the hub": _connect(socket.AF_INET, ("127.0.0.1", port)),
        "connect to the hub in a thread": _in_a_thread(_connect(socket.AF_INET, ("127.0.0.1", port))),
        "connect to the agent": _connect(socket.AF_UNIX, os.path.relpath(home / "run" / "runner.sock")),
        "use the agent's connection": _use_inherited_socket,
        "make a datagram socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close(),
        "make a netlink socket": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close(),
        "make a pair of sockets": lambda: [one.close() for one in socket.socketpair()],
        "start a program": _start_program,
        "fork": _fork,
        "read the runner's memory": lambda: Path(f"/proc/{parent}/mem").open("rb").close(),
        "read the runner's environment": _read(Path(f"/proc/{parent}/environ")),
        "copy the runner's memory": lambda: _read_memory_of(parent),
        "signal the runner": lambda: os.kill(parent, 0),
        "hold the runner": lambda: os.pidfd_open(parent),
        "share memory": _kernel(29 if os.uname().machine == "x86_64" else 194, 0, 4096, 0o1600),
        "set up io_uring": _kernel(425, 1, 0),
        "ask the kernel's keyring": _kernel(250 if os.uname().machine == "x86_64" else 219, 0, -3, 0),
    }


def tried(attempt: Callable[[], object]) -> str:
    """Return how an attempt ended."""
    try:
        attempt()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, type(error).__name__)
    return "allowed"


def prepare(home: Path, request: bytes) -> Task:
    """Return the task that tries everything; the request is the port of a listener on loopback."""

    def work() -> Outcome:
        importlib.import_module("mailbox")  # code that is not loaded yet can be

        found = {name: tried(attempt) for name, attempt in attempts(home, int(request)).items()}
        found["signal itself"] = tried(lambda: signal.raise_signal(signal.SIGCONT))
        return Outcome(json.dumps(found).encode())

    return Task(work)


def main() -> int:
    """Serve the agent as the real runner does, with the probe inside."""
    from client import runner

    if os.environ.get("TEST_UNCONFINED") == "1":
        runner.__dict__["confine_runner"] = lambda home: None
        runner.__dict__["confine_step"] = lambda home, reads, pipe: None
    module = types.ModuleType("client.execute")
    module.prepare = prepare  # type: ignore[attr-defined]
    return runner.main(sys.argv[1:], module=module)


if __name__ == "__main__":
    sys.exit(main())
