"""What a worker may say to the server, which may be whatever somebody made it say."""

import io
import math
import operator
import os
import pickle
import struct
from collections.abc import Iterator
from datetime import date, datetime, time
from time import process_time
from typing import Any

import msgpack
import pytest

from app.dicom.pixels.preview_error import DecodeFailed
from app.model.errors import InternalError, NotDicom, Unrenderable, WorkerCrashed
from app.model.listing import Entry, Kind, Listing, Refused
from app.model.values import DatasetWarning, Instance
from app.workers.messages import (
    KINDS,
    MOST_VALUES,
    NAME,
    SIZE,
    VALUES,
    Unreadable,
    packed,
    read_packed,
    returned_by,
)
from app.workers.pool import Workers
from tests.processes import alive
from tests.workers import tasks

MOST = 1 << 20


def read(body: bytes, most: int = MOST) -> object:
    return read_packed(io.BytesIO(SIZE.pack(len(body)) + body), most)


def there_and_back(value: object) -> object:
    return read_packed(io.BytesIO(packed(value)), MOST)


@pytest.mark.parametrize(
    "value",
    [
        Instance(
            {"study_date": date(2026, 1, 2), "study_time": time(3, 4, 5, 6), "image_type": ["A", "B"]},
            "{}",
            b"{}",
            b"\x89PNG",
            None,
            (DatasetWarning("00100010", "bad_value"),),
            {"parse": 3},
            "a/1.dcm",
            b"%PDF-1.7",
        ),
        Listing(Kind.ZIP, (Entry("a", 1, 2, 3, crc=4),), "archive_damaged"),
        (Refused("a", "bad"), [1, -(2**63), 2**64 - 1, 0.1, None, True, "\ud800 é", b"\0", {}, ((),)]),
    ],
)
def test_values_come_as_they_were(value):
    assert there_and_back(value) == value


def test_numbers_that_json_has_not_come_too():
    nan, infinity = there_and_back((math.nan, -math.inf))
    assert (math.isnan(nan), infinity) == (True, -math.inf)


def test_an_error_comes_with_text_and_code_as_a_class_of_the_tree():
    error = there_and_back(NotDicom("no", code="odd"))
    assert (type(error), error.text, error.code) == (NotDicom, "no", "odd")
    error = there_and_back(DecodeFailed("no"))
    assert (type(error), error.code) == (Unrenderable, DecodeFailed("no").code)


@pytest.mark.parametrize(
    "value", [object(), {1, 2}, datetime(2026, 1, 2), len, Instance, 2**64, -(2**63) - 1, 1j]
)
def test_nothing_else_is_said(value):
    with pytest.raises(TypeError):
        packed(value)


def test_a_result_of_a_worker_that_cannot_be_said_is_our_bug():
    pool = Workers(1, 1 << 30, 10, preload=("tests.workers.tasks",))
    try:
        with pytest.raises(InternalError, match=r"^TypeError at app/workers/messages\.py:"):
            pool.run(tasks.double, 2**63)
    finally:
        pool.close()


@pytest.mark.parametrize(
    "said",
    [
        {"": "os.system", "of": ["true"]},
        {"": "Workers", "of": [1, 1, 1]},
        {"": "error", "of": ["Mapping", "", ""]},
        {"": "error", "of": ["NotDicom"]},
        {"": "error", "of": ["NotDicom", "", {}]},
        {"": "error", "of": ["NotDicom", "", "DOE^JANE"]},
        {"": "error", "of": ["NotDicom", ["x"], "not_dicom"]},
        {"": "error", "of": ["NotDicom", 1001 * "x", "not_dicom"]},
        {"": "date", "of": [0, 0, 0]},
        {"": "Instance", "of": 7},
        {"": ["tuple"], "of": []},
        {"": "tuple"},
    ],
)
def test_a_name_that_is_not_in_the_table_and_arguments_that_do_not_fit_are_unreadable(said):
    with pytest.raises(Unreadable):
        read(msgpack.packb(said))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        b"\x90\x90",
        pickle.dumps(1),
        b"\xdd\xff\xff\xff\xff",  # 4 G elements, none of which is there
        b"\xc6\xff\xff\xff\xff",  # 4 GB of bytes, likewise
        b"\x91" * 100_000,
        b"\x81\x91\x90\x90",  # a map whose key is a list
    ],
)
def test_what_is_no_message_pack_is_unreadable(body):
    began = process_time()
    with pytest.raises(Unreadable):
        read(body)
    assert process_time() - began < 1


@pytest.mark.parametrize("value", [b"\x90", b"\x80", b"\x07", b"\xa2aa", b"\x91\x90", b"\x81\x01\x02"])
def test_more_values_than_anything_has_are_unreadable_for_they_would_fill_the_server(value):
    eighth = b"\xdd" + struct.pack(">I", MOST_VALUES // 8) + MOST_VALUES // 8 * value
    with pytest.raises(Unreadable):
        read(b"\x99" + 9 * eighth, len(eighth) * 10)
    with pytest.raises(Unreadable):
        read(b"\xdd" + struct.pack(">I", MOST_VALUES + 1) + (MOST_VALUES + 1) * value, len(eighth) * 10)


def test_no_more_is_read_than_a_worker_can_hold():
    with pytest.raises(Unreadable):
        read_packed(io.BytesIO(SIZE.pack(MOST + 1) + bytes(MOST + 1)), MOST)
    with pytest.raises(EOFError):
        read_packed(io.BytesIO(SIZE.pack(MOST) + bytes(MOST - 1)), MOST)


@pytest.mark.parametrize(
    "said", [1, [], [1, 2], [False, "text"], [True], {"": "error", "of": ["NotDicom", "", "not_dicom"]}]
)
def test_a_worker_that_says_nonsense_is_taken_for_dead_and_the_next_one_works(said):
    pool = Workers(1, 1 << 30, 10, preload=("tests.workers.tasks",))
    try:
        with pytest.raises(WorkerCrashed):
            pool.run(tasks.say, packed(said))
        assert pool.run(tasks.double, 2) == 4
    finally:
        pool.close()


GOOD = {
    "Instance": [{"modality": "CT"}, "{}", b"{}", b"\x89PNG", None, [], {"parse": 3}, None, None, None, 9],
    "DatasetWarning": ["00100010", "bad_value"],
    "Entry": ["a", 1, 2, 3, 4, 8, None, ""],
    "Listing": [{NAME: "Kind", VALUES: ["zip"]}, [], ""],
    "Refused": ["a", "bad_dataset", "limits.depth", False],
    "Span": [132, 7, 0xCBF43926],
    "Kind": ["tar"],
    "date": [2026, 1, 2],
    "time": [3, 4, 5, 6],
    "error": ["NotDicom", "no", "not_dicom"],
}
"""What a worker sends for one object of each kind."""
WORDS = {"text": "x" * 41, "code": "bad_value", "forged": "bad\nvalue", "value": "DOE^JANE", "none": ""}
VALUES_OF = {
    "null": None,
    "bool": True,
    "number": 7,
    "negative": -1,
    "huge": 2**64 - 1,
    "float": 0.5,
    "nan": math.nan,
    **WORDS,
    "surrogate": "\ud800",
    "tag": "0020000D",
    "setting": "archive.max_ratio",
    "bytes": b"x",
    "list": [],
    "list of a number": [7],
    "map": {},
    "map of text": {"a": "x"},
    "map of a number": {"a": 7},
    "map by number": {1: 7},
    "map of an object": {"a": {NAME: "Kind", VALUES: ["zip"]}},
    "date": {NAME: "date", VALUES: [2026, 1, 2]},
    "tuple": {NAME: "tuple", VALUES: []},
    "tuple of numbers": {NAME: "tuple", VALUES: [7]},
    "tuple of warnings": {NAME: "tuple", VALUES: [{NAME: "DatasetWarning", VALUES: ["00100010", "bad"]}]},
    "tuple of entries": {NAME: "tuple", VALUES: [{NAME: "Entry", VALUES: ["a", 0, 1, 1, 0, 0, None, ""]}]},
    "kind": {NAME: "Kind", VALUES: ["tar"]},
    "unknown kind": {NAME: "Kind", VALUES: ["exe"]},
    "error": {NAME: "error", VALUES: ["NotDicom", "no", "not_dicom"]},
    "class": {NAME: "Instance", VALUES: [{}, "", b"", None, None, [], {}, None, None, None, None]},
}
TEXT = {*WORDS, "surrogate", "tag", "setting"}
NUMBER = {"number", "huge"}
MAY = {
    "Instance": [
        {"map", "map of text", "map of a number"},
        TEXT,
        {"bytes"},
        {"bytes", "null"},
        {"code", "null"},
        {"tuple", "tuple of warnings"},
        {"map", "map of a number"},
        TEXT | {"null"},
        {"bytes", "null"},
        {"bytes", "null"},
        NUMBER | {"null"},
    ],
    "DatasetWarning": [{"tag"}, {"code"}],
    "Entry": [TEXT, NUMBER, NUMBER, NUMBER, NUMBER, NUMBER, NUMBER | {"null"}, {"code", "none"}],
    "Listing": [{"kind"}, {"tuple", "tuple of entries"}, {"code", "none"}],
    "Refused": [TEXT, {"code"}, {"setting", "none"}, {"bool"}],
    "Span": [NUMBER] * 3,
    "Kind": [set()],
    "date": [{"number"}] * 3,
    "time": [{"number"}] * 4,
    "error": [set(), TEXT, {"code"}],
}
"""What each of their fields may be, by the names above."""
GOOD["Instance"][5] = GOOD["Listing"][1] = VALUES_OF["tuple"]


def sent(kind: str, values: list[object]) -> bytes:
    return msgpack.packb({NAME: kind, VALUES: values}, unicode_errors="surrogatepass")


@pytest.mark.parametrize(
    ("kind", "index", "name"),
    [(kind, i, name) for kind, fields in MAY.items() for i in range(len(fields)) for name in VALUES_OF],
)
def test_a_field_of_an_answer_is_of_its_type_or_the_answer_is_unreadable(kind, index, name):
    values = list(GOOD[kind])
    assert read(sent(kind, values)) is not None
    values[index] = VALUES_OF[name]
    if name in MAY[kind][index]:
        assert read(sent(kind, values)) is not None
    else:
        with pytest.raises(Unreadable):
            read(sent(kind, values))


@pytest.mark.parametrize("kind", GOOD)
def test_an_answer_has_all_its_fields_and_no_more(kind):
    for values in (GOOD[kind][:-1], [*GOOD[kind], None], {}, None, "x" * len(GOOD[kind])):
        with pytest.raises(Unreadable):
            read(sent(kind, values))
    with pytest.raises(Unreadable):
        read(msgpack.packb({NAME: kind, VALUES: GOOD[kind], "more": 1}))
    with pytest.raises(Unreadable):
        read(msgpack.packb({NAME: kind.lower() + "x", VALUES: GOOD[kind]}))


def test_every_kind_that_a_worker_may_send_is_tried_here():
    assert {kind.__name__ for kind in KINDS} | {"error"} == {*MAY, "tuple"}


def plain() -> list[object]:
    return [None]


def mixed() -> tuple[Instance | Refused, ...]:
    return (Refused("a", "bad_dataset"),)


def yielded() -> Iterator[Instance | Refused]:
    yield Refused("a", "bad_dataset")


def numbers() -> dict[str, float]:
    return {"a": 0.5}


def pair() -> tuple[int, str]:
    return 1, "a"


def unknown() -> "Mystery":  # noqa: F821
    return 1


def whatever() -> tuple[Any, ...]:
    return ()


def nothing() -> None:
    return None


@pytest.mark.parametrize(
    ("function", "good", "bad"),
    [
        (tasks.double, [1, -(2**63)], [None, True, 1.0, "1", [1], Kind.ZIP]),
        (plain, [[], [None, "a"]], [(), None, {}]),
        (mixed, [(), (Refused("a", "b"),)], [None, [], (1,), (None,), (Kind.ZIP,), Refused("a", "b")]),
        (yielded, [Refused("a", "b")], [None, (), (Refused("a", "b"),), Kind.ZIP]),
        (numbers, [{}, {"a": 1}, {"a": math.nan}], [{"a": "x"}, {1: 1.0}, {"a": None}, {"a": True}]),
        (pair, [(1, "a")], [(1,), ("a", 1), (1, "a", 1), [1, "a"]]),
        (whatever, [(), (1, None, Kind.ZIP)], [None, [1]]),
        (nothing, [None], [0, "", False]),
        (unknown, [1, None, Kind.ZIP], []),
        (os.getpid, [1, None, "x"], []),
        (operator.attrgetter("size"), [1, None], []),
    ],
)
def test_a_result_is_what_the_function_returns(function, good, bad):
    fits = returned_by(function)
    assert [fits(value) for value in good] == [True] * len(good)
    assert [fits(value) for value in bad] == [False] * len(bad)


@pytest.mark.parametrize("answer", [5, "text", Kind.ZIP, Refused("a", "b"), [1], (1,), math.nan])
def test_a_worker_that_answers_something_else_than_its_task_is_killed_and_the_next_one_works(answer):
    pool = Workers(1, 1 << 30, 10, preload=("tests.workers.tasks",))
    try:
        before = pool.run(tasks.own_pid)
        with pytest.raises(WorkerCrashed, match=r"^the worker's answer is malformed$"):
            pool.run(tasks.say, packed((True, answer)))
        assert not alive(before)
        assert pool.run(tasks.double, 2) == 4
    finally:
        pool.close()
