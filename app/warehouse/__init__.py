"""Door to the warehouse: rows in, SQL out. One URL, the scheme picks the backend."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from app.model.values import Row
from app.plumbing.backends import load_backend
from app.warehouse.search import Found, Search, found, statement


class Warehouse(Protocol):
    """Append-only tables, views over them, and SQL to read. Safe to call from several threads."""

    @property
    def dialect(self) -> str:
        """Name of its SQL, one of DIALECTS."""
        ...

    def create(self) -> None:
        """Make the tables and views that are not there yet; repeating it changes nothing."""
        ...

    def append(self, table: str, rows: Sequence[Row]) -> None:
        """Add rows; returns only when they are durable. The same `row_id` twice counts once in the views.

        Raises RowsRejected when some rows are refused (all others are stored), WarehouseUnavailable when the
        warehouse fails; then any of the rows may or may not be there, and repeating the call is safe.
        """
        ...

    def query(self, sql: str, parameters: Mapping[str, object] | None = None) -> list[dict[str, object]]:
        """Run one read-only statement and return its rows; named parameters are written `:name`.

        Raises BadQuery when the statement is refused, WarehouseUnavailable when the warehouse fails.
        """
        ...

    def stream(self, sql: str, parameters: Mapping[str, object] | None = None) -> Iterator[dict[str, object]]:
        """Yield the rows of one read-only statement as they come, however many; raises as `query`."""
        ...

    def delete(self, table: str, column: str, values: Sequence[str]) -> int:
        """Remove the rows whose `column` is one of `values` and return how many; for dead letters only."""
        ...

    def check(self) -> None:
        """Raise WarehouseUnavailable unless the warehouse answers."""
        ...

    def close(self) -> None:
        """Write what is pending and let go of connections."""
        ...


BACKENDS: dict[str, tuple[str, str, str | None]] = {
    "sqlite": ("app.warehouse.sqlite.warehouse", "SqliteWarehouse", None),
    "postgresql": ("app.warehouse.postgres.warehouse", "PostgresWarehouse", "postgres"),
    "bigquery": ("app.warehouse.bigquery.warehouse", "BigQueryWarehouse", "gcp"),
}


def check_warehouse(url: str) -> None:
    """Raise ConfigError where the warehouse could not be opened or created; makes and opens nothing."""
    load_backend("warehouse", url, BACKENDS).check_settings(url)


def open_warehouse(url: str) -> Warehouse:
    """Open the warehouse a URL names; nothing is created yet."""
    warehouse: Warehouse = load_backend("warehouse", url, BACKENDS)(url)
    return warehouse


def find(warehouse: Warehouse, search: Search) -> Found:
    """Return what a search finds, in Python's types whichever the warehouse is."""
    sql, parameters = statement(search, warehouse.dialect)
    return found(search, warehouse.query(sql, parameters))
