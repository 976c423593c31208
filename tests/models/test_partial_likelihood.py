import numpy as np
import pytest

from models.partial_likelihood import deaths, risk_sums, weighted_products
from models.time_grid import interval_of
from tests.models.oracles import curvatures, partial_log_likelihood, slopes
from tests.models.synthetic import patients

COHORT = patients(60, seed=5, missing=False)
X = COHORT.matrix(("x0", "x1")) - [0.0, 5.0]
BETA = np.array([0.4, -0.2])
TIMES = np.unique(COHORT.time[COHORT.event])
SPELLS = interval_of(COHORT.time, COHORT.event, COHORT.entry, TIMES, TIMES.size, exact=True)


@pytest.mark.parametrize("ties", ["breslow", "efron"])
def test_value_gradient_and_information_equal_the_slow_version(ties):
    def slow(beta):
        return partial_log_likelihood(COHORT.time, COHORT.event, COHORT.entry, X, beta, ties)

    sums = risk_sums(SPELLS, X, X @ BETA, efron=ties == "efron")
    assert sums["events"].max() > 1, "there are ties"
    rows = deaths(sums)
    xbar = rows.mean_covariates(sums)
    weighted = weighted_products(X, np.exp(X @ BETA) * rows.weights(SPELLS))
    assert sums["log_hazard_of_events"] - rows.log_at_risk == pytest.approx(slow(BETA), rel=1e-13)
    gradient = sums["covariates_of_events"] - rows.count @ xbar
    np.testing.assert_allclose(gradient, slopes(slow, BETA), rtol=1e-7)
    information = weighted - weighted_products(xbar, rows.count)
    np.testing.assert_allclose(information, curvatures(slow, BETA), rtol=1e-5)


@pytest.mark.parametrize("efron", [False, True])
def test_expected_events_add_up_to_the_events(efron):
    # Sum of the patients' compensators = number of events: the identity behind martingale residuals.
    sums = risk_sums(SPELLS, X, X @ BETA, efron=efron)
    expected = np.exp(X @ BETA) * deaths(sums).weights(SPELLS)
    assert expected.min() >= 0
    assert expected.sum() == pytest.approx(sums["events"].sum(), rel=1e-13)


def test_without_ties_efron_is_breslow():
    time = np.arange(1.0, 61.0)
    spells = interval_of(time, COHORT.event, np.zeros(60), time, 60, exact=True)
    breslow, efron = (deaths(risk_sums(spells, X, X @ BETA, efron=efron)) for efron in (False, True))
    assert breslow.log_at_risk == efron.log_at_risk
    np.testing.assert_array_equal(breslow.weights(spells), efron.weights(spells))


def test_no_events_are_no_rows():
    spells = interval_of(COHORT.time, np.zeros(60, dtype=np.bool_), COHORT.entry, TIMES, TIMES.size, exact=True)
    for efron in (False, True):
        sums = risk_sums(spells, X, X @ BETA, efron=efron)
        rows = deaths(sums)
        assert rows.log_at_risk == 0.0
        assert rows.mean_covariates(sums).shape == (0, 2)
        np.testing.assert_array_equal(rows.weights(spells), 0.0)
