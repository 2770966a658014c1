"""GoogleSQL, which BigQuery speaks, by Google's own analyzer and reference evaluator (PyPI: zetasql).

They are WebAssembly, and the first to use them on a machine compiles it for half a minute; wasmtime keeps the
result in its cache folder. Tests that use them are of the xdist group `googlesql`: one worker loads it, once.
"""

import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, date, timedelta
from functools import cache
from typing import Any

import pytest
import wasmtime
from zetasql.api import Analyzer, CatalogBuilder, Parser, TableBuilder, TypeFactory
from zetasql.core import ServerError, ZetaSqlLocalService, wasm_client
from zetasql.types import (
    AnalyzerOptions,
    LanguageOptions,
    ProductMode,
    SimpleCatalog,
    Type,
    TypeKind,
    ZetaSQLBuiltinFunctionOptions,
)
from zetasql.wasi._pb2.zetasql.local_service.local_service_pb2 import (
    EvaluateQueryRequest,
    EvaluateQueryResponse,
)
from zetasql.wasi._pb2.zetasql.public.value_pb2 import ValueProto

from app.model.values import Row
from app.warehouse.study_current import STUDY_CURRENT
from app.warehouse.tables import TABLES, Column
from app.warehouse.views import MATERIALIZED_VIEWS, VIEWS

googlesql = pytest.mark.xdist_group("googlesql")


class _CachedConfig(wasmtime.Config):
    def __init__(self) -> None:
        super().__init__()
        self.cache = True


wasm_client.Config = _CachedConfig  # the package has no setting for it

_KINDS = {"FLOAT64": TypeKind.TYPE_DOUBLE}
_EPOCH = date(1970, 1, 1)


def analyze(sql: str) -> str:
    """Return the kind of a statement on the lake's tables and views; a bad one fails with Google's words."""
    try:
        return type(Analyzer(_options(), _catalog()).analyze_statement(sql)).__name__
    except ServerError as error:
        raise AssertionError(f"{error}\n{sql}") from None


def parse_script(script: str) -> list[str]:
    """Return the kinds of the statements of a script; a bad one fails with Google's words."""
    try:
        parsed = Parser(_language()).parse_script(script)
    except ServerError as error:
        raise AssertionError(f"{error}\n{script}") from None
    return [type(one).__name__ for one in parsed.statement_list_node.statement_list]


def evaluate(sql: str, views: Mapping[str, str], tables: Mapping[str, Iterable[Row]]) -> list[dict[str, Any]]:
    """Return the answer to a query on tables with these rows, and on views with these texts, in their order.

    Times are text as SQLite has it, so that its answers compare.
    """
    used, named = [], sql
    for name, text in reversed(views.items()):
        if re.search(rf"\b{name}\b", named):
            used.insert(0, f"{name} AS ({text})")
            named += text
    request = EvaluateQueryRequest(
        sql=f"WITH {', '.join(used)} {sql}" if used else sql,
        options=_options().to_proto(),
        simple_catalog=_catalog().to_proto(),
    )
    for name, table in TABLES.items():
        content = request.table_content[name].table_data
        content.SetInParent()
        for row in tables.get(name, ()):
            content.row.add(cell=[_value(column, row.get(column.name)) for column in table.columns])
    service = ZetaSqlLocalService.get_instance()
    # Not by PreparedQuery: it loses the values of times.
    try:
        answer = service.wasm_client.call_grpc_func(
            "ZetaSqlLocalService_EvaluateQuery", request, EvaluateQueryResponse
        )
    except ServerError as error:
        raise AssertionError(f"{error}\n{request.sql}") from None
    names = [column.name for column in answer.prepared.columns]
    return [dict(zip(names, map(_read, row.cell), strict=True)) for row in answer.content.table_data.row]


@cache
def _language() -> LanguageOptions:
    language = LanguageOptions.maximum_features()
    language.product_mode = ProductMode.PRODUCT_EXTERNAL  # the types that BigQuery has
    return language


@cache
def _options() -> AnalyzerOptions:
    return AnalyzerOptions(language_options=_language(), allow_undeclared_parameters=True)


@cache
def _catalog() -> SimpleCatalog:
    functions = ZetaSQLBuiltinFunctionOptions(language_options=_language())
    catalog = CatalogBuilder("lake").with_builtin_functions(functions)
    for table in [*TABLES.values(), *MATERIALIZED_VIEWS.values(), *VIEWS.values(), STUDY_CURRENT]:
        builder = TableBuilder(table.name)
        for column in table.columns:
            builder.add_column(column.name, _type(column))
        catalog.add_table(builder.build())
    return catalog.build()


def _type(column: Column) -> Type:
    if column.fields:
        own = TypeFactory.create_struct_type([(field.name, _type(field)) for field in column.fields])
    else:
        kind = _KINDS.get(column.type) or TypeKind[f"TYPE_{column.type}"]
        own = TypeFactory.create_simple_type(kind)
    return TypeFactory.create_array_type(own) if column.mode == "REPEATED" else own


def _value(column: Column, value: Any) -> ValueProto:
    made = ValueProto()
    if column.mode == "REPEATED":
        one = Column(column.name, column.type, "NULLABLE", "", column.fields)
        made.array_value.element.extend(_value(one, part) for part in value or ())
        made.array_value.SetInParent()
    elif value is None:
        pass
    elif column.type == "RECORD":
        made.struct_value.field.extend(_value(field, value.get(field.name)) for field in column.fields)
    elif column.type == "TIMESTAMP":
        made.timestamp_value.FromDatetime(value)
    elif column.type == "DATE":
        made.date_value = (value - _EPOCH).days
    else:
        kind = "double" if column.type == "FLOAT64" else column.type.lower()
        setattr(made, f"{kind}_value", value)
    return made


def _read(cell: ValueProto) -> Any:
    kind = cell.WhichOneof("value")
    if kind is None:
        return None
    value = getattr(cell, kind)
    match kind:
        case "timestamp_value":
            moment = value.ToDatetime(UTC).replace(tzinfo=None)
            return moment.isoformat(timespec="microseconds") + "Z"
        case "date_value":
            return (_EPOCH + timedelta(days=value)).isoformat()
        case "json_value":
            return json.loads(value)
        case "array_value":
            return [_read(part) for part in value.element]
        case "struct_value":
            return [_read(part) for part in value.field]
        case _:
            return value
