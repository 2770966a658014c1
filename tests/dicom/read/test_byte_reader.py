"""How the bytes of an object are read: ever more at once in order, little after a jump."""

import io

import pytest

from app.dicom.read.byte_reader import Source
from app.dicom.read.dataset import read_dataset
from app.model.values import Content, ObjectRef
from tests import data
from tests.streams import Log


def content(stream: io.IOBase, size: int) -> Content:
    return Content(ObjectRef("b", "n", 1), "gs://b/n", size, opener=lambda: stream)  # type: ignore[arg-type,return-value]


def test_after_a_jump_little_is_read_and_in_order_ever_more():
    stream = Log(bytes(4_000_000))
    source = Source(stream, 4_000_000)
    source.value(0, 8)
    source.value(1_000_000, 8)
    source.value(1_000_064, 8)
    source.value(1_000_192, 8)
    source.value(3_000_000, 8)
    assert stream.reads == [(0, 262144), (1_000_000, 64), (1_000_064, 128), (1_000_192, 256), (3_000_000, 64)]


def test_elements_a_little_apart_are_read_in_order():
    stream = Log(bytes(1_000_000))
    source = Source(stream, 1_000_000)
    source.value(500_000, 8)
    for position in range(500_000, 600_000, 100):
        source.value(position, 8)
    assert len(stream.reads) < 15


@pytest.mark.parametrize(("position", "count", "found"), [(0, 3, b"abc"), (4, 9, b"ef"), (9, 2, b"")])
def test_no_more_is_returned_than_there_is(position, count, found):
    assert Source(io.BytesIO(b"abcdef"), 6).value(position, count) == found
    assert Source(io.BytesIO(b"abcdef"), 6, b"abcdef").value(position, count) == found


def test_a_large_value_is_not_kept():
    source = Source(io.BytesIO(bytes(2_000_000)), 2_000_000)
    assert len(source.value(10, 1_500_000)) == 1_500_000
    assert len(source.data) <= 262144


def test_the_size_is_that_of_the_stream_whatever_the_store_says():
    raw = data.ct(Rows=256, Columns=256)
    dataset = read_dataset(content(io.BytesIO(raw), len(raw) // 3))
    assert dataset.pixel_array.shape == (256, 256)
