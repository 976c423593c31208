"""This site's ledger under the hub's signature: the head is sent soon after each append, and what comes back is kept.

A thread of the agent looks every few seconds whether the ledger has grown, also by another process of this site, and
sends count and hash, signed, with what the privacy budget has paid (`schemas.ledger_head`). No release waits for it.
A hub that is down is asked again later; one that knows nothing of it (an older one) is left in peace.

What comes back stands in ``state/countersigned.json``. From then on a ledger that no longer holds that entry is
broken: for `archipel site ledger verify`, and for the agent, which does not start. Where the hub shows a head that
this site itself has signed and that the ledger no longer reaches, the ledger was put back or cut off with everything
beside it, and the site pauses.
"""

from __future__ import annotations

import datetime
import json
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from client.hub_post import Post, hub_post
from client.peers import load_identity
from client.settings import load_settings
from client.state import SitePaths
from privacy.budget import Budget
from privacy.head_signature import (
    HeadSignatureError,
    judge_step,
    public_text,
    sign_head,
    verify_countersigned,
    verify_head,
)
from privacy.ledger import Head, LedgerBrokenError, head_path, read_head, verify_holds, verify_ledger
from privacy.storage import StorageError, storage_error, write_durably
from schemas.errors import ArchipelError, MessageError
from schemas.ledger_head import (
    HEAD_PATH,
    MAX_HEAD_BYTES,
    CountersignedHead,
    LedgerHead,
    SpentPrivacy,
    read_countersigned,
)
from schemas.processes import run_folder

__all__ = [
    "Countersigned", "HeadRefusedError", "keep_countersigned", "load_countersigned", "pinned_heads_key", "send_head",
    "stated_head", "verify_held",
]  # fmt: skip

log = logging.getLogger("archipel.site")

EVERY_S = 2.0
"""How often the thread looks at the ledger; also what several appends are gathered over."""

_LONGEST_WAIT_S = 15.0
_TROUBLE_FILE = "heads-trouble.txt"


class HeadRefusedError(ArchipelError):
    """A head that the hub does not countersign, or an answer to it that does not hold."""


@dataclass(frozen=True)
class Countersigned:
    """A sound ledger, and how far the hub has signed it.

    Attributes:
        head: Where it ends.
        count: Entries up to the countersigned head; 0 where none was.
        at: When the hub signed; None where it has not.
        trouble: Why nothing newer is countersigned, where that is known.
    """

    head: Head
    count: int
    at: datetime.datetime | None
    trouble: str = ""

    @property
    def sentence(self) -> str:
        """For people."""
        if self.at is None:
            return f"The hub has countersigned none of it yet. {self.trouble}".rstrip()
        how_far = "all of it" if self.count == self.head.count else f"it up to entry {self.count}"
        return f"The hub has countersigned {how_far} (on {self.at:%Y-%m-%d %H:%M:%S} UTC). {self.trouble}".rstrip()


def utc_now() -> datetime.datetime:
    """Return the time, with its zone."""
    return datetime.datetime.now(datetime.UTC)


# ---------------------------------------------------------------- what is kept
def load_countersigned(paths: SitePaths) -> CountersignedHead | None:
    """Return the newest head under both signatures, or None before the first.

    Raises:
        StorageError: When it cannot be read.
    """
    path = paths.countersigned
    try:
        return read_countersigned(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise storage_error(path, error) from None
    except MessageError:
        raise StorageError(
            f"state/{path.name} is damaged: move it away; the next contact with the hub brings it anew"
        ) from None


def verify_held(home: Path) -> Countersigned:
    """Check every line of the ledger, its chain, its own head, and that it holds the countersigned one.

    Raises:
        LedgerBrokenError: Naming what was changed, or how many entries are missing.
        StorageError: When something cannot be read.
    """
    paths = SitePaths(home)
    known = load_countersigned(paths)  # before the ledger, which grows
    found = verify_ledger(paths.ledger)
    if known is None:
        return Countersigned(found.head, 0, None, _trouble(home))
    verify_holds(paths.ledger, Head(known.head.count, known.head.hash))
    return Countersigned(found.head, known.head.count, known.at, _trouble(home))


def pinned_heads_key(home: Path) -> str | None:
    """Return the hub's public key for heads as the accepted kit named it; None where it named none."""
    try:
        found = json.loads((home / "keys" / "hub.json").read_bytes()).get("heads_public_key")
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    return found if isinstance(found, str) else None


# ---------------------------------------------------------------- what is sent
def stated_head(home: Path, now: datetime.datetime) -> LedgerHead:
    """Return where the ledger ends and what was spent, signed by this site.

    Raises:
        LedgerBrokenError, BudgetBrokenError, StorageError: When they cannot be read.
    """
    paths = SitePaths(home)
    head = read_head(paths.ledger)
    spent = _spent(paths)  # after the ledger: a charge comes before its entry, so this is never less
    identity = load_identity(paths)
    bare = LedgerHead(
        site=load_settings(home).name,
        count=head.count,
        hash=head.hash,
        spent=spent,
        issued=now,
        signed_by=public_text(identity),
    )
    return sign_head(bare, identity)


def _spent(paths: SitePaths) -> tuple[SpentPrivacy, ...]:
    if not paths.budget.exists():  # and looking must not make it
        return ()
    budget = Budget(paths.budget)
    try:
        found = [(name, *budget.spent(name)) for name in budget.datasets()]
    finally:
        budget.close()
    return tuple(SpentPrivacy(dataset=name, mu_squared=mu, releases=n) for name, mu, n in sorted(found))


def send_head(
    home: Path, post: Post | None = None, *, now: Callable[[], datetime.datetime] = utc_now
) -> CountersignedHead | None:
    """Have the ledger's head countersigned, and keep the hub's signature.

    Returns:
        What is kept now; None where the hub, or its kit, knows no key for heads, or the ledger is empty.

    Raises:
        HubCallError: When the hub does not answer.
        HeadRefusedError: When it refuses, or its answer does not hold.
        LedgerBrokenError: When it shows that this ledger has lost entries; the site is paused then.
        StorageError, BudgetBrokenError: When something cannot be read or written.
    """
    pinned = pinned_heads_key(home)
    if pinned is None:
        return None
    head = stated_head(home, now())
    if head.count == 0:
        return None
    answer = (post or hub_post(home))(HEAD_PATH, head.content, MAX_HEAD_BYTES)
    if answer.status == HTTPStatus.NOT_FOUND:
        return None
    if answer.status == HTTPStatus.CONFLICT:
        raise _conflict(home, head, answer.content, pinned, answer.sentence)
    if answer.status != HTTPStatus.OK:
        raise HeadRefusedError(answer.sentence)
    signed = _read(answer.content, pinned)
    if signed.head != head:
        raise HeadRefusedError("The hub countersigned another head than this site sent; it is not kept.")
    write_durably(SitePaths(home).countersigned, signed.content)
    return signed


def _conflict(home: Path, head: LedgerHead, content: bytes, pinned: str, sentence: str) -> ArchipelError:
    """Return what a refusal proves: that this ledger lost entries, if the hub can show what this site has signed."""
    paths = SitePaths(home)
    known = load_countersigned(paths)
    own = {head.signed_by} if known is None else {head.signed_by, known.head.signed_by}
    shown = _read(content, pinned)
    if shown.head.signed_by not in own or judge_step(shown.head, head) == "on":
        return HeadRefusedError(f"{sentence} It shows no head that this site has signed, so nothing follows from it.")
    try:
        verify_head(shown.head, shown.head.signed_by)
    except HeadSignatureError as error:
        return HeadRefusedError(str(error))
    write_durably(paths.countersigned, shown.content)
    paths.paused.touch(mode=0o600)
    return LedgerBrokenError(
        f"The ledger ends at entry {head.count}, and the hub shows this site's own signature under entry "
        f"{shown.head.count}: entries were lost or replaced, as when the site's folder is put back from a copy. "
        "The site is paused. Use `archipel site restore` with a backup, and tell your data protection officer."
    )


def _read(content: bytes, pinned: str) -> CountersignedHead:
    try:
        signed = read_countersigned(content)
        verify_countersigned(signed, pinned)
    except (MessageError, HeadSignatureError) as error:
        raise HeadRefusedError(f"The hub's answer to the ledger's head does not hold: {error}") from None
    return signed


# ---------------------------------------------------------------- in the background
def keep_countersigned(home: Path, *, every_s: float = EVERY_S) -> threading.Event:
    """Have the ledger countersigned now and after each growth, in a thread that ends with the process.

    Returns:
        What ends it sooner when it is set.
    """
    ended = threading.Event()
    threading.Thread(target=_stay_countersigned, args=(home, every_s, ended), name="heads", daemon=True).start()
    return ended


def _stay_countersigned(home: Path, every_s: float, ended: threading.Event) -> None:
    sent: tuple[int, int, int] | None = None
    said, wait_s = "", every_s
    while not ended.is_set():
        problem, stamp = "", _stamp(home)
        if stamp is not None and stamp != sent:
            try:
                sent, wait_s = (stamp, every_s) if send_head(home) is not None else (None, _LONGEST_WAIT_S)
            except ArchipelError as error:
                problem = str(error)
            except Exception as error:
                # Whatever it was: the rounds of a run go on, and the next try comes.
                problem = f"having the ledger countersigned failed ({type(error).__name__})"
            if problem:
                wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
            if problem != said:
                log.warning("the ledger's head: %s", problem or "countersigned again")
                _note(home, problem)
            said = problem
        ended.wait(wait_s)


def _stamp(home: Path) -> tuple[int, int, int] | None:
    """Return what changes with every append, whichever process made it."""
    try:
        status = head_path(SitePaths(home).ledger).stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _note(home: Path, sentence: str) -> None:
    """Leave what is in the way for `archipel site status`."""
    path = run_folder(home) / _TROUBLE_FILE
    if sentence:
        path.write_text(sentence, "utf-8")
    else:
        path.unlink(missing_ok=True)


def _trouble(home: Path) -> str:
    try:
        return (home / "run" / _TROUBLE_FILE).read_text("utf-8")
    except OSError:
        return ""
