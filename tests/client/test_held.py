"""What the gate holds back or shortens stands in the site's log, with the array's name and no number."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from schemas.codes import Code
from schemas.messages import Draft, decode_as, encode
from schemas.plan import Plan
from tests.guards import GRADIENT, GuardedSite
from tests.plans import small_plan
from tests.secure_guards import MASKED_PLAN, MaskedSite, hub_of, masked_sites

CELL = 39218.70365


@pytest.fixture
def ready(tmp_path: Path) -> GuardedSite:
    site = GuardedSite(tmp_path)
    site.set_up()
    return site


@pytest.mark.parametrize(
    ("array", "code", "words"),
    [
        (np.array([CELL, np.nan]), Code.RELEASE_NOT_FINITE, "not a finite number in gradient"),
        (np.array([CELL, 1e7]), Code.RELEASE_TOO_LARGE, "beyond the plan's bound in gradient"),
    ],
)
def test_what_is_held_back_is_named_in_the_log(
    ready: GuardedSite, caplog: pytest.LogCaptureFixture, array: np.ndarray, code: Code, words: str
) -> None:
    with caplog.at_level(logging.WARNING, logger="archipel.site"):
        reply = ready.answer(ready.ask(), ready.draft(arrays={**GRADIENT, "gradient": array}))
    assert (reply.status, reply.code) == ("refused", code)
    assert words in caplog.text
    assert "hessian" not in caplog.text
    assert str(CELL) not in caplog.text


def with_norm(plan: Plan, norm: float) -> Plan:
    fit = plan.by_name["fit"]
    parts = tuple(part.model_copy(update={"norm": norm}) for part in fit.parts)
    steps = (plan.steps[0], fit.model_copy(update={"parts": parts}))
    return plan.model_copy(update={"steps": steps})


def test_a_shortened_update_leaves_and_the_log_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    site = GuardedSite(tmp_path, with_norm(small_plan(), 0.5))
    site.set_up()
    with caplog.at_level(logging.WARNING, logger="archipel.site"):
        reply = site.answer(site.ask(), site.draft())
    assert reply.status == "ok"
    together = np.concatenate([array.ravel() for array in reply.arrays.values()])
    assert float(np.linalg.norm(together)) == pytest.approx(0.5)
    assert "shortened" in caplog.text


class Faulty(MaskedSite):
    """A site whose gradient is five times itself with the wrong sign."""

    def draft_of(self, request: bytes) -> bytes:
        draft = super().draft_of(request)
        if self.name != "C":
            return draft
        made = decode_as(draft, Draft)
        return encode(
            Draft(
                made.run_id, made.step, made.part, made.number, made.n_patients, made.n_events,
                arrays={name: -5 * array for name, array in made.arrays.items()},
            )
        )  # fmt: skip


def test_under_the_masks_too_no_site_adds_more_than_the_norm(tmp_path: Path) -> None:
    sites = masked_sites(tmp_path, plan=with_norm(MASKED_PLAN, 1.0), kind=Faulty)
    hub = hub_of(sites)
    hub.set_up()
    hub.value("fit", "gradient", 0, {"beta": np.zeros(2)})
    total = hub.open("fit", "gradient", 0)
    own = sites["A"].summand("fit", "gradient"), sites["B"].summand("fit", "gradient")
    honest = {name: sum(one[name] / _length(one) for one in own) for name in total}
    assert _length({name: total[name] - honest[name] for name in total}) == pytest.approx(1.0, abs=1e-9)


def _length(arrays: dict[str, np.ndarray]) -> float:
    return float(np.linalg.norm(np.concatenate([array.ravel() for array in arrays.values()])))
