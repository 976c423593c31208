import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.folds import column_folds, deal, held_out_part
from schemas.cohort import Cohort
from schemas.errors import ArchipelError

KEY = b"a site's secret"


def cohort_of(event, group=None):
    n = len(event)
    return Cohort(
        patient_ids=tuple(f"P{i}" for i in range(n)),
        time=np.ones(n),
        event=np.asarray(event, dtype=bool),
        entry=np.zeros(n),
        layers={},
        group=None if group is None else np.asarray(group, dtype=np.str_),
    )


events = st.lists(st.booleans(), min_size=0, max_size=120)
labels = st.lists(st.sampled_from(["", "a", "b", "c", "d", "e", "f"]), min_size=0, max_size=60)


@given(event=events, n_folds=st.integers(2, 7), repeat=st.integers(0, 3))
def test_folds_are_balanced_in_size_and_in_events(event, n_folds, repeat):
    event = np.array(event, dtype=bool)
    fold = deal(event, None, n_folds, KEY, repeat, [f"P{i}" for i in range(len(event))])
    size = np.bincount(fold, minlength=n_folds)
    n_events = np.bincount(fold[event], minlength=n_folds)
    assert len(size) == n_folds
    assert size.max() - size.min() <= 1
    assert n_events.max() - n_events.min() <= 1


@given(event=events, n_folds=st.integers(2, 5), seed=st.integers(0, 100))
def test_folds_do_not_depend_on_the_order_of_rows(event, n_folds, seed):
    event = np.array(event, dtype=bool)
    patients = [f"P{i}" for i in range(len(event))]
    group = np.array([f"g{i % 3}" if i % 4 == 0 else "" for i in range(len(event))], dtype=np.str_)
    order = np.random.default_rng(seed).permutation(len(event))
    fold = deal(event, group, n_folds, KEY, 0, patients)
    moved = deal(event[order], group[order], n_folds, KEY, 0, [patients[i] for i in order])
    np.testing.assert_array_equal(moved, fold[order])


@given(group=labels, n_folds=st.integers(2, 5), repeat=st.integers(0, 3))
def test_relatives_share_a_fold(group, n_folds, repeat):
    group = np.array(group, dtype=np.str_)
    event = np.arange(len(group)) % 2 == 0
    fold = deal(event, group, n_folds, KEY, repeat, [f"P{i}" for i in range(len(group))])
    for label in set(group.tolist()) - {""}:
        assert len(set(fold[group == label].tolist())) == 1


def test_folds_with_families_stay_balanced_to_the_size_of_a_family():
    group = np.array([f"family {i // 3}" if i < 60 else "" for i in range(200)], dtype=np.str_)
    event = np.arange(200) % 5 == 0
    size = np.bincount(deal(event, group, 5, KEY, 0, [f"P{i}" for i in range(200)]))
    assert size.tolist() == [40, 40, 40, 40, 40]


def test_another_key_or_repeat_deals_other_folds():
    event = np.arange(60) % 3 == 0
    patients = [f"P{i}" for i in range(60)]
    folds = [deal(event, None, 5, key, repeat, patients) for key in (b"one", b"two") for repeat in (0, 1)]
    for i in range(4):
        for j in range(i):
            assert 0 < np.mean(folds[i] == folds[j]) < 0.5


def test_no_fold_is_the_largest_at_every_small_site():
    largest = []
    for site in range(200):
        fold = deal(np.zeros(6, dtype=bool), None, 5, KEY, 0, [f"{site}-{i}" for i in range(6)])
        largest.append(int(np.bincount(fold).argmax()))
    assert np.bincount(largest).min() > 20  # expected 40, sd 5.7


def test_dealing_refuses_one_fold_and_arguments_of_different_lengths():
    with pytest.raises(ValueError, match="two folds"):
        deal(np.zeros(4, dtype=bool), None, 1, KEY, 0, list("abcd"))
    with pytest.raises(ValueError, match="one length"):
        deal(np.zeros(3, dtype=bool), None, 2, KEY, 0, list("abcd"))


@given(event=events, fraction=st.floats(0.01, 0.99), minimum=st.integers(1, 12))
def test_both_sides_of_the_held_out_part_reach_the_floor_or_there_is_none(event, fraction, minimum):
    mask = held_out_part(cohort_of(event), KEY, fraction, minimum)
    if len(event) < max(2 * minimum, 2):
        assert mask is None
        return
    assert mask is not None
    assert minimum <= mask.sum() <= len(event) - minimum
    clipped = min(max(fraction * len(event), minimum), len(event) - minimum)
    assert abs(mask.sum() - clipped) <= 0.5 + 1e-9 or mask.sum() == 1
    share = sum(event) * mask.sum() / len(event)
    assert abs(np.array(event)[mask].sum() - share) <= 0.5 + 1e-9


@given(event=events, seed=st.integers(0, 100))
def test_the_held_out_part_does_not_depend_on_the_order_of_rows(event, seed):
    cohort = cohort_of(event, [f"g{i % 4}" if i % 3 == 0 else "" for i in range(len(event))])
    order = np.random.default_rng(seed).permutation(len(event))
    here, moved = held_out_part(cohort, KEY, 0.3), held_out_part(cohort.take(order), KEY, 0.3)
    assert (here is None) == (moved is None)
    if here is not None and moved is not None:
        np.testing.assert_array_equal(moved, here[order])


def test_relatives_are_held_out_together_and_a_family_too_large_is_left_in_training():
    group = ["big"] * 35 + [f"f{i // 2}" for i in range(15)]
    mask = held_out_part(cohort_of([i % 2 == 0 for i in range(50)], group), KEY, 0.2)
    assert mask is not None
    assert not mask[:35].any()
    for i in range(0, 14, 2):
        assert mask[35 + i] == mask[36 + i]
    assert held_out_part(cohort_of([True] * 50, ["one family"] * 50), KEY, 0.2) is None


def test_the_held_out_fraction_is_a_fraction():
    for fraction in (0.0, 1.0, -0.1):
        with pytest.raises(ValueError, match="between 0 and 1"):
            held_out_part(cohort_of([True] * 40), KEY, fraction)


def test_each_label_of_a_fold_column_is_tested_once_on_a_model_of_the_others():
    labels = np.array(["b", "a", "c", "a"])
    folds = column_folds(labels)
    assert [test.tolist() for _, test in folds] == [
        [False, True, False, True],
        [True, False, False, False],
        [False, False, True, False],
    ]
    for train, test in folds:
        np.testing.assert_array_equal(train, ~test)


def test_a_column_of_train_and_test_is_one_split():
    ((train, test),) = column_folds(np.array(["train", "test", "train"]))
    assert train.tolist() == [True, False, True]
    assert test.tolist() == [False, True, False]


def test_a_fold_column_with_one_value_is_refused():
    with pytest.raises(ArchipelError, match="two different values"):
        column_folds(np.array(["0", "0"]))
