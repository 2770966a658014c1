"""Open and change SQLite files that several threads and processes use, and classify their errors."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from app.model.errors import ConfigError, DicomlakeError
from app.plumbing.private import make_file

BUSY_S = 30.0
"""Time to wait for another connection that writes."""

# Result codes of faults that may pass without a change of the file. On opening, any other code means that the
# file cannot be used.
_MAY_PASS = frozenset(
    {
        *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL),
        *(sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_NOMEM),
    }
)
_LOCKED = "another process has locked the file; end it or try again"
_SENTENCES = {
    sqlite3.SQLITE_BUSY: _LOCKED,
    sqlite3.SQLITE_LOCKED: _LOCKED,
    sqlite3.SQLITE_READONLY: "this user may not write the file",
    sqlite3.SQLITE_CANTOPEN: "the file cannot be opened; see the rights to it and to its folder",
    sqlite3.SQLITE_FULL: "the disk is full",
}


def connect(path: Path, read_only: bool = False) -> sqlite3.Connection:
    """Open the file in WAL mode, creating it if needed; a commit returns when it is on the disk.

    SQLite's files beside it are equally private. Raises ConfigError if a file to write is read-only for this
    user, because SQLite would fail only at the first change.
    """
    uri = f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rwc'}"
    if not read_only:
        with suppress(OSError):  # SQLite will report the error
            make_file(path)
        if os.path.exists(path) and not os.access(path, os.W_OK):
            raise ConfigError(f"{path} cannot be written; give this user the right to write the file")
    connection = sqlite3.connect(uri, uri=True, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    if read_only:
        return connection
    try:
        _enter_wal(connection)
        # On macOS only F_FULLFSYNC reaches the disk; elsewhere the second pragma does nothing.
        connection.executescript("PRAGMA synchronous = FULL; PRAGMA fullfsync = ON")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _enter_wal(connection: sqlite3.Connection) -> None:
    """Switch to write-ahead logging, with retries: SQLite ignores its busy timeout here."""
    patience = time.monotonic() + BUSY_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as exc:
            if code(exc)[0] != sqlite3.SQLITE_BUSY or time.monotonic() > patience:
                raise
            time.sleep(0.02)


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commit all changes of the block or none; wait for other writers at the beginning."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:  # else SQLite has rolled back, as on a full disk
            connection.execute("ROLLBACK")


def code(exc: BaseException) -> tuple[int, str]:
    """Return the primary result code of an error and the extended code's name; its text may quote values."""
    # The low byte is the primary code; extended codes such as SQLITE_IOERR_READ refine it.
    number = getattr(exc, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    return number, getattr(exc, "sqlite_errorname", type(exc).__name__)


def reason(exc: BaseException) -> str:
    """Return the code of an error and, for known codes, what is wrong and what to do."""
    number, name = code(exc)
    return f"{name}: {_SENTENCES[number]}" if number in _SENTENCES else name


@contextmanager
def sqlite_errors(
    error: type[DicomlakeError], fails: str, unusable: str = "", advice: str = ""
) -> Iterator[None]:
    """Raise `error`, which says what `fails`, for all that SQLite raises; its own text may quote values.

    unusable: for a file being opened, what is wrong if it is no database to use; then ConfigError is raised,
    with `advice` at the end.
    """
    try:
        yield
    except (sqlite3.Error, sqlite3.Warning) as exc:
        if unusable and not may_pass(exc):
            raise ConfigError(f"{unusable} ({reason(exc)}){advice}") from None
        raise error(f"{fails} ({reason(exc)})") from None


def may_pass(exc: BaseException) -> bool:
    """Return whether the operation may succeed later without a change of the file."""
    return code(exc)[0] in _MAY_PASS
