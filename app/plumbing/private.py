"""Create folders and files that only their owner may read, whatever the umask: they hold patient data."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path

FILE_MODE, FOLDER_MODE = 0o600, 0o700
_MAKING = threading.Lock()


def make_folder(path: Path) -> None:
    """Create a folder and its missing parents; existing ones keep their mode. Raises OSError."""
    missing = [folder for folder in (path, *path.parents) if not os.path.lexists(folder)]
    for folder in reversed(missing):
        folder.mkdir(FOLDER_MODE, exist_ok=True)
    if not path.is_dir():
        raise FileExistsError(path)


def make_file(path: Path) -> None:
    """Create an empty file if there is none. Raises OSError.

    An existing file is not opened: closing it would release all locks of this process on it (POSIX),
    including SQLite's. For the same reason no thread may open a new file before this returns.
    """
    with _MAKING, suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE))
