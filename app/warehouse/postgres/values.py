"""How values are written in PostgreSQL and read from it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from psycopg.adapt import Loader
from psycopg.types.json import set_json_loads

from app.model.values import Row
from app.warehouse.tables import TABLES

_NO_JSONB = re.compile(r"\\u(0000|d[89a-f])", re.IGNORECASE)
"""May be an escape of what JSON may hold and jsonb may not: NUL, or half of a surrogate pair."""


class Whole(Loader):
    """NUMERIC, which sums of BIGINT are, as an int where it is whole, else as a float."""

    def load(self, data: Any) -> int | float:
        """Return the number."""
        text = bytes(data).decode()
        return float(text) if re.search(r"[.A-Za-z]", text) else int(text)


def prepare(connection: Any) -> None:
    """Let a connection give Python's own types."""
    connection.adapters.register_loader("numeric", Whole)
    set_json_loads(json.loads, connection)


def _json(value: object) -> str:
    return jsonb(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def jsonb(text: str) -> str:
    """Return JSON text that jsonb takes: U+FFFD stands for what it does not."""
    if "\\" not in text or not _NO_JSONB.search(text):
        return text
    return json.dumps(_storable(json.loads(text)), ensure_ascii=False, separators=(",", ":"))


def _storable(value: Any) -> Any:
    if isinstance(value, str):
        return re.sub("[\0\ud800-\udfff]", "\ufffd", value)
    if isinstance(value, list):
        return [_storable(one) for one in value]
    if isinstance(value, dict):
        return {_storable(key): _storable(one) for key, one in value.items()}
    return value


Encoder = Callable[[Any], object]
_ENCODERS: dict[str, Encoder] = {"RECORD": _json, "JSON": jsonb, "FLOAT64": float}
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
