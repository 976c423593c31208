"""Runs a command of `archipel` in this process as a shell would."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
import typer

from archipel import cli

Run = Callable[..., tuple[int, str, str]]


def runner(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function from words to exit code, output and errors; a traceback in either fails the test.

    Questions are answered with `answer`; with None they are really asked, of whatever stands at standard input.
    """

    ask = typer.confirm

    def run(*words: object, answer: str | None = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["archipel", *map(str, words)])
        monkeypatch.setattr("typer.confirm", ask if answer is None else lambda question: answer == "y")
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
