"""What a release under differential privacy needs besides the gate: its price paid first, then its noise.

    debit (on the disk) -> noise -> mask -> keep -> ledger with what was paid -> send

The order is the guard's (`client.guard`); here are its first two steps. A round is debited once, whatever crashes:
asked again before its answer was kept it is found paid, and fresh noise is drawn for bytes of which none had left. A
round that has an answer is never debited, since the guard gives the kept bytes.

The ledger is the second record of all that was paid. When the site opens, charges that the ledger holds and the
budget lacks (its file was put back from an older copy, or lost) are entered again, so that the account is never below
what has left; where both hold a charge and disagree, nothing more leaves under differential privacy.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.answers import Kept
from client.questions import RefusedError
from client.settings import DatasetBudget, SiteSettings
from client.state import SitePaths
from privacy import gate
from privacy.accountant import epsilon_of, plan_mu_squared, release_mu
from privacy.budget import Budget, BudgetBrokenError, Charge, Left, Limit, account, affordable
from privacy.ledger import entries
from privacy.noise import noisy
from schemas.codes import Code
from schemas.messages import Reply, RoundRequest, decode_as
from schemas.plan import PartSpec, Plan
from schemas.roster import Roster, most_colluding

__all__ = ["Account", "Noising", "Price", "accounts", "budget_verdict", "honest_verdict", "price_of"]

log = logging.getLogger("archipel.site")

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Account:
    """One dataset's account, for display.

    Attributes:
        dataset: Its name.
        left: What is spent and left; under a limit of 0 for an account that `site.toml` names no longer.
        is_current: Whether `site.toml` names it.
    """

    dataset: str
    left: Left
    is_current: bool


@dataclass(frozen=True)
class Price:
    """What a run of a plan would cost this site's account.

    Attributes:
        account: As it stands.
        epsilon_after: That all releases add up to after the run.
        runs_left: Further runs like it that fit.
    """

    account: Account
    epsilon_after: float
    runs_left: int

    @property
    def is_affordable(self) -> bool:
        """Whether a run fits."""
        return self.runs_left > 0


class Noising:
    """The privacy budget of one site, as its guard uses it."""

    def __init__(
        self, paths: SitePaths, settings: DatasetBudget | None, now: Callable[[], datetime.datetime]
    ) -> None:
        """Open the budget and bring it up to what the ledger says.

        Args:
            paths: Of the site's state.
            settings: Whose account, and its limit; None: the site takes part in no study under differential privacy.
            now: The clock.

        Raises:
            StorageError: When the file cannot be opened.
            LedgerBrokenError: When the ledger is not what this site wrote.
        """
        self._settings = settings
        self._ledger = paths.ledger
        self._budget: Budget | None = None
        self._is_broken = False
        if settings is None:
            return
        try:
            self._budget = Budget(paths.budget, now)
            restored = self._budget.restore(_entered(paths.ledger))
        except BudgetBrokenError as error:  # other studies go on
            log.error("%s", error)
            self._is_broken = True
        else:
            if restored:
                log.warning(
                    "the privacy budget lacked %d releases that the ledger holds (an older copy was put back, or the "
                    "file was lost): they are charged again",
                    restored,
                )

    def close(self) -> None:
        """Close the file."""
        if self._budget is not None:
            self._budget.close()

    def verify_affordable(self, plan: Plan) -> None:
        """Refuse a run before anything of it was asked, where its plan costs more than is left.

        Raises:
            RefusedError: `BUDGET_NOT_SET`, `BUDGET_EXCEEDED` or `BUDGET_BROKEN`; never for a plan without noise.
        """
        if plan.study.privacy.differential is None:
            return
        budget, dataset, limit = self._open()
        spent = limit.mu_squared - budget.left(dataset, limit).left_mu_squared
        if not affordable(spent, plan_mu_squared(plan), limit):
            log.error("study %s costs more than is left of the privacy budget of %s", plan.study.name, dataset)
            raise RefusedError(Code.BUDGET_EXCEEDED)

    def add(
        self, request: RoundRequest, plan: Plan, part: PartSpec, summand: Mapping[str, Floats]
    ) -> dict[str, Floats]:
        """Debit a release and return its summand with noise; the debit is on the disk before noise is drawn.

        Args:
            request: Admitted, and without an answer yet.
            plan: Approved.
            part: With noise.
            summand: As it passed the gate.

        Raises:
            RefusedError: `BUDGET_NOT_SET`, `BUDGET_EXCEEDED` or `BUDGET_BROKEN`.
            StorageError: When the disk does not take the debit.
            BudgetBrokenError: When the file is damaged.
        """
        differential = plan.study.privacy.differential
        if differential is None or part.noise is None:  # such a plan is none that this installation compiles
            raise RefusedError(Code.RELEASE_NOT_IN_PLAN)
        budget, dataset, limit = self._open()
        mu = release_mu(differential, part.noise)
        charge = Charge(dataset, request.run_id, request.step, request.number, mu**2, plan.study.name, plan.hash)
        verdict = budget.debit(charge, limit)
        if not verdict.allows:
            log.error("nothing leaves: %s", verdict.reason)
            raise RefusedError(Code.BUDGET_EXCEEDED)
        if verdict.kind == "paid" and any(_key_of(one) == _key_of(charge) for one in _entered(self._ledger)):
            # Paid, entered and yet without an answer: noise drawn anew would be a second release for one price.
            log.error("the site's answers are older than its ledger, which holds a release of this round already")
            raise RefusedError(Code.BUDGET_BROKEN)
        return noisy(summand, part, mu)

    def paid_for(self, kept: Kept, plan: Plan) -> Charge | None:
        """Return what was paid for an answer, for its ledger entry; None for one that costs nothing.

        Raises:
            RefusedError: `BUDGET_BROKEN` for numbers with noise that nothing was paid for.
        """
        if kept.phase != gate.VALUE or kept.step not in plan.by_name:
            return None
        if plan.by_name[kept.step].part(kept.part).noise is None or decode_as(kept.reply, Reply).status == "empty":
            return None
        budget, _, _ = self._open()
        charge = budget.paid(kept.run_id, kept.step, kept.number)
        if charge is None:
            log.error("the budget does not know a release that is kept: it was put back from an older copy")
            raise RefusedError(Code.BUDGET_BROKEN)
        return charge

    def _open(self) -> tuple[Budget, str, Limit]:
        if self._settings is None:
            raise RefusedError(Code.BUDGET_NOT_SET)
        if self._budget is None or self._is_broken:
            raise RefusedError(Code.BUDGET_BROKEN)
        return self._budget, self._settings.dataset, limit_of(self._settings)


def honest_verdict(plan: Plan, roster: Roster | None, n_alive: int | None = None) -> Code | None:
    """Judge whether enough sites add noise that the hub does not know.

    At most a third of the sites is taken to help the hub (docs/protocol.md), so of the k sites of a list at least
    k - n/3 are honest; the plan counts on the noise of `honest_sites` of them. A list that leaves somebody out opens
    nothing unless t sites sign it, and each judges it here first.

    Args:
        plan: Of the run.
        roster: Of the run; None under a plain sum, in which a site counts on nobody else.
        n_alive: k, sites whose summands are in the sum; None: all.
    """
    differential = plan.study.privacy.differential
    if differential is None:
        return None
    if roster is None:
        return Code.HONEST_SITES_TOO_FEW if differential.honest_sites > 1 else None
    n = len(roster.sites)
    honest = (n if n_alive is None else n_alive) - most_colluding(n)
    return Code.HONEST_SITES_TOO_FEW if honest < differential.honest_sites else None


def budget_verdict(paths: SitePaths, settings: SiteSettings, plan: Plan) -> Code | None:
    """Return why the site cannot afford a run of a plan, or None; for the person who is to approve it.

    Raises:
        StorageError: When the budget cannot be read.
    """
    if plan.study.privacy.differential is None:
        return None
    if settings.budget is None:
        return Code.BUDGET_NOT_SET
    try:
        current = accounts(paths, settings)[0]
    except BudgetBrokenError:
        return Code.BUDGET_BROKEN
    return None if price_of(plan, current).is_affordable else Code.BUDGET_EXCEEDED


def accounts(paths: SitePaths, settings: SiteSettings) -> tuple[Account, ...]:
    """Return the accounts of a site, the current one first; none where it neither has nor had one.

    Raises:
        BudgetBrokenError: When the file is damaged.
        StorageError: When it cannot be read.
    """
    current = settings.budget
    if not paths.budget.exists():  # and looking must not make it
        return () if current is None else (Account(current.dataset, account(0.0, 0, limit_of(current)), True),)
    found = []
    budget = Budget(paths.budget)
    try:
        if current is not None:
            found.append(Account(current.dataset, budget.left(current.dataset, limit_of(current)), True))
        delta = current.delta if current is not None else 1e-5
        for name in budget.datasets():
            if current is None or name != current.dataset:
                found.append(Account(name, budget.left(name, Limit(0.0, delta)), False))
    finally:
        budget.close()
    return tuple(found)


def price_of(plan: Plan, current: Account) -> Price:
    """Return what a run of a plan under differential privacy would cost an account."""
    cost, limit = plan_mu_squared(plan), current.left.limit
    spent = limit.mu_squared - current.left.left_mu_squared
    fits = affordable(spent, cost, limit)
    return Price(
        account=current,
        epsilon_after=epsilon_of((spent + cost) ** 0.5, limit.delta),
        runs_left=max(1, int(current.left.left_mu_squared / cost * (1 + 1e-9))) if fits else 0,
    )


def limit_of(settings: DatasetBudget) -> Limit:
    """Return the site's limit as the budget knows it."""
    return Limit(settings.epsilon, settings.delta)


def _key_of(charge: Charge) -> tuple[str, str, int]:
    """Return the round that a charge is for."""
    return charge.run, charge.step, charge.number


def _entered(ledger: Path) -> list[Charge]:
    """Return the charges that the ledger's releases name."""
    found = [entry.event for entry in entries(ledger) if entry.event.dataset]
    return [Charge(e.dataset, e.run, e.step, e.number, e.mu_squared, e.study, e.plan_hash) for e in found]
