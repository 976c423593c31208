"""A short run of `experiments/fuzz/run.py`: every decoder and the gate against damaged bytes."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "experiments" / "fuzz" / "run.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fuzz_run", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_no_decoder_crashes_and_nothing_malformed_is_accepted(script: ModuleType) -> None:
    for target in script.targets():
        tally = script.fuzz(target, cases=1500, seed=7)
        # A list of features is any text, so much of what is damaged is another list; little else is taken.
        assert tally.refused > (600 if target.name == "features file" else 1000), target.name


def test_valid_bytes_are_accepted_so_that_refusing_means_something(script: ModuleType) -> None:
    for target in script.targets():
        accepted = []
        for seed in target.seeds:
            try:
                accepted.append(target.check(seed))
            except script.REFUSALS:
                accepted.append(False)
        assert any(accepted), target.name
