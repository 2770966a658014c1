"""Confine a worker: it turns bytes into values, so it needs almost nothing of the kernel. Linux only.

    close_files: Landlock; only the named folders, no connections, no signals to unconfined processes
    close_calls: seccomp; only the system calls of CALLS and CHECKED, others fail as on a kernel without them

Both apply to a process and its children, also to root, and cannot be undone. A means that the kernel offers
must work, so a process that cannot confine itself ends; one that it does not offer (`offered`) is skipped.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)

PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 22, 38, 2
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446
LANDLOCK_VERSION, LANDLOCK_PATH_BENEATH = 1, 1
READ_FILE_AND_FOLDER = 1 << 2 | 1 << 3
FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}
"""Number of rights over files in Landlock, by version; 16 from the fifth on."""

ALLOW, FAIL, KILL = 0x7FFF0000, 0x00050000, 0x80000000
LOAD, IF_EQUAL, IF_ANY_BIT, RETURN = 0x20, 0x15, 0x45, 0x06
ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""AUDIT_ARCH_ of what CALLS has numbers for, and which of them."""
NUMBER_AT, ARCHITECTURE_AT, ARGUMENTS_AT = 0, 4, 16

# fmt: off
CALLS: Mapping[str, Numbers] = {
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67),
    "close": (3, 57), "lseek": (8, 62), "dup": (32, 23), "poll": (7, None),
    "ppoll": (271, 73), "sendto": (44, 206), "recvfrom": (45, 207), "sendmsg": (46, 211),
    "recvmsg": (47, 212), "stat": (4, None), "lstat": (6, None), "fstat": (5, 80), "access": (21, None),
    "newfstatat": (262, 79), "statx": (332, 291), "faccessat": (269, 48), "faccessat2": (439, 439),
    "readlink": (89, None), "readlinkat": (267, 78), "getdents64": (217, 61), "getcwd": (79, 17),
    "mmap": (9, 222), "munmap": (11, 215), "mremap": (25, 216), "mprotect": (10, 226), "brk": (12, 214),
    "madvise": (28, 233), "futex": (202, 98), "set_robust_list": (273, 99), "rseq": (334, 293),
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132), "restart_syscall": (219, 128), "nanosleep": (35, 101),
    "clock_gettime": (228, 113), "clock_getres": (229, 114), "clock_nanosleep": (230, 115),
    "gettimeofday": (96, 169), "time": (201, None), "times": (100, 153), "getrusage": (98, 165),
    "getpid": (39, 172), "getppid": (110, 173), "gettid": (186, 178), "getuid": (102, 174),
    "geteuid": (107, 175), "getgid": (104, 176), "getegid": (108, 177), "uname": (63, 160),
    "sysinfo": (99, 179), "getcpu": (309, 168), "sched_yield": (24, 124), "getrlimit": (97, 163),
    "sched_getaffinity": (204, 123), "getrandom": (318, 278), "exit": (60, 93), "exit_group": (231, 94),
}
# fmt: on
"""System calls for reading, answering, memory, facts about files and the process, and ending; their numbers
on x86_64 and aarch64."""
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
DESCRIPTORS = (0, 1, 2, 3, 1030)
"""Commands of fcntl: duplicate, get and set descriptor flags, get status flags, duplicate (close on exec)."""
TCGETS = 0x5401  # how a library asks whether a file is a terminal

Instruction = tuple[int, int, int, int]
"""Instruction of the kernel's filter machine: code, jumps if true and if false, operand."""
Numbers = tuple[int | None, int | None]
"""Numbers of one system call, as in CALLS."""
Test = tuple[int, int, *tuple[int, ...]]
"""Test of an argument: place of the word, kind of test, values it may equal or bits it must lack."""


def offered() -> tuple[str, ...]:
    """Return the means of this module that the system has: `landlock`, `seccomp`."""
    found = ("landlock",) if _landlock_version() > 0 else ()
    return (*found, "seccomp") if _filters() else found


def close_files(readable: Iterable[Path]) -> None:
    """Let this process read only below these folders, and reach no other process; raises OSError."""
    version = _landlock_version()
    if version <= 0:
        return
    rights = struct.pack("QQQ", (1 << FILE_RIGHTS.get(version, 16)) - 1, 0b11, 0b11)
    known = rights[: 8 if version < 4 else 16 if version < 6 else 24]
    ruleset = _call(LANDLOCK_CREATE_RULESET, known, len(known), 0)
    for folder in set(filter(os.path.isdir, readable)):  # is_dir() raises for what is forbidden
        descriptor = os.open(folder, os.O_PATH | os.O_CLOEXEC)
        beneath = struct.pack("=Qi", READ_FILE_AND_FOLDER, descriptor)
        _call(LANDLOCK_ADD_RULE, ruleset, LANDLOCK_PATH_BENEATH, beneath, 0)
        os.close(descriptor)
    _no_new_privileges()
    _call(LANDLOCK_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


def close_calls() -> None:
    """Leave this process the system calls it needs for its work; raises OSError."""
    if not _filters():
        return
    program = b"".join(struct.pack("HBBI", *instruction) for instruction in _filter(os.getpid()))
    held = ctypes.create_string_buffer(program)
    counted = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(held))
    _no_new_privileges()
    if _prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, counted):
        raise OSError(ctypes.get_errno(), "seccomp")


def _filter(pid: int) -> list[Instruction]:
    """Return the program that the kernel runs before each system call of a process."""
    architecture, which = ARCHITECTURES[platform.machine()]
    unknown = (RETURN, 0, 0, FAIL | errno.ENOSYS)  # as on a kernel too old for it, which libraries expect
    program: list[Instruction] = [
        (LOAD, 0, 0, ARCHITECTURE_AT),
        (IF_EQUAL, 1, 0, architecture),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER_AT),
    ]
    for numbers in CALLS.values():
        if (number := numbers[which]) is not None:
            program += [(IF_EQUAL, 0, 1, number), (RETURN, 0, 0, ALLOW)]
    for numbers, *tests in _checked(pid):
        if (number := numbers[which]) is not None:
            body = [instruction for test in tests for instruction in _required(*test)]
            program += [(IF_EQUAL, 0, len(body) + 1, number), *body, (RETURN, 0, 0, ALLOW)]
    return [*program, unknown]


def _required(at: int, test: int, *values: int) -> list[Instruction]:
    """Return instructions that refuse a call unless the word at this place passes the test for one value."""
    left = range(len(values), 0, -1)  # to pass over, with the refusal
    tests = [
        (test, 0, over, value) if test == IF_ANY_BIT else (test, over, 0, value)
        for over, value in zip(left, values, strict=True)
    ]
    return [(LOAD, 0, 0, at), *tests, (RETURN, 0, 0, FAIL | errno.EPERM)]


def _checked(pid: int) -> Iterable[tuple[Numbers, *tuple[Test, ...]]]:
    """Return calls that depend on arguments: numbers, then their tests; a pointer has two words."""
    yield (2, None), (_argument(1), IF_ANY_BIT, WRITING)  # open
    yield (257, 56), (_argument(2), IF_ANY_BIT, WRITING)  # openat
    yield (62, 129), (_argument(0), IF_EQUAL, pid)  # kill
    yield (234, 131), (_argument(0), IF_EQUAL, pid)  # tgkill, as abort() needs it
    yield (16, 29), (_argument(1), IF_EQUAL, TCGETS)  # ioctl
    yield (72, 25), (_argument(1), IF_EQUAL, *DESCRIPTORS)  # fcntl: others have signals sent
    # prlimit64, to ask but not to set
    yield (302, 261), (_argument(2), IF_EQUAL, 0), (_argument(2) + 4, IF_EQUAL, 0)


def _argument(index: int) -> int:
    return ARGUMENTS_AT + 8 * index


def _landlock_version() -> int:
    if platform.system() != "Linux":
        return 0
    return _syscall(LANDLOCK_CREATE_RULESET, None, 0, LANDLOCK_VERSION)


def _filters() -> bool:
    """Return whether the kernel accepts filters: then it answers a null filter with EFAULT, not EINVAL."""
    known = platform.machine() in ARCHITECTURES and ctypes.sizeof(ctypes.c_void_p) == 8
    if platform.system() != "Linux" or not known:
        return False
    return _prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, None) != 0 and ctypes.get_errno() == errno.EFAULT


def _no_new_privileges() -> None:
    if _prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no_new_privs")


def _call(number: int, *arguments: int | bytes | None) -> int:
    found = _syscall(number, *arguments)
    if found < 0:
        raise OSError(ctypes.get_errno(), "landlock")
    return found


def _syscall(*arguments: int | bytes | None) -> int:
    return int(_libc.syscall(*map(_long, arguments)))


def _prctl(*arguments: int | bytes | None) -> int:
    return int(_libc.prctl(*map(_long, arguments)))


def _long(argument: int | bytes | None) -> object:
    """Return a number as wide as the kernel reads it: ctypes cannot know that for variadic functions."""
    return ctypes.c_long(argument) if isinstance(argument, int) else argument
