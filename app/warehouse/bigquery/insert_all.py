"""Write rows with `tabledata.insertAll`, the older streaming API; row ids remove duplicates for a minute."""

from __future__ import annotations

import json
import re
import uuid
from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time
from typing import Any

from google.api_core.exceptions import BadRequest

from app.model.errors import WarehouseUnavailable
from app.model.values import Row
from app.warehouse.bigquery.appending import Answer, Encoder, Packed, row_encoder
from app.warehouse.bigquery.client import (
    RETRY,
    TIMEOUT_S,
    bigquery_errors,
    is_passing,
    open_client,
    reason_word,
)
from app.warehouse.bigquery.url import Place
from app.warehouse.tables import TABLES

_ROW_FRAME_BYTES = 200  # the row id and the JSON around a row


def _timestamp(value: datetime) -> str:
    return value.astimezone(UTC).isoformat()


def _bytes(value: bytes) -> str:
    return b64encode(value).decode()


# INT64 is sent as text, because BigQuery reads JSON numbers as doubles.
_ENCODERS: dict[str, Encoder] = {
    "INT64": str,
    "TIMESTAMP": _timestamp,
    "DATE": date.isoformat,
    "TIME": time.isoformat,
    "BYTES": _bytes,
}
_TO_JSON = {name: row_encoder(name, _ENCODERS) for name in TABLES}

_COLUMNS = {column.name for table in TABLES.values() for column in table.columns}

Body = tuple[str, dict[str, object]]


class InsertAllWriter:
    """Writer for insertAll; bodies are pairs of a row id and a row as JSON."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._client = open_client(place)

    def pack(self, table: str, row: Row) -> Packed[Body]:
        """Encode a row as JSON. Without a row id, a random one at least removes duplicates of our retries."""
        body = _TO_JSON[table](row)
        row_id = str(row.get("row_id") or uuid.uuid4())
        return Packed((row_id, body), len(json.dumps(body)) + _ROW_FRAME_BYTES)

    def send(self, table: str, bodies: Sequence[Body]) -> Answer:
        """Send one request; if any row is bad, BigQuery stores none and reports the others as stopped."""
        row_ids, rows = zip(*bodies, strict=True)
        with bigquery_errors():
            try:
                errors = self._client.insert_rows_json(
                    f"{self._place.name}.{table}", rows, row_ids=row_ids, retry=RETRY, timeout=TIMEOUT_S
                )
            except BadRequest as exc:
                if is_passing(exc):
                    raise
                return Answer(again=range(len(rows)))
        return _answer(errors)

    def close(self) -> None:
        """Close the client."""
        self._client.close()


def _column(location: object) -> str:
    """Return the column of a fault if it is one of ours; otherwise the location could quote a value."""
    name = re.match(r"\w*", str(location))
    return name.group() if name and name.group() in _COLUMNS else ""


def _answer(rows: Sequence[Mapping[str, Any]]) -> Answer:
    """Parse `insertErrors`; only reason and column are kept, because other texts may quote values."""
    refused: dict[int, str] = {}
    again = []
    for row in rows:
        # A row whose only fault is `stopped` is not bad itself.
        faults = [fault for fault in row["errors"] if fault["reason"] != "stopped"]
        if not faults:
            again.append(row["index"])
        elif faults[0]["reason"] == "invalid":
            refused[row["index"]] = f"invalid {_column(faults[0].get('location'))}".rstrip()
        else:
            raise WarehouseUnavailable(f"BigQuery ({reason_word(faults[0]['reason']) or 'refused'})")
    if again and not refused:
        raise WarehouseUnavailable("BigQuery (stopped)")
    return Answer(refused, again)
