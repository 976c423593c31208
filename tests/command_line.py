"""Runs a command of `archipel` in this process as a shell would."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from archipel import cli

Run = Callable[..., tuple[int, str, str]]


def runner(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function from words to exit code, output and errors; a traceback in either fails the test."""

    def run(*words: object, answer: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["archipel", *map(str, words)])
        monkeypatch.setattr("typer.confirm", lambda question: answer == "y")
        code: object = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        assert isinstance(code, int)
        return code, out, err

    return run
