"""Where supervised processes write: files in `logs/`, or JSON lines on the supervisor's standard output.

With standard output the supervisor reads every child's pipe in one thread and writes in another, so that a reader of
ours who stands still stops nobody: lines for which there is no room are counted and left out, and a line says so.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path

from schemas.log_lines import LineWrapper
from schemas.logs import LINES_VARIABLE, PROCESS_VARIABLE, JsonLines, json_line, utc_time
from schemas.operation import Logs
from schemas.processes import Child, FileOutput, Output

__all__ = ["LogStream", "supervised_output"]

_MOST_LINES = 1000
_IDLE_S = 0.5
_CHUNK = 64 << 10
SUPERVISOR = "supervisor"


@contextlib.contextmanager
def supervised_output(logs: Logs) -> Iterator[Output]:
    """Yield where children write, and let the supervisor's own words go the same way as long as the body runs."""
    if logs == "files":
        yield FileOutput()
        return
    sys.stdout.flush()
    stream = LogStream(sys.stdout.fileno())
    handler = _ToStream(stream)
    root = logging.getLogger()
    before, level = root.handlers, root.level
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    try:
        yield stream
    finally:
        root.handlers, root.level = before, level
        stream.close()


class LogStream:
    """The JSON lines of a supervisor and its children, on one descriptor."""

    def __init__(self, descriptor: int, most_lines: int = _MOST_LINES) -> None:
        """Start reading and writing.

        Args:
            descriptor: To write to; stays open.
            most_lines: That wait for a slow reader before the next ones are left out.
        """
        self._descriptor = descriptor
        self._most = most_lines
        self._lines: deque[str] = deque()
        self._n_left_out = 0
        self._is_closing = False
        self._changed = threading.Condition()
        self._selector = selectors.DefaultSelector()
        self._lock = threading.Lock()  # of the selector's map, which a start of a child changes
        self._reading = threading.Thread(target=self._read, name="log reader", daemon=True)
        self._writing = threading.Thread(target=self._write, name="log writer", daemon=True)
        self._reading.start()
        self._writing.start()

    def environment(self, child: Child) -> Mapping[str, str]:
        """Return what tells a child how to log."""
        return {LINES_VARIABLE: "json", PROCESS_VARIABLE: child.name}

    @contextlib.contextmanager
    def open(self, home: Path, child: Child) -> Iterator[int]:
        """Yield the descriptor that a child writes to."""
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        with self._lock:
            self._selector.register(
                reading, selectors.EVENT_READ, LineWrapper(child.name, lambda: utc_time(time.time()))
            )
        try:
            yield writing
        finally:
            os.close(writing)

    def say(self, line: str) -> None:
        """Add one line, or count it where too many wait."""
        with self._changed:
            if len(self._lines) >= self._most:
                self._n_left_out += 1
            else:
                self._lines.append(line)
            self._changed.notify_all()

    def close(self, patience_s: float = 1.0) -> None:
        """Write what is left, if its reader takes it in time."""
        deadline = time.monotonic() + patience_s
        while self._pipes() and time.monotonic() < deadline:
            time.sleep(0.01)
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._reading.join(max(0.1, deadline - time.monotonic()) + _IDLE_S)
        self._writing.join(max(0.1, deadline - time.monotonic()))

    # ------------------------------------------------------------ reading
    def _pipes(self) -> list[selectors.SelectorKey]:
        with self._lock:
            return list(self._selector.get_map().values())

    def _read(self) -> None:
        quiet_since = time.monotonic()
        while not self._is_closing:
            ready = self._selector.select(0.1)
            for key, _ in ready:
                self._take(key)
            now = time.monotonic()
            if ready:
                quiet_since = now
            elif now - quiet_since >= _IDLE_S:
                quiet_since = now
                for key in self._pipes():
                    self._say_all(key.data.flush())
        for key in self._pipes():
            self._end(key)

    def _take(self, key: selectors.SelectorKey) -> None:
        try:
            content = os.read(key.fd, _CHUNK)
        except BlockingIOError:
            return
        except OSError:
            content = b""
        if content:
            self._say_all(key.data.feed(content))
        else:
            self._end(key)

    def _end(self, key: selectors.SelectorKey) -> None:
        self._say_all(key.data.flush())
        with self._lock:
            self._selector.unregister(key.fd)
        os.close(key.fd)

    def _say_all(self, lines: Iterator[str]) -> None:
        for line in lines:
            self.say(line)

    # ------------------------------------------------------------ writing
    def _write(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines or self._is_closing)
                if not self._lines:
                    return
                line, n_left_out = self._lines.popleft(), 0
                if not self._lines:
                    n_left_out, self._n_left_out = self._n_left_out, 0
            self._put(line)
            if n_left_out:
                self._put(_left_out(n_left_out))

    def _put(self, line: str) -> None:
        content = memoryview(line.encode() + b"\n")
        try:
            while content:
                content = content[os.write(self._descriptor, content) :]
        except OSError:
            # Whoever read is gone; the processes go on, and what they say is read and lost.
            pass


class _ToStream(logging.Handler):
    """Hands the supervisor's own records to the stream."""

    def __init__(self, stream: LogStream) -> None:
        super().__init__()
        self._stream = stream
        self.setFormatter(JsonLines(SUPERVISOR))

    def emit(self, record: logging.LogRecord) -> None:
        self._stream.say(self.format(record))


def _left_out(count: int) -> str:
    return json_line(
        time=utc_time(time.time()),
        level="warning",
        process=SUPERVISOR,
        logger="archipel.supervisor",
        message=f"{count} lines were left out, since nobody read this output in time",
    )
