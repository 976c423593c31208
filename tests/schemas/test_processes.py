"""A process that dies comes back, later and later; nothing outlives its supervisor."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from schemas.processes import Child, Restarts, Supervisor


def eventually(holds: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_waits_double_up_to_a_limit_and_a_long_life_forgets_them() -> None:
    rule, waits = Restarts(), []
    for _ in range(6):
        rule = rule.after_death(lived_s=1.0)
        waits.append(rule.wait_s)
    assert waits == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]
    assert rule.after_death(lived_s=60.0).wait_s == 0.5


def test_a_killed_child_is_started_again_and_all_end_on_request(tmp_path: Path) -> None:
    sleeper = Child("sleeper", [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"])
    supervisor = Supervisor(tmp_path, [sleeper])
    started: list[int] = []
    thread = threading.Thread(target=supervisor.serve, kwargs={"on_start": lambda name, pid: started.append(pid)})
    thread.start()
    pid_file = tmp_path / "run" / "sleeper.pid"
    eventually(lambda: len(started) == 1)
    assert int(pid_file.read_text()) == started[0]
    os.kill(started[0], signal.SIGKILL)
    eventually(lambda: len(started) == 2)
    assert int(pid_file.read_text()) == started[1]
    eventually(lambda: "up" in (tmp_path / "logs" / "sleeper.log").read_text())
    supervisor.request_stop()
    thread.join(60)
    assert not is_alive(started[1])
    assert not pid_file.exists()


def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    supervisor = Supervisor(tmp_path, [Child("deaf", [sys.executable, "-c", code])])
    supervisor.PATIENCE_S = 0.5
    thread = threading.Thread(target=supervisor.serve)
    thread.start()
    log = tmp_path / "logs" / "deaf.log"
    eventually(lambda: log.exists() and "up" in log.read_text())
    pid = int((tmp_path / "run" / "deaf.pid").read_text())
    supervisor.request_stop()
    thread.join(60)
    assert not is_alive(pid)


def test_children_end_when_their_supervisor_is_killed(tmp_path: Path) -> None:
    said = tmp_path / "asked"
    child = (
        "from schemas.processes import die_with_parent; die_with_parent();"
        f"import pathlib, time; pathlib.Path({str(said)!r}).touch(); time.sleep(600)"
    )
    parent = (
        "import sys; from pathlib import Path; from schemas.processes import Child, Supervisor;"
        f"Supervisor(Path({str(tmp_path)!r}), [Child('child', [sys.executable, '-c', {child!r}])]).serve()"
    )
    process = subprocess.Popen([sys.executable, "-c", parent])
    pid_file = tmp_path / "run" / "child.pid"
    eventually(lambda: pid_file.exists() and pid_file.read_text().endswith("\n"))
    pid = int(pid_file.read_text())
    eventually(said.exists)  # the child has got as far as asking the kernel
    process.kill()
    process.wait()
    eventually(lambda: not is_alive(pid))


# ---------------------------------------------------------------- the way out
@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("return 0", 0, ""),
        ("return 3", 3, ""),
        ("sys.exit(4)", 4, ""),
        ("sys.exit()", 0, ""),
        ("sys.exit('why')", 1, "why\n"),
    ],
)
def test_a_process_ends_with_the_code_of_its_main_and_waits_for_nothing(body: str, code: int, said: str) -> None:
    program = f"""
import sys, threading, time
from schemas.processes import run_and_end
def main():
    threading.Thread(target=time.sleep, args=(60,)).start()
    print("done")
    {body}
run_and_end(main)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (code, "done\n", said)


def test_an_error_of_main_is_told_and_ends_the_process_with_1() -> None:
    program = "from schemas.processes import run_and_end\nrun_and_end(lambda: 1 // 0)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr


def test_a_supervisor_lives_through_a_full_disk_and_notes_its_children_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleeper = Child("sleeper", [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"])
    supervisor = Supervisor(tmp_path, [sleeper])
    write, open_ = Path.write_text, os.open

    def full(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def no_new_file(path: object, flags: int, *rest: Any, **others: Any) -> int:
        return (
            full()
            if flags & os.O_CREAT and str(path).startswith(str(tmp_path))
            else open_(path, flags, *rest, **others)
        )

    with monkeypatch.context() as disk:
        disk.setattr(Path, "write_text", full)
        disk.setattr(os, "open", no_new_file)
        thread = threading.Thread(target=supervisor.serve)
        thread.start()
        eventually(lambda: supervisor.states()[0].pid is not None)
        first = supervisor.states()[0].pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        eventually(lambda: supervisor.states()[0].restarts == 1 and supervisor.states()[0].pid is not None)
        assert supervisor.states()[0].last_exit == -9
        assert not (tmp_path / "run" / "sleeper.pid").exists()
    assert Path.write_text is write
    eventually((tmp_path / "run" / "sleeper.pid").exists)
    eventually(lambda: (tmp_path / "run" / "sleeper.pid").read_text() == f"{supervisor.states()[0].pid}\n")
    supervisor.request_stop()
    thread.join(60)
    assert supervisor.states()[0].pid is None


def test_a_child_that_cannot_be_started_is_tried_again(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path, [Child("sleeper", [str(tmp_path / "later")])])
    supervisor._lives["sleeper"].rule = Restarts(most_s=0.1)
    thread = threading.Thread(target=supervisor.serve)
    thread.start()
    eventually(lambda: supervisor.states()[0].trouble == "No such file or directory")
    (tmp_path / "later").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "later").chmod(0o700)
    eventually(lambda: supervisor.states()[0].pid is not None)
    assert supervisor.states()[0].trouble == ""
    supervisor.request_stop()
    thread.join(60)
