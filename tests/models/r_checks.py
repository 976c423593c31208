"""Holds a fit to R's numbers: coefficients to 1e-8 of each, standard errors to 1e-7, log-likelihood to 1e-10."""

from typing import Any

import numpy as np

from models.moments import original_scale
from tests.models.federation import fit
from tests.reference.cohorts import Reference, kept

TOLERANCE = {"rtol": 1e-8, "atol": 1e-9}
# Those of a Cox fit are of the information one step before the end (see `models.newton.TOLERANCE`).
ERROR_TOLERANCE = 1e-7


def describe(case: dict[str, Any]) -> str:
    """A test's identifier for one of R's fits."""
    words = [case["cohort"], case.get("ties"), f"penalty{case['penalty']}" if "penalty" in case else None]
    words += [word for word in ("strata", "delayed", "grid", "exact") if case.get(word)]
    words += ["original"] if case.get("scale") == "original" else []
    return "-".join(word for word in words if word)


def assert_cox_equals_r(method: str, case: dict[str, Any], reference: Reference) -> None:
    """Fit what R fitted, over the sites."""
    columns = kept(case["cohort"], reference.columns) if case["penalty"] == 0 else reference.columns
    state = fit(
        method,
        reference.federated(delayed=case["delayed"]),
        columns,
        edges=reference.edges if case["grid"] else None,
        standardise=case["scale"] == "model",
        ties=case["ties"],
        penalties=[float(case["penalty"])] * len(columns),
    )
    assert_numbers(state, case)
    assert state["n_events"] == case["events"]
    if case["scale"] == "original" and case["penalty"] == 0:
        standardised = fit(method, reference.federated(delayed=False), columns, ties=case["ties"])
        beta, errors = original_scale(standardised["beta"], standardised["covariance"], standardised["scale"])
        np.testing.assert_allclose(beta, case["coefficients"], **TOLERANCE)
        np.testing.assert_allclose(errors, case["standard_errors"], rtol=ERROR_TOLERANCE)


def assert_numbers(state: dict[str, Any], case: dict[str, Any]) -> None:
    """Compare a final state with one of R's fits."""
    np.testing.assert_allclose(state["beta"], case["coefficients"], **TOLERANCE)
    np.testing.assert_allclose(np.sqrt(np.diag(state["covariance"])), case["standard_errors"], rtol=ERROR_TOLERANCE)
    np.testing.assert_allclose(state["log_likelihood"], case["log_likelihood"], rtol=1e-10)
