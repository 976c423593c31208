"""The privacy that is left to a site's data: what every release has cost, debited before it leaves.

An account belongs to a dataset: to the patients behind it and not to one state of its tables, so correcting a cell
or adding a patient refills nothing. It holds one charge for each (run, step, number), in mu squared
(`privacy.accountant`), and composes over all studies. The rules, which `judge` decides without touching anything:

- a round is charged once: asked again with the same cost it is already paid, with another cost it is refused;
- a charge that would lift the dataset's epsilon, at its delta, above the site's limit is refused.

A charge is on the disk before the bytes that it pays for are made, so a crash in between can waste a charge of one
release, never release without one; the retry finds the charge paid and adds nothing.
"""

from __future__ import annotations

import contextlib
import datetime
import math
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from privacy.accountant import epsilon_of, mu_of
from privacy.storage import StorageError
from schemas.errors import ArchipelError

_VERSION = 1
_WAIT_S = 10.0
# Adding up the shares of one plan leaves this much rounding; it must not refuse a plan's last release.
_ROUNDING = 1e-9
# No site's limit comes near (epsilon 5e11): a charge beyond it is damage, not a release.
_LARGEST_COST = 1e12
_SCHEMA = f"""
CREATE TABLE charge (
  dataset TEXT NOT NULL,
  run TEXT NOT NULL,
  step TEXT NOT NULL,
  number INTEGER NOT NULL,
  mu_squared REAL NOT NULL CHECK (mu_squared > 0),
  study TEXT NOT NULL,
  plan_hash TEXT NOT NULL,
  time TEXT NOT NULL,
  PRIMARY KEY (dataset, run, step, number)
) WITHOUT ROWID;
PRAGMA user_version = {_VERSION};
"""


class BudgetBrokenError(ArchipelError):
    """The file of the privacy budget is not one that this version wrote."""


@dataclass(frozen=True)
class Limit:
    """How much of a dataset's privacy the site is willing to spend, over all studies together.

    Attributes:
        epsilon: At least 0; 0 allows nothing.
        delta: At which epsilon is read.
    """

    epsilon: float
    delta: float

    @property
    def mu_squared(self) -> float:
        """The same in the unit that adds up."""
        return mu_of(self.epsilon, self.delta) ** 2 if self.epsilon > 0 else 0.0


@dataclass(frozen=True)
class Charge:
    """What one release costs.

    Attributes:
        dataset: Whose account.
        run: The run's id.
        step: Of the plan.
        number: Of the round within its step.
        mu_squared: The cost, > 0.
        study: The study's name, for people.
        plan_hash: Of the approved plan, for people.
    """

    dataset: str
    run: str
    step: str
    number: int
    mu_squared: float
    study: str
    plan_hash: str


@dataclass(frozen=True)
class Verdict:
    """What the budget says to a charge.

    Attributes:
        kind: ``debit`` it now, already ``paid``, or ``refused``; only the first two allow the release.
        reason: Of a refusal, for people.
    """

    kind: Literal["debit", "paid", "refused"]
    reason: str = ""

    @property
    def allows(self) -> bool:
        """Whether the release may go on."""
        return self.kind != "refused"


@dataclass(frozen=True)
class Left:
    """A dataset's account, for display.

    Attributes:
        spent_epsilon: What all releases so far add up to.
        limit: The site's.
        left_epsilon: Epsilon of the largest further release that fits; not the difference of the two above,
            because epsilons do not add up.
        left_mu_squared: The same in the unit that does.
        releases: Charges so far.
    """

    spent_epsilon: float
    limit: Limit
    left_epsilon: float
    left_mu_squared: float
    releases: int


def judge(charge: Charge, paid: float | None, spent: float, limit: Limit) -> Verdict:
    """Decide about a charge.

    Args:
        charge: What is asked.
        paid: Mu squared that is already debited for this very round, or None.
        spent: Mu squared of all of the dataset's charges.
        limit: The site's.
    """
    if not (math.isfinite(charge.mu_squared) and charge.mu_squared > 0):
        return Verdict("refused", "a release under differential privacy costs more than nothing")
    if paid is not None:
        if paid == charge.mu_squared:
            return Verdict("paid")
        return Verdict("refused", "this round was debited before, at another cost: it is not the same release")
    if not affordable(spent, charge.mu_squared, limit):
        epsilon = epsilon_of(_mu(spent + charge.mu_squared), limit.delta)
        return Verdict(
            "refused",
            f"the release would lift the data's epsilon to {epsilon:.3g},"
            f" and this site allows {limit.epsilon:g} (at delta {limit.delta:g}) over all studies",
        )
    return Verdict("debit")


def affordable(spent: float, cost: float, limit: Limit) -> bool:
    """Return whether a cost in mu squared, one release's or a whole plan's, still fits."""
    return spent + cost <= limit.mu_squared * (1 + _ROUNDING)


def account(spent: float, releases: int, limit: Limit) -> Left:
    """Return what is left of an account."""
    left = max(limit.mu_squared - spent, 0.0)
    return Left(
        spent_epsilon=epsilon_of(_mu(spent), limit.delta),
        limit=limit,
        left_epsilon=epsilon_of(_mu(left), limit.delta),
        left_mu_squared=left,
        releases=releases,
    )


class Budget:
    """The accounts of a site on its disk; several processes may each have them open."""

    def __init__(self, path: Path, now: Callable[[], datetime.datetime] | None = None) -> None:
        """Open the file, and make it where there is none.

        Raises:
            BudgetBrokenError: When it is not of this version, or damaged.
            StorageError: When it cannot be opened.
        """
        self._path = path
        self._now = now or (lambda: datetime.datetime.now(datetime.UTC))
        with self._storage():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.touch(mode=0o600, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=_WAIT_S, isolation_level=None, check_same_thread=False)
            # In this journal a commit is on the disk only once the folder is synced too, which EXTRA adds to FULL.
            self._db.execute("PRAGMA journal_mode = DELETE")
            self._db.execute("PRAGMA synchronous = EXTRA")
            self._prepare()

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def debit(self, charge: Charge, limit: Limit) -> Verdict:
        """Charge a release; when the verdict allows it, the charge is on the disk.

        Raises:
            BudgetBrokenError: When the file is damaged: nothing may be released.
            StorageError: When the disk does not take it: nothing may be released.
        """
        with self._storage(), self._transaction():
            key = (charge.dataset, charge.run, charge.step, charge.number)
            row = self._find(key)
            spent, _ = self._spent(charge.dataset)
            verdict = judge(charge, None if row is None else row[0], spent, limit)
            if verdict.kind == "debit":
                self._insert(charge, key)
            return verdict

    def left(self, dataset: str, limit: Limit) -> Left:
        """Return a dataset's account, for display.

        Raises:
            BudgetBrokenError: When the file is damaged.
            StorageError: When it cannot be read.
        """
        with self._storage():
            return account(*self._spent(dataset), limit)

    def spent(self, dataset: str) -> tuple[float, int]:
        """Return mu squared of all of a dataset's charges, and how many they are.

        Raises:
            BudgetBrokenError: When the file is damaged.
            StorageError: When it cannot be read.
        """
        with self._storage():
            return self._spent(dataset)

    def datasets(self) -> tuple[str, ...]:
        """Return whose accounts hold a charge, by name.

        Raises:
            BudgetBrokenError: When the file is damaged.
            StorageError: When it cannot be read.
        """
        with self._storage():
            rows = self._db.execute("SELECT DISTINCT dataset FROM charge ORDER BY dataset").fetchall()
        return tuple(name for (name,) in rows)

    def paid(self, run: str, step: str, number: int) -> Charge | None:
        """Return what a round was charged, to whichever account; None where nothing was.

        Raises:
            BudgetBrokenError: When the file is damaged.
            StorageError: When it cannot be read.
        """
        with self._storage():
            row = self._db.execute(
                "SELECT dataset, run, step, number, mu_squared, study, plan_hash FROM charge"
                " WHERE run = ? AND step = ? AND number = ? ORDER BY time DESC LIMIT 1",
                (run, step, number),
            ).fetchone()
        return None if row is None else Charge(*row)

    def restore(self, charges: Iterable[Charge]) -> int:
        """Enter charges of releases that the ledger holds and this file lacks, whatever the limit; return how many.

        So a budget that was put back from an older copy, or lost, is never below what has left the site.

        Raises:
            BudgetBrokenError: When the file is damaged, or holds another cost for one of them.
            StorageError: When the disk does not take them.
        """
        restored = 0
        with self._storage(), self._transaction():
            for charge in charges:
                key = (charge.dataset, charge.run, charge.step, charge.number)
                row = self._find(key)
                if row is None:
                    self._insert(charge, key)
                    restored += 1
                elif row[0] != charge.mu_squared:
                    raise BudgetBrokenError(
                        f"{self._path.name} and the ledger do not agree on what run {charge.run}, {charge.step} "
                        f"#{charge.number} cost: nothing is released under differential privacy. One of the two was "
                        "changed; restore the site's folder as a whole"
                    )
        return restored

    def charges(self, dataset: str) -> tuple[Charge, ...]:
        """Return all charges of a dataset, by run, step and number: to hold them against the ledger.

        Raises:
            BudgetBrokenError: When the file is damaged.
            StorageError: When it cannot be read.
        """
        with self._storage():
            rows = self._db.execute(
                "SELECT dataset, run, step, number, mu_squared, study, plan_hash FROM charge WHERE dataset = ?"
                " ORDER BY run, step, number",
                (dataset,),
            ).fetchall()
        return tuple(Charge(*row) for row in rows)

    def _prepare(self) -> None:
        with self._transaction():
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version == 0 and not self._db.execute("SELECT name FROM sqlite_master").fetchall():
                for statement in _SCHEMA.split(";"):
                    self._db.execute(statement)
            elif version != _VERSION:
                raise BudgetBrokenError(
                    f"{self._path.name} is not a privacy budget of version {_VERSION}: nothing is released under "
                    "differential privacy. Restore the file, or ask who replaced it"
                )

    def _find(self, key: tuple[str, str, str, int]) -> Any:
        query = "SELECT mu_squared FROM charge WHERE dataset = ? AND run = ? AND step = ? AND number = ?"
        return self._db.execute(query, key).fetchone()

    def _insert(self, charge: Charge, key: tuple[str, str, str, int]) -> None:
        time = self._now().astimezone(datetime.UTC).isoformat(timespec="milliseconds")
        cost = (charge.mu_squared, charge.study, charge.plan_hash, time)
        self._db.execute("INSERT INTO charge VALUES (?, ?, ?, ?, ?, ?, ?, ?)", key + cost)

    def _spent(self, dataset: str) -> tuple[float, int]:
        rows = self._db.execute("SELECT mu_squared FROM charge WHERE dataset = ?", (dataset,)).fetchall()
        costs = [row[0] for row in rows]
        if not all(type(cost) is float and 0 < cost < _LARGEST_COST for cost in costs):
            raise self._damaged()
        return math.fsum(costs), len(costs)

    def _damaged(self) -> BudgetBrokenError:
        return BudgetBrokenError(
            f"{self._path.name} is damaged: nothing is released under differential privacy. Restore the file "
            "from a copy that is not older than the last release"
        )

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:  # a full disk ends it without being asked
                self._db.execute("ROLLBACK")
            raise

    @contextlib.contextmanager
    def _storage(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            code = getattr(error, "sqlite_errorname", None)
            if code is None:  # Python's own, of text in the file that is none
                raise self._damaged() from None
            raise StorageError(
                f"{self._path.name} cannot be read or written ({code}): check the disk, its space and its owner"
            ) from None
        except (sqlite3.DatabaseError, UnicodeDecodeError):  # SQLite quotes what is damaged, and that need be no text
            raise self._damaged() from None
        except OSError as error:
            raise StorageError(
                f"{self._path.name} cannot be opened ({error.strerror}): check the disk and its owner"
            ) from None


def _mu(mu_squared: float) -> float:
    return math.sqrt(mu_squared)
