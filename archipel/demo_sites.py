"""The demo's sites: its tables dealt out into one folder each, as the demo and `docker/compose.yaml` use them.

Reads tables and the site's own check, and neither trains nor draws: a site's image can do it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from archipel.demo_tables import Dealt, deal_by_centre, deal_by_label, read_rows, write_site_folders
from archipel.site_check import check_folder
from schemas.study import load_study

__all__ = ["CONFIGS", "Cohort", "Sites", "make_sites"]

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
Cohort = Literal["cgd", "acc"]

# Every patient of a site may lack a layer, so the demo shows it: site-d is not given its micro-RNA table.
_LAYERS: dict[Cohort, tuple[str, ...]] = {"cgd": (), "acc": ("rna", "cnv", "protein", "mutation", "mirna")}
_ABSENT: dict[Cohort, tuple[tuple[str, str], ...]] = {"cgd": (), "acc": (("site-d", "mirna"),)}
_NOTES: dict[Cohort, tuple[str, ...]] = {
    "cgd": (),
    "acc": (
        "The four sites are simulated: the patients are real, of one study, and were dealt out by the column "
        "simulated_site of the demo's table.",
        "The demo withholds the micro-RNA table of site-d, so that one site lacks a layer; site-c and site-d have "
        "protein of fewer than 10 patients, so protein counts as missing there.",
    ),
}


@dataclass(frozen=True)
class Sites:
    """The demo's tables, dealt out.

    Attributes:
        shares: One for each site.
        left_out: Sentences about patients who are in no site's table, and why.
        notes: Sentences about what these sites are, for whoever reads the results.
    """

    shares: tuple[Dealt, ...]
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def make_sites(cohort: Cohort, folder: Path, *, configs: Path = CONFIGS) -> Sites:
    """Deal the demo's tables out into one folder per site, and put right what the site check finds.

    A table that contradicts its dictionary is refused as a whole. What a data manager would do then, who cannot ask
    the clinic for the right date, is done here and said: a patient whose time is not above 0 was never at risk and
    is left out of the table.

    Args:
        cohort: Which tables.
        folder: Gets one folder for each site.
        configs: The checkout's `configs`.
    """
    rows = read_rows(configs / "demo" / f"{cohort}_clinical.csv")
    deal = {
        "cgd": lambda: deal_by_centre(rows, "centre"),
        "acc": lambda: deal_by_label(rows, "simulated_site", "site"),
    }
    study, dictionary = load_study(configs / cohort / "study.toml")
    shares: list[Dealt] = []
    left_out: list[str] = []
    for share in deal[cohort]():
        home = write_site_folders([share], folder)[share.name]
        wrong = [
            problem
            for problem in check_folder(home, study, dictionary).problems
            if problem.blocks and problem.column == study.endpoint.time
        ]
        left_out += [f"{share.name}: {problem} (left out here, as a data manager would)" for problem in wrong]
        named = {row for problem in wrong for row in problem.rows}
        # A table's first record is row 2, as in a spreadsheet.
        kept = tuple(row for number, row in enumerate(share.rows, start=2) if number not in named)
        shares.append(replace(share, rows=kept))
    layers = {layer: read_rows(configs / "demo" / f"{cohort}_{layer}.csv") for layer in _LAYERS[cohort]}
    write_site_folders(shares, folder, layers=layers, absent=_ABSENT[cohort])
    return Sites(tuple(shares), tuple(left_out), _NOTES[cohort])
