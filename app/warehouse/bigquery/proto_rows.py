"""Encode rows as protocol buffers, in the types that the Storage Write API converts to BigQuery's. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory  # type: ignore[import-untyped]

from app.model.values import Row
from app.warehouse.tables import TABLES, Column

_FIELD = descriptor_pb2.FieldDescriptorProto
_TYPES = {
    "STRING": _FIELD.TYPE_STRING,
    "JSON": _FIELD.TYPE_STRING,
    "TIME": _FIELD.TYPE_STRING,
    "INT64": _FIELD.TYPE_INT64,
    "TIMESTAMP": _FIELD.TYPE_INT64,
    "DATE": _FIELD.TYPE_INT32,
    "FLOAT64": _FIELD.TYPE_DOUBLE,
    "BOOL": _FIELD.TYPE_BOOL,
    "BYTES": _FIELD.TYPE_BYTES,
    "RECORD": _FIELD.TYPE_MESSAGE,
}
_LABELS = {
    "NULLABLE": _FIELD.LABEL_OPTIONAL,
    "REQUIRED": _FIELD.LABEL_REQUIRED,
    "REPEATED": _FIELD.LABEL_REPEATED,
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def _micros(value: datetime) -> int:
    return (value - _EPOCH) // _MICROSECOND


def _days(value: date) -> int:
    return value.toordinal() - 719163  # the ordinal of 1970-01-01


Encoder = Callable[[Any], object]
_ENCODERS: dict[str, Encoder] = {"TIMESTAMP": _micros, "DATE": _days, "TIME": time.isoformat}


def descriptor(table: str) -> descriptor_pb2.DescriptorProto:
    """Return the self-contained proto2 message of a table, with one field per column."""
    return _message(table, TABLES[table].columns)


def _message(name: str, columns: Sequence[Column]) -> descriptor_pb2.DescriptorProto:
    message = descriptor_pb2.DescriptorProto(name=name)
    for number, column in enumerate(columns, 1):
        field = message.field.add(
            name=column.name, number=number, type=_TYPES[column.type], label=_LABELS[column.mode]
        )
        if column.fields:
            field.type_name = f"{column.name}_record"
            message.nested_type.append(_message(field.type_name, column.fields))
    return message


def serializer(table: str) -> Callable[[Row], bytes]:
    """Return a function that encodes one row that has passed `check_row`.

    TIMESTAMP becomes microseconds since 1970, DATE days since 1970, TIME and JSON text.
    """
    file = descriptor_pb2.FileDescriptorProto(
        name=f"{table}.proto", syntax="proto2", message_type=[descriptor(table)]
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    message = message_factory.GetMessageClass(pool.FindMessageTypeByName(table))
    encode = _record_encoder(TABLES[table].columns)

    def serialize(row: Row) -> bytes:
        data: bytes = message(**encode(row)).SerializeToString()
        return data

    return serialize


def _record_encoder(columns: Sequence[Column]) -> Callable[[Row], dict[str, object]]:
    """Return a function that encodes the values of a row, leaving out those that are null."""
    by_name = {column.name: _column_encoder(column) for column in columns}

    def encode(row: Row) -> dict[str, object]:
        return {
            name: one(value) if (one := by_name[name]) else value
            for name, value in row.items()
            if value is not None
        }

    return encode


def _column_encoder(column: Column) -> Encoder | None:
    one = _record_encoder(column.fields) if column.fields else _ENCODERS.get(column.type)
    if one is None or column.mode != "REPEATED":
        return one
    return lambda values: [one(value) for value in values]
