"""What BigQuery refuses in a row, by Google's pages on `tabledata.insertAll` and `AppendRows`."""

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.bq_front import Front

MAX_BYTES = 10_000_000
MAX_INSERT_ROWS = 50_000


def row_fault(row: dict, table: dict, decoded: bool, front: "Front") -> tuple[str, str] | None:
    """Return the column and what is wrong with it, or None; `decoded`: values are those of a protobuf.

    A row in which the text `front.refused` stands is refused for its first column with it. What is said of a
    row quotes it.
    """
    fault = record_fault(row, table["schema"]["fields"], "")
    if fault is None and front.refused:
        fault = next(
            ((name, "cannot be") for name, value in row.items() if front.refused in str(value)), None
        )
    field = table.get("timePartitioning", {}).get("field")
    if fault is None and field:
        value = row[field]
        when = (
            datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=value)
            if decoded
            else datetime.fromisoformat(value)
        )
        now = datetime.now(UTC)
        if not now - timedelta(days=3650) <= when <= now + timedelta(days=366):
            fault = field, "is outside the allowed bounds of its partition"
    return fault and (fault[0], f"{fault[1]}: {front.text(row)}")


def record_fault(record: object, fields: list[dict], path: str) -> tuple[str, str] | None:
    if not isinstance(record, dict):
        return path, "is no record"
    known = {field["name"]: field for field in fields}
    for name in record.keys() - known.keys():
        return path + name, "no such field"
    for name, field in known.items():
        value, mode = record.get(name), field.get("mode")
        if value is None:
            if mode == "REQUIRED" or (mode == "REPEATED" and name in record):
                return path + name, "missing required field"
            continue
        for one in value if mode == "REPEATED" else [value]:
            if fault := value_fault(one, field, path + name):
                return fault
    return None


def value_fault(value: object, field: dict, path: str) -> tuple[str, str] | None:
    if field["type"] == "RECORD":
        return record_fault(value, field["fields"], path + ".")
    if field["type"] == "JSON":
        try:
            json.loads(value, parse_constant=float)
        except (TypeError, ValueError):
            return path, "is no JSON"
    if field["type"] == "BYTES" and isinstance(value, str):
        base64.b64decode(value, validate=True)
    return None
