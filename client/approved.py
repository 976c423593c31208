"""Which plan and which roster a question is about, and that a person at this site stands by both.

The hub sends plan and roster with a set-up; what passes the installation's own judgement is kept for a person to read
(`client.received`), and only what a person has approved (`client.approvals`) is worked on.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable

from client.answers import Answers
from client.approvals import current_verdict, load_approvals, verify_sites
from client.peers import load_peers, roster_verdict
from client.questions import RefusedError, Request, read_sent_plan, read_sent_roster, refuse_if
from client.received import load_plan, receive_plan, receive_roster
from client.secure import SecureSite
from client.state import SitePaths
from privacy import gate
from privacy.gate import Floors
from schemas.canonical import sha256_hex
from schemas.codes import Code
from schemas.messages import SetupRequest
from schemas.plan import Plan

__all__ = ["Approved", "JudgePlan"]

JudgePlan = Callable[[Plan, Floors], Code | None]


class Approved:
    """The plans and rosters of a site, as the guard asks for them."""

    def __init__(
        self, paths: SitePaths, site: SecureSite, floors: Floors, judge_plan: JudgePlan, answers: Answers
    ) -> None:
        """Keep where to look.

        Args:
            paths: Of the site's state.
            site: Who the site is to its peers.
            floors: The site's own.
            judge_plan: Why this installation does not stand by a plan, or None.
            answers: Of the site; they know the roster of a run that has begun.
        """
        self._paths = paths
        self._site = site
        self._floors = floors
        self._judge_plan = judge_plan
        self._answers = answers
        self._stood_by: dict[str, Plan] = {}

    def stood_by(self, request: Request | None) -> Plan | None:
        """Return the plan of a question, if this installation has found it to be its own."""
        return self._stood_by.get(request.plan_hash) if request is not None else None

    def of(self, request: Request, today: datetime.date) -> tuple[Plan, str | None]:
        """Return plan and roster hash (None under a plain sum) of a question, both approved and not withdrawn.

        Raises:
            RefusedError: With the code of the first rule that they break.
        """
        plan, code = self._known_plan(request)
        refuse_if(code)
        if isinstance(request, SetupRequest):
            refuse_if(gate.admit_setup(request, plan))
            refuse_if(verify_sites(plan, request.sites))
            receive_plan(self._paths, plan, load_approvals(self._paths).by_hash)
        roster_hash = self._known_roster(request, plan) if gate.is_masked(plan) else None
        refuse_if(current_verdict(self._paths, plan, today, roster_hash))
        return plan, roster_hash

    def _known_plan(self, request: Request) -> tuple[Plan, Code | None]:
        """Return the plan and why this installation does not stand by it; judged once, since neither changes."""
        sent = request.plan if isinstance(request, SetupRequest) else ""
        known = self._stood_by.get(request.plan_hash)
        if known is not None and sent in ("", known.content.decode()):
            return known, None
        plan = (
            read_sent_plan(request)
            if isinstance(request, SetupRequest) and sent
            else load_plan(self._paths, request.plan_hash)
        )
        if plan is None:
            raise RefusedError(Code.PLAN_UNKNOWN)
        code = self._judge_plan(plan, self._floors)
        if code is None:
            self._stood_by[plan.hash] = plan
        return plan, code

    def _known_roster(self, request: Request, plan: Plan) -> str:
        """Return the hash of a run's roster; one that is new is kept, for a person to compare its fingerprints."""
        begun = self._answers.roster_hash(request.run_id)
        if not isinstance(request, SetupRequest) or request.phase != gate.KEYS:
            if begun is None:
                raise RefusedError(Code.RUN_UNKNOWN)
            if isinstance(request, SetupRequest) and request.roster and sha256_hex(request.roster.encode()) != begun:
                raise RefusedError(Code.RUN_CHANGED)
            return begun
        roster = read_sent_roster(request)
        pins = load_peers(self._paths)
        refuse_if(roster_verdict(roster, request.sites, self._site.name, self._site.public_key, pins))
        if begun not in (None, roster.hash):
            raise RefusedError(Code.RUN_CHANGED)
        receive_roster(self._paths, plan.hash, roster)
        return roster.hash
