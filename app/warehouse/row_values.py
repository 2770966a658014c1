"""Shared by the row stores: turn a row into a list of values in the order of its columns, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time
from typing import Any

import orjson

from app.model.values import Row
from app.warehouse.tables import TABLES, Column

Encoder = Callable[[Any], object]


def value_writer(encoders: Mapping[str, Encoder], encode_list: Encoder) -> Callable[[str, Row], list[object]]:
    """Return a function that makes the values to store from a row that `check_row` has passed.

    An absent value becomes null. An absent list becomes an empty one, as in BigQuery.

    Parameters
    ----------
    encoders : type of a column -> how one of its values is written; other values are stored as they are
    encode_list : how a repeated column is written
    """
    writers = {
        name: [(c.name, encode_list if c.mode == "REPEATED" else encoders.get(c.type)) for c in table.columns]
        for name, table in TABLES.items()
    }
    empty = {
        name: {c.name: "[]" for c in table.columns if c.mode == "REPEATED"} for name, table in TABLES.items()
    }

    def to_values(table: str, row: Row) -> list[object]:
        absent = empty[table]
        return [
            absent.get(name) if (value := row.get(name)) is None else encode(value) if encode else value
            for name, encode in writers[table]
        ]

    return to_values


def to_python(column: Column, value: Any) -> Any:
    """Return a value of a column in Python's own type, from the numbers and texts that a warehouse stores.

    Raises
    ------
    ValueError : a text is not of that type
    """
    if column.type == "BOOL" and isinstance(value, int):
        return bool(value)
    if not isinstance(value, str):
        return value
    if column.mode == "REPEATED" or column.type in ("RECORD", "JSON"):
        return orjson.loads(value)
    parse = _PARSERS.get(column.type)
    return parse(value) if parse else value


_PARSERS: dict[str, Any] = {
    "DATE": date.fromisoformat,
    "TIME": time.fromisoformat,
    "TIMESTAMP": datetime.fromisoformat,
}


def distinct(names: Iterable[str]) -> list[str]:
    """Return the names, repeated ones with a number: a row is a dict, and must not lose a column."""
    found: dict[str, None] = {}
    for name in names:
        number, free = 1, name
        while free in found:
            number += 1
            free = f"{name}_{number}"
        found[free] = None
    return list(found)
