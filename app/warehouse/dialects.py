"""Differences between the SQL dialects of the warehouses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Dialect:
    """The differences; `{0}` in a template is the expression it is applied to.

    types: BigQuery's type -> own type. nested: arrays and structs are native types, otherwise JSON text.
    locator: expression that distinguishes two equal rows in a row store; empty for a column store.
    same: equal, or both null.
    attribute: text of one member of the JSON object in `attributes`, null if that is not JSON.
    integer: text to INT64, null if it is not an integer.
    collation: collation of text columns, so that order and MAX compare bytes, as in other warehouses.
    distinct_list, object_bytes: the aggregate of a group, and the expression applied to its result. A
    column store aggregates the column `object_bytes`, which has the size of each object once.
    """

    quote: str
    types: Mapping[str, str]
    nested: bool
    locator: str
    same: str
    attribute: str
    integer: str
    distinct_list: tuple[str, str]
    object_bytes: tuple[str, str]
    collation: str = ""


DIALECTS: dict[str, Dialect] = {
    "sqlite": Dialect(
        quote='"',
        types={
            **dict.fromkeys(("STRING", "JSON", "TIMESTAMP", "DATE", "TIME", "RECORD"), "TEXT"),
            **dict.fromkeys(("INT64", "BOOL"), "INTEGER"),
            "FLOAT64": "REAL",
            "BYTES": "BLOB",
        },
        nested=False,
        locator="rowid",
        same="IS",
        attribute="CASE WHEN json_valid(attributes) THEN CAST(json_extract(attributes, '$.{0}') AS TEXT) END",
        integer="CASE WHEN CAST(CAST({0} AS INTEGER) AS TEXT) = {0} THEN CAST({0} AS INTEGER) END",
        distinct_list=(
            "json_group_array(DISTINCT {0})",
            "(SELECT group_concat(value, ',') FROM"
            " (SELECT value FROM json_each({0}) WHERE value IS NOT NULL ORDER BY value))",
        ),
        object_bytes=(
            "json_group_object(object_uri, size_bytes)",
            "(SELECT SUM(size) FROM (SELECT MAX(value) AS size FROM json_each({0}) GROUP BY key))",
        ),
    ),
    "postgresql": Dialect(
        quote='"',
        types={
            "STRING": "TEXT",
            "INT64": "BIGINT",
            "FLOAT64": "DOUBLE PRECISION",
            "BOOL": "BOOLEAN",
            "TIMESTAMP": "TIMESTAMPTZ",
            "BYTES": "BYTEA",
            **dict.fromkeys(("JSON", "RECORD"), "JSONB"),
        },
        nested=False,
        locator="row_id",
        same="IS NOT DISTINCT FROM",
        attribute="(dicomlake_json(attributes) ->> '{0}') COLLATE \"C\"",
        integer="dicomlake_bigint({0})",
        distinct_list=("STRING_AGG(DISTINCT {0}, ',' ORDER BY {0})", "{0}"),
        object_bytes=(
            "JSONB_OBJECT_AGG(object_uri, size_bytes)",
            "(SELECT CAST(SUM(CAST(value AS BIGINT)) AS BIGINT) FROM JSONB_EACH_TEXT({0}))",
        ),
        collation='COLLATE "C"',
    ),
    "bigquery": Dialect(
        quote="`",
        types={"RECORD": "STRUCT"},
        nested=True,
        locator="",
        same="IS NOT DISTINCT FROM",
        attribute="JSON_VALUE(SAFE.PARSE_JSON(attributes), '$.{0}')",
        # Written as SQLite would: by itself SAFE_CAST takes 0x10 and +16 for 16.
        integer="CASE WHEN CAST(SAFE_CAST({0} AS INT64) AS STRING) = {0} THEN SAFE_CAST({0} AS INT64) END",
        distinct_list=("STRING_AGG(DISTINCT {0}, ',' ORDER BY {0})", "{0}"),
        # Not by a subquery over an array of the group: no filter would reach the table through it.
        object_bytes=("SUM(object_bytes)", "{0}"),
    ),
}
