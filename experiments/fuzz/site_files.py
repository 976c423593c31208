"""Targets of `run.py` that a person or a site keeps as files, and the sum that a hub passes on for checking.

Dictionaries and features files are refused with faults in words, a ledger and a privacy budget as broken. No change
may make a ledger hold other entries than were written. A budget has no hash of its own: there a damaged file may only
not crash, and what it holds is compared with the ledger (`privacy.budget.Budget.restore`).
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.secure import passed_on_of
from privacy.budget import Budget, BudgetBrokenError, Charge, Limit
from privacy.ledger import Event, Ledger, LedgerBrokenError, entries, head_path, verify_ledger
from privacy.secure_protocol import SecureRun
from privacy.secure_sum import Ready, mask, reveal
from privacy.storage import StorageError
from privacy.verified import open_passed_on, signed_bytes
from schemas.dictionary import load_dictionary
from schemas.errors import FaultsError, MessageError
from schemas.features import read_features, write_features
from schemas.messages import RoundRequest, decode, encode
from schemas.model_card import Figure, MembershipAttack, ModelCard, read_attack, read_card

REFUSALS = (FaultsError, LedgerBrokenError, BudgetBrokenError, StorageError)
Check = Callable[[bytes], bool]
Spec = tuple[str, Sequence[bytes], Check]
_FOLDER = TemporaryDirectory(prefix="archipel-fuzz-")
_NOW = datetime.datetime(2026, 11, 21, tzinfo=datetime.UTC)
_DICTIONARY = """kind = "dictionary"
version = 1
name = "small"
description = "One clinical column and a layer"

[[columns]]
name = "patient_id"
type = "identifier"
required = true

[[columns]]
name = "stage"
type = "category"
codes = ["I", "II"]

[[layers]]
name = "rna"
type = "number"
columns = "g_*"
transform = "log1p"
min_prevalence = 0.03
unit = "counts"
min = 0
max = 1e6
limit_of_detection = 0.5
features = "rna.features"
"""


def file_targets() -> list[Spec]:
    """Return the targets of files: name, valid inputs, check."""
    folder = Path(mkdtemp(dir=_FOLDER.name))
    return [
        ("features file", [b"# genome-build: GRCh38\nTP53\nERBB2\nEGFR\n"], _check_features(folder)),
        ("dictionary with layers", [_DICTIONARY.encode()], _check_dictionary(folder)),
        _ledger(folder),
        _budget(folder),
        *_cards(),
    ]


def passed_on_target(
    run: SecureRun,
    keys: Mapping[str, bytes],
    states: Mapping[str, Ready],
    identities: Mapping[str, Ed25519PrivateKey],
) -> Spec:
    """Return the target of what a hub passes on so that a site opens a sum itself.

    Args:
        run: Set up.
        keys: Site -> what it announced.
        states: Site -> where it stands after the set-up.
        identities: Site -> its signing key.
    """
    rng = np.random.default_rng(1)
    vectors = {site: rng.integers(0, 2**40, 5, dtype=np.uint64) for site in run.sites}
    masked: dict[str, bytes] = {}
    after: dict[str, Ready] = {}
    for site in run.sites:
        after[site], words = mask(states[site], 0, vectors[site])
        masked[site] = words.astype("<u8").tobytes()
    survivors = run.survivors(run.sites)
    blobs = {"survivors": survivors.content}
    for site in run.sites:
        blobs[f"keys/{site}"] = keys[site]
        blobs[f"masked/{site}"] = masked[site]
        blobs[f"signature/{site}"] = identities[site].sign(signed_bytes(run, 0, masked[site]))
        blobs[f"shares/{site}"] = reveal(after[site], 0, survivors, {})[1]
    request = RoundRequest("run-1", run.plan_hash, run.sites, "grid", "counts", 0, phase="verify", blobs=blobs)
    first = run.sites[0]
    expected = np.sum([vectors[site] for site in run.sites], axis=0, dtype=np.uint64)

    def check(data: bytes) -> bool:
        asked = decode(data)
        if not isinstance(asked, RoundRequest) or "survivors" not in asked.blobs:
            raise MessageError("another message")
        words = open_passed_on(run, 0, first, masked[first], passed_on_of(asked))
        assert np.array_equal(words, expected), "a sum was opened that the sites did not sign"
        return True

    return "sum that is passed on", [encode(request)], check


def _check_features(folder: Path) -> Check:
    path, again = folder / "some.features", folder / "again.features"

    def check(data: bytes) -> bool:
        path.write_bytes(data)
        found = read_features(path)
        assert len(set(found.identifiers)) == len(found.identifiers) > 0
        write_features(again, found.identifiers, found.genome_build)
        assert read_features(again) == found, "features that do not survive being written"
        return True

    return check


def _check_dictionary(folder: Path) -> Check:
    path = folder / "dictionary.toml"
    (folder / "rna.features").write_text("g_1\ng_2\n", encoding="utf-8")

    def check(data: bytes) -> bool:
        path.write_bytes(data)
        found = load_dictionary(path)
        assert all(math.isfinite(end) for layer in found.layers for end in (layer.min, layer.max) if end is not None)
        assert len(set(found.layer_names)) == len(found.layer_names)
        return True

    return check


def _ledger(folder: Path) -> Spec:
    path = folder / "ledger.jsonl"
    ledger = Ledger(path, now=lambda: _NOW)
    ledger.append(Event("approval", study="small", plan_hash="a" * 64, who="A. Person"))
    ledger.append(Event("release", run="run-1", step="fit", digest="b" * 64, arrays=(("beta", (3,)),), n_patients=20))
    ledger.append(Event("release", run="run-1", step="fit", number=1, dataset="cohort", mu_squared=0.25))
    content, head, written = path.read_bytes(), head_path(path).read_bytes(), tuple(entries(path))

    def check(data: bytes) -> bool:
        path.write_bytes(data)
        head_path(path).write_bytes(head)
        verify_ledger(path)
        assert tuple(entries(path)) == written, "a ledger with other entries than were written was accepted"
        return True

    return "ledger", [content], check


def _budget(folder: Path) -> Spec:
    path, limit = folder / "budget.sqlite", Limit(3.0, 1e-6)
    budget = Budget(path)
    for number in range(4):
        budget.debit(Charge("cohort", "run-1", "fit", number, 0.01, "small", "a" * 64), limit)
    budget.close()
    content = path.read_bytes()

    def check(data: bytes) -> bool:
        path.write_bytes(data)
        path.with_name(path.name + "-journal").unlink(missing_ok=True)
        opened = Budget(path)
        try:
            left = opened.left("cohort", limit)
            assert left.spent_epsilon >= 0, "an account that was filled up"
            for name in opened.datasets():
                opened.charges(name)
            verdict = opened.debit(Charge("cohort", "run-1", "fit", 0, 0.01, "small", "a" * 64), limit)
            return verdict.allows
        finally:
            opened.close()

    return "privacy budget", [content], check


def _cards() -> list[Spec]:
    attack = MembershipAttack(
        study_hash="a" * 64, method="LiRA", auc=0.51, lower=0.49, upper=0.53, found_at_1_percent=0.01, models=8,
        targets=8, patients="about 200", basis="pooled", made_at=_NOW,
    )  # fmt: skip
    card = ModelCard(
        study="small", title="Small", question="Who?", run_id="run-1", mode="simulate", plan_hash="a" * 64,
        dictionary="small", dictionary_hash="b" * 64, code_version="0.1.0", created_at=_NOW, contact="desk",
        ethics_reference="none", intended_use="none", not_for=("care",), expires=None, endpoint="death",
        time_unit="day", horizons=(365.0,), eligibility=("all",), missing_values="mean", sites=("a", "b", "c"),
        n_patients="200", n_events="100", events_by_horizon=((365.0, "50"),), method="hazard", penalty="cv",
        predictors=(), layers=(), evaluation_kind="folds",
        performance=(Figure(name="C", value=0.7, lower=0.6, upper=0.8),), calibration_basis="", calibration=(),
        floors=(), privacy=(), attack=attack, attack_reason="", limits=(), tripod={"1": "title"},
    )  # fmt: skip

    def check_card(data: bytes) -> bool:
        assert read_card(data).content == data, "another than the canonical form was accepted"
        return True

    def check_attack(data: bytes) -> bool:
        found = read_attack(data)
        assert all(0 <= share <= 1 for share in (found.auc, found.lower, found.upper, found.found_at_1_percent))
        return True

    return [
        ("model card", [card.content], check_card),
        ("membership attack", [attack.model_dump_json().encode()], check_attack),
    ]
