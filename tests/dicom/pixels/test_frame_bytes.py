"""Frames as bytes: by arithmetic, by tables, by what was found out once; as stored and as native cells."""

import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from app.browse import tasks
from app.model.errors import Unrenderable
from app.model.options import DEFAULT_LIMITS
from app.model.values import Content, ObjectRef
from benchmarks import huge
from tests import data
from tests.dicom.pictures import RLE, encapsulated, picture, rle
from tests.parts import need
from tests.streams import Counted


def frames(content: Content, *wanted: int, native: bool = False, kept: bytes = b"") -> list[bytes]:
    """Return frames (0-based), those that lie in the object as they are taken from there."""
    found = []
    for syntax, octets, offset, length in tasks.read_frames(content, wanted, native, DEFAULT_LIMITS, kept):
        if syntax != tasks.LAYOUT:
            found.append(octets or content.data[offset : offset + length])
    return found


def layout(content: Content, *wanted: int) -> bytes:
    """Return what is kept of an object after its frames were read."""
    syntax, kept, *_ = next(tasks.read_frames(content, wanted, False, DEFAULT_LIMITS))
    assert syntax == tasks.LAYOUT
    return kept


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_native_frames_are_little_endian_whatever_the_object_is(syntax):
    content = data.content(data.enhanced(syntax, frames=3))  # 16 samples a frame: 0, 1, 2, ...
    assert frames(content, 2, 0) == [struct.pack("<16H", *range(32, 48)), struct.pack("<16H", *range(16))]


def test_swapped_bytes_of_eight_bits_are_put_in_order():
    # PS3.5 8.1.1: OW of 8 bits in big endian keeps the two bytes of each word swapped.
    dataset = data.ct_dataset(BitsAllocated=8, BitsStored=8, HighBit=7, Rows=2, Columns=2)
    dataset.NumberOfFrames, dataset.PixelData = 2, bytes([2, 1, 4, 3, 6, 5, 8, 7])
    dataset["PixelData"].VR = "OW"
    content = data.content(data.part10(dataset, ExplicitVRBigEndian))
    assert frames(content, 0, 1) == [bytes([1, 2, 3, 4]), bytes([5, 6, 7, 8])]


def test_frames_of_bits_begin_with_a_byte_of_their_own():
    # 3 x 3 bits a frame: the second begins with bit 1 of the second byte (PS3.5 8.1.1).
    dataset = data.ct_dataset(BitsAllocated=1, BitsStored=1, HighBit=0, Rows=3, Columns=3, NumberOfFrames=2)
    dataset.PixelData = bytes([0b10000001, 0b00000011, 0b00000010, 0])
    dataset["PixelData"].VR = "OB"
    content = data.content(data.part10(dataset))
    assert frames(content, 0, 1) == [bytes([0b10000001, 1]), bytes([0b00000001, 1])]


@pytest.mark.parametrize("table", ["none", "basic"])
def test_compressed_frames_come_as_stored_or_decoded_also_by_what_was_kept(table):
    stored = [rle(bytes([0x81, value]) * 2) for value in (5, 6, 7)]  # 256 pixels of one value
    offsets = [] if table == "none" else [0, len(stored[0]) + 8, 2 * (len(stored[0]) + 8)]
    dataset = picture(encapsulated(*stored, offsets=offsets), 16, 16, RLE, NumberOfFrames=3)
    content = data.content(data.part10(dataset, RLE))
    kept = layout(content, 2)
    for given in (b"", kept):
        assert [one.rstrip(b"\0") for one in frames(content, 2, 0, kept=given)] == [
            stored[2].rstrip(b"\0"),
            stored[0].rstrip(b"\0"),
        ]
        assert frames(content, 1, native=True, kept=given) == [bytes([6]) * 256]


def test_a_frame_that_is_not_there_is_refused():
    content = data.content(data.enhanced(frames=3))
    for kept in (b"", layout(content, 0)):
        with pytest.raises(Unrenderable) as caught:
            frames(content, 3, kept=kept)
        assert caught.value.code == "no_such_frame"


def test_bits_beside_the_value_survive_a_lossless_frame():
    # An overlay in bit 15, which no value of 12 bits has, is part of the cell (PS3.5 8.1.1).
    cells = np.array([[0x8123, 0x0456], [0x8789, 0x0ABC]], "<u2")
    planes = [
        bytes([0x03]) + bytes(part)
        for part in (cells.view("u1")[:, 1::2].ravel(), cells.view("u1")[:, ::2].ravel())
    ]
    dataset = picture(encapsulated(rle(*planes)), 2, 2, RLE, BitsAllocated=16, BitsStored=12, HighBit=11)
    content = data.content(data.part10(dataset, RLE))
    assert frames(content, 0, native=True) == [cells.tobytes()]


@pytest.mark.parametrize("kind", ["native", "basic offset table", "no offset table", "two fragments a frame"])
def test_a_frame_of_a_huge_object_costs_less_than_a_percent_and_then_hardly_more_than_itself(tmp_path, kind):
    need("sparse files", sys.platform == "linux", "run on Linux")
    path: Path = tmp_path / "huge.dcm"
    huge.write(path, kind)
    size = path.stat().st_size
    with Counted(str(path)) as stream:
        content = Content(ObjectRef("b", "n", 1), "u", size, opener=lambda: stream)
        middle = huge.FEW // 2 if kind == "native" else huge.FRAMES // 2
        (_, kept, *_), (_, octets, _, length) = tasks.read_frames(content, (middle,), False, DEFAULT_LIMITS)
        assert length == huge.SIDE * huge.SIDE * 2 if kind == "native" else octets.startswith(b"\xff\xd8\xff")
        assert stream.taken < size / 100
        stream.taken = 0
        list(tasks.read_frames(content, (middle,), False, DEFAULT_LIMITS, kept))
        assert stream.taken < 2 * huge.FRAGMENT
    path.unlink()
