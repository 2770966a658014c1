"""Folders and files that only their owner may read, whatever the umask: a lake is about patients."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path

FILE_MODE, FOLDER_MODE = 0o600, 0o700
_MAKING = threading.Lock()


def make_folder(path: Path) -> None:
    """Make a folder and those above it that are missing; what is there stays as it is. Raises OSError."""
    missing = [folder for folder in (path, *path.parents) if not os.path.lexists(folder)]
    for folder in reversed(missing):
        folder.mkdir(FOLDER_MODE, exist_ok=True)
    if not path.is_dir():
        raise FileExistsError(path)


def make_file(path: Path) -> None:
    """Make an empty file where there is none. Raises OSError.

    One that is there is not opened: closing it again would end all locks that this process has on it (POSIX),
    including SQLite's. For the same reason no thread opens a new one before this is done.
    """
    with _MAKING, suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE))
