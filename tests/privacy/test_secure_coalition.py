"""What a hub that keeps everything, with up to a third of the sites, can compute: one sum a round, and of many sites.

Each attack is tried with the arithmetic of `tests.privacy.coalition`, and each has a case in which it succeeds: with
the protection taken away, so that the test would notice if it could not.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy import secure_errors as errors
from privacy import secure_sum
from privacy.secure_protocol import Survivors, consent_bound
from privacy.secure_sum import MASK_KEYS, SELF_SEEDS
from tests.privacy.coalition import Coalition
from tests.privacy.secure_federation import Federation, Words, identity, random_words, run_of, sum_of

# ---------------------------------------------------------------- everything that was revealed, kept
N_ROUNDS = 20
DROPOUTS = {2: ("s00",), 5: ("s01", "s02"), 9: ("s00", "s03", "s05"), 14: ("s04",), 19: ("s01",)}


def played(colluders: tuple[str, ...]) -> tuple[Federation, Coalition, list[dict[str, Words]]]:
    """Twenty rounds of ten sites. The vectors of the dropped arrive at the hub too late, but they arrive."""
    run = run_of(10, N_ROUNDS)
    federation = Federation(run)
    coalition = Coalition(federation, colluders)
    rng = np.random.default_rng(20)
    plain = []
    for number in range(N_ROUNDS):
        plain.append(random_words(rng, run, 6))
        coalition.hear_vectors(number, federation.mask(number, plain[number]))
        survivors = run.survivors(set(run.sites) - set(DROPOUTS.get(number, ())))
        consents = federation.consent(number, survivors, survivors.alive) if survivors.dropped else None
        answers = federation.reveal(number, survivors, survivors.alive, consents)
        coalition.hear_shares(number, survivors, answers)
    return federation, coalition, plain


@pytest.mark.parametrize("colluders", [(), ("s07", "s08", "s09")])
def test_twenty_rounds_with_five_dropouts_open_one_sum_each_and_no_single_vector(colluders: tuple[str, ...]) -> None:
    federation, coalition, plain = played(colluders)
    for number in range(N_ROUNDS):
        dropped = DROPOUTS.get(number, ())
        expected = tuple(s for s in federation.run.sites if s not in dropped and s not in colluders)
        found = coalition.open_sums(number)
        assert list(found) == [expected]
        assert found[expected].tolist() == sum_of(plain[number], expected).tolist()
        assert len(expected) >= federation.run.threshold - len(colluders)


def test_no_seed_or_key_that_was_ever_rebuilt_opens_a_vector_of_any_other_round() -> None:
    """Every rebuilt mask key is tried on every round, as if it had served there."""
    federation, coalition, plain = played(())
    run = federation.run
    dropped = [(number, site) for number, sites in DROPOUTS.items() for site in sites]
    for rebuilt_in, site in dropped:
        key = coalition.secret(rebuilt_in, site, MASK_KEYS)
        assert key is not None, "the hub did rebuild the keys of the dropped"
        for number in range(N_ROUNDS):
            opened = knowing(coalition, {(number, site, MASK_KEYS): key}).sum_over(number, (site,))
            assert opened is None or not (opened == plain[number][site]).any()
    for number in range(N_ROUNDS):
        for site in run.sites:
            kinds = [coalition.secret(number, site, kind) is not None for kind in (MASK_KEYS, SELF_SEEDS)]
            assert kinds.count(True) == 1


def knowing(coalition: Coalition, secrets: Mapping[tuple[int, str, int], bytes]) -> Coalition:
    """The coalition, were these secrets known to it."""
    other = copy.copy(coalition)
    other.known = {**coalition.known, **secrets}
    return other


def test_with_one_mask_key_for_all_rounds_the_same_hub_would_open_vectors() -> None:
    """The control: were the key rebuilt in the round of a dropout the one of all rounds, the attack would succeed."""
    run = run_of(4, 3)
    federation = Federation(run)
    coalition = Coalition(federation)
    keys = federation.states["s00"].secrets[MASK_KEYS]
    plain = random_words(np.random.default_rng(4), run, 5)
    for number in range(3):
        coalition.hear_vectors(number, federation.mask(number, plain))
        everybody = run.survivors(run.sites)
        coalition.hear_shares(number, everybody, federation.reveal(number, everybody, run.sites))
        assert coalition.sum_over(number, ("s00",)) is None
        opened = knowing(coalition, {(number, "s00", MASK_KEYS): keys[number].tobytes()}).sum_over(number, ("s00",))
        assert opened is not None
        assert opened.tolist() == plain["s00"].tolist()


# ---------------------------------------------------------------- two lists, and parts of many
def ask_everybody(
    federation: Federation, coalition: Coalition, asked: Mapping[str, Survivors], colluders: tuple[str, ...]
) -> None:
    """The hub asks each honest site for the list it chose; colluders sign whatever it likes, in any number."""
    run = federation.run
    signed: dict[Survivors, dict[str, bytes]] = {}
    for site, survivors in asked.items():
        if survivors.dropped:
            signed.setdefault(survivors, {}).update(federation.consent(0, survivors, [site]))
    for survivors, consents in signed.items():
        bound = consent_bound(run, 0, survivors)
        consents.update({site: identity(site).sign(bound) for site in set(colluders) & set(survivors.alive)})
    for site, survivors in asked.items():
        try:
            answers = federation.reveal(0, survivors, [site], signed.get(survivors))
        except errors.ThresholdError:
            continue
        coalition.hear_shares(0, survivors, answers)


@settings(max_examples=60)
@given(st.integers(3, 8), st.data())
def test_no_choice_of_lists_opens_a_second_sum_or_one_of_few(n: int, data: st.DataObject) -> None:
    """Any assignment of two lists to the honest sites, with a third of the sites on the hub's side."""
    run = run_of(n)
    colluders = run.sites[n - n // 3 :]
    honest = run.sites[: n - n // 3]
    federation = Federation(run)
    coalition = Coalition(federation, colluders)
    plain = random_words(np.random.default_rng(n), run, 2)
    coalition.hear_vectors(0, federation.mask(0, plain))
    lists = [run.survivors(run.sites)]
    for _ in range(2):
        left_out = data.draw(st.lists(st.sampled_from(run.sites), max_size=n - run.threshold, unique=True))
        lists.append(run.survivors(set(run.sites) - set(left_out)))
    asked = {}
    for site in honest:
        chosen = data.draw(st.sampled_from(lists))
        if site in chosen.alive:
            asked[site] = chosen
    ask_everybody(federation, coalition, asked, colluders)
    found = coalition.open_sums(0)
    assert len(found) <= 1
    for group, total in found.items():
        assert len(group) >= run.threshold - len(colluders)
        assert total.tolist() == sum_of(plain, group).tolist()


# Nine sites, three of them the hub's. Each honest site is asked for another list, none of which leaves out more than
# the threshold allows; but s00, s01 and s02 are each left out by four honest sites.
PARTS = {"s00": "12", "s01": "02", "s02": "01", "s03": "01", "s04": "12", "s05": "02"}


def in_parts() -> tuple[Federation, Coalition, dict[str, Survivors], dict[str, Words]]:
    run = run_of(9)
    federation = Federation(run)
    coalition = Coalition(federation, run.sites[6:])
    plain = random_words(np.random.default_rng(9), run, 5)
    coalition.hear_vectors(0, federation.mask(0, plain))
    asked = {
        site: run.survivors(s for s in run.sites if s not in {f"s0{digit}" for digit in left_out})
        for site, left_out in PARTS.items()
    }
    return federation, coalition, asked, plain


def test_another_list_for_every_site_opens_nothing() -> None:
    federation, coalition, asked, _ = in_parts()
    ask_everybody(federation, coalition, asked, federation.run.sites[6:])
    assert coalition.open_sums(0) == {}


def test_without_signed_lists_it_would_open_the_sum_of_three(monkeypatch: pytest.MonkeyPatch) -> None:
    """Why two messages are not enough when a site is missing: t - c = 4 honest sites should stand behind a sum."""
    monkeypatch.setattr(secure_sum, "verify_consents", lambda *_: None)
    federation, coalition, asked, plain = in_parts()
    ask_everybody(federation, coalition, asked, federation.run.sites[6:])
    found = coalition.open_sums(0)
    assert list(found) == [("s03", "s04", "s05")]
    assert found["s03", "s04", "s05"].tolist() == sum_of(plain, ("s03", "s04", "s05")).tolist()
