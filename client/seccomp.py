"""Which calls to the kernel a process of a site gives up, as a program that the kernel runs before each of them.

A seccomp filter (Linux `Documentation/userspace-api/seccomp_filter.rst`) is a classic BPF program over the number
and the arguments of a call. `program` is pure: rules in, instructions out; `install` hands it to the kernel, after
which neither the process nor a thread or child of it can take it back.

The lists name what is refused, and everything else stays allowed. The other way round would be stricter, and would
break a site with each new release of NumPy, Arrow or torch that asks for a harmless call. What is refused is chosen
by what it would open: a way out (sockets, other programs), another process (ptrace, its memory, signals), the
machine (mounts, modules, keyrings), a second interface to all of these (io_uring), and in a step also every change
of a file. A refused call fails with EPERM, which a library meets like any other failure; a call under another
architecture's numbers ends the process.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

__all__ = ["ARCHITECTURES", "Rules", "forget_privileges", "install", "is_available", "program"]

ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""Machine -> (column of `_NUMBERS`, AUDIT_ARCH value that the kernel reports)."""

_SOCKETS_BUT_UNIX = {
    "socketpair": (53, 199), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201), "accept": (43, 202),
    "accept4": (288, 242), "sendto": (44, 206), "sendmsg": (46, 211), "sendmmsg": (307, 269), "recvfrom": (45, 207),
    "recvmsg": (47, 212), "recvmmsg": (299, 243),
}  # fmt: skip
_PROGRAMS = {"execve": (59, 221), "execveat": (322, 281)}
_NEW_PROCESSES = {"fork": (57, None), "vfork": (58, None)}
_OTHER_PROCESSES = {
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "process_madvise": (440, 440), "process_mrelease": (448, 448), "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424), "kcmp": (312, 272), "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
}  # fmt: skip
_MACHINE = {
    # io_uring makes the same calls by another door, which no filter sees.
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "unshare": (272, 97),
    "setns": (308, 268), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106), "kexec_load": (246, 104),
    "kexec_file_load": (320, 294), "reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171), "clock_adjtime": (305, 266),
    "acct": (163, 89), "quotactl": (179, 60), "quotactl_fd": (443, 443), "syslog": (103, 116),
    "fanotify_init": (300, 262), "iopl": (172, None), "ioperm": (173, None),
}  # fmt: skip
_SHARED_MEMORY = {
    "shmget": (29, 194), "shmat": (30, 196), "semget": (64, 190), "semop": (65, 193), "semtimedop": (220, 192),
    "msgget": (68, 186), "msgsnd": (69, 189), "msgrcv": (70, 188), "mq_open": (240, 180), "mq_unlink": (241, 181),
}  # fmt: skip
# Landlock refuses most of these too; owners, modes, times and attributes it leaves alone.
_FILE_CHANGES = {
    "creat": (85, None), "truncate": (76, 45), "ftruncate": (77, 46), "fallocate": (285, 47),
    "mkdir": (83, None), "mkdirat": (258, 34), "mknod": (133, None),
    "mknodat": (259, 33), "unlink": (87, None), "unlinkat": (263, 35), "rmdir": (84, None), "rename": (82, None),
    "renameat": (264, 38), "renameat2": (316, 276), "link": (86, None), "linkat": (265, 37), "symlink": (88, None),
    "symlinkat": (266, 36), "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452),
    "chown": (92, None), "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54), "setxattr": (188, 5),
    "lsetxattr": (189, 6), "fsetxattr": (190, 7), "setxattrat": (463, 463), "removexattr": (197, 14),
    "lremovexattr": (198, 15), "fremovexattr": (199, 16), "removexattrat": (466, 466), "utime": (132, None),
    "utimes": (235, None), "utimensat": (280, 88), "futimesat": (261, None),
}  # fmt: skip
_LOOKED_AT = {
    "socket": (41, 198), "clone": (56, 220), "kill": (62, 129), "tgkill": (234, 131), "prlimit64": (302, 261),
    "open": (2, None), "openat": (257, 56), "fcntl": (72, 25), "ioctl": (16, 29),
}  # fmt: skip
# Their arguments lie in memory, which a filter cannot read; the C library then takes the older call.
_ABSENT = {"clone3": (435, 435), "openat2": (437, 437)}
_NUMBERS: dict[str, tuple[int | None, int | None]] = {
    **_SOCKETS_BUT_UNIX, **_PROGRAMS, **_NEW_PROCESSES, **_OTHER_PROCESSES, **_MACHINE, **_SHARED_MEMORY,
    **_FILE_CHANGES, **_LOOKED_AT, **_ABSENT,
}  # fmt: skip

_AF_UNIX = 1
_CLONE_THREAD = 0x10000
_CHANGES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_SIGNALS_BY_FILE = {"fcntl": (8, 10, 15), "ioctl": (0x8901, 0x8902)}
"""F_SETOWN, F_SETSIG, F_SETOWN_EX, FIOSETOWN, SIOCSPGRP: a signal to any process once a descriptor is ready."""
_TYPING = {"ioctl": (0x5412, 0x541C)}
"""TIOCSTI, TIOCLINUX: characters as if somebody had typed them at the terminal."""
_X32 = 0x4000_0000  # x86_64's second numbering of the same calls

_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_LOAD, _EQUAL, _AT_LEAST, _BITS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16

Instruction = tuple[int, int, int, int]
"""(code, jump if true, jump if false, constant) of `struct sock_filter`."""


@dataclass(frozen=True)
class Rules:
    """What a process gives up.

    Attributes:
        refused: Calls that fail with EPERM whatever their arguments.
        absent: Calls that fail with ENOSYS.
        unix_sockets_only: Whether `socket` stays allowed for sockets on this machine.
        own_process: Signals, limits and threads are for this process id alone, which may start no other.
        is_reading_only: Files may be opened for reading alone.
    """

    refused: tuple[str, ...]
    absent: tuple[str, ...] = ()
    unix_sockets_only: bool = False
    own_process: int | None = None
    is_reading_only: bool = False

    @classmethod
    def of_runner(cls) -> Rules:
        """Return what the runner gives up at its start: every network but the agent's socket, and other programs."""
        return cls((*_PROGRAMS, *_OTHER_PROCESSES, *_MACHINE), unix_sockets_only=True)

    @classmethod
    def of_step(cls, process: int) -> Rules:
        """Return what the child gives up that computes one step."""
        return cls(
            (
                "socket", *_SOCKETS_BUT_UNIX, *_PROGRAMS, *_NEW_PROCESSES, *_OTHER_PROCESSES, *_MACHINE,
                *_SHARED_MEMORY, *_FILE_CHANGES,
            ),
            absent=tuple(_ABSENT),
            own_process=process,
            is_reading_only=True,
        )  # fmt: skip


def program(rules: Rules, machine: str) -> list[Instruction]:
    """Return the filter for one architecture.

    Args:
        rules: What is given up.
        machine: Of `ARCHITECTURES`.
    """
    column, architecture = ARCHITECTURES[machine]
    code: list[Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER_AT),
    ]
    if machine == "x86_64":
        code += [(_AT_LEAST, 0, 1, _X32), _fails(errno.EPERM)]

    def add(name: str, verdict: list[Instruction]) -> None:
        number = _NUMBERS[name][column]
        if number is not None:
            code.extend([(_EQUAL, 0, len(verdict), number), *verdict])

    for name in rules.refused:
        add(name, [_fails(errno.EPERM)])
    for name in rules.absent:
        add(name, [_fails(errno.ENOSYS)])
    if rules.unix_sockets_only:
        add("socket", _allowed_if(_EQUAL, 0, _AF_UNIX))
    if rules.own_process is not None:
        add("clone", _allowed_if(_BITS, 0, _CLONE_THREAD))
        add("kill", _allowed_if(_EQUAL, 0, rules.own_process))
        add("tgkill", _allowed_if(_EQUAL, 0, rules.own_process))
        add("prlimit64", _allowed_if(_EQUAL, 0, 0))
        for name in ("fcntl", "ioctl"):
            add(name, _refused_if_one_of(1, _SIGNALS_BY_FILE[name] + _TYPING.get(name, ())))
    if rules.is_reading_only:
        add("open", _refused_if_bits(1, _CHANGES))
        add("openat", _refused_if_bits(2, _CHANGES))
    return [*code, (_RETURN, 0, 0, _ALLOW)]


def _fails(number: int) -> Instruction:
    return (_RETURN, 0, 0, _ERRNO | number)


def _argument(position: int) -> Instruction:
    # The lower half of 64 bits on little-endian machines, all that the kernel reads of an int.
    return (_LOAD, 0, 0, _ARGUMENTS_AT + 8 * position)


def _allowed_if(test: int, position: int, value: int) -> list[Instruction]:
    return [_argument(position), (test, 0, 1, value), (_RETURN, 0, 0, _ALLOW), _fails(errno.EPERM)]


def _refused_if_bits(position: int, bits: int) -> list[Instruction]:
    return [_argument(position), (_BITS, 0, 1, bits), _fails(errno.EPERM), (_RETURN, 0, 0, _ALLOW)]


def _refused_if_one_of(position: int, values: Sequence[int]) -> list[Instruction]:
    tests: list[Instruction] = []
    for value in values:
        tests += [(_EQUAL, 0, 1, value), _fails(errno.EPERM)]
    return [_argument(position), *tests, (_RETURN, 0, 0, _ALLOW)]


# ---------------------------------------------------------------- effects
_PR_SET_NO_NEW_PRIVS, _PR_GET_SECCOMP = 38, 21
_SET_FILTER, _ACTION_AVAILABLE, _ALL_THREADS = 1, 2, 1
_SECCOMP_CALL = {"x86_64": 317, "aarch64": 277}


def is_available() -> bool:
    """Return whether this kernel takes filters, and this module knows its architecture."""
    machine = platform.machine()
    if machine not in ARCHITECTURES or _libc().prctl(_PR_GET_SECCOMP, 0, 0, 0, 0) < 0:
        return False
    action = ctypes.c_uint32(_ERRNO)
    return int(_libc().syscall(_SECCOMP_CALL[machine], _ACTION_AVAILABLE, 0, ctypes.byref(action))) == 0


def forget_privileges() -> None:
    """Promise the kernel that nothing this process starts gains rights; a filter or a ruleset needs it.

    Raises:
        OSError: When the kernel refuses.
    """
    if _libc().prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_NO_NEW_PRIVS)")


def install(rules: Rules) -> None:
    """Hand the rules to the kernel, for all threads of this process and for good.

    Raises:
        OSError: When the kernel refuses.
    """
    machine = platform.machine()
    content = _packed(program(rules, machine))
    buffer = ctypes.create_string_buffer(content, len(content))
    head = struct.pack("@HP", len(content) // 8, ctypes.addressof(buffer))
    if _libc().syscall(_SECCOMP_CALL[machine], _SET_FILTER, _ALL_THREADS, ctypes.c_char_p(head)) != 0:
        raise OSError(ctypes.get_errno(), "seccomp")


def _packed(code: Iterable[Instruction]) -> bytes:
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in code)


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
