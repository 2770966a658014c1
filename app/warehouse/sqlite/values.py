"""How values are written in SQLite, which knows integers, floats, text and bytes only."""

from __future__ import annotations

import json
from datetime import date

from app.model.errors import BadQuery
from app.model.times import rfc3339
from app.warehouse.row_values import Encoder, value_writer
from app.warehouse.tables import type_of


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


def parameter(name: str, value: object) -> object:
    """Return what a query parameter is compared as; raises BadQuery when no column could hold it."""
    if value is None:
        return None
    word = type_of(value)
    if word is None:
        raise BadQuery(f"parameter {name} has a value that no column could hold")
    encode = _ENCODERS.get(word)
    return encode(value) if encode else value
