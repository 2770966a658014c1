"""Uncompressed frames: byte order, bits, packing, planes."""

import struct

import pytest
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from app.dicom.pixels.frames import read_frame
from app.dicom.read.dataset import read_dataset
from app.model.values import Content, ObjectRef
from tests.data import part10
from tests.dicom.pictures import (
    frame_error,
    picture,
    words,
)

SYNTAXES = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_native_words_come_in_the_byte_order_of_the_syntax(syntax):
    dataset = picture(words(1, 2, 300, 65535, syntax=syntax), 2, 2, syntax, BitsAllocated=16)
    assert read_frame(dataset, 0).pixels.tolist() == [[1, 2], [300, 65535]]


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_native_pixels_survive_a_file(syntax):
    data = part10(
        picture(words(7, -8, syntax=syntax), 1, 2, syntax, BitsAllocated=16, PixelRepresentation=1), syntax
    )
    dataset = read_dataset(Content(ObjectRef("b", "n", 1), "u", len(data), data=data))
    assert read_frame(dataset, 0).pixels.tolist() == [[7, -8]]


@pytest.mark.parametrize(
    ("syntax", "told"),
    [(ExplicitVRLittleEndian, ExplicitVRBigEndian), (ExplicitVRBigEndian, ExplicitVRLittleEndian)],
)
def test_pixels_have_the_byte_order_of_their_data_set_whatever_the_file_meta_information_says(syntax, told):
    pixels = words(1, 300, syntax=syntax)
    data = part10(picture(pixels, 1, 2, syntax, BitsAllocated=16, Modality="OT"), syntax)
    data = data.replace(syntax.encode(), told.encode(), 1)
    dataset = read_dataset(Content(ObjectRef("b", "n", 1), "u", len(data), data=data))
    assert read_frame(dataset, 0).pixels.tolist() == [[1, 300]]


def test_big_endian_bytes_in_words_are_swapped_in_pairs():
    # Three bytes 1 2 3 and 4 5 6 as 16-bit words 0x0201 0x0403 0x0605, most significant byte first.
    dataset = picture(b"\2\1\4\3\6\5", 1, 3, ExplicitVRBigEndian, NumberOfFrames=2)
    dataset["PixelData"].VR = "OW"
    assert read_frame(dataset, 0).pixels.tolist() == [[1, 2, 3]]
    assert read_frame(dataset, 1).pixels.tolist() == [[4, 5, 6]]


def test_bits_above_the_stored_ones_are_dropped():
    dataset = picture(words(0xF001, 0x1FFF), 1, 2, BitsAllocated=16, BitsStored=12)
    assert read_frame(dataset, 0).pixels.tolist() == [[1, 0xFFF]]


def test_sign_is_extended_from_the_stored_bits():
    dataset = picture(
        words(0x0FFF, 0x0800, 0x07FF), 1, 3, BitsAllocated=16, BitsStored=12, PixelRepresentation=1
    )
    assert read_frame(dataset, 0).pixels.tolist() == [[-1, -2048, 2047]]


def test_high_bit_says_where_the_value_lies():
    dataset = picture(
        words(0x7FF5, 0x8000), 1, 2, BitsAllocated=16, BitsStored=12, HighBit=15, PixelRepresentation=1
    )
    assert read_frame(dataset, 0).pixels.tolist() == [[0x7FF, -2048]]


def test_one_bit_frames_are_packed_across_their_border():
    # Frames of five pixels: 1 0 0 1 1 and 0 1 1 0 1, least significant bit first.
    dataset = picture(bytes([0b11011001, 0b10]), 1, 5, BitsAllocated=1, NumberOfFrames=2)
    assert read_frame(dataset, 0).pixels.tolist() == [[1, 0, 0, 1, 1]]
    assert read_frame(dataset, 1).pixels.tolist() == [[0, 1, 1, 0, 1]]


@pytest.mark.parametrize(("planar", "data"), [(0, b"\1\2\3\4\5\6"), (1, b"\1\4\2\5\3\6")])
def test_colours_come_by_pixel_whatever_the_planes(planar, data):
    dataset = picture(
        data, 1, 2, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=planar
    )
    assert read_frame(dataset, 0).pixels.tolist() == [[[1, 2, 3], [4, 5, 6]]]


def test_halved_colour_differences_are_given_to_both_pixels():
    dataset = picture(b"\x10\x20\x30\x40", 1, 2, SamplesPerPixel=3, PhotometricInterpretation="YBR_FULL_422")
    frame = read_frame(dataset, 0)
    assert frame.pixels.tolist() == [[[0x10, 0x30, 0x40], [0x20, 0x30, 0x40]]]
    assert frame.photometric == "YBR_FULL"


LUMINANCE = [[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]]
# One pair of colour differences for two pixels: Y Y Cb Cr.
FILLED = bytes([1, 2, 50, 60, 3, 4, 51, 61, 5, 99, 52, 62, 6, 7, 53, 63, 8, 9, 54, 64, 10, 99, 55, 65])
RUNNING = bytes([1, 2, 50, 60, 3, 4, 51, 61, 5, 6, 52, 62, 7, 8, 53, 63, 9, 10, 54, 64])


@pytest.mark.parametrize("photometric", ["YBR_FULL_422", "YBR_PARTIAL_422"])
@pytest.mark.parametrize(
    ("data", "blue"),
    [
        (FILLED, [[50, 50, 51, 51, 52], [53, 53, 54, 54, 55]]),
        (RUNNING, [[50, 50, 51, 51, 52], [52, 53, 53, 54, 54]]),
    ],
    ids=["rows filled up to a pair", "pairs across rows"],
)
@pytest.mark.parametrize("frames", [1, 2])
def test_length_tells_how_odd_rows_of_halved_colour_differences_are_stored(photometric, data, blue, frames):
    said = {"SamplesPerPixel": 3, "PhotometricInterpretation": photometric, "NumberOfFrames": frames}
    dataset = picture(bytes(len(data)) * (frames - 1) + data, 2, 5, **said)
    pixels = read_frame(dataset, frames - 1).pixels
    assert pixels[..., 0].tolist() == LUMINANCE
    assert pixels[..., 1].tolist() == blue
    assert (pixels[..., 2] - pixels[..., 1]).tolist() == [[10] * 5] * 2


def test_odd_rows_whose_samples_are_all_stored_are_no_pairs():
    said = {"SamplesPerPixel": 3, "PhotometricInterpretation": "YBR_FULL_422"}
    dataset = picture(bytes(range(9)), 1, 3, **said)
    assert read_frame(dataset, 0).pixels.tolist() == [[[0, 1, 2], [3, 4, 5], [6, 7, 8]]]


def test_odd_rows_of_halved_colour_differences_may_be_cut_off():
    said = {"SamplesPerPixel": 3, "PhotometricInterpretation": "YBR_FULL_422"}
    assert frame_error(picture(RUNNING[:-2], 2, 5, **said)) == "truncated_pixel_data"


def test_floating_point_pixels_are_read_as_they_are():
    dataset = picture(b"", 1, 2, PixelData=None, BitsAllocated=32, FloatPixelData=struct.pack("<2f", 0.5, -2))
    assert read_frame(dataset, 0).pixels.tolist() == [[0.5, -2.0]]


def test_truncated_frame_is_refused_and_the_one_before_is_read():
    dataset = picture(b"\1\2\3\4\5\6\7", 2, 2, NumberOfFrames=2)
    assert read_frame(dataset, 0).pixels.tolist() == [[1, 2], [3, 4]]
    assert frame_error(dataset, 1) == "truncated_pixel_data"
