from dataclasses import replace

import numpy as np
import pytest

from models.penalties import OFF
from models.penalty_model import coordinate_search, most_shrunken
from models.penalty_search import CLINICAL_GRID, WIDE_GRID, PenaltySearch
from models.step import DivergedError
from schemas.cohort import Layer
from tests.models.federation import run_step, split
from tests.models.penalty_worlds import EDGES, FEATURES, SlowSearch, search_context, search_inputs, world


def search(cohorts, *, wide=True, rounds=None, leaving=None):
    return run_step(
        PenaltySearch(search_context(wide=wide)), search_inputs(wide=wide), cohorts, rounds=rounds, leaving=leaving
    )


def chosen(state):
    grids = [CLINICAL_GRID, WIDE_GRID, WIDE_GRID]
    return tuple(grid.index(value) for grid, value in zip(grids, state["layer_penalties"], strict=False))


@pytest.mark.parametrize("seed", range(2))
def test_the_search_chooses_what_a_slow_search_with_exact_fits_chooses(seed):
    cohort = world(seed=seed)
    slow = SlowSearch(cohort)
    rounds = []
    state = search([cohort], rounds=rounds)
    assert chosen(state) == slow.choose()
    assert len(rounds) <= 12, "a site answers a fit at twelve points at most"


def test_the_criterion_of_the_choice_is_known_and_not_promised():
    cohort = world(seed=5)
    state = search([cohort])
    assert state["criterion"] == pytest.approx(SlowSearch(cohort).criterion(chosen(state)), abs=0.2)
    assert state["criterion"] in state["criteria"][: int(state["n_tried"])]


def test_federated_equals_pooled_whatever_the_order_of_sites_and_patients():
    cohort = world(seed=1)
    pooled = search([cohort])
    order = np.random.default_rng(0).permutation(cohort.n_patients)
    for sites in (split(cohort, np.arange(240) % 4), split(cohort.take(order), np.arange(240) % 3)[::-1]):
        federated = search(sites)
        np.testing.assert_array_equal(federated["penalties"], pooled["penalties"])
        np.testing.assert_allclose(federated["criteria"], pooled["criteria"], rtol=1e-9)


def test_time_in_another_unit_changes_nothing():
    cohort = world(seed=2)
    months = run_step(
        PenaltySearch(search_context()),
        search_inputs(edges=EDGES * 30.0),
        [replace(cohort, time=cohort.time * 30.0)],
    )
    np.testing.assert_array_equal(months["penalties"], search([cohort])["penalties"])


def test_a_layer_that_tells_nothing_is_left_out_and_one_that_tells_much_is_not():
    state = search([world(600, seed=3)])
    clinical, rna, noise = state["layer_penalties"]
    assert clinical <= 10
    assert rna <= 30
    assert noise >= 3e3


def test_clinical_columns_alone_have_their_own_grid():
    state = search([world(wide=False)], wide=False)
    assert state["layer_penalties"].shape == (1,)
    assert state["layer_penalties"][0] in CLINICAL_GRID


def test_a_layer_that_nobody_has_and_a_constant_column_end_with_a_choice():
    cohort = world(seed=4)
    x = cohort.layers["clinical"].values.copy()
    x[:, 2] = 0.0
    missing = np.full((cohort.n_patients, len(FEATURES["noise"])), np.nan)
    layers = {
        **cohort.layers,
        "clinical": Layer(cohort.layers["clinical"].columns, x),
        "noise": Layer(FEATURES["noise"], missing),
    }
    state = search([replace(cohort, layers=layers)])
    assert np.isfinite(state["criteria"]).all()
    assert state["layer_penalties"][1] <= 300


def test_a_perfectly_separating_column_ends_with_a_choice():
    cohort = world(seed=6)
    x = cohort.layers["clinical"].values.copy()
    x[:, 1] = cohort.event
    state = search([replace(cohort, layers={**cohort.layers, "clinical": Layer(("x0", "x1", "x2"), x)})])
    assert state["layer_penalties"][0] == CLINICAL_GRID[0], "any shrinkage costs"


def test_fewer_patients_than_columns_and_folds_without_events_end_with_a_choice():
    cohort = world(18, seed=7)
    few = replace(cohort, event=np.arange(18) < 3)
    state = search([few])
    assert np.isfinite(state["criteria"]).all()
    assert state["n_tried"] >= 1


def test_no_event_at_all_is_said():
    cohort = world(seed=8)
    with pytest.raises(DivergedError, match="no patient at risk has the event"):
        search([replace(cohort, event=np.zeros(240, dtype=bool))])


def test_a_site_that_leaves_takes_its_part_of_every_criterion_with_it():
    sites = split(world(seed=9), np.arange(240) % 3)
    rest = search(sites[1:])
    for leaving in (1, 3, 5):
        state = search(sites, leaving=leaving)
        # The layer that tells nothing may be nearly off or off.
        np.testing.assert_array_equal(state["layer_penalties"][:2], rest["layer_penalties"][:2])
        assert float(state["criterion"]) == pytest.approx(float(rest["criterion"]), abs=0.2)


def test_a_covariate_far_from_all_others_is_named_as_the_reason():
    cohort = world(seed=10, wide=False)
    x = cohort.layers["clinical"].values.copy()
    x[0, 0] = 1e9
    with pytest.raises(DivergedError, match="values far from all others"):
        search([replace(cohort, layers={"clinical": Layer(("x0", "x1", "x2"), x)})], wide=False)


def test_a_site_that_has_dealt_no_inner_folds_says_so():
    with pytest.raises(ValueError, match="inner folds"):
        search([replace(world(), inner_fold_of=None)])


def test_a_coordinate_search_takes_the_last_of_equal_values_and_stops_when_nothing_moves():
    asked = []

    def flat(several):
        asked.append(len(several))
        return np.zeros((len(several), 5))

    assert coordinate_search((2, 1), (4, 3), flat) == (3, 2)
    assert asked == [4, 3, 4, 3], "two sweeps: the first has moved"
    assert coordinate_search((3, 2), (4, 3), flat) == (3, 2)
    assert asked[4:] == [4, 3]


def test_more_shrinkage_is_preferred_where_the_folds_do_not_clearly_speak_against_it():
    best = np.array([-10.0, -12.0, -11.0, -9.0])
    noisy = best + np.array([3.0, -3.5, 3.0, -3.5])
    clear = best - np.array([1.0, 1.1, 0.9, 1.0])
    assert most_shrunken(np.stack([best, noisy])) == 1
    assert most_shrunken(np.stack([best, clear])) == 0
    assert most_shrunken(np.stack([clear, best])) == 1
    assert most_shrunken(np.stack([best, noisy, clear])) == 1


def test_rounding_does_not_choose_between_penalties_of_a_layer_that_takes_no_part():
    """Real sites add under masks, a simulation in clear: where all candidates are equal both must choose alike."""
    equal = np.repeat([[-10.0, -12.0, -11.0, -9.0]], 3, axis=0)
    up, down = np.random.default_rng(1).standard_normal((2, *equal.shape)) * 1e-13
    assert most_shrunken(equal + up) == most_shrunken(equal + down) == 2
    equal[0, 0] += 1e-12
    assert most_shrunken(equal) == 2


def test_a_layer_that_is_off_has_the_penalty_that_every_fit_reads_as_zero():
    assert WIDE_GRID[-1] == OFF == 1e9
