"""Pure: rows as text in columns, for people."""

from __future__ import annotations

import base64
import json
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import datetime

from app.model.times import rfc3339


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """Return rows as aligned columns under their names; characters that cannot be seen are escaped."""
    if not rows:
        return "(no rows)"
    cells = [[_plain(name) for name in rows[0]]] + [[_cell(value) for value in row.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def readable(value: object) -> str:
    """Return a value as text: lists and objects as JSON, bytes in base64, times in RFC 3339."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, bool | list | dict):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return rfc3339(value) if isinstance(value, datetime) else str(value)


def _cell(value: object) -> str:
    """Return a value as a cell: nothing for null, two quotes for the empty text."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else readable(value)
    return _plain(text) or "''"


def _plain(text: str) -> str:
    # Category C: controls, what formats unseen, halves of characters, what has no meaning (yet).
    hidden = {character for character in text if unicodedata.category(character)[0] == "C"}
    return text.translate({ord(character): json.dumps(character)[1:-1] for character in hidden})
