"""How values are written in PostgreSQL and read from it."""

from __future__ import annotations

import json
import re
from typing import Any

from psycopg.adapt import Loader
from psycopg.types.json import set_json_loads

from app.warehouse.row_values import Encoder, value_writer

_NO_JSONB = re.compile(r"\\u(0000|d[89a-f])", re.IGNORECASE)
"""May be an escape of what JSON may hold and jsonb may not: NUL, or half of a surrogate pair."""


class Whole(Loader):
    """Loads NUMERIC, the type of sums of BIGINT, as an int if it is whole, else as a float."""

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
    """Return JSON text that jsonb accepts: U+FFFD replaces characters that it rejects."""
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


_ENCODERS: dict[str, Encoder] = {"RECORD": _json, "JSON": jsonb, "FLOAT64": float}
to_values = value_writer(_ENCODERS, _json)
