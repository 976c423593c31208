"""Members by the row space of released gradients: nearly all without noise, hardly any at epsilon 3."""

from __future__ import annotations

from tests.attacks.row_space import figures


def test_gradients_of_more_covariates_than_patients_tell_members_until_there_is_noise() -> None:
    measured = figures(3.0, range(6))
    assert measured["without noise"] >= 0.97
    assert measured["one Newton release"] >= 0.85, "all but those censored before the first interval ends"
    assert measured["with noise"] <= 0.6
    assert measured["with noise, hindsight"] <= 0.65
