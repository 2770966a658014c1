"""Which fragments make a frame, and that no other frame is read."""

import io
import struct
import time
import tracemalloc
from itertools import accumulate

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.uid import ExplicitVRLittleEndian

from app.dicom.pixels.frames import read_frame
from app.dicom.read.dataset import read_dataset
from app.model.values import Content, ObjectRef
from tests.data import element, parse, part10
from tests.dicom.pictures import (
    JPEG_BASELINE,
    RLE,
    bundled,
    encapsulated,
    frame_error,
    picture,
    rle,
)


class Counted(io.BytesIO):
    """A stream that counts the bytes read from it."""

    taken = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.taken += len(data)
        return data


def constant_frame(value: int, syntax: str) -> bytes:
    """Return 64 x 64 pixels of one value: plain, or as 32 runs of 128."""
    return (
        bytes([value]) * 4096 if syntax != RLE else rle(b"\x81" + bytes([value])) + bytes([0x81, value]) * 31
    )


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLE])
def test_one_frame_is_read_without_the_others(syntax):
    frames = [constant_frame(n, syntax) for n in range(200)]
    dataset = picture(
        b"".join(frames) if syntax != RLE else encapsulated(*frames), 64, 64, syntax, NumberOfFrames=200
    )
    dataset["PixelData"].is_undefined_length = syntax == RLE
    data = part10(dataset, syntax)
    stream = Counted(data)
    read = read_dataset(Content(ObjectRef("b", "n", 1), "u", len(data), opener=lambda: stream))
    stream.taken = 0
    assert np.unique(read_frame(read, 141).pixels).tolist() == [141]
    assert stream.taken < len(data) / 5


FRAMES = [rle(b"\1" + bytes([n, n + 1])) for n in (10, 20, 30)]


def runs(pixel_data: bytes, **elements: object) -> Dataset:
    """Return three RLE frames of 1 x 2 pixels: 10 11, 20 21, 30 31."""
    return picture(pixel_data, 1, 2, RLE, NumberOfFrames=3, **elements)


def offsets_of(frames: list[bytes]) -> list[int]:
    return list(accumulate((8 + len(frame) for frame in frames[:-1]), initial=0))


def test_frames_are_found_by_the_basic_offset_table():
    dataset = runs(encapsulated(*FRAMES, offsets=offsets_of(FRAMES)))
    assert read_frame(dataset, 2).pixels.tolist() == [[30, 31]]


def test_frames_are_found_by_the_extended_offset_table():
    table = struct.pack("<3Q", *offsets_of(FRAMES))
    lengths = struct.pack("<3Q", *map(len, FRAMES))
    dataset = runs(encapsulated(*FRAMES), ExtendedOffsetTable=table, ExtendedOffsetTableLengths=lengths)
    assert read_frame(dataset, 1).pixels.tolist() == [[20, 21]]


def test_frames_are_found_without_a_table():
    assert read_frame(runs(encapsulated(*FRAMES)), 1).pixels.tolist() == [[20, 21]]


def test_wrong_offset_table_is_not_believed():
    assert read_frame(runs(encapsulated(*FRAMES, offsets=[0, 3, 9])), 1).pixels.tolist() == [[20, 21]]


def test_frame_may_be_cut_into_fragments_some_of_them_empty():
    first, second, third = FRAMES
    cut = [first[:20], b"", first[20:]]
    offsets = [0, sum(8 + len(piece) for piece in cut), sum(8 + len(piece) for piece in (*cut, second))]
    dataset = runs(encapsulated(*cut, second, third, offsets=offsets))
    assert read_frame(dataset, 0).pixels.tolist() == [[10, 11]]
    assert read_frame(dataset, 1).pixels.tolist() == [[20, 21]]


def test_fragments_without_a_table_are_parted_where_codestreams_begin():
    whole = bundled("examples_ybr_color.dcm")
    single = bundled("SC_rgb_jpeg_dcmtk.dcm")
    expected = read_frame(single, 0).pixels
    jpeg = get_frame(single.PixelData, 0, number_of_frames=1)
    whole.Rows = whole.Columns = 100
    whole.NumberOfFrames = 2
    whole.PixelData = encapsulated(jpeg[:500], jpeg[500:], jpeg[:900], jpeg[900:1200], jpeg[1200:])
    assert np.array_equal(read_frame(whole, 0).pixels, expected)
    assert np.array_equal(read_frame(whole, 1).pixels, expected)


def test_fewer_fragments_than_frames_is_truncated():
    dataset = picture(encapsulated(b"\xff\xd8"), 1, 2, JPEG_BASELINE, NumberOfFrames=2)
    assert frame_error(dataset, 1) == "truncated_pixel_data"


def test_fragment_that_is_cut_off_is_truncated():
    assert frame_error(runs(encapsulated(*FRAMES)[:-60]), 2) == "truncated_pixel_data"


def test_fragments_under_a_syntax_that_has_none_are_not_drawn_as_pixels():
    data = part10(runs(encapsulated(*FRAMES)), RLE).replace(RLE.encode(), ExplicitVRLittleEndian.encode())
    assert frame_error(parse(data)) == "bad_encapsulation"


def test_encapsulated_syntax_without_items_is_refused():
    assert frame_error(runs(b"\1\2\3\4\5\6\7\10")) == "bad_encapsulation"


EVEN = [frame + b"\0" for frame in FRAMES]


@pytest.mark.parametrize("offsets", [(), offsets_of(EVEN), (0, 3, 9), (0, 0, 1 << 31)])
def test_elements_behind_the_fragments_are_found_whatever_the_offset_table_says(offsets):
    dataset = runs(encapsulated(*EVEN, offsets=offsets))
    dataset["PixelData"].is_undefined_length = True
    read = parse(part10(dataset, RLE) + element(0x7FE10010, "LO", b"MAKER "))
    assert (read[0x7FE10010].value, read.PixelData) == ("MAKER", dataset.PixelData[:-8])
    assert read_frame(read, 2).pixels.tolist() == [[30, 31]]


@pytest.mark.parametrize("table", [False, True])
def test_one_of_a_hundred_thousand_fragments_is_found_at_once(table):
    frames = [rle(b"\1" + bytes([n % 250, n % 250 + 1])) for n in range(100_000)]
    dataset = runs(encapsulated(*frames, offsets=offsets_of(frames) if table else ()))
    dataset.NumberOfFrames = len(frames)
    dataset["PixelData"].is_undefined_length = True
    data = part10(dataset, RLE)
    stream = Content(ObjectRef("b", "n", 1), "u", len(data), opener=lambda: io.BytesIO(data))
    began = time.process_time()
    assert read_frame(read_dataset(stream), 77_777).pixels.tolist() == [[27, 28]]
    assert time.process_time() - began < 0.8


def test_fragments_of_a_few_bytes_take_little_more_memory_than_they_are():
    fragments = b"\xfe\xff\0\xe0\x02\0\0\0\xff\xd8" * 100_000
    value = encapsulated()[:8] + fragments + encapsulated()[8:]
    dataset = parse(part10(picture(value, 64, 64, JPEG_BASELINE), JPEG_BASELINE))
    tracemalloc.start()
    assert frame_error(dataset) == "bad_codestream"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20
