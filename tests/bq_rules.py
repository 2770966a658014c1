"""What BigQuery refuses in a row, by Google's page on `AppendRows`."""

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.bq_front import Front

MAX_BYTES = 10_000_000


def row_fault(row: dict, table: dict, front: "Front") -> tuple[str, str] | None:
    """Return the column of a row, whose values are those of a protobuf, and what is wrong with it, or None.

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
        when = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=row[field])
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
    return None
