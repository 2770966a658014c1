"""Frames written back: what pydicom reads from them, and what describes them."""

import io

import numpy as np
import pydicom
import pytest
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import UID

from app.dicom.deidentify.pixels.encode import EncodedFrames, Frames, encode, read_frames
from app.model.errors import CannotDeidentify
from tests.data import ct_dataset, part10
from tests.dicom.pictures import JPEG_BASELINE, bundled, encapsulated, picture, words

NATIVE, BIG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
RLE = "1.2.840.10008.1.2.5"
IMAGE = (
    *("Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation", "SamplesPerPixel"),
    *("NumberOfFrames", "LossyImageCompression", "LossyImageCompressionRatio", "SOPClassUID"),
)


def written(dataset: Dataset, encoded: EncodedFrames) -> pydicom.FileDataset:
    """Return what pydicom reads from a file of the frames."""
    plain = ct_dataset()
    for keyword in (*IMAGE, "PixelData", "RescaleSlope", "RescaleIntercept"):
        if keyword in plain:
            del plain[keyword]
    for keyword in IMAGE:
        if dataset.get(keyword) is not None:
            plain[keyword] = dataset[keyword]
    for tag, (vr, value) in encoded.elements.items():
        plain[tag] = RawDataElement(Tag(tag), vr, len(value), value, 0, False, True)
    plain["PixelData"].is_undefined_length = encoded.encapsulated
    return pydicom.dcmread(io.BytesIO(part10(plain, encoded.transfer_syntax)))


@pytest.mark.parametrize(
    ("name", "syntax"),
    [
        ("CT_small.dcm", NATIVE),
        ("MR_small_bigendian.dcm", NATIVE),
        ("SC_rgb_small_odd.dcm", NATIVE),
        ("liver_1frame.dcm", NATIVE),
        ("rtdose.dcm", NATIVE),
        ("MR_small_RLE.dcm", RLE),
        ("MR_small_jp2klossless.dcm", RLE),
        ("MR_small_jpeg_ls_lossless.dcm", RLE),
        ("SC_rgb_rle_2frame.dcm", RLE),
        ("SC_rgb_rle_16bit_2frame.dcm", RLE),
        ("SC_rgb_rle_32bit.dcm", NATIVE),
        ("examples_palette.dcm", NATIVE),
    ],
)
def test_frames_come_back_as_pydicom_reads_them(name, syntax):
    dataset = bundled(name)
    encoded = encode(dataset, read_frames(dataset))
    assert encoded.transfer_syntax == syntax
    twin = name.replace("_jpeg_ls_lossless", "")  # JPEG-LS needs a plugin; this has the same pixels
    plain = pydicom.dcmread(pydicom.data.get_testdata_file(twin, download=False))
    back = written(dataset, encoded)
    assert np.array_equal(back.pixel_array, plain.pixel_array)
    assert back.PhotometricInterpretation == plain.PhotometricInterpretation


def test_colours_that_were_mixed_or_subsampled_are_stored_as_they_are_decoded():
    jpeg = bundled("SC_rgb_jpeg_dcmtk.dcm")
    encoded = encode(jpeg, read_frames(jpeg))
    back = written(jpeg, encoded)
    # PS3.5 table 8.2.2-1: RLE of RGB lies plane by plane.
    assert (back.PhotometricInterpretation, back.PlanarConfiguration) == ("RGB", 1)
    assert back.pixel_array[5, 50].tolist() == [254, 0, 0]
    plain = bundled("SC_ybr_full_422_uncompressed.dcm")
    encoded = encode(plain, read_frames(plain))
    back = written(plain, encoded)
    assert (back.PhotometricInterpretation, back.PlanarConfiguration) == ("YBR_FULL", 0)
    assert back.pixel_array.shape == (100, 100, 3)


def test_every_row_is_compressed_alone():
    # PS3.5 G.3.1: a run does not go on in the next row. Two rows of three equal bytes are two runs.
    dataset = picture(encapsulated(b""), 2, 3, RLE)
    encoded = encode(dataset, Frames(np.full((1, 2, 3), 7, np.uint8), "MONOCHROME2"))
    value = encoded.elements[0x7FE00010][1]
    assert value.endswith(b"\xfe\x07\xfe\x07")


def test_16_bits_make_a_segment_of_high_bytes_and_one_of_low_bytes():
    # PS3.5 G.2: most significant byte first; header of 64 bytes; segments of even length.
    dataset = picture(encapsulated(b""), 1, 2, RLE, BitsAllocated=16)
    encoded = encode(dataset, Frames(np.array([[[0x0102, 0x0103]]], np.uint16), "MONOCHROME2"))
    frame = encoded.elements[0x7FE00010][1][-70:]
    assert frame[:12] == bytes((2, 0, 0, 0, 64, 0, 0, 0, 66, 0, 0, 0))
    assert frame[64:] == b"\xff\x01" + b"\x01\x02\x03\x00"


def test_bits_of_several_frames_follow_each_other():
    # PS3.5 8.1.1: frames of 3 bits are not padded; the first pixel is the lowest bit.
    dataset = picture(b"\0\0", 1, 3, BitsAllocated=1, NumberOfFrames="3")
    frames = np.array([[[1, 0, 1]], [[1, 1, 1]], [[0, 0, 1]]], np.uint8)
    encoded = encode(dataset, Frames(frames, "MONOCHROME2"))
    assert encoded.elements[0x7FE00010] == ("OB", bytes((0b00111101, 0b1)))


def test_values_above_other_bits_are_moved_down():
    dataset = picture(words(0x0FF0, 0x1230), 1, 2, BitsAllocated=16, BitsStored=12, HighBit=15)
    frames = read_frames(dataset)
    assert frames.pixels.tolist() == [[[0x0FF, 0x123]]]
    assert encode(dataset, frames).elements[0x00280102] == ("US", b"\x0b\x00")


def test_lossy_compression_stays_in_the_history():
    # PS3.3 C.7.6.1.1.5: an image that was once compressed with loss is 01 for ever.
    dataset = bundled("SC_rgb_jpeg_dcmtk.dcm")
    for keyword in ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"):
        if keyword in dataset:
            del dataset[keyword]
    dataset.file_meta.TransferSyntaxUID = UID(JPEG_BASELINE)
    elements = encode(dataset, read_frames(dataset)).elements
    assert elements[0x00282110] == ("CS", b"01")
    assert elements[0x00282114] == ("CS", b"ISO_10918_1 ")
    assert float(elements[0x00282112][1]) > 1


def test_a_history_that_is_there_is_not_written_again():
    dataset = bundled("SC_rgb_jpeg_dcmtk.dcm")
    dataset.LossyImageCompression = "01"
    assert 0x00282110 not in encode(dataset, read_frames(dataset)).elements


def test_lossless_compression_leaves_no_history():
    dataset = bundled("MR_small_jp2klossless.dcm")
    assert 0x00282110 not in encode(dataset, read_frames(dataset)).elements


def test_the_data_set_is_not_changed():
    dataset = bundled("MR_small_RLE.dcm")
    before = {element.tag: element.value for element in dataset}
    encode(dataset, read_frames(dataset))
    assert {element.tag: element.value for element in dataset} == before


def test_more_frames_than_fit_in_memory_are_refused():
    dataset = picture(b"\0" * 100, 10, 10, NumberOfFrames="10000000")
    with pytest.raises(CannotDeidentify, match="too much"):
        read_frames(dataset)
