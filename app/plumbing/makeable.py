"""Check whether a folder or a database in the settings is usable, without creating or changing it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from stat import S_ISDIR

from app.model.errors import ConfigError


def check_makeable(folder: Path) -> None:
    """Raise the OSError or ValueError that creating the folder and its parents would raise, if any."""
    there = folder
    while True:
        try:
            is_folder = S_ISDIR(os.stat(there).st_mode)
            break
        except FileNotFoundError:
            if os.path.islink(there):
                raise FileExistsError from None
            there = there.parent
    if not is_folder:
        raise FileExistsError if there == folder else NotADirectoryError
    if there != folder and not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError


@contextmanager
def looking(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a database for reading, or an empty one if it is missing; sqlite3.Error if it is none.

    Without a log file nobody is writing to it; `immutable` then keeps SQLite from creating a log.
    """
    if os.path.isdir(path):
        raise ConfigError(f"{path} is a folder; a database needs a file")
    if not os.path.lexists(path):
        uri = "file::memory:"
    else:
        in_use = all(os.path.exists(f"{path}{end}") for end in ("-wal", "-shm"))
        uri = f"{path.absolute().as_uri()}?mode=ro{'' if in_use else '&immutable=1'}"
    with closing(sqlite3.connect(uri, uri=True, timeout=1.0)) as connection:
        connection.execute("SELECT count(*) FROM sqlite_master")
        yield connection
    if os.path.exists(path) and not os.access(path, os.W_OK):
        raise ConfigError(f"{path} cannot be written; give this user the right to write the file")
