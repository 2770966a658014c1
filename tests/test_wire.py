"""What a worker may say to the server, which may be whatever somebody made it say."""

import io
import math
import pickle
import struct
from datetime import date, datetime, time
from time import process_time

import msgpack
import pytest

from app.archive.entries import Entry, Kind, Listing, Refused
from app.dicom.unrenderable import DecodeFailed
from app.errors import InternalError, NotDicom, Unrenderable, WorkerCrashed
from app.types import DatasetWarning, Instance
from app.wire import MOST_VALUES, SIZE, Unreadable, packed, read_packed
from app.workers import Workers
from tests import worker_tasks

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
    pool = Workers(1, 1 << 30, 10, preload=("tests.worker_tasks",))
    try:
        with pytest.raises(InternalError, match=r"^TypeError at app/wire\.py:"):
            pool.run(worker_tasks.double, 2**63)
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
    pool = Workers(1, 1 << 30, 10, preload=("tests.worker_tasks",))
    try:
        with pytest.raises(WorkerCrashed):
            pool.run(worker_tasks.say, packed(said))
        assert pool.run(worker_tasks.double, 2) == 4
    finally:
        pool.close()
