"""The list of patients who opted out: `optout.txt`, one identifier a line, `#` before a remark.

It takes effect when a run starts and never inside one, because two sums that differ by one patient show that
patient. A list that cannot be read stops the site: leaving it out would use the data of those who said no.
"""

from __future__ import annotations

import re
from pathlib import Path

from schemas.errors import Fault, FaultsError

__all__ = ["OPTOUT_FILE", "load_optout"]

OPTOUT_FILE = "optout.txt"
_REMARK = re.compile(r"(^|\s)#.*$")
_MAX_BYTES = 1 << 26


def load_optout(path: Path) -> frozenset[str]:
    """Return the identifiers of the list; an absent file is an empty list.

    Raises:
        FaultsError: When the file is not a list of identifiers; with lines, without any identifier.
    """
    try:
        if path.exists() and path.stat().st_size > _MAX_BYTES:
            raise FaultsError(path.name, [Fault(path.name, "is larger than 64 MiB", "one identifier on each line")])
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        return frozenset()
    except OSError as error:
        fault = Fault(path.name, f"cannot be read ({error.strerror})", "check the file's permissions")
        raise FaultsError(path.name, [fault]) from None
    except UnicodeDecodeError:
        raise FaultsError(path.name, [Fault(path.name, "is not UTF-8 text", "save it as UTF-8")]) from None
    identifiers: set[str] = set()
    faults: list[Fault] = []
    for number, line in enumerate(text.splitlines(), start=1):
        identifier = _REMARK.sub("", line).strip()
        found = _fault(f"{path.name} line {number}", identifier)
        if found is not None:
            faults.append(found)
        elif identifier:
            identifiers.add(identifier)
    if faults:
        raise FaultsError(path.name, faults)
    return frozenset(identifiers)


def _fault(where: str, identifier: str) -> Fault | None:
    """Return what keeps a line from naming one patient of the tables."""
    if any(ord(character) < 32 or ord(character) == 127 for character in identifier):
        return Fault(where, "holds a tab or another control character", "one identifier on each line")
    if identifier[:1] in "\"'" and len(identifier) > 1 and identifier[-1] == identifier[0]:
        return Fault(where, "is quoted", "write the identifier without quotes")
    if identifier[-1:] in (",", ";"):
        return Fault(where, "ends in a delimiter", "one identifier on each line, and nothing else")
    return None
