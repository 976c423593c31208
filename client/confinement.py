"""What a process that computes for the hub may reach: the tables it was given, Python's code, and one pipe.

A step works on numbers that the hub chose. Should they ever turn a fault of a library into somebody's code, it finds
no network, no key, no ledger, nothing to write, no other process and no program to start (docs/adr/0014). The child
confines itself right after the fork, before it works, in an order of which each part needs the one before:

1. descriptors: all closed but standard input, output, error and its pipe; the agent's socket among them
2. no new privileges, no core file (it would hold patients' rows)
3. Landlock: files to read alone, no write anywhere
4. seccomp: no socket of any family, no program, no other process, no change of a file

The runner itself gives up every network but the agent's socket, and other programs, before it imports anything.

A kernel may lack either of the two (Landlock before Linux 5.13, or a container's runtime that refuses the calls). A
hospital with such a kernel can still take part: `lacking` says what is missing, and log, status and doctor repeat it.
What the kernel offers and then refuses is an error, and the request fails: confinement is never lost in silence.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
import resource
import sysconfig
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from client import landlock, seccomp

__all__ = ["ConfinementError", "Support", "confine_runner", "confine_step", "supported"]

_PACKAGES = ("schemas", "privacy", "models", "client")
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache", "/usr/share/zoneinfo")


class ConfinementError(Exception):
    """The kernel offers a protection and refused to give it."""


@dataclass(frozen=True)
class Support:
    """What this kernel, and the container around it, let a process give up.

    Attributes:
        landlock: Version of its interface, 0 for none.
        seccomp: Whether calls can be refused.
    """

    landlock: int
    seccomp: bool

    @property
    def lacking(self) -> tuple[str, ...]:
        """What a step is not protected by, each as a sentence with a remedy; empty where nothing is missing."""
        sentences = []
        if not self.landlock:
            sentences.append(
                "This kernel does not keep a step's process from reading files (Landlock is missing): it could read "
                "this site's keys. Use Linux 5.13 or newer with Landlock switched on, and a container runtime that "
                "lets landlock_create_ruleset pass."
            )
        if not self.seccomp:
            sentences.append(
                "This kernel does not keep a step's process from the network (seccomp filters are missing, or the "
                "machine is neither x86_64 nor aarch64): a firewall around this machine has to."
            )
        return tuple(sentences)


@cache
def supported() -> Support:
    """Return what this kernel offers."""
    if platform.system() != "Linux":
        return Support(0, seccomp=False)
    return Support(landlock.abi(), seccomp.is_available())


def confine_runner(home: Path) -> None:
    """Give up every network but Unix sockets, and other programs, for the process that waits for the agent.

    Args:
        home: The site's folder.

    Raises:
        ConfinementError: When the kernel refuses what it offers.
    """
    try:
        seccomp.forget_privileges()
        if supported().seccomp:
            seccomp.install(seccomp.Rules.of_runner())
        _code_rules(home)  # each child then finds them in memory
    except OSError as error:
        raise ConfinementError(f"{error.strerror} was refused") from None


def confine_step(home: Path, reads: Sequence[Path], pipe: int) -> None:
    """Give up everything that a step does not need, for good.

    Args:
        home: The site's folder, of which nothing stays readable but what `reads` names.
        reads: Files that may be read; of a folder, what it holds may be listed.
        pipe: Descriptor to the runner.

    Raises:
        ConfinementError: When the kernel refuses what it offers, or a second thread would stay outside.
    """
    found = supported()
    try:
        _close_all_but(pipe)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        seccomp.forget_privileges()
        if found.landlock:
            if len(os.listdir("/proc/self/task")) != 1:
                raise ConfinementError("more than one thread")
            landlock.restrict([*_code_rules(home), *_rules(reads)])
        if found.seccomp:
            seccomp.install(seccomp.Rules.of_step(os.getpid()))
    except OSError as error:
        raise ConfinementError(f"{error.strerror} was refused") from None


def _close_all_but(pipe: int) -> None:
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) != pipe:
            with contextlib.suppress(OSError):  # the listing's own, closed already
                os.close(int(name))


def _rules(reads: Iterable[Path]) -> list[tuple[Path, int]]:
    return [(path, landlock.READ_FOLDER if path.is_dir() else landlock.READ_FILE) for path in reads]


@cache
def _code_rules(home: Path) -> tuple[tuple[Path, int], ...]:
    """Return Python and its libraries; a folder that holds the site's own is left out, its code is loaded already."""
    keep = home.resolve()
    both = landlock.READ_FILE | landlock.READ_FOLDER
    return tuple(
        (path, both if path.is_dir() else landlock.READ_FILE)
        for path in code_folders()
        if not keep.is_relative_to(path)
    )


@cache
def code_folders() -> tuple[Path, ...]:
    """Return where code lies that a step may still have to load: Python's, the installed packages, ours.

    Not `sys.path`, whose first entry is the folder in which somebody started the site, perhaps the one around it.
    """
    paths = sysconfig.get_paths()
    found = [Path(paths[key]) for key in ("stdlib", "platstdlib", "purelib", "platlib")]
    for name in _PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            found.append(Path(spec.origin).parent)
    found += [Path(path) for path in _LIBRARIES]
    return tuple(sorted({path.resolve() for path in found if path.exists()}))
