"""Draws docs/cohorts.svg: site-only, federated, pooled and clinical columns alone, for every cohort.

    python experiments/figure/draw.py [--out docs/cohorts.svg]

From the numbers in `experiments/multi_omics/expected` (method `hazard`); nothing is computed here.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[2]
EXPECTED = ROOT / "experiments" / "multi_omics" / "expected"
# File -> what a reader calls it, from the most patients to the fewest within each group.
COHORTS = {
    "fed_tcga_brca-omics-hazard": "Breast cancer\n1,088 patients, 6 sites",
    "tcga_gbmlgg-omics-hazard": "Glioma\n569 patients, 12 sites",
    "tcga_luad-omics-hazard": "Lung adenocarcinoma\n453 patients, 11 sites",
    "tcga_blca-omics-hazard": "Bladder cancer\n373 patients, 11 sites",
    "acc-omics-hazard": "Adrenocortical carcinoma\n91 patients, 4 simulated sites",
    "rhdnase_cf-clinical-hazard": "Cystic fibrosis (clinical)\n647 patients, 18 sites",
    "ncctg_lung-clinical-hazard": "Advanced lung cancer (clinical)\n227 patients, 9 sites",
    "cgd-clinical-hazard": "Chronic granulomatous disease (clinical)\n128 patients, 5 sites",
}
# Okabe and Ito's colours, apart for every kind of colour vision; the marks differ in shape too.
MODELS = {
    "site_only": ("each site alone", "o", "#D55E00"),
    "federated_clinical": ("federated, clinical columns alone", "^", "#009E73"),
    "pooled": ("one pooled table", "s", "#000000"),
    "federated": ("federated", "D", "#0072B2"),
}


def read() -> dict[str, dict[str, Any]]:
    """Return the scores of every cohort that has been measured, in the order of the figure."""
    files = {label: EXPECTED / f"{name}.json" for name, label in COHORTS.items()}
    return {label: json.loads(path.read_text())["scores"] for label, path in files.items()}


def draw(cohorts: dict[str, dict[str, Any]], path: Path) -> None:
    """Draw the figure."""
    with rc_context({"svg.hashsalt": "archipel", "svg.fonttype": "path", "font.size": 11}):
        figure = Figure(figsize=(9, 6.4), layout="constrained", facecolor="white")
        axis = figure.subplots()
        rows = np.arange(len(cohorts))[::-1]
        for row, scores in zip(rows, cohorts.values(), strict=True):
            known = [scores[name]["c_index"] for name in MODELS if name in scores]
            axis.plot([min(known), max(known)], [row, row], color="#c8c8c8", linewidth=2, zorder=1)
        for name, (label, mark, colour) in MODELS.items():
            places = [(scores[name]["c_index"], row) for row, scores in zip(rows, cohorts.values(), strict=True)
                      if name in scores]  # fmt: skip
            x, y = np.array(places).T
            hollow = name == "pooled"
            axis.scatter(
                x, y, label=label, marker=mark, zorder=2 if hollow else 3,
                s=170 if hollow else 62, facecolors="none" if hollow else colour, edgecolors=colour, linewidths=1.5,
            )  # fmt: skip
        axis.axvline(0.5, color="#909090", linewidth=1, linestyle=":")
        axis.text(0.502, rows[0] + 0.62, "chance", color="#606060", fontsize=9, va="center")
        axis.set_yticks(rows, list(cohorts))
        axis.set_ylim(-0.6, len(cohorts) - 0.1)
        axis.set_xlim(0.46, 0.9)
        axis.set_xlabel("C on patients the model has not seen (mean over folds; 0.5 is chance)")
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(axis="y", length=0)
        figure.legend(loc="outside upper center", ncols=4, frameon=False, fontsize=10, handletextpad=0.3)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=160)


def main() -> None:
    """Draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "cohorts.svg")
    draw(read(), parser.parse_args().out)


if __name__ == "__main__":
    main()
