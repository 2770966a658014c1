"""Warehouse in a dataset of BigQuery, whose tables and views Terraform makes from the same list.

SDKs are loaded by the first call that needs them: each costs a cold start about a quarter of a second.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from app.model.errors import RowsRejected, WarehouseUnavailable
from app.model.values import Row
from app.warehouse.bigquery.appending import Writer, append_rows
from app.warehouse.bigquery.url import Place, read_url
from app.warehouse.tables import check_delete, check_table

if TYPE_CHECKING:
    from app.warehouse.bigquery.client import BigQueryReader

for _package in ("google.cloud.bigquery", "google.cloud.bigquery_storage_v1"):
    if find_spec(_package) is None:
        raise ModuleNotFoundError(f"No module named {_package!r}", name=_package)


class BigQueryWarehouse:
    """Appends by the Storage Write API (or insertAll) and reads by jobs, each opened at its first use."""

    dialect = "bigquery"

    def __init__(self, url: str) -> None:
        self._place = read_url(url)
        self._lock = threading.Lock()
        self._writer: Writer[Any] | None = None
        self._reader: BigQueryReader | None = None
        self._closed = False

    @staticmethod
    def check_settings(url: str) -> None:
        """Raise ConfigError unless the URL names a dataset; BigQuery itself is not asked."""
        read_url(url)

    def create(self) -> None:
        """Do nothing, at once: Terraform has made the tables, and a cold start waits for no network."""

    def append(self, table: str, rows: Sequence[Row]) -> None:
        """Add rows; see Warehouse. The metadata of a row over BigQuery's size limit stays in its artifact."""
        refused = append_rows(self._writing(), table, rows)
        if refused:
            raise RowsRejected(refused)

    def query(self, sql: str, parameters: Mapping[str, object] | None = None) -> list[dict[str, object]]:
        """Run one read-only statement; see Warehouse. Values are Python's own, JSON is parsed."""
        return list(self.stream(sql, parameters))

    def stream(self, sql: str, parameters: Mapping[str, object] | None = None) -> Iterator[dict[str, object]]:
        """Yield the rows of one read-only statement, page by page; see Warehouse."""
        return self._reading().stream(sql, parameters or {})

    def delete(self, table: str, column: str, values: Sequence[str]) -> int:
        """Remove rows by the value of a column; see Warehouse. Those that insertAll wrote stay a while."""
        check_delete(table, column)
        return self._reading().delete(table, column, values) if values else 0

    def clear(self, table: str) -> int:
        """Remove all rows of a table; see Warehouse. Time travel keeps them for some days."""
        check_table(table)
        return self._reading().clear(table)

    def check(self) -> None:
        """Raise WarehouseUnavailable unless the table `instances` can be seen."""
        self._reading().check()

    def close(self) -> None:
        """Close what was opened; every later call fails."""
        with self._lock:
            self._closed = True
            for part in (self._writer, self._reader):
                if part is not None:
                    part.close()
            self._writer = self._reader = None

    def _writing(self) -> Writer[Any]:
        with self._lock:
            self._check_open()
            if self._writer is None:
                self._writer = _open_writer(self._place)
            return self._writer

    def _reading(self) -> BigQueryReader:
        with self._lock:
            self._check_open()
            if self._reader is None:
                from app.warehouse.bigquery.client import BigQueryReader

                self._reader = BigQueryReader(self._place)
            return self._reader

    def _check_open(self) -> None:
        if self._closed:
            raise WarehouseUnavailable("the warehouse is closed")


def _open_writer(place: Place) -> Writer[Any]:
    if place.write == "insertall":
        from app.warehouse.bigquery.insert_all import InsertAllWriter

        return InsertAllWriter(place)
    from app.warehouse.bigquery.write_api import StorageWriter

    return StorageWriter(place)
