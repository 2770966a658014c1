"""How values are written in SQLite, which knows integers, floats, text and bytes only."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

from app.model.errors import BadQuery
from app.model.values import Row
from app.warehouse.tables import TABLES, type_of


def _timestamp(value: datetime) -> str:
    # Always microseconds and Z, so that text sorts as time does and SQLite's date functions read it.
    return value.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


Encoder = Callable[[Any], object]
_ENCODERS: dict[str, Encoder] = {
    "BOOL": int,
    "FLOAT64": float,
    "TIMESTAMP": _timestamp,
    "DATE": date.isoformat,
    "TIME": str,
    "RECORD": _json,
}
_WRITERS = {
    name: [(c.name, _json if c.mode == "REPEATED" else _ENCODERS.get(c.type)) for c in table.columns]
    for name, table in TABLES.items()
}
_EMPTY = {
    name: {c.name: "[]" for c in table.columns if c.mode == "REPEATED"} for name, table in TABLES.items()
}


def to_values(table: str, row: Row) -> list[object]:
    """Return what is stored, column by column, for a row that `check_row` has passed.

    An absent value is null; an absent list is an empty one, as BigQuery has it.
    """
    empty = _EMPTY[table]
    return [
        empty.get(name) if (value := row.get(name)) is None else encode(value) if encode else value
        for name, encode in _WRITERS[table]
    ]


def parameter(name: str, value: object) -> object:
    """Return what a query parameter is compared as; raises BadQuery when no column could hold it."""
    if value is None:
        return None
    word = type_of(value)
    if word is None:
        raise BadQuery(f"parameter {name} has a value that no column could hold")
    encode = _ENCODERS.get(word)
    return encode(value) if encode else value
