"""Rows as protocol buffers: the forms that Google's page of supported types asks for."""

from datetime import UTC, date, datetime, time, timedelta, timezone

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from app.warehouse.bigquery.proto_rows import descriptor, serializer
from tests.warehouse.contract import instance_row


def decoded(table, row):
    """Read a row as a server does: by nothing but the descriptor that is sent with it."""
    name = f"{table}.proto"
    file = descriptor_pb2.FileDescriptorProto(name=name, syntax="proto2", message_type=[descriptor(table)])
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    message = message_factory.GetMessageClass(pool.FindMessageTypeByName(table))
    return message.FromString(serializer(table)(row))


@pytest.mark.parametrize(
    ("when", "micros"),
    [
        (datetime(1970, 1, 1, tzinfo=UTC), 0),
        (datetime(2001, 9, 9, 1, 46, 40, 250001, tzinfo=UTC), 1_000_000_000_250_001),
        (datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC), -1),
        (datetime(1970, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))), 0),
        (datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC), 253_402_300_799_999_999),
    ],
)
def test_a_timestamp_is_microseconds_since_1970(when, micros):
    assert decoded("instances", instance_row("r1", event_time=when)).event_time == micros


@pytest.mark.parametrize(
    ("day", "days"),
    [
        (date(1970, 1, 1), 0),
        (date(1970, 1, 2), 1),
        (date(1969, 12, 31), -1),
        (date.min, -719162),
        (date.max, 2932896),
    ],
)
def test_a_date_is_days_since_1970(day, days):
    assert decoded("instances", instance_row("r1", study_date=day)).study_date == days


def test_a_time_is_its_literal_and_json_its_text():
    row = decoded("instances", instance_row("r1", study_time=time(23, 59, 58, 500000), metadata='{"a":1}'))
    assert (row.study_time, row.metadata) == ("23:59:58.500000", '{"a":1}')


def test_lists_and_records_nest_and_nulls_are_absent():
    row = decoded(
        "instances",
        instance_row(
            "r1",
            pixel_spacing=(0.5, 0.25),
            warnings=[{"tag": "00100030", "code": None}, {"tag": "", "code": "x"}],
            took_ms={"read": 0, "parse": None},
            member=None,
            image_type=None,
        ),
    )
    assert list(row.pixel_spacing) == [0.5, 0.25]
    assert [(w.tag, w.HasField("code"), w.code) for w in row.warnings] == [
        ("00100030", False, ""),
        ("", True, "x"),
    ]
    assert (row.took_ms.HasField("read"), row.took_ms.HasField("parse")) == (True, False)
    assert (row.HasField("member"), len(row.image_type)) == (False, 0)


def test_the_descriptor_is_whole_in_itself():
    types = {field.name: field.type_name for field in descriptor("instances").field if field.type_name}
    nested = {message.name for message in descriptor("instances").nested_type}
    assert set(types) == {"warnings", "took_ms"}
    assert set(types.values()) == nested
