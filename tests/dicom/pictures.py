"""Data sets with pixels, built in code for the tests of frames and previews."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian

from app.dicom.pixels.frames import read_frame
from app.dicom.read.dataset import read_dataset
from app.dicom.render.preview import render
from app.model.errors import Unrenderable
from app.model.options import DatasetLimits, PreviewOptions
from tests.data import apply, content

RLE = "1.2.840.10008.1.2.5"
DEFLATED_FRAMES = "1.2.840.10008.1.2.8.1"
JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
JPEG_PROGRESSIVE = "1.2.840.10008.1.2.4.55"
JPEG_LOSSLESS_14 = "1.2.840.10008.1.2.4.57"
JPEG_LOSSLESS = "1.2.840.10008.1.2.4.70"
JPEG_LS = "1.2.840.10008.1.2.4.80"
J2K = "1.2.840.10008.1.2.4.90"
J2K_LOSSY = "1.2.840.10008.1.2.4.91"
JPEG_XL = "1.2.840.10008.1.2.4.110"
HTJ2K = "1.2.840.10008.1.2.4.201"


def picture(
    pixels: bytes, rows: int, columns: int, syntax: str = ExplicitVRLittleEndian, **elements: object
) -> Dataset:
    """Return a data set of these pixels: 8-bit grey unless the elements say otherwise."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    dataset.Rows, dataset.Columns = rows, columns
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = 8
    dataset.PixelRepresentation = 0
    bits = int(str(elements.get("BitsAllocated", 8)))
    dataset.BitsStored, dataset.HighBit = bits, int(str(elements.get("BitsStored", bits))) - 1
    dataset.PixelData = pixels
    dataset["PixelData"].VR = "OW" if bits > 8 else "OB"
    return apply(dataset, **elements)


def words(*values: int, syntax: str = ExplicitVRLittleEndian) -> bytes:
    """Return 16-bit values in the byte order of the syntax."""
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    return struct.pack(f"{order}{len(values)}H", *(value & 0xFFFF for value in values))


def item(data: bytes) -> bytes:
    """Return an item of encapsulated pixel data."""
    return b"\xfe\xff\x00\xe0" + struct.pack("<I", len(data)) + data


def encapsulated(*fragments: bytes, offsets: Sequence[int] = ()) -> bytes:
    """Return encapsulated pixel data: a basic offset table, then the fragments."""
    table = struct.pack(f"<{len(offsets)}I", *offsets)
    return item(table) + b"".join(map(item, fragments)) + b"\xfe\xff\xdd\xe0\0\0\0\0"


def rle(*segments: bytes) -> bytes:
    """Return an RLE frame of these segments."""
    offsets, position = [], 64
    for segment in segments:
        offsets.append(position)
        position += len(segment)
    return struct.pack("<16I", len(segments), *offsets, *[0] * (15 - len(offsets))) + b"".join(segments)


def with_items(sequence: str, *contents: dict[str, object]) -> dict[str, object]:
    """Return a sequence of items by keyword, to hand to `picture`."""
    return {sequence: [apply(Dataset(), **elements) for elements in contents]}


def bundled(name: str) -> FileDataset:
    """Return one of pydicom's own test files, as the project reads it."""
    path = get_testdata_file(name, download=False)
    assert path is not None, name
    return read_dataset(content(Path(str(path)).read_bytes()))


def frame_error(dataset: Dataset, frame_index: int = 0, **limits: int) -> str:
    """Return the code with which reading a frame is refused."""
    with pytest.raises(Unrenderable) as caught:
        read_frame(dataset, frame_index, DatasetLimits(**limits))
    return caught.value.code


def drawn(dataset: Dataset, frame_index: int = 0, **options: object) -> list[object]:
    """Return the drawn pixels of a frame as nested lists."""
    pixels: list[object] = render(dataset, PreviewOptions(**options), frame_index).tolist()
    return pixels
