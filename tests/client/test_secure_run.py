"""A whole run of a real study over real guards and runners: masked and in clear, the same estimates."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from archipel.demo import CONFIGS, make_sites
from archipel.homes import init_site, utc_now
from client import execute as execute_module
from client.approvals import approve
from client.execute import execute
from client.guard import open_guard
from client.guard_protocol import Answer
from client.settings import load_settings
from models.compile import compile_plan
from models.progress import Progress, Question
from models.step import Arrays, combine
from privacy.ledger import entries, verify_ledger
from schemas.codes import Code
from schemas.messages import Draft, RoundRequest, decode_as, encode
from schemas.plan import Plan
from schemas.roster import make_roster
from schemas.study import load_study
from tests.secure_hub import SecureHub


def asked_of(home: Path, request: bytes) -> bytes:
    """Guard, runner, guard: what the agent does, with everything read from the disk."""
    guard = open_guard(home)
    verdict = guard.admit(request)
    body = verdict.body if isinstance(verdict, Answer) else guard.release(request, execute(home, request))
    guard.close()
    return body


def in_clear(homes: Mapping[str, Path], plan: Plan, question: Question) -> dict[str, Arrays]:
    """Return every site's summand as its runner drafts it, before the gate."""
    request = RoundRequest(
        "run-1", plan.hash, tuple(homes), question.step, question.part, question.number, arrays=question.arrays
    )
    drafts = {name: decode_as(execute(home, encode(request)), Draft) for name, home in homes.items()}
    specs = plan.by_name[question.step].part(question.part).releases
    nothing = {spec.name: np.zeros(spec.shape) for spec in specs}
    return {name: draft.arrays or nothing for name, draft in drafts.items()}


@pytest.fixture
def homes(tmp_path: Path) -> dict[str, Path]:
    made = {}
    for share in make_sites("cgd", tmp_path / "tables").shares:
        made[share.name] = tmp_path / share.name
        init_site(made[share.name], share.name, tmp_path / "tables" / share.name, utc_now())
    return made


def test_the_study_of_the_demo_has_the_same_estimates_masked_and_in_clear(homes: dict[str, Path]) -> None:
    execute_module._cohorts.clear()
    execute_module._plans.clear()
    plan = compile_plan(*load_study(CONFIGS / "cgd" / "study.toml"))
    assert plan.study.privacy.secure_sum
    keys = {name: init_site(home, name, Path(), utc_now()).identity_public_key for name, home in homes.items()}
    hub = SecureHub(
        plan, make_roster(keys), {name: lambda body, home=home: asked_of(home, body) for name, home in homes.items()}
    )
    for name, home in homes.items():
        assert hub.send(name, hub.keys_request()).code == Code.PLAN_NOT_APPROVED
        assert approve(home, plan.hash[:12], approver="Dr. Weiß").rosters[0].state == "approved"
    hub.set_up()
    clear = masked = Progress.start(plan)
    entered: list[str] = []
    while (question := masked.question) is not None:
        assert clear.question is not None
        asked = (question.step, question.part, question.number)
        assert asked == (clear.question.step, clear.question.part, clear.question.number)
        summands = in_clear(homes, plan, clear.question)
        hub.value(*asked, question.arrays)
        masked = masked.absorb(hub.open(*asked))
        clear = clear.absorb(combine(list(summands.values())))
        opens = ["shares", "shares"] if question.step in ("grid", "cv_grid") else ["shares"]  # and checks the grid
        entered += ["release", *opens]
        for name, arrays in summands.items():
            received = b"".join(hub.heard[name][-1 - len(opens) :])
            wide = [array for array in arrays.values() if array.size > 3 and np.ptp(array) > 0]
            assert all(array.tobytes() not in received for array in wide), asked
    assert clear.question is None
    assert masked.skipped == clear.skipped
    assert set(masked.arrays) == set(clear.arrays)
    for name, array in clear.arrays.items():
        np.testing.assert_allclose(masked.arrays[name], array, rtol=1e-9, atol=1e-9, err_msg=name)
    assert masked.arrays["fit.beta"].any()
    for home in homes.values():
        kinds = [entry.event.kind for entry in entries(home / "state" / "ledger.jsonl")]
        assert kinds == ["refusal", "approval", *["setup"] * 3, *entered]
        assert verify_ledger(home / "state" / "ledger.jsonl").torn_bytes == 0
        assert load_settings(home).max_rounds is None
