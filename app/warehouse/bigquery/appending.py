"""Group rows into requests within BigQuery's limits, and isolate bad rows. Pure except for `Writer.send`."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from app.model.values import Row
from app.warehouse.tables import check_row

# BigQuery accepts 10 MB per request, whatever the number of rows; the frame around the rows counts too.
MAX_BYTES = 9_000_000
MAX_ROWS = 500
ROW_FRAME_BYTES = 8  # tag and length of a row in its request


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of one request. Rows are given by their place in it; rows not listed are stored.

    refused: place -> reason of BigQuery. again: rows not stored although nothing is known to be wrong with
    them. If there are such rows but none is refused, one of them is bad and BigQuery did not report which.
    """

    refused: Mapping[int, str] = field(default_factory=dict)
    again: Sequence[int] = ()


class Writer(Protocol):
    """The API that takes rows. A protocol, because its SDK is loaded on demand."""

    def pack(self, table: str, row: Row) -> bytes:
        """Encode a row that has passed `check_row`."""
        ...

    def send(self, table: str, bodies: Sequence[bytes]) -> Answer:
        """Send one request; raises WarehouseUnavailable if the fate of its rows is unknown."""
        ...

    def close(self) -> None:
        """Close connections."""
        ...


def append_rows(writer: Writer, table: str, rows: Iterable[Row]) -> dict[int, str]:
    """Store rows; return index -> reason for those that were refused.

    If BigQuery does not report which row is bad, the request is split in halves until it is found.
    """
    refused: dict[int, str] = {}
    packed: dict[int, bytes] = {}
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
        answer = writer.send(table, [packed[index] for index in request])
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


def _fit(writer: Writer, table: str, row: Row) -> bytes | None:
    packed = writer.pack(table, row)
    if _size(packed) > MAX_BYTES and row.get("metadata") is not None:
        packed = writer.pack(table, spilled(row))
    return packed if _size(packed) <= MAX_BYTES else None


def _size(packed: bytes) -> int:
    return len(packed) + ROW_FRAME_BYTES


def _requests(packed: Mapping[int, bytes]) -> list[list[int]]:
    requests: list[list[int]] = []
    room = 0
    for index, row in packed.items():
        if _size(row) > room or len(requests[-1]) == MAX_ROWS:
            requests.append([])
            room = MAX_BYTES
        requests[-1].append(index)
        room -= _size(row)
    return requests
