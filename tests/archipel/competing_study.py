"""A study with competing events: the cgd trial with made-up kinds of event, every third of the other kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from archipel.demo_tables import deal_by_centre, write_site_folders

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def write_competing_study(folder: Path) -> tuple[Path, Path]:
    """Write study, dictionary and the sites' tables, and return the study's file and the sites' folder."""
    table = pd.read_csv(CONFIGS / "demo" / "cgd_clinical.csv", keep_default_na=False)
    kind = np.where(table["event"] == 1, np.where(np.arange(len(table)) % 3 == 0, "other", "infection"), "none")
    table["event"] = kind
    rows = [{name: str(cell) for name, cell in row.items()} for row in table.to_dict("records")]
    write_site_folders(deal_by_centre(rows, "centre"), folder / "sites")
    dictionary = (CONFIGS / "cgd" / "dictionary.toml").read_text()
    before = 'name = "event"\ntype = "boolean"'
    assert before in dictionary
    after = 'name = "event"\ntype = "category"\ncodes = ["none", "infection", "other"]'
    (folder / "dictionary.toml").write_text(dictionary.replace(before, after))
    study = (CONFIGS / "cgd" / "study.toml").read_text()
    event = 'event = "event"'
    assert event in study
    (folder / "study.toml").write_text(
        study.replace(event, f'{event}\ncause = "infection"\ncompeting = ["other"]').replace("cgd-infection", "two")
    )
    return folder / "study.toml", folder / "sites"
