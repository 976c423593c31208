"""The table of docs/layers.md on correcting by site holds the numbers of experiments/adjustment, and no others."""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORLDS = ("as it is", "one platform apart", "all apart", "far apart")


def test_the_page_s_table_is_the_experiment_s() -> None:
    page = (ROOT / "docs" / "layers.md").read_text(encoding="utf-8").partition("## Sites that measure differently")[2]
    rows = [line for line in page.splitlines() if line.startswith("|") and "→" in line]
    tables = [
        json.loads((ROOT / "experiments" / "adjustment" / "expected" / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("tcga_gbmlgg", "tcga_blca")
    ]
    assert len(rows) == len(WORLDS)
    for row, world in zip(rows, WORLDS, strict=True):
        shown = [float(number) for number in re.findall(r"[+-]?\d*\.\d+", row.replace("−", "-"))]
        expected = [
            number
            for table in tables
            for where in ("folds", "new_site")
            for found in [table[world][where]]
            for number in (found["as_it_is"], found["corrected"], *found["interval"])
        ]
        assert shown == [float(f"{number:.3f}") for number in expected]
