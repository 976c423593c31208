"""The attack finds members where a model learned them by heart, and guesses where it knows nobody."""

from __future__ import annotations

import numpy as np
import pytest

from archipel.membership import AttackError, attack_cohorts, leak_of
from schemas.cohort import Cohort
from schemas.dictionary import Column, Dictionary
from schemas.endpoint import Endpoint
from schemas.study import Evaluation, Model, Privacy, Study
from tests.models.federation import cohort_of, split

P, N = 30, 120


def study(penalty: float, **changes: object) -> Study:
    values: dict[str, object] = {
        "kind": "study", "version": 1, "name": "small", "dictionary": "d.toml",
        "endpoint": Endpoint(time="time", event="event"),
        "model": Model(covariates=tuple(f"x{j}" for j in range(P)), penalty=penalty),
        "evaluation": Evaluation(folds=0), "privacy": Privacy(),
    }  # fmt: skip
    return Study(**{**values, **changes})  # type: ignore[arg-type]


def dictionary() -> Dictionary:
    columns = (
        Column(name="patient_id", type="identifier"),
        Column(name="time", type="number", min=0.0, max=40.0),
        Column(name="event", type="boolean"),
        *(Column(name=f"x{j}", type="number") for j in range(P)),
    )
    return Dictionary(kind="dictionary", version=1, name="small", columns=columns)


def sites(n: int = N) -> dict[str, Cohort]:
    rng = np.random.default_rng(5)
    x = rng.normal(size=(n, P))
    time = np.minimum(rng.exponential(12 * np.exp(-0.4 * x[:, 0])), 40.0) + 0.01
    whole = cohort_of(x, time, rng.random(n) < 0.8)
    return {f"site-{k}": part for k, part in enumerate(split(whole, [i % 3 for i in range(n)]))}


def test_a_model_without_a_penalty_tells_its_members() -> None:
    leak = attack_cohorts(study(0.0), dictionary(), sites(), n_models=32)
    assert leak.auc > 0.7
    assert leak.lower > 0.65
    assert leak.found_at_1_percent > 0.05


def test_a_penalty_hides_them() -> None:
    leak = attack_cohorts(study(300.0), dictionary(), sites(), n_models=32)
    assert leak.auc < 0.63
    assert leak.lower < 0.6


def test_the_same_seed_gives_the_same_figures() -> None:
    one, other = (attack_cohorts(study(30.0), dictionary(), sites(), n_models=10, seed=3) for _ in range(2))
    assert one == other


def test_values_that_know_nobody_are_guessing() -> None:
    rng = np.random.default_rng(0)
    values, members = rng.normal(size=(32, 200)), rng.random((32, 200)) < 0.5
    leak = leak_of(values, members, rng)
    assert 0.45 < leak.auc < 0.55
    assert leak.lower < 0.5 < leak.upper


def test_values_that_tell_everything_are_found() -> None:
    rng = np.random.default_rng(0)
    members = rng.random((16, 100)) < 0.5
    leak = leak_of(members * 4.0 + rng.normal(scale=0.1, size=(16, 100)), members, rng)
    assert leak.auc > 0.999
    assert leak.found_at_1_percent > 0.95


def test_what_cannot_be_attacked_says_why() -> None:
    with pytest.raises(AttackError, match="fewer than 40 patients"):
        attack_cohorts(study(1.0), dictionary(), sites(30))
    exact = study(1.0, privacy=Privacy(min_events_per_interval=1))
    with pytest.raises(AttackError, match="exact event times"):
        attack_cohorts(exact, dictionary(), sites())
