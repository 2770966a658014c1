"""Translate hints of the operating system into names below the root."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
IN_DELETE_SELF = 0x400


def must_poll() -> bool:
    """Return whether hints must come from scans, as for Windows drives in WSL.

    A scan cannot tell a removal from an unmounted disk.
    """
    if sys.platform != "linux":
        return False
    if "microsoft-standard" in platform.release().lower() or not hasattr(LIBC, "inotify_init1"):
        return True
    descriptor = LIBC.inotify_init1(os.O_CLOEXEC)
    if descriptor < 0:
        return ctypes.get_errno() == errno.ENOSYS
    os.close(descriptor)
    return False


def used_up(root: Path) -> bool:
    """Return whether Linux grants this user no further watch: the library then silently skips folders."""
    if not hasattr(LIBC, "inotify_init1"):
        return False
    descriptor = LIBC.inotify_init1(os.O_CLOEXEC)
    if descriptor < 0:
        return False
    try:
        watch = LIBC.inotify_add_watch(descriptor, os.fsencode(root), IN_DELETE_SELF)
        return watch < 0 and ctypes.get_errno() == errno.ENOSPC
    finally:
        os.close(descriptor)


def below(root: Path, path: str) -> str | None:
    """Return the name below the root that a hint means, "" for the root itself, None for a path outside.

    The library follows links, so a path may lead through one.
    """
    folder, name = os.path.split(path)
    real = Path(os.path.realpath(folder), name)
    if not real.is_relative_to(root):
        return None
    return "" if real == root else real.relative_to(root).as_posix()


def folders(name: str) -> Iterator[str]:
    """Yield a name as a folder, with a slash at its end, and all folders above it."""
    while name:
        yield f"{name}/"
        name = name.rpartition("/")[0]
