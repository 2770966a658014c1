"""How values are written in SQLite, which knows integers, floats, text and bytes only, and read from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date

from app.model.times import rfc3339
from app.warehouse.row_values import Encoder, to_python, value_writer
from app.warehouse.tables import TABLES, Column
from app.warehouse.views import VIEWS


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


_ENCODERS: dict[str, Encoder] = {
    "BOOL": int,
    "FLOAT64": float,
    "TIMESTAMP": rfc3339,  # always microseconds and Z, so that text sorts as time does
    "DATE": date.isoformat,
    "TIME": str,
    "RECORD": _json,
}
to_values = value_writer(_ENCODERS, _json)


def to_parameters(parameters: Mapping[str, object], types: Mapping[str, str]) -> dict[str, object]:
    """Return query parameters of these types as values of columns are stored."""
    return {
        name: encode(value) if (encode := _ENCODERS.get(types[name])) else value
        for name, value in parameters.items()
    }


def from_values(row: Mapping[str, object]) -> dict[str, object]:
    """Return a row of an answer in Python's types, by the names of the columns of our tables and views.

    A value of such a name that is something else, as a statement may call it, stays as it is.
    """
    return {
        name: _python(column, value) if (column := _SHAPED.get(name)) else value
        for name, value in row.items()
    }


def _python(column: Column, value: object) -> object:
    try:
        return to_python(column, value)
    except ValueError:
        return value


_SHAPED = {
    column.name: column
    for table in (*TABLES.values(), *VIEWS.values())
    for column in table.columns
    if column.mode == "REPEATED" or column.type in ("BOOL", "JSON", "RECORD", "TIMESTAMP", "DATE", "TIME")
}
"""Columns whose values SQLite keeps otherwise than Python has them."""
