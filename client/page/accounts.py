"""The accounts and tokens of the patient page: who may look, kept at the site in one file that only it reads.

Passwords are kept as argon2id (RFC 9106), tokens of other systems as SHA-256 of 256 random bits, which nobody can
guess. After `MOST_FAILURES` wrong passwords in a row an account is locked for `LOCKED_FOR`; a try is counted before
the password is compared, so that many tries at once are counted too. Names that do not exist are counted and answered
like those that do, with the same work, so that a stranger does not learn which names there are.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import hmac
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Literal

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from client.state import SitePaths
from privacy.storage import StorageError, locked, storage_error, write_durably
from schemas.canonical import canonical_json
from schemas.errors import ArchipelError

__all__ = ["LOCKED_FOR", "MOST_FAILURES", "Account", "AccountError", "Accounts", "Role", "SignIn", "Token", "utc_now"]

Role = Literal["clinician", "administrator"]
Clock = Callable[[], datetime.datetime]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._@-]{0,59}$")]

MOST_FAILURES = 5
LOCKED_FOR = datetime.timedelta(minutes=15)
SHORTEST_PASSWORD = 12
_LONGEST_PASSWORD = 1000
_MOST_STRANGERS = 1000
_STRICT = ConfigDict(extra="forbid", frozen=True)


class AccountError(ArchipelError):
    """What was asked of the accounts cannot be done."""


class Account(BaseModel):
    """One person.

    Attributes:
        password: Encoded by argon2id.
        is_locked: By an administrator, until unlocked.
        failures: Wrong passwords since the last right one.
        locked_until: After too many of them.
    """

    model_config = _STRICT

    name: Name
    role: Role
    password: Annotated[str, Field(max_length=500)] = Field(repr=False)
    added_at: AwareDatetime
    is_locked: bool = False
    failures: Annotated[int, Field(ge=0)] = 0
    locked_until: AwareDatetime | None = None


class Token(BaseModel):
    """One of the hospital's own systems.

    Attributes:
        digest: SHA-256 of the token.
    """

    model_config = _STRICT

    system: Name
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] = Field(repr=False)
    added_at: AwareDatetime


class _File(BaseModel):
    """state/accounts.json."""

    model_config = _STRICT

    kind: Literal["accounts"] = "accounts"
    version: Literal[1] = 1
    accounts: dict[Name, Account] = Field(default_factory=dict)
    tokens: dict[Name, Token] = Field(default_factory=dict)


class SignIn(BaseModel):
    """The verdict on a name and a password.

    Attributes:
        account: None where they were not accepted.
        is_locked: Whether the name is locked, for a while or by an administrator.
        name: Of the account that was meant, for the access log; empty where there is none: what was typed there may
            be a password.
    """

    model_config = _STRICT

    account: Account | None
    is_locked: bool = False
    name: str = ""


def utc_now() -> datetime.datetime:
    """Return the time."""
    return datetime.datetime.now(datetime.UTC)


class Accounts:
    """The accounts of one site; several processes may each have one."""

    def __init__(self, home: Path, *, now: Clock = utc_now, hasher: PasswordHasher | None = None) -> None:
        """Open the file, which need not exist yet.

        Args:
            home: The site's folder.
            now: The clock.
            hasher: Of passwords; by default argon2id with the parameters of RFC 9106 (64 MiB, three passes).
        """
        self._path = SitePaths(home).state / "accounts.json"
        self._now = now
        self._hasher = hasher or PasswordHasher()
        self._nobody = self._hasher.hash(secrets.token_urlsafe(16))
        self._strangers: dict[str, list[datetime.datetime]] = {}

    # ------------------------------------------------------------ what an administrator does
    def add(self, name: str, role: Role, password: str) -> Account:
        """Make an account.

        Raises:
            AccountError: For a name that is taken or no name, or a password that is too short or too long.
            StorageError: When it cannot be written.
        """
        if not SHORTEST_PASSWORD <= len(password) <= _LONGEST_PASSWORD or password == name:
            raise AccountError(
                f"The password has {SHORTEST_PASSWORD} characters or more, at most {_LONGEST_PASSWORD}, and is not "
                "the name: four random words do well."
            )
        try:
            account = Account(name=name, role=role, password=self._hasher.hash(password), added_at=self._now())
        except ValidationError:
            raise AccountError(
                "A name has small letters, digits, dots, dashes, underscores or @, 60 at most, and a role is "
                "clinician or administrator."
            ) from None
        with self._changing() as held:
            if name in held.accounts:
                raise AccountError(f"There is an account {name} already: remove it first, or choose another name.")
            self._write(held.model_copy(update={"accounts": {**held.accounts, name: account}}))
        return account

    def set_locked(self, name: str, *, is_locked: bool) -> Account:
        """Lock an account until further notice, or end every lock of it.

        Raises:
            AccountError: When there is none of this name.
            StorageError: When it cannot be written.
        """
        with self._changing() as held:
            update = {"is_locked": is_locked, "failures": 0, "locked_until": None}
            account = _known(held.accounts, name).model_copy(update=update)
            self._write(held.model_copy(update={"accounts": {**held.accounts, name: account}}))
        return account

    def remove(self, name: str) -> None:
        """Remove an account; what it did stays in the access log.

        Raises:
            AccountError: When there is none of this name.
            StorageError: When it cannot be written.
        """
        with self._changing() as held:
            _known(held.accounts, name)
            rest = {other: account for other, account in held.accounts.items() if other != name}
            self._write(held.model_copy(update={"accounts": rest}))

    def add_token(self, system: str) -> str:
        """Make the token of a system, in place of the one it had, and return it: it is shown once and kept nowhere.

        Raises:
            AccountError: For no name.
            StorageError: When it cannot be written.
        """
        plain = secrets.token_urlsafe(32)
        try:
            token = Token(system=system, digest=_digest(plain), added_at=self._now())
        except ValidationError:
            raise AccountError(
                "A system's name has small letters, digits, dots, dashes, underscores or @, 60 at most."
            ) from None
        with self._changing() as held:
            self._write(held.model_copy(update={"tokens": {**held.tokens, system: token}}))
        return plain

    def remove_token(self, system: str) -> None:
        """End a system's access.

        Raises:
            AccountError: When it has no token.
            StorageError: When it cannot be written.
        """
        with self._changing() as held:
            if system not in held.tokens:
                raise AccountError(
                    f"The system {system[:60]!a} has no token: `archipel site account list` shows those."
                )
            rest = {other: token for other, token in held.tokens.items() if other != system}
            self._write(held.model_copy(update={"tokens": rest}))

    def accounts(self) -> tuple[Account, ...]:
        """Return all accounts, by name.

        Raises:
            StorageError: When they cannot be read.
        """
        return tuple(account for _, account in sorted(self._read().accounts.items()))

    def tokens(self) -> tuple[Token, ...]:
        """Return the systems that have a token, by name.

        Raises:
            StorageError: When they cannot be read.
        """
        return tuple(token for _, token in sorted(self._read().tokens.items()))

    # ------------------------------------------------------------ what the page asks
    def sign_in(self, name: str, password: str) -> SignIn:
        """Judge a name and a password.

        Raises:
            StorageError: When accounts cannot be read, or a try cannot be counted: then nobody gets in.
        """
        now = self._now()
        with self._changing() as held:
            account = held.accounts.get(name)
            if account is None:
                is_locked = self._stranger_is_locked(name, now)
            else:
                is_locked = _is_locked(account, now)
                if not is_locked:
                    self._put(held, _after_try(account, now))
        known = "" if account is None else name
        if is_locked:
            return SignIn(account=None, is_locked=True, name=known)
        is_right = self._fits(self._nobody if account is None else account.password, password)
        if account is None or not is_right:
            return SignIn(account=None, name=known)
        with self._changing() as held:
            current = held.accounts.get(name)
            if current is None or current.is_locked or current.password != account.password:
                return SignIn(account=None, name=known)
            right = current.model_copy(update={"failures": 0, "locked_until": None})
            self._put(held, right)
        return SignIn(account=right, name=name)

    def is_open(self, name: str) -> bool:
        """Return whether an account exists and no administrator has locked it: asked for each page of a session.

        Raises:
            StorageError: When accounts cannot be read.
        """
        account = self._read().accounts.get(name)
        return account is not None and not account.is_locked

    def system_of(self, token: str) -> str | None:
        """Return the system whose token this is.

        Raises:
            StorageError: When tokens cannot be read.
        """
        digest = _digest(token)
        found = [held.system for held in self._read().tokens.values() if hmac.compare_digest(held.digest, digest)]
        return found[0] if found else None

    # ------------------------------------------------------------ inside
    def _fits(self, encoded: str, password: str) -> bool:
        try:
            return self._hasher.verify(encoded, password[: _LONGEST_PASSWORD + 1])
        except (VerificationError, InvalidHashError):
            return False

    def _stranger_is_locked(self, name: str, now: datetime.datetime) -> bool:
        """Count a try of a name that does not exist, in memory alone; return whether it would be locked."""
        recent = [moment for moment in self._strangers.get(name, []) if now - moment < LOCKED_FOR]
        if len(recent) >= MOST_FAILURES:
            return True
        self._strangers.pop(name, None)
        while len(self._strangers) >= _MOST_STRANGERS:
            del self._strangers[next(iter(self._strangers))]
        self._strangers[name] = [*recent, now]
        return False

    @contextlib.contextmanager
    def _changing(self) -> Iterator[_File]:
        """Hold the lock of the accounts while they are read and written again."""
        with locked(self._path.with_suffix(".lock"), exclusive=True):
            yield self._read()

    def _put(self, held: _File, account: Account) -> None:
        self._write(held.model_copy(update={"accounts": {**held.accounts, account.name: account}}))

    def _write(self, held: _File) -> None:
        write_durably(self._path, canonical_json(held.model_dump(mode="json")))

    def _read(self) -> _File:
        try:
            return _File.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return _File()
        except OSError as error:
            raise storage_error(self._path, error) from None
        except ValidationError:
            raise StorageError(
                f"{self._path.name} is damaged, so nobody can sign in: move it away and add the accounts anew"
            ) from None


def _known(accounts: dict[str, Account], name: str) -> Account:
    if name not in accounts:
        raise AccountError(f"There is no account {name[:60]!a}: `archipel site account list` shows those there are.")
    return accounts[name]


def _is_locked(account: Account, now: datetime.datetime) -> bool:
    return account.is_locked or (account.locked_until is not None and now < account.locked_until)


def _after_try(account: Account, now: datetime.datetime) -> Account:
    """Return the account with one more try; a lock that is over starts the count anew."""
    before = 0 if account.locked_until is not None else account.failures
    failures = before + 1
    until = now + LOCKED_FOR if failures >= MOST_FAILURES else None
    return account.model_copy(update={"failures": failures, "locked_until": until})


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
