"""Prints what an experiment measured beside what is expected of it.

    python experiments/compare.py experiments/fusion [--within .002]

Compares every figure of FOLDER/out/*.json with the file of the same name in FOLDER/expected. Times, memory and the
folds one by one are left out. Ends with status 1 where a figure is further away than `--within`, or missing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

# What depends on the machine, or is shown by its mean already.
_LEFT_OUT = ("seconds", "peak", "per_fold", "interval", "repeats", "published")


def figures(value: object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, float]]:
    """Yield every figure of a JSON document with the names that lead to it."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not any(word in key for word in _LEFT_OUT):
                yield from figures(inner, (*path, str(key)))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from figures(inner, (*path, str(index)))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield " / ".join(path), float(value)


def lines(measured: object, expected: object, within: float) -> tuple[list[str], bool]:
    """Return the figures side by side, and whether all agree."""
    found = dict(figures(measured))
    told: list[str] = []
    agree = True
    for name, value in figures(expected):
        own = found.get(name)
        # Counts and bytes are compared by their share, scores by their difference.
        good = own is not None and abs(own - value) <= within * max(1.0, abs(value))
        agree &= good
        shown = "missing" if own is None else f"{own:g}"
        told.append(f"  {name}: measured {shown}, expected {value:g}{'' if good else '   <-- differs'}")
    return told, agree


def main() -> None:
    """Compare the files of one experiment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--within", type=float, default=0.002)
    arguments = parser.parse_args()
    measured_any, all_agree = False, True
    for path in sorted((arguments.folder / "expected").glob("*.json")):
        own = arguments.folder / "out" / path.name
        if not own.is_file():
            print(f"{path.stem}: not measured")
            continue
        told, agree = lines(json.loads(own.read_text()), json.loads(path.read_text()), arguments.within)
        print(path.stem, *told, sep="\n")
        measured_any, all_agree = True, all_agree and agree
    if not (measured_any and all_agree):
        sys.exit(f"{arguments.folder}: not what is expected.")


if __name__ == "__main__":
    main()
