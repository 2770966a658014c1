"""A lake of an older release, which kept the queue and the index in the warehouse's file `lake.db`."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from pathlib import Path

from app.bus.local.bus import lock_queue
from app.bus.local.queue import MOVED, copy_queue, drop_queue
from app.model.errors import BusUnavailable
from app.plumbing.sqlite import connect, sqlite_errors, transaction
from app.storage.local.generations import copy_index, drop_index

BEFORE, NOW = "lake.db", "queue.db"
"""Names of the file that held these tables by default and of the one that does; both are in one folder."""

QUEUE_COLUMNS = frozenset(MOVED.split(", "))
INDEX_COLUMNS = frozenset(("root", "name", "generation", "mtime_ns", "size", "inode", "ctime_ns", "live"))


def move_queue(path: Path) -> None:
    """Move the queue and the index to `path`, if it has the default name, from the `lake.db` beside it.

    Both are committed there before they are dropped here, and nobody uses the new file before that: a move
    that was cut off is repeated, and adds only what is missing. The transaction on the old file keeps others
    waiting meanwhile. Raises ConfigError while a service of an older release serves the old one.
    """
    path = path.absolute()
    before = path.with_name(BEFORE)
    if path.name != NOW or not before.is_file():
        return
    with _errors(before, path), closing(connect(before)) as old:
        if not _has_queue(old) and not _has_index(old):
            return
        with transaction(old), _locked(before):
            with closing(connect(path)) as new, transaction(new):
                if has_queue := _has_queue(old):
                    copy_queue(old, new)
                if has_index := _has_index(old):
                    copy_index(old, new)
            if has_queue:
                drop_queue(old)
            if has_index:
                drop_index(old)


def _has_queue(connection: sqlite3.Connection) -> bool:
    return _columns(connection, "queue") >= QUEUE_COLUMNS


def _has_index(connection: sqlite3.Connection) -> bool:
    return _columns(connection, "landing") >= INDEX_COLUMNS


def _columns(connection: sqlite3.Connection, table: str) -> set[str]:
    return {name for (name,) in connection.execute("SELECT name FROM pragma_table_info(?)", (table,))}


@contextmanager
def _locked(queue: Path) -> Iterator[None]:
    """Keep services of an older release from serving the queue; its lock goes with it."""
    lock = lock_queue(queue)
    try:
        yield
        with suppress(OSError):
            queue.with_name(f"{queue.name}.lock").unlink()
    finally:
        os.close(lock)


def _errors(old: Path, new: Path) -> AbstractContextManager[None]:
    text = f"the queue of {old} cannot be moved to {new}"
    advice = "; give this user the right to write both, or set bus.url"
    return sqlite_errors(BusUnavailable, text, text, advice)
