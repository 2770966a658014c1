"""The documents that are made from the list of tables; tools/generate.py writes them."""

from __future__ import annotations

import json

from app.warehouse.tables import TABLES, Column, Table
from app.warehouse.views import VIEWS, views

_INTRODUCTION = """# Tables and views

Made by `make schemas` from `app/warehouse/tables.py` and `views.py`; change those instead.

Names and columns are the same in every warehouse. Types are BigQuery's words. SQLite keeps TIMESTAMP, DATE
and TIME as ISO 8601 text (timestamps in UTC with microseconds and `Z`, so they sort), BOOL as 0 or 1, and
JSON, RECORD and repeated columns as JSON text.
"""


def _json_field(column: Column) -> dict[str, object]:
    field: dict[str, object] = {
        "name": column.name,
        "type": column.type,
        "mode": column.mode,
        "description": column.description,
    }
    if column.fields:
        field["fields"] = [_json_field(inner) for inner in column.fields]
    return field


def bigquery_schema(table: str) -> str:
    """Return the schema file of a table, as BigQuery and its Terraform provider read it."""
    return json.dumps([_json_field(column) for column in TABLES[table].columns], indent=2) + "\n"


def _lines(column: Column, path: str = "") -> list[str]:
    mode = "" if column.mode == "NULLABLE" else f", {column.mode.lower()}"
    line = f"| `{path}{column.name}` | {column.type}{mode} | {column.description} |"
    return [line, *(text for inner in column.fields for text in _lines(inner, f"{path}{column.name}."))]


def _section(table: Table) -> str:
    layout = []
    if table.partition_by:
        layout.append(f"Partitioned by {table.partition_unit.lower()} of `{table.partition_by}`")
    if table.cluster_by:
        layout.append("clustered by " + ", ".join(f"`{name}`" for name in table.cluster_by))
    text = f"## {table.name}\n\n{table.description}\n\n"
    if layout:
        text += ", ".join(layout) + ", in BigQuery.\n\n"
    if table.name == "instances_current":
        return text + "It has the columns of `instances`.\n"
    rows = [line for column in table.columns for line in _lines(column)]
    return text + "\n".join(["| column | type | meaning |", "|---|---|---|", *rows]) + "\n"


def tables_page() -> str:
    """Return the page that describes every table and view."""
    return "\n".join([_INTRODUCTION, *map(_section, [*TABLES.values(), *VIEWS.values()])])


def files() -> dict[str, str]:
    """Return path, from the root of the repository, and text of every generated file."""
    schemas = {f"tf/schemas/{table}.json": bigquery_schema(table) for table in TABLES}
    selects = views("bigquery", "${dataset}.")
    return {
        "docs/tables.md": tables_page(),
        **schemas,
        **{f"tf/schemas/views/{name}.sql": f"{text}\n" for name, text in selects.items()},
    }
