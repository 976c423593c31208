"""What `archipel simulate` costs as a layer has more features, and as there are more sites.

    python experiments/growth/run.py [--out DIR]

Invented patients (PCG64, seed 0) in site folders, one layer beside two clinical columns; the whole recipe of the
default study: moments, components, penalties by cross-validation, grid, fit, baseline. Each point is a process of its
own. Seconds are from reading the study to the written report, CPU seconds those of the whole process (a busy
machine stretches only the first); the peak is of that one process, which holds all sites
and the libraries, so what one site needs is less. The largest point runs once more with the nested evaluation of five
folds. Bytes are of plain numbers, sent by one site. Writes out/growth.json and out/growth.svg.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


def write_study(folder: Path, *, patients: int, sites: int, features: int, folds: int) -> Path:
    """Write a study with its site folders and return the study's path."""
    import numpy as np
    import pandas as pd
    import tomli_w

    from schemas.features import write_features

    rng = np.random.Generator(np.random.PCG64(0))
    factors = rng.normal(size=(patients, 20))
    cells = factors @ rng.normal(size=(20, features)) + 3 * rng.normal(size=(patients, features))
    clinical = rng.normal(size=(patients, 2))
    failure = rng.exponential(np.exp(-(0.5 * clinical[:, 0] + 0.6 * factors[:, 0])))
    names = [f"gene{j}" for j in range(features)]
    table = pd.DataFrame({"patient_id": [f"P{i:05}" for i in range(patients)]})
    censored = rng.exponential(2.0, patients)
    table["time"] = np.clip(np.minimum(failure, censored), 0.01, 9.99).round(3)
    table["event"] = (failure <= censored).astype(int)
    table["age"], table["marker"] = clinical[:, 0].round(3), clinical[:, 1].round(3)
    for site in range(sites):
        home = folder / "sites" / f"site-{site + 1:02}"
        home.mkdir(parents=True)
        rows = slice(site, None, sites)
        table.iloc[rows].to_parquet(home / "clinical.parquet", index=False)
        wide = pd.DataFrame(cells[rows], columns=pd.Index(names))
        wide.insert(0, "patient_id", table["patient_id"].to_numpy()[rows])
        wide.to_parquet(home / "rna.parquet", index=False)
    write_features(folder / "rna.features", tuple(names))
    dictionary = {
        "kind": "dictionary",
        "version": 1,
        "name": "growth",
        "columns": [
            {"name": "patient_id", "type": "identifier", "required": True},
            {"name": "time", "type": "number", "unit": "year", "min": 0, "max": 10, "required": True},
            {"name": "event", "type": "boolean", "required": True},
            {"name": "age", "type": "number", "unit": "1"},
            {"name": "marker", "type": "number", "unit": "1"},
        ],
        "layers": [{"name": "rna", "type": "number", "features": "rna.features", "unit": "1"}],
    }
    study = {
        "kind": "study",
        "version": 1,
        "name": "growth",
        "dictionary": "dictionary.toml",
        "endpoint": {"time": "time", "event": "event"},
        "model": {"layers": ["clinical", "rna"], "covariates": ["age", "marker"], "penalty": "cv"},
        "evaluation": {"folds": folds},
    }
    for name, content in (("dictionary", dictionary), ("study", study)):
        (folder / f"{name}.toml").write_text(tomli_w.dumps(content), encoding="utf-8")
    return folder / "study.toml"


def measure(study: Path) -> dict[str, Any]:
    """Run a study in this process and return what it cost."""
    from archipel.simulate import simulate

    started = time.perf_counter()
    result = simulate(study, study.parent / "sites", study.parent / "out")
    seconds = time.perf_counter() - started
    sites = len(result.sites)
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    # Of this process by what Linux says of its own memory: getrusage counts the parent's at the fork as well.
    own = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
    largest = max(own, spent[1].ru_maxrss)
    return {
        "seconds": round(seconds, 1),
        "cpu_seconds": round(sum(one.ru_utime + one.ru_stime for one in spent), 1),
        "seconds_of_the_fit": round(sum(one.seconds for one in result.round_log), 1),
        "rounds": result.rounds,
        "megabytes_a_site_sends": round(sum(one.bytes_up for one in result.round_log) / sites / 1e6, 2),
        "largest_answer_mb": round(max(one.bytes_up / one.sites for one in result.round_log) / 1e6, 2),
        "peak_mb": round(largest / 1024),
    }


def point(patients: int, sites: int, features: int, folds: int = 0) -> dict[str, Any]:
    """Measure one point in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        study = write_study(Path(folder), patients=patients, sites=sites, features=features, folds=folds)
        done = subprocess.run(
            [sys.executable, str(Path(__file__).resolve()), "--measure", str(study)],
            check=True,
            capture_output=True,
            text=True,
        )
    found = {"features": features, "sites": sites, "folds": folds, **json.loads(done.stdout.splitlines()[-1])}
    print(json.dumps(found), flush=True)
    return found


def draw(found: dict[str, Any], path: Path) -> None:
    """Draw time, bytes and memory over features and over sites."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.2), layout="constrained")
    axes = figure.subplots(2, 3)
    kinds = (
        ("cpu_seconds", "CPU seconds in all"),
        ("megabytes_a_site_sends", "MB that a site sends"),
        ("peak_mb", "peak memory, MB"),
    )
    for row, over in enumerate(("features", "sites")):
        points = found[over]
        for column, (key, label) in enumerate(kinds):
            axis = axes[row, column]
            axis.plot([one[over] for one in points], [one[key] for one in points], "o-", color="#0072B2")
            axis.set_ylim(0, 1.1 * max(one[key] for one in points))
            axis.set_title(label, loc="left", fontsize=10)
            fixed = "5 sites" if over == "features" else "1,000 features"
            axis.set_xlabel(f"{over} (500 patients, {fixed})", fontsize=9)
            axis.spines[["top", "right"]].set_visible(False)
            axis.grid(axis="y", color="#e0e0e0", linewidth=0.6)
            axis.set_xticks([one[over] for one in points], [f"{one[over]:,}" for one in points], fontsize=9)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Measure every point and draw them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "out")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure)))
        return
    config = json.loads((HERE / "config.json").read_text())
    n, limits = config["patients"], config["limits"]
    arguments.out.mkdir(parents=True, exist_ok=True)
    features, sites = config["features"], config["sites"]
    found = {
        "features": [point(n, features["sites"], value) for value in features["values"]],
        "sites": [point(n, value, sites["features"]) for value in sites["values"]],
        "with_evaluation": [point(n, features["sites"], limits["features"], folds=5)],
    }
    (arguments.out / "growth.json").write_text(json.dumps(found, indent=1) + "\n")
    draw(found, arguments.out / "growth.svg")
    largest = found["features"][-1]
    keeps = largest["seconds"] < limits["seconds"] and largest["peak_mb"] < limits["peak_mb"]
    print("within the limits" if keeps else f"beyond the limits {limits}")


if __name__ == "__main__":
    main()
