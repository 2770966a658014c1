"""The documents that are made from the list of tables; tools/generate.py writes them."""

from __future__ import annotations

import json

from app.warehouse.study_current import STUDY_CURRENT, merge_script
from app.warehouse.tables import TABLES, Column, Table
from app.warehouse.views import MATERIALIZED_VIEWS, VIEWS, table_functions, views

_INTRODUCTION = """# Tables and views

Made by `make schemas` from `app/warehouse/tables.py` and `views.py`; change those instead.

Names and columns are the same in every warehouse. Types are BigQuery's words. SQLite keeps TIMESTAMP, DATE
and TIME as ISO 8601 text (timestamps in UTC with microseconds and `Z`, so they sort), BOOL as 0 or 1, and
JSON, RECORD and repeated columns as JSON text. In BigQuery `rows` is a reserved word: write that column in
backticks.
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


def bigquery_schema(table: Table) -> str:
    """Return the schema file of a table, as BigQuery and its Terraform provider read it."""
    return json.dumps([_json_field(column) for column in table.columns], indent=2) + "\n"


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


_FUNCTIONS = """## current_of_study(uid)

In BigQuery only, a table function: the rows of `instances_current` whose `study_instance_uid` is `uid`, a
STRING. Its filter is inside, next to the table, whatever BigQuery makes of a filter on the view.
"""


def tables_page() -> str:
    """Return the page that describes every table, view and table function."""
    tables = [*TABLES.values(), *VIEWS.values(), *MATERIALIZED_VIEWS.values(), STUDY_CURRENT]
    return "\n".join([_INTRODUCTION, *map(_section, tables), _FUNCTIONS])


def files() -> dict[str, str]:
    """Return path, from the root of the repository, and text of every generated file."""
    schemas = {
        f"tf/schemas/{table.name}.json": bigquery_schema(table) for table in (*TABLES.values(), STUDY_CURRENT)
    }
    dataset = ("bigquery", "${dataset}.")
    made = {**views(*dataset), **table_functions(*dataset)}
    folders = {**dict.fromkeys(made, "views"), **dict.fromkeys(MATERIALIZED_VIEWS, "materialized")}
    folders |= dict.fromkeys(table_functions(*dataset), "functions")
    without = {**views(*dataset, removals=False), **table_functions(*dataset, removals=False)}
    queries = {
        **{f"{folders[name]}/{name}": text for name, text in made.items()},
        **{f"without_removals/{name}": text for name, text in without.items() if text != made[name]},
    }
    queries["scripts/merge_study_current"] = merge_script("${dataset}.")
    return {
        "docs/tables.md": tables_page(),
        **schemas,
        **{f"tf/schemas/{name}.sql": f"{text}\n" for name, text in queries.items()},
    }
