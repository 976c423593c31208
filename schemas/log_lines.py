"""What a child process writes, as records: its own JSON lines pass, everything else is wrapped. Pure.

Text that is not ours (a traceback of the interpreter, a line of a C library) has no known form. Of a traceback the
type and the places are kept and the error's text is not, since it may quote a cell of a table; what follows such a
text without being one of our lines may be more of it, and is left out too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator

from schemas.logs import json_line

__all__ = ["MOST_BYTES", "LineWrapper"]

MOST_BYTES = 64 << 10
"""Of a line; the rest of a longer one is left out."""

_LEVELS = ("debug", "info", "warning", "error", "critical")
_OURS = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (DEBUG|INFO|WARNING|ERROR|CRITICAL) (.*)$", re.DOTALL)
_NAMED = re.compile(r"^(DEBUG|INFO|WARNING|ERROR|CRITICAL):\s+(.*)$", re.DOTALL)
_ERROR_TYPE = re.compile(r"^([A-Za-z_][\w.]{0,200})(?::|$)")
_FRAME = re.compile(r'^\s+File "(?:[^"]*/)?([^"/]+)", line (\d+)(?:, in (\S+))?')
_TRACE_START = "Traceback (most recent call last):"


class LineWrapper:
    """Turns the bytes of one child's output into lines of the log."""

    def __init__(self, process: str, now: Callable[[], str]) -> None:
        """Begin with nothing read.

        Args:
            process: Name of the child, for lines that do not say one.
            now: Time of a line that does not say one.
        """
        self._process = process
        self._now = now
        self._rest = b""
        self._is_cut = False
        self._frames: list[str] | None = None  # of a traceback that is being read
        self._is_foreign = False  # after an error's text: more of it may follow

    def feed(self, content: bytes) -> Iterator[str]:
        """Yield the lines that `content` completes."""
        *lines, rest = (self._rest + content).split(b"\n")
        self._rest = rest
        for line in lines:
            if self._is_cut:
                self._is_cut = False  # the end of one whose beginning was taken
                continue
            yield from self._line(line)
        if len(self._rest) > MOST_BYTES:
            if not self._is_cut:
                yield from self._line(self._rest)
            self._rest, self._is_cut = b"", True

    def flush(self) -> Iterator[str]:
        """Yield what waits for more: nothing comes for a while, or no more."""
        if self._rest and not self._is_cut:
            rest, self._rest = self._rest, b""
            yield from self._line(rest)
        if self._frames is not None:
            yield self._end_trace("an error")

    def _line(self, line: bytes) -> Iterator[str]:
        text = line[:MOST_BYTES].decode("utf-8", "replace").rstrip("\r")
        known = self._known(text)
        if known is not None:
            if self._frames is not None:
                yield self._end_trace("an error")
            self._is_foreign = False
            yield known
        elif text == _TRACE_START:
            self._frames = self._frames or []
        elif self._frames is not None:
            yield from self._of_trace(text)
        elif text.strip() and not self._is_foreign:
            yield self._record("info", text)

    def _known(self, text: str) -> str | None:
        """Return a line that has one of the forms in which Archipel and its server log."""
        if text.startswith("{"):
            return self._own_json(text)
        match = _OURS.match(text) or _NAMED.match(text)
        return self._record(match.group(1).lower(), match.group(2)) if match else None

    def _own_json(self, text: str) -> str | None:
        try:
            record = json.loads(text)
        except (ValueError, RecursionError):
            return None
        names = ("time", "level", "process", "logger", "message")
        if not all(isinstance(record.get(name), str) for name in names) or record["level"] not in _LEVELS:
            return None
        trace = record.get("trace", "")
        return json_line(
            **{name: record[name] for name in names} | {"process": record["process"][:40] or self._process},
            trace=trace if isinstance(trace, str) else "",
        )

    def _of_trace(self, text: str) -> Iterator[str]:
        frame = _FRAME.match(text)
        if frame and self._frames is not None:
            self._frames.append(f"{frame.group(1)}:{frame.group(2)} {frame.group(3) or ''}".rstrip())
        elif text and not text[0].isspace() and not text.startswith(("During handling", "The above exception")):
            kind = _ERROR_TYPE.match(text)
            yield self._end_trace(kind.group(1) if kind else "an error")

    def _end_trace(self, kind: str) -> str:
        places = " < ".join(reversed(self._frames or []))
        self._frames, self._is_foreign = None, True
        return self._record("error", f"ended by {kind}", f"{kind} at {places}" if places else "")

    def _record(self, level: str, message: str, trace: str = "") -> str:
        return json_line(
            time=self._now(), level=level, process=self._process, logger="output", message=message, trace=trace
        )
