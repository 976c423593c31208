"""Three real guards under the secure sum, in one process, with a small plan; drafts are made up, no tables read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from client.guard_protocol import Answer
from schemas.messages import Draft, RoundRequest, SetupRequest, decode, encode
from schemas.plan import Plan
from schemas.roster import Roster
from tests.guards import GuardedSite, roster_of
from tests.plans import small_plan
from tests.secure_hub import SecureHub

SITES = ("A", "B", "C")
MASKED_PLAN = small_plan(secure_sum=True)


class MaskedSite(GuardedSite):
    """A guarded site that answers for itself: its runner drafts what `summand` says.

    Attributes:
        n_patients: Behind every draft.
    """

    n_patients = 40

    def summand(self, step: str, part: str) -> dict[str, np.ndarray]:
        """Numbers of this site alone: different for every site, the same every time."""
        rng = np.random.default_rng([ord(letter) for letter in self.name + step + part])
        specs = self.plan.by_name[step].part(part).releases
        made = {spec.name: rng.normal(size=spec.shape) * 100 for spec in specs}
        return made | ({"n_patients": np.array(float(self.n_patients))} if "n_patients" in made else {})

    def draft_of(self, request: bytes) -> bytes:
        message = decode(request)
        if isinstance(message, SetupRequest):
            return encode(Draft(message.run_id, "setup", "setup", 0, self.n_patients, 12))
        assert isinstance(message, RoundRequest)
        asked = (message.run_id, message.step, message.part, message.number)
        return encode(Draft(*asked, self.n_patients, 12, arrays=self.summand(message.step, message.part)))

    def __call__(self, request: bytes) -> bytes:
        """Answer as the agent does: guard, runner, guard."""
        verdict = self.guard.admit(request)
        if isinstance(verdict, Answer):
            return verdict.body
        self.record(request)
        return self.guard.release(request, self.draft_of(request))


def masked_sites(
    folder: Path, names: tuple[str, ...] = SITES, plan: Plan = MASKED_PLAN, *, kind: type[MaskedSite] = MaskedSite
) -> dict[str, MaskedSite]:
    """Return sites that have approved the plan with the roster of all of them."""
    sites = {name: kind(folder / name, plan, name) for name in names}
    for site in sites.values():
        site.decide(roster_of(*names))
    return sites


def hub_of(sites: Mapping[str, MaskedSite], roster: Roster | None = None) -> SecureHub:
    """Return a hub of these sites, before the set-up."""
    plan = next(iter(sites.values())).plan
    return SecureHub(plan, roster or roster_of(*sites), sites)
