"""The index of a watched folder in SQLite: name -> generation and the state of that file.

A version is recorded as unpublished before its event is published, together with the versions it replaced
whose removal is unpublished. So everything published before a crash is known after it, and its removal will
be published even if the file has changed or disappeared meanwhile.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from app.model.errors import StorageUnavailable
from app.plumbing.group_commit import GroupCommit
from app.plumbing.makeable import looking
from app.plumbing.sqlite import connect, sqlite_errors, transaction

LATEST = 2**63 - 2**32
"""Highest time used as a generation: it fits in 64 signed bits with room for increments."""

TABLE = """CREATE TABLE IF NOT EXISTS landing (
    root TEXT NOT NULL, name TEXT NOT NULL, generation INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    size INTEGER NOT NULL, inode INTEGER NOT NULL, ctime_ns INTEGER NOT NULL, live INTEGER NOT NULL,
    PRIMARY KEY (root, name)
) WITHOUT ROWID"""
BESIDE = """CREATE TABLE IF NOT EXISTS held_removal (
    root TEXT NOT NULL, name TEXT NOT NULL, folder TEXT NOT NULL, PRIMARY KEY (root, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS mount_point (
    root TEXT NOT NULL, folder TEXT NOT NULL, PRIMARY KEY (root, folder)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS folder_identity (
    root TEXT NOT NULL, folder TEXT NOT NULL, device INTEGER NOT NULL, inode INTEGER NOT NULL,
    PRIMARY KEY (root, folder)
) WITHOUT ROWID"""
"""Tables of app/sources/removals.py."""
TABLES = ("landing", "held_removal", "mount_point", "folder_identity")
ADDED = {
    "crc32c": "TEXT",
    "told": "INTEGER NOT NULL DEFAULT 1",
    "replaced": "TEXT NOT NULL DEFAULT '[]'",
    "again": "INTEGER NOT NULL DEFAULT 0",
    "archived": "INTEGER NOT NULL DEFAULT 0",
    "released": "INTEGER NOT NULL DEFAULT 0",
}
"""Columns that the first release did not have."""
TABLE_COLUMNS = "SELECT name FROM pragma_table_info('landing')"
COLUMNS = (
    "name, generation, mtime_ns, size, inode, ctime_ns, live, crc32c, told, replaced, again,"
    " archived, released"
)
GET = f"SELECT {COLUMNS} FROM landing WHERE root = ? AND name = ?"
LIVE = f"SELECT {COLUMNS} FROM landing WHERE root = ? AND live AND NOT released"
BELOW = " AND name >= ? AND name < ?"
COUNT = "SELECT count(*) FROM landing WHERE root = ? AND live AND NOT released"
# Two processes may handle the same folder; the slower one must not overwrite newer entries, nor what
# retention has recorded of the same version.
PUT = f"""INSERT INTO landing (root, {COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (root, name) DO UPDATE SET
    generation = excluded.generation, mtime_ns = excluded.mtime_ns, size = excluded.size,
    inode = excluded.inode, ctime_ns = excluded.ctime_ns, live = excluded.live, crc32c = excluded.crc32c,
    told = excluded.told, replaced = excluded.replaced, again = excluded.again,
    archived = excluded.archived OR (excluded.generation = landing.generation AND landing.archived),
    released = excluded.released OR (excluded.generation = landing.generation AND landing.released)
WHERE excluded.generation > landing.generation OR (excluded.generation = landing.generation AND landing.live)
"""


@dataclass(frozen=True, slots=True)
class Stamp:
    """State of a file: modification and change time in ns since 1970, size in bytes, inode."""

    mtime_ns: int
    size: int
    inode: int
    ctime_ns: int

    def same_content(self, other: Stamp) -> bool:
        """Return whether the bytes seem unchanged; the change time also reflects owner and mode."""
        return (self.mtime_ns, self.size, self.inode) == (other.mtime_ns, other.size, other.inode)


@dataclass(frozen=True, slots=True)
class Seen:
    """The last version of a name; not `live` after its removal was published or processed.

    told: its event was published or processed, and so were the removals of all versions it replaced.
    replaced: generation and size in bytes of replaced versions for which this is uncertain. again: a new
    description was started and may be unfinished. archived: the archive of retention has it. released:
    retention has deleted its file, or is about to; that is no removal.
    """

    generation: int
    stamp: Stamp
    live: bool = True
    crc32c: str | None = None
    told: bool = True
    replaced: tuple[tuple[int, int], ...] = ()
    again: bool = False
    archived: bool = False
    released: bool = False

    def versions(self) -> tuple[tuple[int, int], ...]:
        """Return generation and size of this version and of those it replaced, the oldest first."""
        return (*self.replaced, (self.generation, self.stamp.size))


def stamp(found: os.stat_result) -> Stamp:
    """Return the state of a file in numbers that fit SQLite; extreme times and inodes are truncated."""
    mtime_ns, ctime_ns = (max(-LATEST, min(t, LATEST)) for t in (found.st_mtime_ns, found.st_ctime_ns))
    return Stamp(mtime_ns, found.st_size, found.st_ino & (2**63 - 1), ctime_ns)


def generation(found: Stamp, seen: Seen | None) -> int:
    """Return the generation of a file: its modification time, or the last generation + 1 if that is higher.

    A file may come back with an older or equal time. Its old generation has a tombstone by then, which would
    hide the file for ever.
    """
    if seen is None:
        return max(1, found.mtime_ns)
    # A file like a released one, but for its change time, is another: that one was to be deleted.
    if seen.live and (seen.stamp == found if seen.released else seen.stamp.same_content(found)):
        return seen.generation
    return max(found.mtime_ns, seen.generation + 1)


def index_errors(path: Path | None = None) -> AbstractContextManager[None]:
    """Translate errors of SQLite. `path`: a file being opened, for which permanent errors are ConfigError."""
    unusable = f"the index {path} cannot be opened" if path else ""
    return sqlite_errors(StorageUnavailable, "the index of the folder fails", unusable)


def check_index(path: Path) -> None:
    """Raise ConfigError if the file cannot be an index. Creates and changes nothing."""
    with index_errors(path), looking(path):
        pass


def known_objects(path: Path, root: Path) -> int:
    """Return the number of live names of a folder in an index; do not create a missing index."""
    with index_errors(path), looking(path) as connection:
        if not list(connection.execute("PRAGMA table_info(landing)")):
            return 0
        return int(connection.execute(COUNT, (str(root),)).fetchone()[0])


class Index:
    """The table `landing` of one folder. Safe to call from several threads and beside other processes."""

    def __init__(self, path: Path, root: Path) -> None:
        self.path, self._root = path, str(root)
        with index_errors(path):
            # Two connections, so that a reader never waits for a writer that waits for another process.
            self._writer, self._reader = connect(path), connect(path)
            _create(self._writer)
        self._reading = threading.Lock()
        self._commits: GroupCommit[Mapping[str, Seen], dict[str, Seen]] = GroupCommit(
            self._commit, StorageUnavailable
        )

    def get(self, name: str) -> Seen | None:
        """Return the last known version of `name`, live or not."""
        rows = self._select(GET, (self._root, name))
        return _seen(rows[0]) if rows else None

    def live(self, folder: str = "") -> dict[str, Seen]:
        """Return the live names below `folder`, empty or ending with a slash, but for the released ones."""
        if not folder:
            rows = self._select(LIVE, (self._root,))
        else:
            # "0" is the character after "/", so this range is every name that starts with the folder.
            rows = self._select(LIVE + BELOW, (self._root, folder, folder[:-1] + "0"))
        return {str(row[0]): _seen(row) for row in rows}

    def put(self, versions: Mapping[str, Seen]) -> dict[str, Seen]:
        """Record the last versions of some names durably, all or none.

        An entry with a later version or a removal is not changed. Returns the versions, each with all
        versions that it replaced: another process may have recorded one since the caller looked.
        """
        return self._commits.add(versions) if versions else {}

    def close(self) -> None:
        """Close both connections."""
        self._commits.close()
        with self._reading, index_errors():
            self._reader.close()
            self._writer.close()

    def _commit(self, group: list[Mapping[str, Seen]]) -> list[dict[str, Seen]]:
        with index_errors(), transaction(self._writer):
            return [{name: self._put(name, seen) for name, seen in part.items()} for part in group]

    def _put(self, name: str, seen: Seen) -> Seen:
        row = self._writer.execute(GET, (self._root, name)).fetchone()
        last = _seen(row) if row else None
        if last and last.live and last.generation < seen.generation and not seen.told:
            missed = [one for one in last.versions() if one not in seen.replaced]
            seen = replace(seen, replaced=(*seen.replaced, *missed))
        self._writer.execute(PUT, (self._root, name, *_values(seen)))
        return seen

    def _select(self, sql: str, parameters: Sequence[str]) -> Sequence[tuple[Any, ...]]:
        with self._reading, index_errors(), closing(self._reader.execute(sql, parameters)) as cursor:
            return cursor.fetchall()


def _create(connection: sqlite3.Connection) -> None:
    """Create the tables, or add missing columns."""
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    columns = {name for (name,) in connection.execute(TABLE_COLUMNS)}
    if tables.issuperset(TABLES) and columns.issuperset(ADDED):
        return
    with transaction(connection):
        _make_tables(connection)


def _make_tables(connection: sqlite3.Connection) -> None:
    for statement in (TABLE, *BESIDE.split(";")):
        connection.execute(statement)
    there = {name for (name,) in connection.execute(TABLE_COLUMNS)}
    for name in ADDED.keys() - there:
        connection.execute(f"ALTER TABLE landing ADD COLUMN {name} {ADDED[name]}")


def copy_index(old: sqlite3.Connection, new: sqlite3.Connection) -> None:
    """Copy the entries of all folders from one file to another; existing entries stay."""
    for connection in (old, new):
        _make_tables(connection)
    new.executemany(PUT, old.execute(f"SELECT root, {COLUMNS} FROM landing"))
    for table in TABLES[1:]:
        rows = old.execute(f"SELECT * FROM {table}").fetchall()
        if rows:
            marks = ", ".join("?" * len(rows[0]))
            new.executemany(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", rows)


def drop_index(connection: sqlite3.Connection) -> None:
    """Remove the entries of all folders from a file."""
    for table in TABLES:
        connection.execute(f"DROP TABLE {table}")


def _values(seen: Seen) -> tuple[object, ...]:
    found = seen.stamp
    state = (found.mtime_ns, found.size, found.inode, found.ctime_ns)
    flags = (seen.told, json.dumps(seen.replaced), seen.again, seen.archived, seen.released)
    return (seen.generation, *state, seen.live, seen.crc32c, *flags)


def _seen(row: Sequence[Any]) -> Seen:
    _, number, mtime_ns, size, inode, ctime_ns, live, crc32c, told, replaced, *flags = row
    # Almost always empty, and a scan reads all rows: while it does, no live file is published.
    before = () if replaced == "[]" else tuple((old, size) for old, size in json.loads(replaced))
    found = Stamp(mtime_ns, size, inode, ctime_ns)
    return Seen(number, found, bool(live), crc32c, bool(told), before, *map(bool, flags))
