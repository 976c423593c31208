"""The list of a wide layer's features: one identifier a line, so that every site and every plan means the same ones.

    # genome-build: GRCh38
    TP53
    ERBB2

Lines that start with ``#`` are remarks; the one shown is read. The order of the lines is the order of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import Fault, FaultsError

_BUILD = "# genome-build:"
_MAX_BYTES = 20 << 20


@dataclass(frozen=True)
class Features:
    """What a features file says.

    Attributes:
        identifiers: In the order of the file.
        genome_build: Empty where the file names none.
    """

    identifiers: tuple[str, ...]
    genome_build: str = ""


def read_features(path: Path) -> Features:
    """Read a features file.

    Raises:
        FaultsError: When it is no text, too large, or lists nothing or something twice.
    """
    if path.stat().st_size > _MAX_BYTES:
        raise FaultsError(str(path), [Fault("the file", f"has more than {_MAX_BYTES >> 20} MB", "one name a line")])
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise FaultsError(str(path), [Fault("the file", "is not UTF-8 text", "one identifier a line")]) from None
    build = next((line[len(_BUILD) :].strip() for line in lines if line.lower().startswith(_BUILD)), "")
    seen: dict[str, int] = {}
    faults: list[Fault] = []
    for number, line in enumerate(lines, start=1):
        name = line.strip()
        if not name or name.startswith("#"):
            continue
        if name in seen:
            faults.append(Fault(f"line {number}", f"repeats line {seen[name]}", "remove one of them"))
        seen.setdefault(name, number)
    if not seen:
        faults.append(Fault("the file", "lists no feature", "one identifier a line"))
    if faults:
        raise FaultsError(str(path), faults)
    return Features(tuple(seen), build)


def write_features(path: Path, identifiers: Sequence[str], genome_build: str = "") -> None:
    """Write a features file that `read_features` reads back."""
    head = [f"{_BUILD} {genome_build}"] if genome_build else []
    path.write_text("\n".join([*head, *identifiers]) + "\n", encoding="utf-8")
