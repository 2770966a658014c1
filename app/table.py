"""Pure: rows as text in columns, for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """Return rows as aligned columns under their names; control characters are escaped."""
    if not rows:
        return "(no rows)"
    cells = [list(rows[0])] + [
        ["" if value is None else _plain(value) for value in row.values()] for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def _plain(value: object) -> str:
    return json.dumps(str(value), ensure_ascii=False)[1:-1].replace('\\"', '"').replace("\\\\", "\\")
