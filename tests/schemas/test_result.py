import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.errors import IncompatibleVersionError, MessageError
from schemas.result import CIndex, Result, Scores, parse_result
from tests.archipel.results import changed, federation_result, simulated_result

FIXED_KEYS = {
    "plan_hash",
    "method",
    "n",
    "events",
    "coefficients",
    "standard_errors",
    "log_likelihood",
    "rounds",
    "bytes_up",
    "bytes_down",
    "wall_s",
    "evaluation",
}


def test_a_result_survives_its_file() -> None:
    for result in (federation_result(), simulated_result()):
        assert parse_result(result.to_json()) == result


def test_programs_find_the_fixed_keys_where_they_were_promised() -> None:
    written = json.loads(simulated_result().to_json())
    assert set(written) >= FIXED_KEYS
    assert set(written["evaluation"]) == {"federated", "site_only", "pooled"}
    for scores in written["evaluation"].values():
        assert set(scores) >= {"c_index", "ibs", "calibration_slope"}
        assert set(scores["c_index"]) == {"mean", "sd", "per_fold"}


def test_a_federation_has_no_pooled_evaluation() -> None:
    assert "pooled" not in json.loads(federation_result().to_json())["evaluation"]
    pooled = simulated_result().model_dump()["evaluation"]
    with pytest.raises(ValidationError, match="no pooled table"):
        changed(federation_result(), evaluation=pooled)


@pytest.mark.parametrize("key", ["baseline", "kaplan_meier", "calibration"])
def test_null_needs_a_reason(key: str) -> None:
    with pytest.raises(ValidationError, match=f"null without a reason: {key}"):
        changed(federation_result(), **{key: None})
    explained = changed(federation_result(), **{key: None}, reasons={key: "one baseline per site"})
    assert parse_result(explained.to_json()) == explained


def test_a_standard_error_that_does_not_exist_needs_a_reason() -> None:
    errors = federation_result().standard_errors | {"steroids": None}
    with pytest.raises(ValidationError, match=r"standard_errors\.steroids"):
        changed(federation_result(), standard_errors=errors)


def test_scores_that_do_not_exist_need_a_reason() -> None:
    c_index = CIndex(mean=None, sd=None, per_fold=(None,))
    with pytest.raises(ValidationError, match="null without a reason: c_index, ibs"):
        Scores(c_index=c_index, ibs=None, calibration_slope=1.0)
    assert Scores(
        c_index=c_index, ibs=None, calibration_slope=1.0, reasons={"c_index": "no events", "ibs": "no events"}
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nan_is_never_written(bad: float) -> None:
    with pytest.raises(ValidationError):
        changed(federation_result(), log_likelihood=bad)
    with pytest.raises(ValidationError):
        changed(federation_result(), coefficients=federation_result().coefficients | {"steroids": bad})


def test_a_number_at_risk_under_ten_cannot_be_written() -> None:
    curves = federation_result().model_dump()["kaplan_meier"]
    curves["curves"][0]["n_at_risk"] = (43, 43, 43, 42, 40, 36, 32, 26, 4)
    with pytest.raises(ValidationError, match="shows a number at risk under 10"):
        changed(federation_result(), kaplan_meier=curves)


def test_names_must_agree() -> None:
    fewer = dict(list(federation_result().coefficients.items())[:-1])
    with pytest.raises(ValidationError, match="name different columns"):
        changed(federation_result(), coefficients=fewer)


def test_exact_times_and_times_without_zone_are_refused() -> None:
    with pytest.raises(ValidationError, match="exact event times exist in `simulate` alone"):
        changed(federation_result(), exact_times=True)
    with pytest.raises(ValidationError, match="needs its time zone"):
        changed(federation_result(), created_at="2026-11-21T09:14:05")


def test_another_version_is_named() -> None:
    written = json.loads(federation_result().to_json()) | {"version": 2}
    with pytest.raises(IncompatibleVersionError, match="version 2"):
        parse_result(json.dumps(written))


def test_anything_else_is_refused_with_its_keys() -> None:
    for text in ("", "[]", "nonsense", '{"kind": "plan", "version": 1}'):
        with pytest.raises(MessageError, match="not a result of version 1"):
            parse_result(text)
    written = json.loads(federation_result().to_json()) | {"surprise": 1}
    with pytest.raises(MessageError, match="surprise"):
        parse_result(json.dumps(written))


@given(st.binary(max_size=300))
def test_no_bytes_break_the_reader(content: bytes) -> None:
    with pytest.raises((MessageError, IncompatibleVersionError)):
        parse_result(content)


def test_files_of_the_first_version_stay_readable() -> None:
    """Keep this file: a later build must read what this one wrote."""
    archived = Path(__file__).parent / "archive" / "result-v1.json"
    assert isinstance(parse_result(archived.read_bytes()), Result)
