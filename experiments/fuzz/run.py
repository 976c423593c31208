"""Throws damaged bytes at every decoder and at the gate: nothing may crash, nothing malformed may be accepted.

    python experiments/fuzz/run.py --seconds 600 [--seed 1]

Each target has valid seeds. A case is a seed with bytes flipped, cut, doubled, spliced with another seed, or with a
number in its header changed. What a decoder accepts must be canonical: encoding it again gives the very same bytes,
or, where the form allows more than one spelling, decodes to the same value. What it refuses, it refuses with its own
error. `tests/test_fuzz.py` runs a few thousand cases of each target in CI.
"""

from __future__ import annotations

import argparse
import base64
import datetime
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from models.compile import compile_plan
from models.progress import Progress
from privacy import gate
from privacy.approval import sign_approval
from privacy.gate import Floors
from privacy.model_signature import (
    SignatureError,
    public_text,
    read_signed_artefact,
    read_signed_list,
    sign_artefact,
    sign_list,
)
from privacy.secure_errors import SecureSumError
from privacy.secure_protocol import SecureRun, Survivors, read_announcements
from privacy.secure_state import read_state, state_bytes
from privacy.secure_sum import begin, deal, receive
from schemas.artefact import (
    OF_CAUSE,
    Artefact,
    ArtefactCause,
    ArtefactColumn,
    Manifest,
    read_artefact,
    write_artefact,
)
from schemas.canonical import canonical_json
from schemas.codes import Code
from schemas.errors import IncompatibleVersionError, MessageError
from schemas.messages import Draft, Reply, RoundRequest, SetupRequest, decode, encode
from schemas.model_list import ListedModel, ModelList
from schemas.plan import read_plan
from schemas.roster import make_roster, read_approval, read_roster
from schemas.study import load_study

sys.path.insert(0, str(Path(__file__).resolve().parent))
import site_files

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
REFUSALS = (MessageError, IncompatibleVersionError, SecureSumError, SignatureError, *site_files.REFUSALS)


@dataclass(frozen=True)
class Target:
    """One decoder.

    Attributes:
        seeds: Valid inputs.
        check: Takes bytes; raises one of `REFUSALS` for what it refuses, AssertionError where it accepted what it
            must not have, anything else where it crashed. Returns whether it accepted.
    """

    name: str
    seeds: Sequence[bytes]
    check: Callable[[bytes], bool]


def targets() -> list[Target]:
    """Return all targets."""
    plan = compile_plan(*load_study(CONFIGS / "cgd" / "study.toml"))
    identities = {name: Ed25519PrivateKey.generate() for name in ("amsterdam", "nih", "zurich")}
    roster = make_roster({name: _text(key) for name, key in identities.items()})
    run = SecureRun(roster, plan.hash, "run-1", roster.names, 8)
    announced = {name: begin(run, name, key) for name, key in identities.items()}
    keys = {name: message for name, (_, message) in announced.items()}
    dealt = {name: deal(state, keys) for name, (state, _) in announced.items()}
    inbox = {sender: boxes["nih"] for sender, (_, boxes) in dealt.items() if sender != "nih"}
    ready = receive(dealt["nih"][0], inbox)
    states = {
        name: receive(dealt[name][0], {sender: boxes[name] for sender, (_, boxes) in dealt.items() if sender != name})
        for name in identities
    }
    approval = sign_approval(identities["nih"], "nih", plan.hash, roster, "a" * 64, datetime.date(2027, 1, 1))
    part = plan.by_name["fit"].parts[0]
    sent = {spec.name: np.zeros(spec.shape) for spec in part.sends}
    bins = plan.by_name["grid"].settings["bin_edges"]
    sent |= {
        "edges": np.array(bins),
        "n_intervals": np.array(float(len(bins))),
        "scale": np.ones(sent["scale"].shape),
    }
    released = {spec.name: np.zeros(spec.shape) for spec in part.releases}
    request = RoundRequest("run-1", plan.hash, roster.names, "fit", part.name, 0, arrays=sent)
    draft = Draft("run-1", "fit", part.name, 0, 20, 7, arrays={**released, "n_patients": np.array(20.0)})
    messages: list[bytes] = [
        encode(SetupRequest("run-1", plan.hash, roster.names, plan.content.decode())),
        encode(request),
        encode(draft),
        encode(Reply("run-1", "fit", part.name, 0, "ok", arrays=released)),
        encode(Reply("run-1", "fit", part.name, 0, "refused", code=Code.TOO_FEW_PATIENTS)),
        encode(Reply("run-1", "fit", part.name, 0, "ok", blobs={"masked": bytes(64)})),
    ]

    def check_message(data: bytes) -> bool:
        message = decode(data)
        assert decode(encode(message)) is not None
        assert encode(decode(encode(message))) == encode(message)
        return True

    def check_request(data: bytes) -> bool:
        asked = decode(data)
        if not isinstance(asked, RoundRequest):
            raise MessageError("another message")
        if gate.is_well_formed(asked) and gate.admit(asked, plan) is None:
            known = plan.by_name[asked.step].part(asked.part)
            assert {spec.name: spec.shape for spec in known.sends} == {n: a.shape for n, a in asked.arrays.items()}
            assert all(np.isfinite(array).all() for array in asked.arrays.values())
            return True
        return False

    def check_draft(data: bytes) -> bool:
        found = decode(data)
        if not isinstance(found, Draft):
            raise MessageError("another message")
        cleared = gate.release(found, request, plan, Floors())
        if isinstance(cleared, Reply) and cleared.status == "ok":
            assert {spec.name: spec.shape for spec in part.releases} == {
                n: a.shape for n, a in cleared.arrays.items()
            }
            assert all(np.isfinite(array).all() for array in cleared.arrays.values())
            assert found.n_patients >= 10
            return True
        return False

    def check_keys(data: bytes) -> bool:
        read_announcements(run, {**keys, "zurich": data})
        assert data == keys["zurich"], "keys that the site did not sign were accepted"
        return True

    def canonical(read: Callable[[bytes], object], write: Callable[[object], bytes]) -> Callable[[bytes], bool]:
        def check(data: bytes) -> bool:
            value = read(data)
            assert write(value) == data, "bytes in another than the canonical form were accepted"
            return True

        return check

    progress = Progress.start(plan)
    approved = canonical_json(approval.model_dump(mode="json"))
    return [
        Target("message", messages, check_message),
        Target("gate: request", messages, check_request),
        Target("gate: draft", messages, check_draft),
        Target("plan", [plan.content], canonical(read_plan, lambda value: value.content)),  # type: ignore[attr-defined]
        Target("roster", [roster.content], canonical(read_roster, lambda value: value.content)),  # type: ignore[attr-defined]
        Target("approval", [approved], lambda data: bool(read_approval(data))),
        Target("keys", [keys["zurich"]], check_keys),
        Target("survivors", [run.survivors(roster.names).content], lambda data: bool(Survivors.read(data))),
        Target("state", [state_bytes(ready), state_bytes(dealt["nih"][0])], lambda data: bool(read_state(data))),
        Target("checkpoint", [progress.to_bytes()], lambda data: bool(Progress.from_bytes(plan, data))),
        *_of_models(),
        *(
            Target(*spec)
            for spec in (site_files.passed_on_target(run, keys, states, identities), *site_files.file_targets())
        ),
    ]


def _of_models() -> list[Target]:
    """Return the targets of what a hub releases: an accepted file must be one that was signed."""
    key = Ed25519PrivateKey.generate()
    columns = (ArtefactColumn(name="age", column="age", layer="clinical"),)
    now = datetime.datetime(2026, 11, 21, tzinfo=datetime.UTC)
    manifest = Manifest(
        study="small", run_id="small-1", mode="simulate", method="hazard", code_version="0.1.0", created_at=now,
        plan_hash="a" * 64, dictionary="small", dictionary_hash="b" * 64, time_unit="day", exact_times=False,
        columns=columns, arrays={},
    )  # fmt: skip
    one = np.ones(1)
    arrays = dict.fromkeys(("mean", "scale", "beta", "edges", "cumulative_hazard"), one)
    wider = {**arrays, "covariance": np.ones((1, 1)), "hazard_variance": one, "hazard_slope": np.ones((1, 1))}
    kinds = tuple(ArtefactCause(code=code) for code in ("relapse", "death"))
    competing = Manifest(**{**dict(manifest), "causes": kinds})
    both = {**wider, **{f"cause_2_{name}": wider[name] for name in OF_CAUSE}}
    models = ((manifest, arrays), (manifest, wider), (competing, both))
    files = [write_artefact(sign_artefact(Artefact(one, held), key)) for one, held in models]
    listed = ListedModel(
        hash="c" * 64, card_hash="d" * 64, n_bytes=9, study="small", run_id="small-1", plan_hash="a" * 64,
        released_at=now,
    )  # fmt: skip
    bare = ModelList(number=1, issued_at=now, models=(listed,), signed_by=public_text(key))
    signed_list = sign_list(bare, key).content

    def check_artefact(data: bytes) -> bool:
        read_signed_artefact(data, public_text(key))
        assert data in files, "a model that was not signed was accepted"
        return True

    def check_list(data: bytes) -> bool:
        read_signed_list(data, public_text(key))
        assert data == signed_list, "a list of models that was not signed was accepted"
        return True

    def check_unsigned(data: bytes) -> bool:
        found = read_artefact(data)
        assert found.written_as == 1 or write_artefact(found) == data, "another than the canonical form was accepted"
        return True

    return [
        Target("model", files, check_artefact),
        Target("model, unsigned", files, check_unsigned),
        Target("list of models", [signed_list], check_list),
    ]


def damaged(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Return a seed with one to four damages."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.randint(1, 4)):
        kind = rng.randrange(7)
        at = rng.randrange(len(data) + 1)
        if kind == 0 and data:
            data[at % len(data)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del data[at : at + rng.randint(1, 64)]
        elif kind == 2:
            data[at:at] = data[at : at + rng.randint(1, 64)]
        elif kind == 3:
            data[at:at] = rng.randbytes(rng.randint(1, 16))
        elif kind == 4:
            other = rng.choice(seeds)
            data[at:] = other[rng.randrange(len(other) + 1) :]
        elif kind == 5 and data:
            digits = [i for i, byte in enumerate(data[:4000]) if 48 <= byte <= 57]
            if digits:
                data[rng.choice(digits)] = rng.choice(b"0123456789-e.")
        elif data:
            words = [b"null", b"true", b"[]", b"{}", b"1e999", b"NaN", b"\\u0000", b'"', b"18446744073709551616"]
            data[at:at] = rng.choice(words)
    return bytes(data)


@dataclass
class Tally:
    """Cases, by what came of them."""

    refused: int = 0
    held_back: int = 0
    accepted: int = 0


def fuzz(target: Target, cases: int, seed: int) -> Tally:
    """Run a number of cases.

    Raises:
        AssertionError: When something malformed was accepted.
        Exception: When a decoder crashed; the case stands in the note.
    """
    rng = random.Random(f"{target.name} {seed}")
    tally = Tally()
    for _ in range(cases):
        data = damaged(rng, target.seeds)
        try:
            accepted = target.check(data)
        except REFUSALS:
            tally.refused += 1
        except BaseException as error:
            error.add_note(f"{target.name}: {data[:2000]!r}")
            raise
        else:
            tally.accepted += accepted
            tally.held_back += not accepted
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    all_targets = targets()
    tallies = {target.name: Tally() for target in all_targets}
    ends = time.monotonic() + options.seconds
    turn = 0
    while time.monotonic() < ends:
        for target in all_targets:
            new, tally = fuzz(target, 200, options.seed * 1_000_000 + turn), tallies[target.name]
            tally.refused += new.refused
            tally.held_back += new.held_back
            tally.accepted += new.accepted
        turn += 1
    for name, tally in tallies.items():
        print(
            f"{name:16s} refused {tally.refused:9d}   held back {tally.held_back:7d}   accepted {tally.accepted:7d}"
        )
    total = sum(t.refused + t.held_back + t.accepted for t in tallies.values())
    print(f"{total} cases in {options.seconds:.0f} s: no crash, nothing malformed accepted")


def _text(key: Ed25519PrivateKey) -> str:
    return base64.b64encode(key.public_key().public_bytes_raw()).decode()


if __name__ == "__main__":
    main()
