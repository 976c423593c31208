"""Studies for the containers: the demo's, under another name and with other terms."""

from __future__ import annotations

import re
from pathlib import Path

from tests.containers.kit import make_readable
from tests.test_names import ROOT


def write_study(folder: Path, name: str, *, deadline_s: float, file: str = "study.toml") -> Path:
    """Write the trial's study without evaluation, readable in the containers."""
    text = (ROOT / "configs" / "cgd" / "study.toml").read_text("utf-8")
    for key, value in (("name", f'"{name}"'), ("deadline_s", deadline_s), ("folds", 0)):
        text, found = re.subn(rf"^{key} = .*$", f"{key} = {value}", text, count=1, flags=re.MULTILINE)
        assert found == 1
    (folder / file).write_text(text, "utf-8")
    (folder / "dictionary.toml").write_bytes((ROOT / "configs" / "cgd" / "dictionary.toml").read_bytes())
    make_readable(folder)
    return folder / file
