import numpy as np
import pytest

from models.brier import Brier, integral_weights
from models.calibration import calibration_slope
from models.concordance import harrell
from models.site_figures import FIGURES, SiteFigures
from tests.models.federation import run_step
from tests.models.fold_world import FOLDS, models, patients, step_context, with_censoring

STEP = SiteFigures(step_context(folds=FOLDS))
SITES = [patients(60 + 7 * s, s) for s in range(6)]
SMALL = patients(15, 40)
INPUTS = with_censoring(models(), SITES)


def own_by_hand(site):
    """One site's figures patient by patient and fold by fold, with the tables in hand."""
    pairs, brier, scored = np.zeros(3), 0.0, []
    for fold in range(FOLDS):
        held_out = site.take(site.fold_of == fold)
        own = {name: array[fold] for name, array in INPUTS.items()}
        score = held_out.matrix(["x0"])[:, 0] * own["beta"][0]
        pairs += harrell(held_out.time, held_out.event, score, held_out.entry)
        sent = {**own, "share": np.zeros(8)}
        errors = Brier(step_context()).local("errors", sent, held_out)["squared_error"]
        weights = integral_weights(own["edges"], own["events"], int(own["n_intervals"]))
        brier += float(weights @ errors)
        scored.append((held_out, score))
    time, event = (np.concatenate([getattr(one, name) for one, _ in scored]) for name in ("time", "event"))
    slope, _ = calibration_slope(time, event, np.concatenate([score for _, score in scored]))
    return np.array([(pairs[0] + pairs[1] / 2) / pairs[2], brier / site.n_patients, slope])


def test_mean_and_spread_are_those_of_the_sites_own_figures():
    state = run_step(STEP, INPUTS, SITES)
    figures = np.array([own_by_hand(site) for site in SITES])
    np.testing.assert_allclose(state["n_sites"], 6)
    np.testing.assert_allclose(state["mean"], figures.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(state["sd"], figures.std(axis=0, ddof=1), rtol=1e-6)


def test_a_small_site_does_not_count():
    state = run_step(STEP, INPUTS, [*SITES, SMALL])
    np.testing.assert_allclose(state["n_sites"], 6)
    np.testing.assert_array_equal(state["mean"], run_step(STEP, INPUTS, SITES)["mean"])


@pytest.mark.parametrize(
    ("n", "has_mean", "has_spread"), [(2, False, False), (3, True, False), (4, True, False), (5, True, True)]
)
def test_under_three_sites_there_is_no_mean_and_under_five_no_spread(n, has_mean, has_spread):
    rounds: list[str] = []
    state = run_step(STEP, INPUTS, SITES[:n], rounds)
    assert (state["mean"][0] > 0) == has_mean
    assert (state["sd"][0] > 0) == has_spread
    assert rounds == (["counts", "figures"] if has_mean else ["counts"])


def test_under_five_sites_no_square_leaves_a_site():
    sent = {**INPUTS, "asked": np.ones(FOLDS), "n_sites": np.array([4.0, 2.0, 5.0])}
    answer = STEP.local("figures", sent, SITES[0])
    assert answer["total"][0] > 0
    assert answer["total"][1] == 0
    np.testing.assert_array_equal(answer["squares"] > 0, [False, False, True])


def test_the_order_of_sites_does_not_matter():
    one, other = run_step(STEP, INPUTS, SITES), run_step(STEP, INPUTS, SITES[::-1])
    for name in ("mean", "sd"):
        np.testing.assert_allclose(one[name], other[name], rtol=1e-9)


def test_a_site_sees_its_own_figures():
    own = STEP.own({**INPUTS, "asked": np.ones(FOLDS)}, SITES[0])
    assert (own.n_patients, own.n_events) == (60, SITES[0].n_events)
    np.testing.assert_allclose([own.values[name] for name in FIGURES], own_by_hand(SITES[0]), rtol=1e-9)


def test_without_patients_or_events_there_is_no_figure():
    nobody = STEP.own(INPUTS, SITES[0].take(np.zeros(60, dtype=bool)))
    assert set(nobody.values.values()) == {None}
    no_event = SITES[0].take(~SITES[0].event)
    assert STEP.own(INPUTS, no_event).values["c_index"] is None
    assert not STEP.own(INPUTS, no_event).counted.any()


def test_when_a_site_leaves_the_others_are_counted_anew():
    state = run_step(STEP, INPUTS, SITES, leaving=2)
    np.testing.assert_allclose(state["n_sites"], 5)
