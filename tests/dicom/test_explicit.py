"""Data sets of any encoding as files in Explicit VR Little Endian, read again by pydicom."""

import io
import shutil
import struct
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from app.browse import tasks
from app.model.errors import Unrenderable
from app.model.options import DEFAULT_LIMITS
from tests import data
from tests.dicom.pictures import RLE, encapsulated, picture, rle
from tests.parts import need


def explicit(raw: bytes, max_bytes: int = 1 << 30) -> bytes:
    return b"".join(tasks.explicit_pieces(data.content(raw), DEFAULT_LIMITS, max_bytes))


def reread(raw: bytes) -> Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pydicom.dcmread(io.BytesIO(raw))


def bundled(name: str) -> bytes:
    return Path(str(get_testdata_file(name, download=False))).read_bytes()


@pytest.mark.parametrize(
    "syntax",
    [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian],
)
@pytest.mark.parametrize("make", [data.ct, data.enhanced, data.sr, data.with_private])
def test_every_encoding_becomes_the_same_data_set(make, syntax):
    found, wanted = reread(explicit(make(syntax))), reread(make(ExplicitVRLittleEndian))
    assert found.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert found.file_meta.MediaStorageSOPInstanceUID == wanted.SOPInstanceUID
    unknown = syntax == ImplicitVRLittleEndian and make is data.with_private  # of a creator nobody knows
    for element in wanted:
        told = found[element.tag]
        if unknown and element.tag.is_private and not element.tag.is_private_creator:
            assert told.VR == "UN"
            continue
        assert (told.VR, told.value) == (element.VR, element.value)
    assert len(found) == len(wanted)


def test_what_is_not_valid_stays_as_it_was():
    broken = data.raw(
        data.element(0x00080018, "UI", b"1.2.3\0"),
        data.element(0x00080020, "DA", b"yesterday "),
        data.element(0x00280010, "US", b"\1\2\3"),
        data.element(0x00400000, "UL", b"\0\0\0\0"),
        data.element(0x00990001, "ZZ", b"ab"),
    )
    written = explicit(broken)
    assert b"DA\x0a\0yesterday " in written
    assert b"US\x04\0\1\2\3" in written
    assert data.element(0x00400000, "UL", b"\0\0\0\0") not in written


def test_words_of_every_width_are_turned():
    dataset = data.ct_dataset(ExplicitVRBigEndian)
    dataset.SelectorULValue, dataset.SelectorFDValue, dataset.SelectorATValue = [1, 2], 0.5, 0x00280010
    dataset.SelectorSVValue, dataset.SelectorFLValue = -3, [0.25, 2.0]
    found = reread(explicit(data.part10(dataset, ExplicitVRBigEndian)))
    assert list(found.SelectorULValue) == [1, 2]
    assert (found.SelectorFDValue, found.SelectorATValue, found.SelectorSVValue) == (0.5, 0x00280010, -3)
    assert list(found.SelectorFLValue) == [0.25, 2.0]
    assert found.pixel_array.ravel().tolist() == list(range(128))


def wide() -> bytes:
    """Return 2 x 2 cells of 32 bits in big endian, as programs write them: 1, 0x10203, ..."""
    dataset = data.ct_dataset(Rows=2, Columns=2, BitsAllocated=32, BitsStored=32, HighBit=31)
    dataset.PixelData = struct.pack(">4I", 1, 0x10203, 0x80000000, 7)
    dataset["PixelData"].VR = "OW"
    return data.part10(dataset, ExplicitVRBigEndian)


def test_cells_of_32_bits_are_turned_whole():
    # The words of OW have 16 bits, but no program parts the cells of its pixels so.
    found = reread(explicit(wide()))
    assert found.pixel_array.ravel().tolist() == [1, 0x10203, 0x80000000, 7]
    assert found.PixelData == struct.pack("<4I", 1, 0x10203, 0x80000000, 7)
    bulk = tasks.bulk_value(data.content(wide()), DEFAULT_LIMITS, 1024, "7FE00010", 1)
    assert bulk == found.PixelData


def test_compressed_frames_are_decoded_and_their_table_goes():
    stored = [rle(bytes([0x81, value]) * 2) for value in (5, 6)]
    dataset = picture(encapsulated(*stored), 16, 16, RLE, NumberOfFrames=2, SOPInstanceUID="1.2.3")
    dataset.ExtendedOffsetTable = struct.pack("<2Q", 0, len(stored[0]) + 8)
    dataset.ExtendedOffsetTableLengths = struct.pack("<2Q", *map(len, stored))
    found = reread(explicit(data.part10(dataset, RLE)))
    assert found.PixelData == bytes([5]) * 256 + bytes([6]) * 256
    assert "ExtendedOffsetTable" not in found
    assert "ExtendedOffsetTableLengths" not in found


def test_frames_of_one_bit_are_packed_across_their_border():
    """PS3.5 8.1.1: three frames of nine pixels are 27 bits, the first of each byte in its lowest bit."""
    stored = [rle(b"\1" + packed) for packed in (b"\x05\x01", b"\xff\x01", b"\x00\x01")]
    dataset = picture(
        encapsulated(*stored), 1, 9, RLE, BitsAllocated=1, NumberOfFrames=3, SOPInstanceUID="1.2.3"
    )
    assert reread(explicit(data.part10(dataset, RLE))).PixelData == b"\x05\xff\x03\x04"


@pytest.mark.parametrize(
    "name",
    ["MR_small_RLE.dcm", "SC_rgb_rle.dcm", "SC_rgb_rle_16bit.dcm", "SC_rgb_rle_32bit_2frame.dcm"],
)
def test_real_lossless_files_have_the_pixels_that_pydicom_decodes(name):
    raw = bundled(name)
    found, wanted = reread(explicit(raw)), reread(raw)
    assert found.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert np.array_equal(found.pixel_array, wanted.pixel_array)
    assert found.PhotometricInterpretation == wanted.PhotometricInterpretation


def test_colours_say_what_they_are_after_decoding():
    found = reread(explicit(bundled("SC_rgb_jpeg_dcmtk.dcm")))  # YBR_FULL in a JPEG
    assert (found.PhotometricInterpretation, found.PlanarConfiguration) == ("RGB", 0)
    red = found.pixel_array[5, 50]
    assert (red[0] > 249, red[1] < 6, red[2] < 6) == (True, True, True)


def test_too_much_to_decode_is_refused_before_anything_is_written():
    with pytest.raises(Unrenderable) as caught:
        next(tasks.explicit_pieces(data.content(bundled("MR_small_RLE.dcm")), DEFAULT_LIMITS, 1000))
    assert caught.value.code == "limit_exceeded"


@pytest.mark.parametrize(
    "name", ["MR_small_bigendian.dcm", "rtplan.dcm", "MR_small_RLE.dcm", "image_dfl.dcm"]
)
def test_dcmtk_reads_what_is_written(tmp_path, name):
    need("dcmtk", shutil.which("dcmdump") is not None, "apt-get install dcmtk")
    (tmp_path / "a.dcm").write_bytes(explicit(bundled(name)))
    done = subprocess.run(["dcmdump", "-q", "-E", str(tmp_path / "a.dcm")], capture_output=True, check=False)
    assert done.returncode == 0
    assert b"LittleEndianExplicit" in done.stdout
