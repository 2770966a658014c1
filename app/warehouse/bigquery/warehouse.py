"""The warehouse in a BigQuery dataset, whose tables and views Terraform creates from the same list.

SDKs are imported by the first call that needs them: each costs a cold start about a quarter of a second.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from app.model.errors import RowsRejected, WarehouseUnavailable
from app.model.values import Row
from app.warehouse.bigquery.appending import Writer, append_rows
from app.warehouse.bigquery.url import read_url
from app.warehouse.tables import check_delete, check_table

if TYPE_CHECKING:
    from app.warehouse.bigquery.client import BigQueryReader

for _package in ("google.cloud.bigquery", "google.cloud.bigquery_storage_v1"):
    if find_spec(_package) is None:
        raise ModuleNotFoundError(f"No module named {_package!r}", name=_package)


class BigQueryWarehouse:
    """Appends with the Storage Write API and reads with query jobs, both opened on demand."""

    dialect = "bigquery"

    def __init__(self, url: str) -> None:
        self._place = read_url(url)
        self._lock = threading.Lock()
        self._writer: Writer | None = None
        self._reader: BigQueryReader | None = None
        self._closed = False

    @staticmethod
    def check_settings(url: str) -> None:
        """Raise ConfigError unless the URL is valid. Does not contact BigQuery."""
        read_url(url)

    def create(self) -> None:
        """Do nothing: Terraform has created the tables, and a cold start should not wait for the network."""

    def append(self, table: str, rows: Sequence[Row]) -> None:
        """Add rows; see Warehouse. The metadata of a row over BigQuery's size limit stays in its artifact."""
        refused = append_rows(self._writing(), table, rows)
        if refused:
            raise RowsRejected(refused)

    def query(self, sql: str, parameters: Mapping[str, object] | None = None) -> list[dict[str, object]]:
        """Run one read-only statement; see Warehouse. Values are Python objects, JSON is parsed."""
        return list(self.stream(sql, parameters))

    def stream(
        self, sql: str, parameters: Mapping[str, object] | None = None, slowly: bool = False
    ) -> Iterator[dict[str, object]]:
        """Yield the rows of one read-only statement, page by page; see Warehouse.

        The result is a table of its own, so a slow caller holds nothing.
        """
        return self._reading().stream(sql, parameters or {})

    def delete(self, table: str, column: str, values: Sequence[str]) -> int:
        """Delete rows by the value of a column; see Warehouse."""
        check_delete(table, column)
        return self._reading().delete(table, column, values) if values else 0

    def clear(self, table: str) -> int:
        """Remove all rows of a table; see Warehouse. Time travel keeps them for some days."""
        check_table(table)
        return self._reading().clear(table)

    def setup(self) -> dict[str, list[tuple[str, str]] | None]:
        """Return who may write each table; see Warehouse. Needs rights that the service has not."""
        return self._reading().setup()

    def outdated(self) -> list[str]:
        """Return what Terraform would make or change; see Warehouse."""
        return self._reading().outdated()

    def check(self) -> None:
        """Raise WarehouseUnavailable unless the table `instances` is visible."""
        self._reading().check()

    def close(self) -> None:
        """Close all clients; later calls raise WarehouseUnavailable."""
        with self._lock:
            self._closed = True
            for part in (self._writer, self._reader):
                if part is not None:
                    part.close()
            self._writer = self._reader = None

    def _writing(self) -> Writer:
        with self._lock:
            self._check_open()
            if self._writer is None:
                from app.warehouse.bigquery.write_api import StorageWriter

                self._writer = StorageWriter(self._place)
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
