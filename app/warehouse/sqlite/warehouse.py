"""Warehouse in one SQLite file: the embedded default. Other processes may use the file at the same time."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from app.model.errors import BadQuery, ConfigError, RowsRejected, WarehouseUnavailable
from app.model.values import Row
from app.plumbing.makeable import check_makeable, looking
from app.plumbing.private import make_folder
from app.plumbing.spooled import spooled
from app.plumbing.sqlite import connect, sqlite_errors, transaction
from app.warehouse.sqlite.reader import guard, read, run
from app.warehouse.sqlite.values import from_values, to_values
from app.warehouse.tables import TABLES, Column, Table, check_delete, check_row, check_table
from app.warehouse.views import column_ddl, ddl, views

_PAGES_BETWEEN_CHECKPOINTS = 4000  # 16 MB; rows of 20 KB cost a third less than with SQLite's own 1000
_IDLE_READERS = 4
_READER_CACHE_KIB = 16_384  # SQLite's own 2 MB holds no index of a large lake: a list costs a third more


def warehouse_errors(path: Path | None = None) -> AbstractContextManager[None]:
    """Translate errors of SQLite; `path` is that of a file being opened, which may be none to use at all."""
    unusable = f"warehouse.url: {path} is no database to use" if path else ""
    return sqlite_errors(WarehouseUnavailable, "SQLite", unusable)


@contextmanager
def _folder_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as exc:
        raise ConfigError(f"warehouse.url: {folder} cannot be made ({type(exc).__name__})") from exc


def _insert(table: Table) -> str:
    names = ", ".join(f'"{column.name}"' for column in table.columns)
    marks = ", ".join("?" * len(table.columns))
    # A redelivered event makes the same row again: the first one stays.
    once = " ON CONFLICT (row_id) DO NOTHING" if table.kept else ""
    return f"INSERT INTO {table.name} ({names}) VALUES ({marks}){once}"


_INSERTS = {name: _insert(table) for name, table in TABLES.items()}


def _missing_columns(connection: sqlite3.Connection, table: Table) -> list[Column]:
    """Return the columns that an older table lacks; raises ConfigError for a table of another program."""
    have = {name for _, name, *_ in connection.execute(f"PRAGMA table_info({table.name})")}
    missing = [column for column in table.columns if have and column.name not in have]
    if any(column.mode == "REQUIRED" for column in missing):
        raise ConfigError(f"warehouse.url: the file holds a table {table.name} that is not of this software")
    return missing


def _update_table(connection: sqlite3.Connection, table: Table) -> None:
    for column in _missing_columns(connection, table):
        connection.execute(f"ALTER TABLE {table.name} ADD COLUMN {column_ddl(column, 'sqlite')}")
    made = dict(connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'index'"))
    for statement in ddl(table.name, "sqlite"):
        for name, definition in made.items():
            if f" {name} ON " in statement and definition != statement.replace("IF NOT EXISTS ", ""):
                connection.execute(f"DROP INDEX {name}")  # that of an older version
        connection.execute(statement)


def _update_views(connection: sqlite3.Connection) -> None:
    have = dict(connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'view'"))
    for name, select in views("sqlite").items():
        statement = f"CREATE VIEW {name} AS {select}"
        if have.get(name) != statement:
            connection.execute(f"DROP VIEW IF EXISTS {name}")
            connection.execute(statement)


def _check_readable(path: Path) -> None:
    """Raise ConfigError unless there is a file that this user may read."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        text = f"there is no warehouse yet at {path}; run `dicomlake serve` or `dicomlake ingest` first"
        raise ConfigError(text) from None
    except OSError:
        readable = False
    else:
        readable = os.access(path, os.R_OK)
    if not readable:
        raise ConfigError(f"{path} cannot be read; give this user the right to read it")


@dataclass(frozen=True, slots=True)
class _Reader:
    """A read-only connection, and which file it is connected to."""

    connection: sqlite3.Connection
    file: tuple[int, int] | None


class SqliteWarehouse:
    """Tables in a SQLite file in WAL mode: one writer behind a lock, a read-only connection for each query.

    A few of those stay open for later queries: opening one costs more than finding a study.
    """

    dialect = "sqlite"

    def __init__(self, url: str) -> None:
        self._path = Path(url.partition(":")[2]).absolute()
        self._lock = threading.Lock()
        self._writer: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._idle: list[_Reader] = []
        self._closed = False

    @staticmethod
    def check_settings(url: str) -> None:
        """Raise ConfigError where `create` would; makes and changes nothing."""
        path = Path(url.partition(":")[2]).absolute()
        with _folder_errors(path.parent):
            check_makeable(path.parent)
        with warehouse_errors(path), looking(path) as connection:
            for table in TABLES.values():
                _missing_columns(connection, table)

    def create(self) -> None:
        """Make or update the file, its tables and views; raises ConfigError when it cannot be used."""
        with _folder_errors(self._path.parent):
            make_folder(self._path.parent)
        with self._lock, warehouse_errors(self._path):
            writer = self._open_writer()
            with transaction(writer):
                for table in TABLES.values():
                    _update_table(writer, table)
                _update_views(writer)

    def append(self, table: str, rows: Sequence[Row]) -> None:
        """Add rows in one transaction; see Warehouse."""
        rejected = {index: why for index, row in enumerate(rows) if (why := check_row(table, row))}
        good = [(index, to_values(table, row)) for index, row in enumerate(rows) if index not in rejected]
        if good:
            with self._writing() as writer:
                for index, values in good:
                    try:
                        writer.execute(_INSERTS[table], values)
                    except (sqlite3.DataError, sqlite3.IntegrityError) as exc:
                        rejected[index] = exc.sqlite_errorname
        if rejected:
            raise RowsRejected(rejected)

    def query(
        self, sql: str, parameters: Mapping[str, object] | None = None, time_limit_s: float = 60.0
    ) -> list[dict[str, object]]:
        """Run one read-only statement; see Warehouse.

        Types are those of the columns of that name, so the result of an expression is as SQLite has it. Of
        columns with the same name each but the first gets a number. Raises ConfigError before the first
        `create`.
        """
        with self._reading() as reader:
            return read(reader, sql, parameters or {}, time_limit_s)

    def stream(
        self, sql: str, parameters: Mapping[str, object] | None = None, slowly: bool = False
    ) -> Iterator[dict[str, object]]:
        """Yield the rows of one read-only statement; see Warehouse. They are those of one moment."""
        if slowly:  # else the log would grow by all that is appended meanwhile
            yield from spooled(self.stream(sql, parameters))
            return
        with self._reading() as reader:
            yield from map(from_values, run(reader, sql, parameters or {}))

    def delete(self, table: str, column: str, values: Sequence[str]) -> int:
        """Remove rows by the value of a column; see Warehouse."""
        check_delete(table, column)
        # One JSON parameter holds any number of values.
        sql = f'DELETE FROM {table} WHERE "{column}" IN (SELECT value FROM json_each(?))'
        with self._writing() as writer:
            return writer.execute(sql, [json.dumps(list(values))]).rowcount

    def clear(self, table: str) -> int:
        """Remove all rows of a table, and their remains in the file; see Warehouse."""
        check_table(table)
        with self._writing() as writer:
            removed = writer.execute(f"DELETE FROM {table}").rowcount
        with self._lock, warehouse_errors():
            self._open_writer().execute("VACUUM")  # else free pages of the file would still hold them
            self._open_writer().execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return removed

    def setup(self) -> dict[str, list[tuple[str, str]] | None]:
        """Return nothing: no grants of a cloud decide who writes."""
        return {}

    def outdated(self) -> list[str]:
        """Return what `create` would make or change; see Warehouse."""
        with self._reading() as reader, warehouse_errors():
            have = dict(reader.execute("SELECT name, sql FROM sqlite_master WHERE type IN ('table', 'view')"))
            tables = [
                name for name, table in TABLES.items() if name not in have or _missing_columns(reader, table)
            ]
        selects = views("sqlite").items()
        return tables + [name for name, sql in selects if have.get(name) != f"CREATE VIEW {name} AS {sql}"]

    def check(self) -> None:
        """Raise WarehouseUnavailable unless the tables can be read and the file be written."""
        try:
            self.query("SELECT 1 FROM instances LIMIT 1")
        except BadQuery as exc:
            raise WarehouseUnavailable(exc.text) from exc
        if not os.access(self._path, os.W_OK):
            raise WarehouseUnavailable("the database file has become read-only")

    def close(self) -> None:
        """Close all connections; every later call fails."""
        with self._lock:
            self._closed = True
            while self._idle:
                self._idle.pop().connection.close()
            if self._writer is not None:
                self._writer.close()
                self._writer = None

    def _connect(self, read_only: bool) -> sqlite3.Connection:
        if self._closed:
            raise WarehouseUnavailable("the warehouse is closed")
        return connect(self._path, read_only)

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        reader = self._take_reader()
        try:
            yield reader.connection
        except BaseException:
            reader.connection.close()  # a statement may have been stopped half-way
            raise
        # Not under the lock, which a commit holds; one that is added after `close` is closed with its object.
        if self._closed or len(self._idle) >= _IDLE_READERS:
            reader.connection.close()
        else:
            self._idle.append(reader)

    def _take_reader(self) -> _Reader:
        with warehouse_errors():
            self._check_file()
            file = self._identity()
            if self._file is None:
                _check_readable(self._path)
            while not self._closed:
                try:
                    reader = self._idle.pop()
                except IndexError:
                    break
                if reader.file == file:
                    return reader
                reader.connection.close()
            connection = self._connect(read_only=True)
            connection.execute(f"PRAGMA cache_size = -{_READER_CACHE_KIB}")
            guard(connection)
            return _Reader(connection, file)

    def _open_writer(self) -> sqlite3.Connection:
        """Return the writer, opened once; the caller holds the lock."""
        if self._writer is None:
            self._writer, self._file = self._connect(read_only=False), self._identity()
            self._writer.execute(f"PRAGMA wal_autocheckpoint = {_PAGES_BETWEEN_CHECKPOINTS}")
        self._check_file()
        return self._writer

    def _identity(self) -> tuple[int, int] | None:
        try:
            stat = os.stat(self._path)
        except (OSError, ValueError):
            return None
        return stat.st_dev, stat.st_ino

    def _check_file(self) -> None:
        # A file that was removed under an open connection would still accept rows, and lose them.
        if self._file is not None and self._file != self._identity():
            raise WarehouseUnavailable("the database file was removed or replaced; restart the service")

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._lock, warehouse_errors():
            writer = self._open_writer()
            with transaction(writer):
                yield writer
