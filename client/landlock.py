"""Which files a process may still reach, by Landlock (Linux 5.13, `Documentation/userspace-api/landlock.rst`).

A ruleset handles rights; a handled right is refused everywhere but beneath the paths that a rule names. Kernels know
different rights, told by their ABI: what one does not know is left out, as the documentation advises, and the
process still gives up the rest. Nothing can be taken back, and children inherit it.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable
from functools import cache
from pathlib import Path

__all__ = ["READ_FILE", "READ_FOLDER", "abi", "restrict", "rights_of"]

READ_FILE = 1 << 2
READ_FOLDER = 1 << 3
_FIRST_RIGHTS = (1 << 13) - 1  # execute, write, read, list, remove and make of every kind
_REFER, _TRUNCATE, _DEVICE = 1 << 13, 1 << 14, 1 << 15
_TCP = (1 << 0) | (1 << 1)  # bind, connect
_SCOPES = (1 << 0) | (1 << 1)  # abstract Unix sockets and signals of processes outside
_PATH_BENEATH = 1
_CREATE, _ADD_RULE, _RESTRICT = 444, 445, 446  # the same on every architecture
_ASK_VERSION = 1


def abi() -> int:
    """Return which Landlock this kernel has, 0 for none (too old, switched off, or refused by a container)."""
    return max(0, int(_libc().syscall(_CREATE, None, ctypes.c_size_t(0), _ASK_VERSION)))


def rights_of(version: int) -> tuple[int, int, int]:
    """Return what a kernel can refuse: rights to files, to TCP, and reach to other processes.

    Args:
        version: As `abi` says.
    """
    files = _FIRST_RIGHTS
    for since, right in ((2, _REFER), (3, _TRUNCATE), (5, _DEVICE)):
        if version >= since:
            files |= right
    return files, _TCP if version >= 4 else 0, _SCOPES if version >= 6 else 0


def restrict(allowed: Iterable[tuple[Path, int]]) -> None:
    """Give up every right to files but the ones named, for this thread and what it starts; all TCP too.

    Args:
        allowed: Paths, links followed, with `READ_FILE`, `READ_FOLDER` or both; what is not there is left out.

    Raises:
        OSError: When the kernel refuses.
    """
    files, network, scopes = rights_of(abi())
    head = ctypes.c_char_p(struct.pack("<QQQ", files, network, scopes))
    ruleset = _called(_CREATE, head, ctypes.c_size_t(24), 0)
    try:
        for path, rights in allowed:
            _allow(ruleset, path, rights)
        _called(_RESTRICT, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: Path, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, PermissionError):  # what is out of reach needs no rule
        return
    try:
        rule = ctypes.c_char_p(struct.pack("<Qi", rights, descriptor))
        _called(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0)
    finally:
        os.close(descriptor)


def _called(number: int, *arguments: object) -> int:
    result = int(_libc().syscall(number, *arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), f"landlock ({number})")
    return result


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
