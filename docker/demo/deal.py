"""Deals one site's share of the demo's tables out into its folder; see docker/compose.yaml.

usage: deal.py SITE FOLDER
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path


def main(site: str, folder: Path) -> None:
    """Write the tables, the clinical one last: when it is there, all are, and a second call does nothing."""
    if (folder / "clinical.csv").exists():
        return
    from archipel.demo_sites import make_sites

    with tempfile.TemporaryDirectory() as scratch:
        make_sites("acc", Path(scratch), configs=Path("/configs"))
        for table in sorted((Path(scratch) / site).iterdir(), key=lambda path: path.name == "clinical.csv"):
            shutil.copyfile(table, folder / f".{table.name}")
            (folder / f".{table.name}").rename(folder / table.name)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
