"""The warehouse in PostgreSQL: one connection that writes and a few that read, each reopened when it breaks.

    append(rows) ─▶ lock objects and studies ─▶ INSERT .. ON CONFLICT DO NOTHING ─▶ table `study` ─▶ COMMIT

Rows are inserted by `executemany`, which psycopg sends as one pipeline. A transaction that fails because of a
row is repeated in halves until that row is alone. Rows come back in Python's types.
"""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import tuple_row

from app.model.errors import BadQuery, ConfigError, RowsRejected, WarehouseUnavailable
from app.model.values import Row
from app.plumbing.spooled import spooled
from app.warehouse.postgres import statements
from app.warehouse.postgres.values import prepare, to_values
from app.warehouse.row_values import distinct
from app.warehouse.tables import TABLES, check_delete, check_row, check_statement, check_table
from app.warehouse.views import column_ddl

MAX_RESULT_BYTES = 256 << 20
IDLE_READERS = 4
CONNECT_TIMEOUT_S, QUERY_TIMEOUT_S, WRITE_TIMEOUT_S = 10, 60, 120
_PARAMETER = re.compile(r"@([A-Za-z_]\w*)", re.ASCII)


@contextmanager
def postgres_errors() -> Iterator[None]:
    """Translate all that psycopg raises, without the server's text: that may quote a value."""
    try:
        yield
    except psycopg.Error as exc:
        raise WarehouseUnavailable(f"PostgreSQL ({_name(exc)})") from None


def _name(exc: psycopg.Error) -> str:
    """Return the class of an error and its SQLSTATE, if the server sent one."""
    return f"{type(exc).__name__} {exc.sqlstate}" if exc.sqlstate else type(exc).__name__


class PostgresWarehouse:
    """Tables, views and the table `study` in the database and schema that the URL names."""

    dialect = statements.DIALECT

    def __init__(self, url: str) -> None:
        self._url = url
        _check_url(url)
        self._lock = threading.Lock()  # of the writer
        self._writer: psycopg.Connection[Any] | None = None
        self._idle: list[psycopg.Connection[Any]] = []
        self._idle_lock = threading.Lock()
        self._closed = False

    @staticmethod
    def check_settings(url: str) -> None:
        """Raise ConfigError unless the URL can be read; the server is not asked."""
        _check_url(url)

    def create(self) -> None:
        """Make or update tables, functions and views; raises ConfigError where one is of another program."""
        with self._writing() as writer:
            writer.execute(statements.LOCK_SCHEMA)
            for function in statements.FUNCTIONS:
                writer.execute(function)
            marks = {name: _mark(writer, name) for name in statements.marked_views()}
            changed = any(marks[name] != mark for name, (_, mark) in statements.marked_views().items())
            if changed:  # those that read others go first
                for name in reversed(statements.marked_views()):
                    writer.execute(f"DROP VIEW IF EXISTS {name}")
            for name in TABLES:
                self._update(writer, name)
            if changed:
                for name, (select, mark) in statements.marked_views().items():
                    writer.execute(f"CREATE VIEW {name} AS {select}")
                    writer.execute(f"COMMENT ON VIEW {name} IS '{mark}'")
            for statement in statements.study_ddl():
                writer.execute(statement)
            writer.execute(statements.FILL_STUDIES)

    @staticmethod
    def _update(writer: psycopg.Connection[Any], name: str) -> None:
        have = {column for (column,) in writer.execute(statements.COLUMNS_OF, [name])}
        missing = [column for column in TABLES[name].columns if have and column.name not in have]
        if any(column.mode == "REQUIRED" for column in missing):
            raise ConfigError(f"warehouse.url: the database holds a table {name} of another program")
        for column in missing:
            writer.execute(f"ALTER TABLE {name} ADD COLUMN {column_ddl(column, statements.DIALECT)}")
        for statement in statements.table_ddl(name):
            writer.execute(statement)

    def setup(self) -> dict[str, list[tuple[str, str]] | None]:
        """Return nothing: no grants of a cloud decide who writes."""
        return {}

    def outdated(self) -> list[str]:
        """Return what `create` would make or change; see Warehouse."""
        with self._reading() as reader:
            columns = {
                name: {column for (column,) in reader.execute(statements.COLUMNS_OF, [name])}
                for name in TABLES
            }
            marks = {name: _mark(reader, name) for name in statements.marked_views()}
        tables = [name for name, spec in TABLES.items() if {one.name for one in spec.columns} - columns[name]]
        return tables + [name for name, (_, mark) in statements.marked_views().items() if marks[name] != mark]

    def append(self, table: str, rows: Sequence[Row]) -> None:
        """Add rows in one transaction; see Warehouse."""
        rejected = {index: why for index, row in enumerate(rows) if (why := check_row(table, row))}
        good = [index for index in range(len(rows)) if index not in rejected]
        values = {index: to_values(table, rows[index]) for index in good}
        pending = [good] if good else []
        while pending:
            part = pending.pop()
            try:
                self._insert(table, [rows[index] for index in part], [values[index] for index in part])
            except (psycopg.DataError, psycopg.IntegrityError, UnicodeEncodeError) as exc:
                if len(part) == 1:
                    name = _name(exc) if isinstance(exc, psycopg.Error) else type(exc).__name__
                    rejected[part[0]] = f"PostgreSQL ({name})"
                else:
                    pending += [part[len(part) // 2 :], part[: len(part) // 2]]
        if rejected:
            raise RowsRejected(rejected)

    def _insert(self, table: str, rows: Sequence[Row], values: Sequence[list[object]]) -> None:
        with self._writing(passing=(psycopg.DataError, psycopg.IntegrityError)) as writer:
            if table != "instances":
                writer.cursor().executemany(statements.INSERTS[table], values)
                return
            uris = sorted({str(row["object_uri"]) for row in rows})
            # Never prepared: a plan for any list of studies is one for all of them.
            ask = partial(writer.execute, prepare=False)
            ask(statements.LOCK_ALL, [uris])
            studies = {str(row["study_instance_uid"]) for row in rows if row.get("study_instance_uid")}
            studies |= {uid for (uid,) in ask(statements.TOUCHED, [uris])}
            touched = sorted(studies)
            ask(statements.LOCK_ALL, [touched])
            writer.cursor().executemany(statements.INSERTS[table], values)
            if touched:
                ask(statements.UPSERT_STUDIES, [touched])
                ask(statements.DROP_STUDIES, [touched, touched])

    def query(self, sql: str, parameters: Mapping[str, object] | None = None) -> list[dict[str, object]]:
        """Run one read-only statement; see Warehouse. Of columns with the same name the last is kept."""
        rows, held = [], 0
        for row in self._run(sql, parameters or {}, QUERY_TIMEOUT_S):
            held += sys.getsizeof(row) + sum(map(sys.getsizeof, row.values()))
            if held > MAX_RESULT_BYTES:
                text = f"the result is over {MAX_RESULT_BYTES >> 20} MiB; add LIMIT, or ask for fewer columns"
                raise BadQuery(text)
            rows.append(row)
        return rows

    def stream(
        self, sql: str, parameters: Mapping[str, object] | None = None, slowly: bool = False
    ) -> Iterator[dict[str, object]]:
        """Yield the rows of one read-only statement; see Warehouse. They are those of one moment."""
        rows = self._run(sql, parameters or {}, 0)
        # A transaction that stays open would have VACUUM keep all that is replaced meanwhile.
        yield from spooled(rows) if slowly else rows

    def _run(self, sql: str, parameters: Mapping[str, object], timeout_s: int) -> Iterator[dict[str, object]]:
        check_statement(sql, parameters)
        text, given = _bound(sql, parameters)
        with self._reading() as reader:
            try:
                reader.execute("SELECT set_config('statement_timeout', %s, true)", [str(timeout_s * 1000)])
                # The extended protocol, which takes one statement: a second one is an error of syntax.
                cursor = reader.cursor(row_factory=tuple_row)
                names: list[str] | None = None
                for row in cursor.stream(text, given):
                    names = names or distinct([column.name for column in cursor.description or ()])
                    yield dict(zip(names, row, strict=True))
            except psycopg.errors.QueryCanceled:
                raise BadQuery("the statement took too long") from None
            except psycopg.errors.ReadOnlySqlTransaction:
                raise BadQuery("only a statement that reads tables is allowed") from None
            except psycopg.ProgrammingError as exc:
                # Found before any row was read, so its text quotes the statement only.
                raise BadQuery(f"PostgreSQL: {exc.diag.message_primary or type(exc).__name__}") from None
            except (psycopg.DataError, psycopg.NotSupportedError) as exc:
                raise BadQuery(f"PostgreSQL stopped at a row ({_name(exc)})") from None

    def delete(self, table: str, column: str, values: Sequence[str]) -> int:
        """Remove rows by the value of a column; see Warehouse."""
        check_delete(table, column)
        with self._writing() as writer:
            sql = f'DELETE FROM {table} WHERE CAST("{column}" AS TEXT) = ANY(%s)'
            return writer.execute(sql, [list(values)]).rowcount

    def clear(self, table: str) -> int:
        """Remove all rows of a table; see Warehouse."""
        check_table(table)
        with self._writing() as writer:
            removed: int = writer.execute(f"DELETE FROM {table}").rowcount
            if table == "instances":
                writer.execute("DELETE FROM study")
            return removed

    def check(self) -> None:
        """Raise WarehouseUnavailable unless the tables can be read."""
        try:
            self.query("SELECT 1 AS one FROM instances LIMIT 1")
        except BadQuery as exc:
            raise WarehouseUnavailable(exc.text) from exc

    def close(self) -> None:
        """Close every connection; every later call fails."""
        self._closed = True
        with self._lock, self._idle_lock:
            for connection in (self._writer, *self._idle):
                if connection is not None:
                    connection.close()
            self._writer = None
            self._idle.clear()

    def _connect(self, timeout_s: int, read_only: bool) -> psycopg.Connection[Any]:
        if self._closed:
            raise WarehouseUnavailable("the warehouse is closed")
        connection = psycopg.connect(
            self._url,
            prepare_threshold=None
            if read_only
            else 0,  # the INSERTs: planning one costs more than running it
            connect_timeout=CONNECT_TIMEOUT_S,
            application_name="dicomlake",
        )
        with suppress_on_failure(connection):
            connection.read_only = read_only
            connection.execute("SELECT set_config('TimeZone', 'UTC', false)")
            connection.execute("SELECT set_config('statement_timeout', %s, false)", [str(timeout_s * 1000)])
            connection.commit()
            prepare(connection)
        return connection

    @contextmanager
    def _writing(self, passing: tuple[type[psycopg.Error], ...] = ()) -> Iterator[psycopg.Connection[Any]]:
        """Yield the writer inside a transaction; errors in `passing` are raised as they are."""
        with self._lock:
            try:
                with postgres_errors():
                    if self._writer is None or self._writer.broken or self._writer.closed:
                        self._writer = self._connect(WRITE_TIMEOUT_S, read_only=False)
                writer = self._writer
                with writer.transaction():
                    yield writer
            except passing:
                raise
            except psycopg.Error as exc:
                raise WarehouseUnavailable(f"PostgreSQL ({_name(exc)})") from None
            finally:
                if self._writer is not None and self._writer.broken:
                    self._writer.close()
                    self._writer = None

    @contextmanager
    def _reading(self) -> Iterator[psycopg.Connection[Any]]:
        """Yield a connection that cannot write; whatever a statement set is undone afterwards."""
        with postgres_errors():
            with self._idle_lock:
                reader = self._idle.pop() if self._idle else None
            if reader is not None and (reader.broken or reader.closed):
                reader = None
            fresh = reader is None
            reader = reader or self._connect(QUERY_TIMEOUT_S, read_only=True)
            try:
                if not fresh:
                    reader = self._alive(reader)
                yield reader
            finally:
                with suppress(psycopg.Error):
                    reader.rollback()
                self._keep(reader)

    def _alive(self, reader: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
        """Return a connection that answers: the server may have ended one that was idle."""
        try:
            reader.execute("SELECT 1")
            return reader
        except psycopg.OperationalError:
            reader.close()
            return self._connect(QUERY_TIMEOUT_S, read_only=True)

    def _keep(self, reader: psycopg.Connection[Any]) -> None:
        with self._idle_lock:
            if not self._closed and not reader.broken and len(self._idle) < IDLE_READERS:
                self._idle.append(reader)
                return
        reader.close()


@contextmanager
def suppress_on_failure(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """Close a connection that could not be set up."""
    try:
        yield
    except BaseException:
        connection.close()
        raise


def _check_url(url: str) -> None:
    try:
        conninfo_to_dict(url)
    except psycopg.Error:
        raise ConfigError(
            "warehouse.url: is no address of PostgreSQL; write postgresql://user:password@host:5432/database"
        ) from None


def _bound(sql: str, parameters: Mapping[str, object]) -> tuple[str, Mapping[str, object] | None]:
    """Return a statement in psycopg's words and its parameters; `@name` stands for one that is given."""
    if not parameters:
        return sql, None

    def put(match: re.Match[str]) -> str:
        return f"%({match[1]})s" if match[1] in parameters else match[0]

    return _PARAMETER.sub(put, sql.replace("%", "%%")), parameters


def _mark(writer: psycopg.Connection[Any], name: str) -> str | None:
    row = writer.execute(statements.VIEW_MARK, [name]).fetchone()
    return row[0] if row else None
