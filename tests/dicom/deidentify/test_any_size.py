"""Objects that do not fit in a worker's memory: cleaned in pieces, of which most are ranges of the object."""

import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, JPEGBaseline8Bit

from app.dicom import check_clean, clean_pieces, describe_pieces
from app.dicom.deidentify.profile import PROFILES
from app.dicom.deidentify.stream import extended_offsets
from app.jobs.file_content import content_at_hand
from app.model.errors import ShortRead, WorkerCrashed
from app.model.keys import Keys
from app.model.options import CleanOptions, DescribeOptions
from app.model.values import Instance, Span
from app.plumbing.pieces import joined
from app.workers.pool import PRELOAD, Workers
from tests.data import SOP, content, ct_dataset, element, part10
from tests.dicom.deidentify.cleaned import SECRET
from tests.dicom.deidentify.test_stream import EIGHT_BITS, jpeg
from tests.parts import need

MIB = 1 << 20
NAME = b"Doe^Jane"
BASIC = PROFILES["basic"]
FRAMES, SIDE = 220, 1024
FRAME = 2 * SIDE * SIDE
JPEGS, HOLE = 900, 512 * 1024
ITEM = struct.Struct("<HHI")


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    need("a limit on address space", sys.platform == "linux", "run on Linux")
    modules = (*PRELOAD, "app.dicom.deidentify", "app.dicom.deidentify.verify")
    with closing(Workers(1, 384 * MIB, 60.0, preload=modules)) as pool:
        yield pool


def head(syntax: str, **elements: object) -> bytes:
    return part10(ct_dataset(syntax, PixelData=None, **elements), syntax)


def native(file: BinaryIO, syntax: str = ExplicitVRLittleEndian) -> None:
    """Write frames of zeros; in the middle a cell with unused bits, behind the last one a name."""
    size = FRAMES * FRAME + 2 * len(NAME)
    bits = {"BitsAllocated": 16, "BitsStored": 12, "HighBit": 11}
    file.write(head(syntax, NumberOfFrames=str(FRAMES), Rows=SIDE, Columns=SIDE, **bits))
    little = syntax == ExplicitVRLittleEndian
    order = "<" if little else ">"
    file.write(struct.pack(f"{order}HH2sHI", 0x7FE0, 0x0010, b"OW", 0, size))
    start = file.tell()
    file.seek(start + FRAMES // 2 * FRAME)
    file.write(struct.pack(f"{order}HH", 0x5123, 0x0456))
    file.seek(start + FRAMES * FRAME)
    file.write(2 * NAME)
    if little:
        file.write(element(0x7FE10010, "LO", b"MAKER TEST") + element(0x7FE11001, "LO", NAME))


def compressed(file: BinaryIO) -> None:
    """Write JPEG frames with holes in their entropy-coded data; the first frame has a comment.

    Every frame but the first and the middle one has two fragments. A name stands in an extra fragment.
    """
    plain = jpeg()
    plain += b"\0" * (len(plain) % 2)
    file.write(head(JPEGBaseline8Bit, NumberOfFrames=str(JPEGS), **EIGHT_BITS))
    sizes, offsets = [], [0]
    for index in range(JPEGS):
        whole = index in (0, JPEGS // 2)
        sizes.append([len(first_frame(index))] if whole else [HOLE, len(plain)])
        offsets.append(offsets[-1] + sum(sizes[-1]) + 8 * len(sizes[-1]))
    table = struct.pack(f"<{JPEGS}I", *offsets[:-1])
    file.write(element(0x7FE00010, "OB", ITEM.pack(0xFFFE, 0xE000, len(table)) + table, 0xFFFFFFFF))
    for index, lengths in enumerate(sizes):
        if len(lengths) == 1:
            file.write(ITEM.pack(0xFFFE, 0xE000, lengths[0]) + first_frame(index))
            continue
        cut = plain.rindex(b"\xff\xd9")
        file.write(ITEM.pack(0xFFFE, 0xE000, HOLE) + plain[:cut])
        file.seek(HOLE - cut, 1)
        file.write(ITEM.pack(0xFFFE, 0xE000, len(plain)) + bytes(len(plain) - 2) + b"\xff\xd9")
    file.write(ITEM.pack(0xFFFE, 0xE000, len(NAME)) + NAME + ITEM.pack(0xFFFE, 0xE0DD, 0))


def first_frame(index: int) -> bytes:
    frame = jpeg(NAME if index == 0 else b"")
    return frame + b"\0" * (len(frame) % 2)


def cleaned(workers: Workers, folder: Path, write: Callable[[BinaryIO], None]) -> tuple[Path, int, int]:
    """Write an object and its clean copy; return the copy, the bytes of new pieces, and the largest chunk."""
    path, copy = folder / "big.dcm", folder / "copy.dcm"
    with path.open("wb") as file:
        write(file)
    assert path.stat().st_size > 450_000_000
    new = most = 0
    big = content_at_hand(path)

    def counted():
        nonlocal new
        for group in workers.stream(clean_pieces, big, BASIC, SECRET, DescribeOptions()):
            new += sum(len(piece) for piece in group if isinstance(piece, bytes))
            yield group

    with copy.open("wb") as file:
        for chunk in joined(counted(), big, MIB):
            most = max(most, len(chunk))
            file.write(chunk)
    path.unlink()
    return copy, new, most


def value_at(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_native_frames_pass_through_but_for_what_is_no_picture(workers, tmp_path, syntax):
    copy, new, most = cleaned(workers, tmp_path, lambda file: native(file, syntax))
    made = dcmread(copy, defer_size=MIB)
    assert (made.PatientIdentityRemoved, made.SOPInstanceUID) == ("YES", Keys(SECRET).uid(SOP))
    start = made.get_item("PixelData", keep_deferred=True).value_tell
    assert copy.stat().st_size == start + FRAMES * FRAME  # no name behind, no private element
    assert value_at(copy, start + FRAMES // 2 * FRAME, 4) == struct.pack("<HH", 0x0123, 0x0456)
    assert most <= 8 * MIB
    if syntax == ExplicitVRLittleEndian:
        assert new < 5 * MIB  # the piece with the unused bits
    assert workers.run(check_clean, content_at_hand(copy), BASIC, DescribeOptions()) == ()


def test_compressed_frames_pass_through_but_for_comments_and_extra_fragments(workers, tmp_path):
    copy, new, most = cleaned(workers, tmp_path, compressed)
    made = dcmread(copy, defer_size=MIB)
    assert made.file_meta.TransferSyntaxUID == JPEGBaseline8Bit
    start = made.get_item("PixelData", keep_deferred=True).value_tell
    assert new < MIB
    assert most <= 8 * MIB
    table = np.frombuffer(value_at(copy, start + 8, 4 * JPEGS), "<u4")
    last = start + 8 + 4 * JPEGS + int(table[-1])
    _, number, length = ITEM.unpack(value_at(copy, last, 8))
    assert (number, length) == (0xE000, HOLE + len(jpeg()) + len(jpeg()) % 2)
    assert value_at(copy, last + 8 + length, 99) == ITEM.pack(0xFFFE, 0xE0DD, 0)
    first = start + 8 + 4 * JPEGS
    (_, _, length) = ITEM.unpack(value_at(copy, first, 8))
    assert value_at(copy, first + 8, length).rstrip(b"\0") == jpeg()
    middle = first + int(table[JPEGS // 2])
    (_, _, length) = ITEM.unpack(value_at(copy, middle, 8))
    assert value_at(copy, middle + 8, length).rstrip(b"\0") == jpeg()
    assert workers.run(check_clean, content_at_hand(copy), BASIC, DescribeOptions()) == ()


def test_a_big_object_is_described_before_its_copy_follows(workers, tmp_path):
    path = tmp_path / "big.dcm"
    with path.open("wb") as file:
        native(file)
    options = DescribeOptions(clean=CleanOptions("basic", SECRET, "k", False, False))
    found = workers.stream(describe_pieces, content_at_hand(path), options)
    instance = next(found)
    assert isinstance(instance, Instance)
    assert instance.copy is None
    assert instance.preview is not None
    assert instance.columns["patient_id"] != "P-1"
    sizes = [piece.length if isinstance(piece, Span) else len(piece) for group in found for piece in group]
    assert sum(sizes) == instance.copy_size


def small(pieces: list[object], data: bytes) -> bytes:
    return b"".join(joined([tuple(pieces)], content(data), 2))


def test_ranges_of_the_object_are_compared_with_what_the_worker_checked():
    # 0xCBF43926 is the check value of CRC-32 in the catalogue of parametrised CRC algorithms.
    assert small([b"ab", Span(2, 9, 0xCBF43926)], b"..123456789") == b"ab123456789"
    with pytest.raises(ShortRead, match="changed while it was copied"):
        small([Span(0, 3, 1)], b"abc")
    with pytest.raises(WorkerCrashed, match="does not have"):
        small([Span(1, 3, 0)], b"abc")
    with pytest.raises(WorkerCrashed, match="larger than any"):
        small([b"abc", Span(0, 3, 0x352441C2)], b"abc")


def test_frames_beyond_4_gib_get_an_extended_offset_table():
    assert extended_offsets([100, 100]) == {}
    assert extended_offsets([6 << 30]) == {}
    tables = extended_offsets([3 << 30, 2 << 30, 8])
    assert tables[0x7FE00001] == element(
        0x7FE00001, "OV", struct.pack("<3Q", 0, (3 << 30) + 8, (5 << 30) + 16)
    )
    assert tables[0x7FE00002] == element(0x7FE00002, "OV", struct.pack("<3Q", 3 << 30, 2 << 30, 8))
