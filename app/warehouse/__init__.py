"""The warehouse: the protocol, and the backends by URL scheme."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Protocol

from app.model.errors import BadQuery
from app.model.values import Row
from app.plumbing.backends import load_backend
from app.warehouse.search import Found, Search, found, is_list, statement
from app.warehouse.study_current import (
    DIALECT,
    Recent,
    first_unmerged,
    last_merge,
    recent,
    touched_before,
    touched_since,
)


class Warehouse(Protocol):
    """Append-only tables, views over them, and read-only SQL. Safe to call from several threads."""

    @property
    def dialect(self) -> str:
        """Name of the SQL dialect, one of DIALECTS."""
        ...

    def create(self) -> None:
        """Create missing tables and views; repeating it changes nothing."""
        ...

    def append(self, table: str, rows: Sequence[Row]) -> None:
        """Append rows and return when they are durable. The views fold rows with the same `row_id`.

        Raises RowsRejected if some rows are refused (the others are stored), WarehouseUnavailable if the
        warehouse fails; then each row may or may not be stored, and repeating the call is safe.
        """
        ...

    def query(self, sql: str, parameters: Mapping[str, object] | None = None) -> list[dict[str, object]]:
        """Run one read-only statement and return its rows.

        Columns of the tables and views come in Python's types, the same from every warehouse: bool, datetime
        in UTC, date and time, list and dict for repeated columns, records and JSON.
        Parameters are named, `@name` in the statement, and none is null: nothing equals a null.
        Raises BadQuery if the statement is refused, WarehouseUnavailable if the warehouse fails.
        """
        ...

    def stream(
        self, sql: str, parameters: Mapping[str, object] | None = None, slowly: bool = False
    ) -> Iterator[dict[str, object]]:
        """Yield the rows of one read-only statement without collecting them in memory; raises as `query`.

        slowly: the caller may take hours, so no statement stays open meanwhile.
        """
        ...

    def delete(self, table: str, column: str, values: Sequence[str]) -> int:
        """Remove the rows whose `column` is in `values` and return their number; only for dead letters."""
        ...

    def clear(self, table: str) -> int:
        """Remove all rows of a table for good and return their number; for a change of profile alone."""
        ...

    def setup(self) -> dict[str, list[tuple[str, str]] | None]:
        """Return who may write each table, for `doctor`; empty where the warehouse is not shared by grants.

        Table -> pairs of role and member, on the table or its dataset; None if they cannot be seen.
        """
        ...

    def outdated(self) -> list[str]:
        """Return the names of tables and views that are missing or not as the code has them."""
        ...

    def check(self) -> None:
        """Raise WarehouseUnavailable unless the warehouse answers."""
        ...

    def close(self) -> None:
        """Write pending rows and close connections."""
        ...


BACKENDS: dict[str, tuple[str, str, str | None]] = {
    "sqlite": ("app.warehouse.sqlite.warehouse", "SqliteWarehouse", None),
    "postgresql": ("app.warehouse.postgres.warehouse", "PostgresWarehouse", "postgres"),
    "bigquery": ("app.warehouse.bigquery.warehouse", "BigQueryWarehouse", "gcp"),
}


def check_warehouse(url: str) -> None:
    """Raise ConfigError if the warehouse could not be opened or created. Creates and opens nothing."""
    load_backend("warehouse", url, BACKENDS).check_settings(url)


def open_warehouse(url: str) -> Warehouse:
    """Open the warehouse at a URL. Creates nothing yet."""
    warehouse: Warehouse = load_backend("warehouse", url, BACKENDS)(url)
    return warehouse


def find(warehouse: Warehouse, search: Search) -> Found:
    """Return what a search finds, in Python's types whichever the warehouse is."""
    since = _since_merge(warehouse) if warehouse.dialect == DIALECT and is_list(search) else None
    sql, parameters = statement(search, warehouse.dialect, since)
    return found(search, warehouse.query(sql, parameters))


def _since_merge(warehouse: Warehouse) -> Recent | None:
    """Return what was touched since `study_current` was merged; None if no list can be read from it."""
    try:
        until = merged_until(warehouse)
    except BadQuery:  # a dataset without the table, as where removals are not announced
        return None
    return None if until is None else recent(until, warehouse.query(*touched_since(until)))


def merged_until(warehouse: Warehouse) -> datetime | None:
    """Return the watermark of `study_current`, None if nothing was merged; BadQuery without such a table."""
    (mark,) = warehouse.query(*last_merge())
    until = mark["until"]
    return until if isinstance(until, datetime) else None


def missed_by_merges(warehouse: Warehouse, until: datetime | None, before: datetime) -> datetime | None:
    """Return when a row was made, before some time, that no merge up to the watermark has read; None without.

    A merge moves the watermark only if it merges a study that is there, so only current rows count.
    """
    since = until or datetime(1970, 1, 1, tzinfo=UTC)
    touched = [str(row["study_instance_uid"]) for row in warehouse.query(*touched_before(since, before))]
    if not touched:
        return None
    (row,) = warehouse.query(*first_unmerged(touched, since))
    first = row["first"]
    return first if isinstance(first, datetime) and first < before else None
