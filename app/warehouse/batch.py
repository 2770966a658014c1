"""Group commit around any warehouse: callers that append to one table at the same time share one append."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from app.model.errors import DicomlakeError, PermanentError, RowsRejected, WarehouseUnavailable
from app.model.values import Row
from app.plumbing.group_commit import GroupCommit
from app.warehouse import Warehouse
from app.warehouse.tables import TABLES


@dataclass(frozen=True, slots=True)
class _Part:
    """The rows of one caller and about how many bytes they take."""

    rows: Sequence[Row]
    size: int


def _size(rows: Sequence[Row]) -> int:
    """Return about how many bytes the rows take; text that is not ASCII is counted at its longest."""
    return sum(
        len(value) * (4 if isinstance(value, str) and not value.isascii() else 1)
        if isinstance(value, str | bytes)
        else 8
        for row in rows
        for value in row.values()
    )


class BatchedWarehouse:
    """A warehouse that joins concurrent appends to one table, up to `max_rows` and `max_bytes`.

    An append that exceeds a limit by itself is not joined with others.
    """

    def __init__(self, inner: Warehouse, max_rows: int, max_bytes: int) -> None:
        self._inner = inner
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._commits: dict[str, GroupCommit[_Part, None]] = {
            table: GroupCommit(partial(self._append, table), WarehouseUnavailable, self._fitting)
            for table in TABLES
        }

    def append(self, table: str, rows: Sequence[Row]) -> None:
        """Add rows; returns when they are durable. A refused row fails only the caller that brought it."""
        self._commits[table].add(_Part(rows, _size(rows)))

    def _fitting(self, parts: list[_Part]) -> int:
        """Return how many of these go in one append."""
        rows = size = 0
        for count, part in enumerate(parts):
            rows, size = rows + len(part.rows), size + part.size
            if count and (rows > self._max_rows or size > self._max_bytes):
                return count
        return len(parts)

    def _append(self, table: str, parts: list[_Part]) -> Sequence[DicomlakeError | None]:
        try:
            self._inner.append(table, [row for part in parts for row in part.rows])
        except RowsRejected as exc:
            return _share(exc.rejected, parts)
        except DicomlakeError as exc:
            if len(parts) == 1:
                return [exc]
            if not isinstance(exc, PermanentError):
                raise
            # One of them is at fault and the warehouse does not report which.
            return [fault for part in parts for fault in self._append(table, [part])]
        return [None] * len(parts)

    @property
    def dialect(self) -> str:
        """Name of its SQL."""
        return self._inner.dialect

    def create(self) -> None:
        """Make the tables and views that are not there yet."""
        self._inner.create()

    def query(self, sql: str, parameters: Mapping[str, object] | None = None) -> list[dict[str, object]]:
        """Run one read-only statement."""
        return self._inner.query(sql, parameters)

    def stream(
        self, sql: str, parameters: Mapping[str, object] | None = None, slowly: bool = False
    ) -> Iterator[dict[str, object]]:
        """Yield the rows of one read-only statement as they come."""
        return self._inner.stream(sql, parameters, slowly)

    def delete(self, table: str, column: str, values: Sequence[str]) -> int:
        """Remove dead letters."""
        return self._inner.delete(table, column, values)

    def clear(self, table: str) -> int:
        """Remove all rows of a table."""
        return self._inner.clear(table)

    def setup(self) -> dict[str, list[tuple[str, str]] | None]:
        """Return who may write each table; see Warehouse."""
        return self._inner.setup()

    def outdated(self) -> list[str]:
        """Return the names of tables and views that are not as the code has them."""
        return self._inner.outdated()

    def check(self) -> None:
        """Raise WarehouseUnavailable unless the warehouse answers."""
        self._inner.check()

    def close(self) -> None:
        """Accept no more rows, wait for the pending ones, then close the warehouse."""
        for commit in self._commits.values():
            commit.close()
        self._inner.close()


def _share(rejected: Mapping[int, str], parts: list[_Part]) -> list[DicomlakeError | None]:
    """Give each caller the refusals among its own rows, numbered as the caller numbered them."""
    faults: list[DicomlakeError | None] = []
    start = 0
    for part in parts:
        own = range(start, start + len(part.rows))
        mine = {index - start: why for index, why in rejected.items() if index in own}
        faults.append(RowsRejected(mine) if mine else None)
        start = own.stop
    return faults
