"""Group rows into requests within BigQuery's limits, and isolate bad rows. Pure except for `Writer.send`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from app.model.values import Row
from app.warehouse.tables import TABLES, Column, check_row

# BigQuery accepts 10 MB per request, whatever the number of rows; the frame around the rows counts too.
MAX_BYTES = 9_000_000
MAX_ROWS = 500  # per request, as recommended for insertAll

Body = TypeVar("Body")


@dataclass(frozen=True, slots=True)
class Packed(Generic[Body]):
    """One encoded row; `size` in bytes on the wire."""

    body: Body
    size: int


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of one request. Rows are given by their place in it; rows not listed are stored.

    refused: place -> reason of BigQuery. again: rows not stored although nothing is known to be wrong with
    them. If there are such rows but none is refused, one of them is bad and BigQuery did not report which.
    """

    refused: Mapping[int, str] = field(default_factory=dict)
    again: Sequence[int] = ()


class Writer(Protocol[Body]):
    """One of BigQuery's APIs for writing rows."""

    def pack(self, table: str, row: Row) -> Packed[Body]:
        """Encode a row that has passed `check_row`."""
        ...

    def send(self, table: str, bodies: Sequence[Body]) -> Answer:
        """Send one request; raises WarehouseUnavailable if the fate of its rows is unknown."""
        ...

    def close(self) -> None:
        """Close connections."""
        ...


def append_rows(writer: Writer[Body], table: str, rows: Iterable[Row]) -> dict[int, str]:
    """Store rows; return index -> reason for those that were refused.

    If BigQuery does not report which row is bad, the request is split in halves until it is found.
    """
    refused: dict[int, str] = {}
    packed: dict[int, Packed[Body]] = {}
    for index, row in enumerate(rows):
        if why := check_row(table, row):
            refused[index] = why
        elif fitting := _fit(writer, table, row):
            packed[index] = fitting
        else:
            refused[index] = "the row is over the size limit"
    todo = deque(_requests(packed))
    while todo:
        request = todo.popleft()
        answer = writer.send(table, [packed[index].body for index in request])
        refused |= {request[place]: why for place, why in answer.refused.items()}
        again = [request[place] for place in answer.again]
        if answer.refused:
            todo.extend([again] if again else [])
        elif len(again) == 1:
            refused[again[0]] = "BigQuery refuses the row"
        elif again:
            todo.extend([again[: len(again) // 2], again[len(again) // 2 :]])
    return refused


def spilled(row: Row) -> Row:
    """Return a row without its metadata, with a warning; the full document is at `metadata_uri`."""
    warnings = row.get("warnings") or []
    return {**row, "metadata": None, "warnings": [*warnings, {"tag": "", "code": "metadata_spilled"}]}  # type: ignore[misc]


def _fit(writer: Writer[Body], table: str, row: Row) -> Packed[Body] | None:
    packed = writer.pack(table, row)
    if packed.size > MAX_BYTES and row.get("metadata") is not None:
        packed = writer.pack(table, spilled(row))
    return packed if packed.size <= MAX_BYTES else None


def _requests(packed: Mapping[int, Packed[Body]]) -> list[list[int]]:
    requests: list[list[int]] = []
    room = 0
    for index, row in packed.items():
        if row.size > room or len(requests[-1]) == MAX_ROWS:
            requests.append([])
            room = MAX_BYTES
        requests[-1].append(index)
        room -= row.size
    return requests


Encoder = Callable[[Any], object]


def row_encoder(table: str, encoders: Mapping[str, Encoder]) -> Callable[[Row], dict[str, object]]:
    """Return a function that encodes the values of a row, leaving out nulls.

    encoders: column type -> encoder, for the types whose Python values need conversion.
    """
    return _record_encoder(TABLES[table].columns, encoders)


def _record_encoder(
    columns: Sequence[Column], encoders: Mapping[str, Encoder]
) -> Callable[[Row], dict[str, object]]:
    by_name = {column.name: _column_encoder(column, encoders) for column in columns}

    def encode(row: Row) -> dict[str, object]:
        return {
            name: one(value) if (one := by_name[name]) else value
            for name, value in row.items()
            if value is not None
        }

    return encode


def _column_encoder(column: Column, encoders: Mapping[str, Encoder]) -> Encoder | None:
    one = _record_encoder(column.fields, encoders) if column.fields else encoders.get(column.type)
    if one is None or column.mode != "REPEATED":
        return one
    return lambda values: [one(value) for value in values]
