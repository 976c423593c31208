"""Where a site's ledger ends, as the site states it, and the hub's signature under that: the countersigned head.

A hash chain cannot show that its end was cut off. So a site states the count and the hash of its last entry, signed
by its identity, and the hub countersigns what does not go back; both keep it. A ledger that is shorter than a head
which stands under both signatures has lost entries, whoever cut it.

The statement says too what the releases under differential privacy have cost, so that a site that was put back from a
backup can learn from its own words what it had spent.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from schemas.artefact_manifest import Hash
from schemas.canonical import read_canonical
from schemas.errors import MessageError
from schemas.signed import Signed

__all__ = [
    "HEAD_PATH", "MAX_HEAD_BYTES", "CountersignedHead", "LedgerHead", "SpentPrivacy", "read_countersigned",
    "read_head",
]  # fmt: skip

HEAD_PATH = "/v1/ledger/head"
"""The call by which a site sends its head; signed like those for models (`schemas.model_call`)."""

MAX_HEAD_BYTES = 48 << 10
_STRICT = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,59}$")]
Count = Annotated[int, Field(ge=0, strict=True)]


class SpentPrivacy(BaseModel):
    """What the releases over one dataset have cost.

    Attributes:
        dataset: Name of the account in `site.toml`.
        mu_squared: Sum over all releases, in the unit that adds up (`privacy.accountant`).
        releases: How many were charged.
    """

    model_config = _STRICT

    dataset: _Name
    mu_squared: Annotated[float, Field(ge=0)]
    releases: Count


class LedgerHead(Signed):
    """A site's statement of where its ledger ends.

    Attributes:
        site: Its name at the hub.
        count: Entries.
        hash: Of the last one.
        spent: By dataset, in the order of their names; at least what the entries up to `count` have cost.
        issued: The site's clock.
        signed_by: The site's public identity.
        signature: Over `signed_bytes`.
    """

    kind: Literal["signed-ledger-head"] = "signed-ledger-head"
    version: Literal[1] = 1
    site: _Name
    count: Count
    hash: Hash
    spent: Annotated[tuple[SpentPrivacy, ...], Field(max_length=200)] = ()
    issued: AwareDatetime

    @model_validator(mode="after")
    def _sorted(self) -> LedgerHead:
        names = [one.dataset for one in self.spent]
        if names != sorted(set(names)):
            raise ValueError("an account stands twice, or out of order")
        return self

    def spent_on(self, dataset: str) -> float:
        """Return what a dataset's releases have cost, in mu squared."""
        return next((one.mu_squared for one in self.spent if one.dataset == dataset), 0.0)


class CountersignedHead(Signed):
    """A head that the hub has seen and that went neither back nor aside.

    Attributes:
        head: The site's statement, signature included.
        at: The hub's clock.
        signed_by: The hub's public key for heads; a kit names it.
        signature: Over `signed_bytes`.
    """

    kind: Literal["countersigned-ledger-head"] = "countersigned-ledger-head"
    version: Literal[1] = 1
    head: LedgerHead
    at: AwareDatetime


def read_head(content: bytes) -> LedgerHead:
    """Parse the bytes of a site's head; its signature is verified in `privacy.head_signature`.

    Raises:
        MessageError: When they are none in canonical form.
    """
    return read_canonical(LedgerHead, _limited(content), "a ledger's head", "ledger's head")


def read_countersigned(content: bytes) -> CountersignedHead:
    """Parse the bytes of a countersigned head, likewise.

    Raises:
        MessageError: When they are none in canonical form.
    """
    return read_canonical(CountersignedHead, _limited(content), "a countersigned head", "countersigned head")


def _limited(content: bytes) -> bytes:
    if len(content) > MAX_HEAD_BYTES:
        raise MessageError("too long for a ledger's head")
    return content
