"""Logs as JSON lines: one object a line whatever a process writes, and no text of an exception among them."""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.log_lines import MOST_BYTES, LineWrapper
from schemas.log_stream import LogStream, supervised_output
from schemas.logs import MOST_CHARACTERS, JsonLines, configure_logging, json_line, name_process
from schemas.processes import Child, Supervisor

KEYS = {"time", "level", "process", "logger", "message"}
HOSTILE = "DUPONT Jean, born 1931-02-03"


def wrapped(content: bytes, *, pieces: int = 1) -> list[dict[str, Any]]:
    wrapper = LineWrapper("agent", lambda: "2026-11-20T12:00:00.000Z")
    size = max(1, -(-len(content) // pieces))
    lines = [line for start in range(0, len(content), size) for line in wrapper.feed(content[start : start + size])]
    return [json.loads(line) for line in [*lines, *wrapper.flush()]]


# ---------------------------------------------------------------- one process
def record(message: str, *arguments: object, error: BaseException | None = None) -> dict[str, Any]:
    info = (type(error), error, error.__traceback__) if error is not None else None
    made = logging.LogRecord("archipel.site", logging.ERROR, "/x/y.py", 7, message, arguments, info)
    line = JsonLines("runner").format(made)
    assert "\n" not in line
    parsed: dict[str, Any] = json.loads(line)
    return parsed


def test_a_record_is_one_object_with_its_time_in_utc() -> None:
    found = record("%s is away\nfor now", "chu-é")
    assert set(found) == KEYS
    assert (found["level"], found["process"], found["logger"]) == ("error", "runner", "archipel.site")
    assert found["message"] == "chu-é is away\nfor now"
    moment = datetime.datetime.fromisoformat(found["time"])
    assert found["time"].endswith("Z")
    assert abs((datetime.datetime.now(datetime.UTC) - moment).total_seconds()) < 60


def test_of_an_exception_the_log_keeps_type_and_place_and_never_its_text() -> None:
    try:
        try:
            raise KeyError(HOSTILE)
        except KeyError as inner:
            raise ValueError(f"could not convert {HOSTILE}") from inner
    except ValueError as error:
        found = record("a request failed", error=error)
    assert "DUPONT" not in json.dumps(found)
    assert found["trace"].splitlines()[0].startswith("ValueError at test_logs.py:")
    assert found["trace"].splitlines()[1].startswith("KeyError at test_logs.py:")


def test_a_long_message_is_cut_and_a_wrong_one_costs_no_line() -> None:
    found = record("x" * (MOST_CHARACTERS + 5))
    assert found["message"] == "x" * MOST_CHARACTERS + " … (5 more characters)"
    assert "TypeError in y:7" in record("%d of them", "many")["message"]


@pytest.fixture
def own_logging() -> Iterator[None]:
    root = logging.getLogger()
    before = (root.handlers, root.level, sys.excepthook, threading.excepthook, warnings.showwarning)
    yield
    root.handlers, root.level, sys.excepthook, threading.excepthook, warnings.showwarning = before


def test_a_process_logs_as_its_supervisor_says(
    own_logging: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("ARCHIPEL_LOG_LINES", raising=False)
    configure_logging({"httpx": logging.WARNING})
    logging.getLogger("archipel.site").info("as text")
    assert capsys.readouterr().err.endswith(" INFO as text\n")
    assert logging.getLogger("httpx").level == logging.WARNING
    monkeypatch.setenv("ARCHIPEL_LOG_LINES", "json")
    monkeypatch.setenv("ARCHIPEL_PROCESS", "launcher")
    configure_logging()
    name_process("server app")
    logging.getLogger("archipel.hub").info("as JSON")
    found = json.loads(capsys.readouterr().err)
    assert (found["process"], found["message"]) == ("server app", "as JSON")


# ---------------------------------------------------------------- what a child writes
@given(st.binary(max_size=400), st.integers(1, 20))
def test_whatever_a_child_writes_becomes_objects_of_one_form(content: bytes, pieces: int) -> None:
    for found in wrapped(content, pieces=pieces):
        assert KEYS <= set(found) <= KEYS | {"trace"}
        assert all(isinstance(value, str) for value in found.values())


@given(st.lists(st.tuples(st.sampled_from(["info", "error"]), st.text(max_size=50)), max_size=5), st.integers(1, 30))
def test_our_own_lines_pass_as_they_are_however_the_pipe_cuts_them(said: list[tuple[str, str]], pieces: int) -> None:
    lines = [
        json_line(time="t", level=level, process="runner", logger="archipel.site", message=text)
        for level, text in said
    ]
    found = wrapped("".join(line + "\n" for line in lines).encode(), pieces=pieces)
    assert found == [json.loads(line) for line in lines]


@pytest.mark.parametrize(
    ("text", "level", "message"),
    [
        ("2026-11-20 12:00:00,123 ERROR the gate failed", "error", "the gate failed"),
        ("WARNING:  Invalid HTTP request received.", "warning", "Invalid HTTP request received."),
        (
            "OpenBLAS blas_thread_init: pthread_create failed",
            "info",
            "OpenBLAS blas_thread_init: pthread_create failed",
        ),
        ('{"level": "error"}', "info", '{"level": "error"}'),
        ('{"level": "error", "message": 3}', "info", '{"level": "error", "message": 3}'),
        ("{" * 5000, "info", "{" * 5000),
    ],
)
def test_a_line_that_is_not_ours_is_wrapped(text: str, level: str, message: str) -> None:
    (found,) = wrapped(text.encode() + b"\n\n")
    assert (found["level"], found["message"], found["process"]) == (level, message, "agent")


def test_a_line_without_end_is_cut() -> None:
    content = b"x" * (3 * MOST_BYTES) + b"\nafter\n"
    found = [one["message"] for one in wrapped(content, pieces=9)]
    assert len(found) == 2
    assert found[0].startswith("xxx")
    assert len(found[0]) < MOST_BYTES
    assert found[1] == "after"


def test_a_traceback_is_one_object_without_the_errors_text() -> None:
    content = f"""2026-11-20 12:00:00,123 INFO before
Traceback (most recent call last):
  File "/opt/site-packages/pandas/io.py", line 12, in read
    return int(cell)
ValueError: invalid literal for int(): 'x'

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "/opt/archipel/client/csv_file.py", line 34, in <module>
    raise KeyError(cell)
KeyError: '{HOSTILE}
and a second line of {HOSTILE}'
2026-11-20 12:00:01,123 INFO after
"""
    found = wrapped(content.encode(), pieces=7)
    assert "DUPONT" not in json.dumps(found)
    assert [one["message"] for one in found] == ["before", "ended by ValueError", "ended by KeyError", "after"]
    assert found[1]["trace"] == "ValueError at io.py:12 read"


def test_a_traceback_that_breaks_off_is_said_all_the_same() -> None:
    (found,) = wrapped(b'Traceback (most recent call last):\n  File "a/b.py", line 3, in f\n')
    assert (found["level"], found["trace"]) == ("error", "an error at b.py:3 f")


# ---------------------------------------------------------------- the supervisor's stream
@contextlib.contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    try:
        yield reading, writing
    finally:
        for descriptor in (reading, writing):
            with contextlib.suppress(OSError):
                os.close(descriptor)


def take_all(reading: int) -> list[dict[str, Any]]:
    content = bytearray()
    while chunk := os.read(reading, 1 << 16):
        content += chunk
    return [json.loads(line) for line in bytes(content).splitlines()]


def eventually(holds: Any, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


CHILD = f"""
import logging, sys, threading, warnings
from schemas.logs import configure_logging
configure_logging()
logging.getLogger("archipel.site").info("up")
print("no JSON at all", flush=True)
warnings.warn("{HOSTILE}", RuntimeWarning)
thread = threading.Thread(target=lambda: int("{HOSTILE}")); thread.start(); thread.join()
try:
    int("{HOSTILE}")
except ValueError:
    logging.getLogger("archipel.site").exception("a request failed")
raise ValueError("{HOSTILE}")
"""


def test_supervised_children_write_json_lines_on_one_output_and_no_patients_value(tmp_path: Path) -> None:
    with pipe() as (reading, writing):
        stream = LogStream(writing)
        supervisor = Supervisor(tmp_path, [Child("runner", [sys.executable, "-c", CHILD])], output=stream)
        thread = threading.Thread(target=supervisor.serve)
        thread.start()
        eventually(lambda: supervisor.states()[0].last_exit == 1)
        supervisor.request_stop()
        thread.join(60)
        stream.close()
        os.close(writing)
        found = take_all(reading)
    said = [(one["process"], one["level"], one["logger"], one["message"]) for one in found]
    assert said[0] == ("runner", "info", "archipel.site", "up")
    assert ("runner", "info", "output", "no JSON at all") in said
    assert ("runner", "error", "archipel.site", "a request failed") in said
    assert ("runner", "critical", "archipel", "ended by ValueError") in said
    assert any(message.startswith("RuntimeWarning in <string>") for *_, message in said)
    assert "DUPONT" not in json.dumps(found)
    assert not (tmp_path / "logs").exists(), "nothing is written to files"


def test_a_reader_who_stands_still_stops_nobody_and_learns_how_much_it_missed(tmp_path: Path) -> None:
    talkative = "import sys\nfor number in range(20000): print(number, 'x' * 100)\nprint('done')"
    with pipe() as (reading, writing):
        stream = LogStream(writing, most_lines=50)
        supervisor = Supervisor(tmp_path, [Child("runner", [sys.executable, "-c", talkative])], output=stream)
        thread = threading.Thread(target=supervisor.serve)
        thread.start()
        eventually(lambda: supervisor.states()[0].last_exit == 0)  # it got rid of two megabytes although nobody read
        supervisor.request_stop()
        thread.join(60)
        stopped = time.monotonic()
        stream.close()
        assert time.monotonic() - stopped < 10, "a full pipe does not hold up the end"
        reader: list[list[dict[str, Any]]] = []
        reading_thread = threading.Thread(target=lambda: reader.append(take_all(reading)))
        reading_thread.start()
        eventually(lambda: not stream._writing.is_alive())
        os.close(writing)
        reading_thread.join(60)
    assert any("lines were left out" in one["message"] for one in reader[0])


def test_a_reader_who_is_gone_stops_nobody() -> None:
    with pipe() as (reading, writing):
        os.close(reading)
        stream = LogStream(writing)
        for _ in range(10):
            stream.say("{}")
        eventually(lambda: not stream._lines)
        stream.close()


def test_the_supervisors_own_words_go_the_same_way(capfd: pytest.CaptureFixture[str]) -> None:
    before = logging.getLogger().handlers
    with supervised_output("stdout"):
        logging.getLogger("archipel.supervisor").warning("%s ended", "agent")
    assert logging.getLogger().handlers == before
    (line,) = capfd.readouterr().out.splitlines()
    assert json.loads(line) | {"time": ""} == {
        "time": "",
        "level": "warning",
        "process": "supervisor",
        "logger": "archipel.supervisor",
        "message": "agent ended",
    }
