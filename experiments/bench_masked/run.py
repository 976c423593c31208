"""Seconds a round with and without masks, over real processes: three sites, TLS, one study run twice.

    python experiments/bench_masked/run.py [--covariates 420] [--sites 3]

The table is invented: so many covariates that one release of the fit (gradient and Hessian) holds about 100,000
numbers. The same study runs once in clear and once under the secure sum, one after the other in the same process
tree layout; the figure is the median over the rounds of the fit. A masked round is two messages where a plain one is
one, so 2 is what messages alone cost.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from archipel.trial import Trial, run_trial, temporary_home

_PATIENTS_A_SITE = 200


def write_study(folder: Path, covariates: int, sites: int, *, secure_sum: bool) -> Path:
    """Write invented tables, their dictionary and a study; return the study's path."""
    rng = np.random.default_rng(1)
    names = [f"x{j:04d}" for j in range(covariates)]
    for site in range(sites):
        x = rng.normal(size=(_PATIENTS_A_SITE, covariates)).round(4)
        time = np.ceil(rng.exponential(300 * np.exp(-0.5 * x[:, 0]))).clip(1, 1000)
        table = pd.DataFrame(x, columns=names)
        table.insert(0, "event", ((time < 1000) & (rng.random(len(time)) < 0.7)).astype(int))
        table.insert(0, "time", time)
        table.insert(0, "patient_id", [f"s{site}-{i}" for i in range(len(time))])
        home = folder / "sites" / f"site-{site}"
        home.mkdir(parents=True, exist_ok=True)
        table.to_parquet(home / "clinical.parquet", index=False)
    columns = [
        ("patient_id", "identifier", ""),
        ("time", "number", "min = 0\nmax = 1000\n"),
        ("event", "boolean", ""),
    ]
    columns += [(name, "number", "min = -8\nmax = 8\n") for name in names]
    blocks = [f'[[columns]]\nname = "{name}"\ntype = "{kind}"\n{more}' for name, kind, more in columns]
    (folder / "dictionary.toml").write_text('kind = "dictionary"\nversion = 1\nname = "bench"\n' + "".join(blocks))
    listed = ", ".join(f'"{name}"' for name in names)
    path = folder / "study.toml"
    path.write_text(
        'kind = "study"\nversion = 1\nname = "bench-masked"\ndictionary = "dictionary.toml"\n'
        '[endpoint]\ntime = "time"\nevent = "event"\n'
        f"[model]\ncovariates = [{listed}]\npenalty = 100\n"
        f"[evaluation]\nfolds = 0\n[privacy]\nsecure_sum = {str(secure_sum).lower()}\n"
    )
    return path


def fit_rounds(trial: Trial) -> list[float]:
    """Return the seconds of each round of the fit."""
    return [done.seconds for done in trial.result.round_log if done.step == "fit"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--covariates", type=int, default=420)
    parser.add_argument("--sites", type=int, default=3)
    options = parser.parse_args()
    medians: dict[bool, float] = {}
    for secure_sum in (False, True):
        with tempfile.TemporaryDirectory() as name, temporary_home() as home:
            folder = Path(name)
            study = write_study(folder, options.covariates, options.sites, secure_sum=secure_sum)
            trial = run_trial(study, folder / "sites", home)
        part = trial.plan.by_name["fit"].parts[0]
        numbers = sum(spec.size for spec in part.releases)
        rounds = fit_rounds(trial)
        medians[secure_sum] = statistics.median(rounds)
        print(
            f"{'masked' if secure_sum else 'plain ':6s}  {options.sites} sites, {numbers} numbers: "
            f"{medians[secure_sum]:.3f} s a round (median of {len(rounds)}; {min(rounds):.3f} to {max(rounds):.3f})",
            flush=True,
        )
    print(f"masked : plain = {medians[True] / medians[False]:.2f}")


if __name__ == "__main__":
    main()
