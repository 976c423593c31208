"""How the secure sum fails: one error for each way, all of them before anything that it guards has left.

Sentences name sites and never a number.
"""

from __future__ import annotations

from schemas.errors import ArchipelError

__all__ = [
    "AnsweredOtherwiseError",
    "BadKeyError",
    "DamagedBoxError",
    "DuplicateKeyError",
    "ForgedKeysError",
    "ForgedSignatureError",
    "MissingPeerError",
    "NotMaskedError",
    "OverlapError",
    "RoundOverError",
    "RunError",
    "SecondListError",
    "SecureSumError",
    "SharesDisagreeError",
    "SurvivorsError",
    "ThresholdError",
    "UnknownPeerError",
    "WrongContextError",
    "WrongLengthError",
]


class SecureSumError(ArchipelError):
    """The secure sum stops; nothing that it guards has left."""


class RunError(SecureSumError):
    """A run that cannot be: its sites, rounds or hashes do not fit its roster."""


class WrongContextError(SecureSumError):
    """A message of another protocol version, plan, roster, run or list of sites."""


class WrongLengthError(SecureSumError):
    """A message or vector of another length than the run's."""


class UnknownPeerError(SecureSumError):
    """A peer that is not a site of the run."""


class MissingPeerError(SecureSumError):
    """A site of the run of which something is missing."""


class ForgedKeysError(SecureSumError):
    """Keys that their site did not sign with the identity in the roster: swapped on the way, or from elsewhere."""


class DuplicateKeyError(SecureSumError):
    """One key twice in a run."""


class BadKeyError(SecureSumError):
    """A key with which no secret can be shared."""


class OverlapError(SecureSumError):
    """A site listed both as alive and as dropped."""


class SurvivorsError(SecureSumError):
    """Alive and dropped together are not the run's sites, each once and in order."""


class ThresholdError(SecureSumError):
    """Fewer sites than the roster's threshold."""


class ForgedSignatureError(SecureSumError):
    """A consent that its site did not sign."""


class AnsweredOtherwiseError(SecureSumError):
    """A step that was answered before, to another question; it is answered once."""


class RoundOverError(SecureSumError):
    """A round that is over, or lies before one that has begun: its secrets are gone."""


class NotMaskedError(SecureSumError):
    """Shares or consent for a round in which this site has masked nothing."""


class SecondListError(SecureSumError):
    """Another list of survivors for a round; one is answered."""


class DamagedBoxError(SecureSumError):
    """A box of shares that its sender did not seal for this site, this run and these keys."""


class SharesDisagreeError(SecureSumError):
    """Shares that do not rebuild what their owner published at set-up.

    Attributes:
        sites: Whose shares are wrong, where that can be told; otherwise all whose shares were used.
    """

    def __init__(self, message: str, sites: tuple[str, ...]) -> None:
        super().__init__(message)
        self.sites = sites
