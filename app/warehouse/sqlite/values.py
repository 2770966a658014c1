"""How values are written in SQLite, which knows integers, floats, text and bytes only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date

from app.model.times import rfc3339
from app.warehouse.row_values import Encoder, value_writer


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
