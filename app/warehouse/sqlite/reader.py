"""Run one read-only statement on a SQLite file, with limits on what it may do, its time and its result."""

from __future__ import annotations

import math
import sqlite3
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress

from app.model.errors import BadQuery, DicomlakeError, WarehouseUnavailable
from app.plumbing.sqlite import code, may_pass, reason
from app.warehouse.row_values import distinct
from app.warehouse.sqlite.values import from_values, to_parameters
from app.warehouse.tables import check_statement

MAX_RESULT_BYTES = 256 << 20
"""Maximum size of a result in Python's memory, and of one value."""
_STEPS_BETWEEN_CLOCKS = 10_000

# Result codes of a broken file. With the temporary ones, they mean that the store fails; any other code means
# that the statement is wrong.
_BROKEN = frozenset(
    {
        *(sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB),
        *(sqlite3.SQLITE_PERM, sqlite3.SQLITE_INTERNAL),
    }
)
_READING = frozenset(
    {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
)
_READING_PRAGMAS = frozenset({"table_info", "table_xinfo", "table_list", "index_list", "index_info"})
_FUNCTIONS = ("json_each", "json_tree", *(f"pragma_{name}" for name in _READING_PRAGMAS))
"""Functions that a statement reads as tables."""


def guard(reader: sqlite3.Connection) -> None:
    """Let a connection do nothing but read tables, and no value of it be larger than a whole result."""
    reader.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_RESULT_BYTES)
    reader.execute("PRAGMA query_only = ON")
    for function in _FUNCTIONS:
        # A connection declares it at the first use, as a table: the authorizer would take that for a change.
        with suppress(sqlite3.OperationalError):  # an older SQLite has fewer of them
            reader.execute(f"SELECT 1 FROM {function} LIMIT 0")
    reader.set_authorizer(_allow)


def read(
    reader: sqlite3.Connection, sql: str, parameters: Mapping[str, object], time_limit_s: float
) -> list[dict[str, object]]:
    """Run a statement on a guarded connection and return its rows in Python's types.

    Raises BadQuery when it is wrong, not read-only or over a limit, WarehouseUnavailable when the file fails.
    """
    rows, held = [], 0
    try:
        for row in run(reader, sql, parameters, time_limit_s):
            held += sys.getsizeof(row) + sum(map(sys.getsizeof, row.values()))
            if held > MAX_RESULT_BYTES:
                text = f"the result is over {MAX_RESULT_BYTES >> 20} MiB; add LIMIT, or ask for fewer columns"
                raise BadQuery(text)
            rows.append(from_values(row))
    except MemoryError:
        raise BadQuery("the result does not fit in memory; add LIMIT") from None
    return rows


def run(
    reader: sqlite3.Connection, sql: str, parameters: Mapping[str, object], time_limit_s: float = math.inf
) -> Iterator[dict[str, object]]:
    """Run a statement on a guarded connection and yield its rows as SQLite has them; raises as `read`."""
    values = to_parameters(parameters, check_statement(sql, parameters))
    end = time.monotonic() + time_limit_s
    reader.set_progress_handler(lambda: time.monotonic() > end, _STEPS_BETWEEN_CLOCKS)
    try:
        with closing(reader.execute(sql, values)) as cursor:
            names = distinct(column[0] for column in cursor.description or ())
            for row in cursor:
                yield dict(zip(names, row, strict=True))
    except (sqlite3.Error, sqlite3.Warning) as exc:
        if code(exc)[0] == sqlite3.SQLITE_INTERRUPT and time.monotonic() <= end:
            raise KeyboardInterrupt from None  # Ctrl-C came while the clock was read, where SQLite eats it
        raise _query_error(exc, reader, sql, values) from None


def _query_error(
    exc: sqlite3.Error | sqlite3.Warning, reader: sqlite3.Connection, sql: str, values: Mapping[str, object]
) -> DicomlakeError:
    number, name = code(exc)
    if number in _BROKEN or may_pass(exc):
        return WarehouseUnavailable(f"SQLite ({reason(exc)})")
    if number == sqlite3.SQLITE_INTERRUPT:
        return BadQuery("the statement took too long")
    if number == sqlite3.SQLITE_TOOBIG:
        return BadQuery(f"a value is over {MAX_RESULT_BYTES >> 20} MiB")
    if number in (sqlite3.SQLITE_AUTH, sqlite3.SQLITE_READONLY):
        return BadQuery("only a statement that reads tables is allowed")
    try:
        reader.execute(f"EXPLAIN {sql}", values)
    except (sqlite3.Error, sqlite3.Warning) as fault:
        return BadQuery(f"SQLite: {fault}")  # found before any row was read, so it quotes the statement only
    return BadQuery(f"SQLite stopped at a row ({name})")


def _allow(action: int, first: str | None, *_: str | None) -> int:
    allowed = action in _READING or (action == sqlite3.SQLITE_PRAGMA and first in _READING_PRAGMAS)
    return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY
