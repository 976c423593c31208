"""Logging of one process: lines of text for a file, or one JSON object a line for who collects a container's output.

Which of the two, its supervisor says by environment (`ARCHIPEL_LOG_LINES`), beside the name of the process. What is
logged says no patient's value: our own sentences have none, and of an exception that is not ours, whose text may
quote a cell, the JSON lines keep type and place alone; likewise of a warning.
"""

from __future__ import annotations

import datetime
import json
import logging
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

__all__ = [
    "LINES_VARIABLE",
    "PROCESS_VARIABLE",
    "JsonLines",
    "configure_logging",
    "json_line",
    "name_process",
    "utc_time",
]

LINES_VARIABLE = "ARCHIPEL_LOG_LINES"
PROCESS_VARIABLE = "ARCHIPEL_PROCESS"
MOST_CHARACTERS = 8_000
"""Of a message or a trace; what is longer is cut, and says so."""

_TEXT = "%(asctime)s %(levelname)s %(message)s"

log = logging.getLogger("archipel")


def configure_logging(levels: Mapping[str, int] | None = None) -> None:
    """Log to standard error, as the supervisor of this process reads it.

    Args:
        levels: Lowest level of other people's loggers, by name.
    """
    is_json = os.environ.get(LINES_VARIABLE) == "json"
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines(os.environ.get(PROCESS_VARIABLE, "")) if is_json else logging.Formatter(_TEXT))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    for name, level in (levels or {}).items():
        logging.getLogger(name).setLevel(level)
    if is_json:
        sys.excepthook = _log_uncaught
        threading.excepthook = lambda given: _log_uncaught(given.exc_type, given.exc_value, given.exc_traceback)
        warnings.showwarning = _log_warning


def name_process(name: str) -> None:
    """Say that this process, forked from another, has a name of its own."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, JsonLines):
            handler.formatter.process = name


class JsonLines(logging.Formatter):
    """One JSON object for each record, on one line."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self.process = process

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        try:
            message = record.getMessage()
        except Exception as error:  # a wrong format string must not cost the place where it stands
            message = f"a message that cannot be written ({type(error).__name__} in {record.module}:{record.lineno})"
        trace = ""
        if record.exc_info and record.exc_info[1] is not None:
            trace = _trace(record.exc_info[1])
        return json_line(
            time=utc_time(record.created),
            level=record.levelname.lower(),
            process=self.process,
            logger=record.name,
            message=message,
            trace=trace,
        )


def json_line(*, time: str, level: str, process: str, logger: str, message: str, trace: str = "") -> str:
    """Return one line of the log; `trace` is left out where there is none."""
    record: dict[str, Any] = {
        "time": time, "level": level, "process": process, "logger": logger, "message": _bounded(message),
    }  # fmt: skip
    if trace:
        record["trace"] = _bounded(trace)
    return json.dumps(record)


def utc_time(seconds: float) -> str:
    """Return a moment, in seconds since 1970, as RFC 3339 has it, in UTC and to the millisecond."""
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _bounded(text: str) -> str:
    left = len(text) - MOST_CHARACTERS
    return text if left <= 0 else f"{text[:MOST_CHARACTERS]} … ({left} more characters)"


def _trace(error: BaseException) -> str:
    """Return type and frames of an error and of its causes, without their texts."""
    parts = []
    seen: set[int] = set()
    here: BaseException | None = error
    while here is not None and id(here) not in seen:
        seen.add(id(here))
        frames = traceback.extract_tb(here.__traceback__)
        places = " < ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in reversed(frames))
        parts.append(f"{type(here).__name__} at {places}" if places else type(here).__name__)
        here = here.__cause__ or (None if here.__suppress_context__ else here.__context__)
    return "\n".join(parts)


def _log_uncaught(kind: type[BaseException], error: BaseException | None, _: TracebackType | None) -> None:
    if error is not None:
        log.critical("ended by %s", kind.__name__, exc_info=error)


def _log_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any, **__: Any
) -> None:
    log.warning("%s in %s:%d", category.__name__, Path(filename).name, lineno)
