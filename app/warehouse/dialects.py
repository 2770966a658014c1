"""Differences between the SQL dialects of the warehouses."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
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
    nulls_first: null sorts before every value.
    walks: the database follows an index row by row, as a search asks it to.
    study_table: table that always has the rows of the view `studies`; empty if there is none.
    distinct_list, object_bytes: the aggregate of a group, and the expression applied to its result.
    matches: whether a text fits a pattern; `pattern` makes one from text with the wildcards `*` and `?`, and
    its second argument says whether case is ignored.
    elements, element: a repeated column as a table, and one of its rows.
    items, item, values, value: the objects or scalars at a path in JSON as a table, whether or not a list is
    there; and one of its rows.
    keys, key: the names in a JSON object as a table, and one of its rows.
    document: JSON text at a path, null if there is nothing.
    first_document: the same in the row of a group with the smallest `row_id`, again in two steps.
    number: a scalar of JSON as a number, null if it is not one.
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
    matches: str
    pattern: Callable[[str, bool], str]
    elements: str
    element: str
    items: str
    item: str
    values: str
    value: str
    keys: str
    key: str
    document: str
    first_document: tuple[str, str]
    number: str
    walks: bool = False
    study_table: str = ""
    nulls_first: bool = True
    collation: str = ""


def _letters(pattern: str) -> str:
    """Return a pattern in which each letter stands for both of its cases: databases fold only ASCII."""

    def both(found: re.Match[str]) -> str:
        lower, upper = found[0].lower(), found[0].upper()
        return f"[{lower}{upper}]" if len(lower) == len(upper) == 1 and lower != upper else found[0]

    return re.sub(r"[^\W\d_]", both, pattern)


def _glob(text: str, ignore_case: bool) -> str:
    escaped = text.replace("[", "[[]")
    return _letters(escaped) if ignore_case else escaped


def _regular_expression(text: str, ignore_case: bool) -> str:
    escaped = re.sub(r"[\\.+()|\[\]{}^$]", r"\\\g<0>", text).replace("*", ".*").replace("?", ".")
    return f"(?s{'i' * ignore_case})^{escaped}$"


def _advanced_expression(text: str, ignore_case: bool) -> str:
    escaped = re.sub(r"[\\.+()|\[\]{}^$]", r"\\\g<0>", text).replace("*", ".*").replace("?", ".")
    return f"^{_letters(escaped) if ignore_case else escaped}$"


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
        matches="{0} GLOB {1}",
        pattern=_glob,
        elements="json_each({0})",
        element="{0}.value",
        items="json_each({0}, {1})",
        item="CASE WHEN {0}.type = 'object' THEN {0}.value ELSE 'null' END",
        values="json_each({0}, {1})",
        value="{0}.value",
        keys="json_each({0})",
        key="{0}.key",
        document="NULLIF(json_quote(json_extract({0}, {1})), 'null')",
        first_document=(
            "MIN(i.row_id)",
            # As text, which the concatenation makes sure of: functions of JSON would take it for JSON.
            "(SELECT NULLIF(json_quote(json_extract(e.metadata, {1})), 'null') || ''"
            " FROM instances AS e WHERE e.row_id = {0})",
        ),
        number="{0}",
        walks=True,
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
        matches="{0} ~ {1}",
        pattern=_advanced_expression,
        elements="JSONB_ARRAY_ELEMENTS_TEXT({0})",
        element="{0}",
        items="JSONB_PATH_QUERY({0}, CAST(CAST({1} AS TEXT) || '[*]' AS JSONPATH))",
        item="{0}",
        values="JSONB_PATH_QUERY({0}, CAST(CAST({1} AS TEXT) || '[*]' AS JSONPATH))",
        value="({0} #>> CAST(ARRAY[] AS TEXT[]))",
        keys="JSONB_OBJECT_KEYS({0})",
        key="{0}",
        document="NULLIF(CAST(JSONB_PATH_QUERY_FIRST({0}, CAST({1} AS JSONPATH)) AS TEXT), 'null')",
        first_document=(
            "(ARRAY_AGG(CAST(JSONB_PATH_QUERY_FIRST(i.metadata, CAST({1} AS JSONPATH)) AS TEXT)"
            " ORDER BY i.row_id))[1]",
            "NULLIF({0}, 'null')",
        ),
        number="dicomlake_double(CAST({0} AS TEXT))",
        nulls_first=False,
        study_table="study",
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
        object_bytes=(
            "ARRAY_AGG(STRUCT(object_uri AS object_uri, size_bytes AS size_bytes))",
            "(SELECT SUM(size) FROM"
            " (SELECT MAX(o.size_bytes) AS size FROM UNNEST({0}) AS o GROUP BY o.object_uri))",
        ),
        matches="REGEXP_CONTAINS({0}, {1})",
        pattern=_regular_expression,
        elements="UNNEST({0})",
        element="{0}",
        items="UNNEST(CASE WHEN JSON_TYPE(JSON_QUERY({0}, {1})) = 'array'"
        " THEN JSON_QUERY_ARRAY({0}, {1}) ELSE [JSON_QUERY({0}, {1})] END)",
        item="{0}",
        values="UNNEST(CASE WHEN JSON_TYPE(JSON_QUERY({0}, {1})) = 'array'"
        " THEN JSON_VALUE_ARRAY({0}, {1}) ELSE [JSON_VALUE({0}, {1})] END)",
        value="{0}",
        keys="UNNEST(JSON_KEYS({0}, 1))",
        key="{0}",
        document="NULLIF(TO_JSON_STRING(JSON_QUERY({0}, {1})), 'null')",
        first_document=(
            "ANY_VALUE(NULLIF(TO_JSON_STRING(JSON_QUERY(i.metadata, {1})), 'null') HAVING MIN i.row_id)",
            "{0}",
        ),
        number="SAFE_CAST({0} AS FLOAT64)",
    ),
}
