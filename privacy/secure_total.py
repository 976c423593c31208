"""The secure sum at the hub: from masked vectors and the shares for one list of survivors to their sum.

The hub holds no secret of a site and imports nothing that does (`privacy.secure_sum`). What it rebuilds here are the
self-mask seeds of the survivors and the mask keys of the dropped, of this round alone; both are compared with what
their owners published at set-up, so a wrong share ends the round instead of spoiling its sum. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from numpy.typing import NDArray

from privacy.secure_errors import (
    MissingPeerError,
    SharesDisagreeError,
    ThresholdError,
    UnknownPeerError,
    WrongContextError,
    WrongLengthError,
)
from privacy.secure_protocol import (
    KEY,
    Announcements,
    SecureRun,
    Survivors,
    add_keystreams,
    pair_key,
    read_announcements,
    reveal_head,
    seed_commitment,
    self_key,
    verify_peers,
)
from privacy.shamir import Bytes, combine

__all__ = ["inboxes", "open_total", "read_announcements", "total", "verify_shares"]


def inboxes(run: SecureRun, boxes: Mapping[str, Mapping[str, bytes]]) -> dict[str, dict[str, bytes]]:
    """Return for every site the boxes that its peers sealed for it.

    Args:
        run: Which.
        boxes: Sender -> receiver -> box, of all sites.

    Raises:
        UnknownPeerError, MissingPeerError: When they are not one box for each ordered pair of the run's sites.
    """
    if set(boxes) - set(run.sites):
        raise UnknownPeerError("shares come from a site that is not in the run")
    for sender in run.sites:
        if sender not in boxes:
            raise MissingPeerError(f"nothing has come from {sender}")
        verify_peers(run, boxes[sender], [peer for peer in run.sites if peer != sender])
    return {
        receiver: {sender: boxes[sender][receiver] for sender in run.sites if sender != receiver}
        for receiver in run.sites
    }


def total(
    keys: Announcements,
    number: int,
    survivors: Survivors,
    vectors: Mapping[str, NDArray[np.uint64]],
    answers: Mapping[str, bytes],
) -> NDArray[np.uint64]:
    """Return the sum of the survivors' vectors, modulo 2^64 (Bonawitz et al., round 4).

    Args:
        keys: Of the run's set-up.
        number: Of the round.
        survivors: The one list that the shares are for.
        vectors: Site -> its masked vector, of exactly the survivors.
        answers: Site -> its shares; at least the threshold, more are used to find who lies.

    Raises:
        OverlapError, UnknownPeerError, ThresholdError, SurvivorsError: When the list is none.
        UnknownPeerError, MissingPeerError: When the vectors are not those of the survivors.
        WrongLengthError: When the vectors differ in length, or shares are not of the run's length.
        WrongContextError: For shares of another round or list.
        ThresholdError: For too few shares.
        SharesDisagreeError: When a rebuilt secret is not the published one.
    """
    run = keys.run
    run.verify_round(number)
    survivors.verify(run)
    for site in survivors.alive:
        if site not in vectors:
            raise MissingPeerError(f"nothing has come from {site}")
    if len(vectors) != len(survivors.alive):
        raise UnknownPeerError("a masked vector comes from a site that is not among the survivors")
    shapes = {(vector.dtype.str, vector.shape) for vector in vectors.values()}
    if len(shapes) != 1 or next(iter(vectors.values())).dtype != np.uint64:
        raise WrongLengthError("the masked vectors are not rows of 64-bit words of one length")
    secrets = verify_shares(keys, number, survivors, answers)
    result = np.zeros(next(iter(vectors.values())).shape, dtype="<u8")
    for site in survivors.alive:
        result += vectors[site]
    plus, minus = _masks_left(keys, number, survivors, secrets)
    add_keystreams(result, plus, minus)
    return result


def open_total(
    keys: Announcements,
    number: int,
    survivors: Survivors,
    vectors: Mapping[str, NDArray[np.uint64]],
    answers: Mapping[str, bytes],
) -> tuple[NDArray[np.uint64], str]:
    """Return the sum as `total` does, and whose shares were left aside for it; empty where nobody's were.

    Shares that one site alone gave wrong do not stop a sum that the others' suffice for.

    Raises:
        SecureSumError: As `total`.
    """
    try:
        return total(keys, number, survivors, vectors, answers), ""
    except SharesDisagreeError as error:
        others = {site: share for site, share in answers.items() if site not in error.sites}
        if len(error.sites) != 1 or len(others) < keys.run.threshold:
            raise
        return total(keys, number, survivors, vectors, others), error.sites[0]


def _masks_left(
    keys: Announcements, number: int, survivors: Survivors, secrets: Mapping[str, bytes]
) -> tuple[list[bytes], list[bytes]]:
    """Return the keys of the masks that are to be added to the sum of masked vectors, and to be taken away."""
    run = keys.run
    plus: list[bytes] = []
    minus = [self_key(run, number, site, secrets[site]) for site in survivors.alive]
    for gone in survivors.dropped:
        for site in survivors.alive:
            public = keys.masks[run.sites.index(site), number].tobytes()
            # As the dropped one would have added it: just what is missing for the pair to cancel.
            key, adds = pair_key(run, number, gone, site, secrets[gone], public)
            (plus if adds else minus).append(key)
    return plus, minus


def verify_shares(
    keys: Announcements, number: int, survivors: Survivors, answers: Mapping[str, bytes]
) -> dict[str, bytes]:
    """Rebuild one secret of every site, the seed of a survivor or the mask key of a dropped one, and check them all.

    Returns:
        Site -> its secret.

    Raises:
        SecureSumError: As `total` says of shares.
    """
    run = keys.run
    if not set(answers) <= set(survivors.alive):
        raise UnknownPeerError("shares come from a site that is not among the survivors")
    head = reveal_head(run, number, survivors)
    for site, answer in answers.items():
        if len(answer) != KEY * (1 + run.n_sites):
            raise WrongLengthError(f"the shares from {site} are not of the run's length")
        if answer[:KEY] != head:
            raise WrongContextError(f"the shares from {site} are for another round, list or run")
    if len(answers) < run.threshold:
        raise ThresholdError(f"shares came from {len(answers)} sites; the roster asks for {run.threshold}")
    names = [site for site in run.sites if site in answers]
    points = [run.sites.index(site) + 1 for site in names]
    shares = np.stack([np.frombuffer(answers[site], dtype=np.uint8)[KEY:] for site in names])
    secrets = _rebuild(keys, number, survivors, points, shares)
    wrong = _wrong(keys, number, survivors, secrets)
    if wrong or _off_the_line(run, points, shares):
        raise _disagreement(keys, number, survivors, points, shares, wrong)
    return secrets


def _rebuild(
    keys: Announcements, number: int, survivors: Survivors, points: Sequence[int], shares: Bytes
) -> dict[str, bytes]:
    run = keys.run
    flat = combine(points[: run.threshold], shares[: run.threshold])
    return {site: row.tobytes() for site, row in zip(run.sites, flat.reshape(run.n_sites, KEY), strict=True)}


def _wrong(keys: Announcements, number: int, survivors: Survivors, secrets: Mapping[str, bytes]) -> list[str]:
    """Return the sites whose rebuilt secret is not the one they published."""
    wrong = []
    for i, site in enumerate(keys.run.sites):
        if site in survivors.alive:
            found = seed_commitment(keys.run, site, number, secrets[site])
            published = keys.commitments[i, number].tobytes()
        else:
            found = X25519PrivateKey.from_private_bytes(secrets[site]).public_key().public_bytes_raw()
            published = keys.masks[i, number].tobytes()
        if found != published:
            wrong.append(site)
    return wrong


def _off_the_line(run: SecureRun, points: Sequence[int], shares: Bytes) -> list[int]:
    """Return which of the shares beyond the threshold do not lie on the polynomial through the others."""
    t = run.threshold
    return [
        i
        for i in range(t, len(points))
        if not np.array_equal(combine(points[:t], shares[:t], at=points[i]), shares[i])
    ]


def _disagreement(
    keys: Announcements,
    number: int,
    survivors: Survivors,
    points: Sequence[int],
    shares: Bytes,
    wrong: Sequence[str],
) -> SharesDisagreeError:
    """Say whose shares are wrong, where leaving one site out makes the others agree."""
    run = keys.run
    names = tuple(run.sites[point - 1] for point in points)
    for i, name in enumerate(names if len(names) > run.threshold else ()):
        others = [*points[:i], *points[i + 1 :]]
        rest = np.delete(shares, i, axis=0)
        rebuilt = _rebuild(keys, number, survivors, others, rest)
        if not _wrong(keys, number, survivors, rebuilt) and not _off_the_line(run, others, rest):
            return SharesDisagreeError(f"the shares from {name} disagree with those of all others", (name,))
    what = f" of the secrets of {', '.join(wrong)}" if wrong else ""
    return SharesDisagreeError(
        f"the shares{what} from {', '.join(names)} disagree with what was published at set-up: one of these sites "
        "gave a wrong share, or the owner dealt wrong ones",
        names,
    )
