"""Colours: palettes, luminance and colour differences, wide samples, profiles."""

import time

import numpy as np
import pytest
from PIL import ImageCms
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian

from app.dicom.render.palette import expand_segments
from app.model.errors import Unrenderable
from tests.dicom.pictures import drawn, picture, words


def colour(*samples: int, photometric: str = "RGB", **elements: object) -> Dataset:
    data = words(*samples) if elements.get("BitsAllocated") == 16 else bytes(samples)
    columns = len(samples) // 3
    return picture(data, 1, columns, SamplesPerPixel=3, PhotometricInterpretation=photometric, **elements)


def test_eight_bit_rgb_is_shown_as_it_is_and_no_window_touches_it():
    assert drawn(colour(1, 2, 3, WindowCenter=0, WindowWidth=1), window="0,1") == [[[1, 2, 3]]]


def test_wide_rgb_is_scaled_by_its_stored_bits():
    assert drawn(colour(0, 0x8000, 0xFFFF, BitsAllocated=16)) == [[[0, 128, 255]]]
    assert drawn(colour(0, 0x800, 0xFFF, BitsAllocated=16, BitsStored=12)) == [[[0, 128, 255]]]


@pytest.mark.parametrize(
    ("ybr", "rgb"),
    [((76, 85, 255), (254, 0, 0)), ((150, 44, 21), (0, 255, 1)), ((128, 128, 128), (128, 128, 128))],
)
def test_full_range_colour_differences(ybr, rgb):
    # R = Y + 1.402 (Cr - 128), G = Y - 0.344 (Cb - 128) - 0.714 (Cr - 128), B = Y + 1.772 (Cb - 128)
    shown = np.array(drawn(colour(*ybr, photometric="YBR_FULL"))[0][0])
    assert np.abs(shown - rgb).max() <= 1


def test_partial_range_reaches_black_and_white():
    dataset = picture(
        bytes([16, 235, 128, 128]), 1, 2, SamplesPerPixel=3, PhotometricInterpretation="YBR_PARTIAL_422"
    )
    assert drawn(dataset) == [[[0, 0, 0], [255, 255, 255]]]


@pytest.mark.parametrize("photometric", ["HSV", "CMYK", "SOMETHING"])
def test_other_colour_spaces_have_their_code(photometric):
    with pytest.raises(Unrenderable) as caught:
        drawn(colour(1, 2, 3, photometric=photometric))
    assert caught.value.code == "unsupported_photometric"


def with_palette(
    pixels: bytes, descriptor: list[int], *tables: bytes, prefix: str = "", **elements: object
) -> Dataset:
    for name, table in zip(("Red", "Green", "Blue"), tables, strict=True):
        elements[f"{name}PaletteColorLookupTableDescriptor"] = descriptor
        elements[f"{prefix}{name}PaletteColorLookupTableData"] = table
    return picture(pixels, 1, len(pixels), PhotometricInterpretation="PALETTE COLOR", **elements)


def test_palette_of_sixteen_bits_is_scaled_and_its_ends_are_held():
    tables = [words(0x0100, 0x0200), words(0x0300, 0x0400), words(0x0500, 0xFF00)]
    assert drawn(with_palette(b"\0\5\6\7", [2, 5, 16], *tables)) == [
        [[1, 3, 5], [1, 3, 5], [2, 4, 255], [2, 4, 255]]
    ]


def test_palette_of_signed_indices_has_an_unsigned_length():
    table = bytes(65536) + b"\xff\xff"
    dataset = with_palette(b"\x43\x44", [32769 - 65536, -32700, 16], table, table, table)
    assert drawn(dataset) == [[[0, 0, 0], [255, 255, 255]]]


def test_palette_of_eight_bits_shares_words():
    assert drawn(with_palette(b"\0\1", [2, 0, 8], b"\1\2", b"\3\4", b"\5\6")) == [[[1, 3, 5], [2, 4, 6]]]


def test_palette_announced_wide_but_stored_narrow_is_not_black():
    table = words(0, 255)
    assert drawn(with_palette(b"\0\1", [2, 0, 16], table, table, table)) == [[[0, 0, 0], [255, 255, 255]]]


def test_big_endian_palette_is_read_as_words():
    table = words(0, 0xFF00, syntax=ExplicitVRBigEndian)
    dataset = with_palette(b"\0\1", [2, 0, 16], table, table, table)
    dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    assert drawn(dataset) == [[[0, 0, 0], [255, 255, 255]]]


def test_segmented_palette_is_expanded():
    table = words(0, 1, 0, 1, 4, 0xFF00)  # one entry 0, then a line of four to 0xFF00
    shown = drawn(with_palette(b"\0\2\4", [5, 0, 16], table, table, table, prefix="Segmented"))
    assert shown == [[[0, 0, 0], [127, 127, 127], [255, 255, 255]]]


def test_segments_may_be_repeated():
    # Discrete 1 2; a line of two to 6; then both again from byte 0.
    data = np.array([0, 2, 1, 2, 1, 2, 6, 2, 2, 0, 0], np.uint16)
    assert expand_segments(data, 8).tolist() == [1, 2, 4, 6, 1, 2, 4, 6]


@pytest.mark.parametrize(
    "data",
    [[7, 1, 1], [1, 5, 9], [2, 1], [2, 60000, 0, 0], [0, 0], [0, 1, 5, 1, 0, 9], [0, 1, 5, 2, 0, 0, 0]],
)
def test_broken_segments_are_refused(data):
    with pytest.raises(Unrenderable) as caught:
        expand_segments(np.array(data, np.uint16), 1000)
    assert caught.value.code == "bad_palette"


def test_segments_that_add_nothing_are_refused_before_they_are_repeated():
    # 65,535 discrete segments of no entries, and 12,000 repetitions of them all.
    data = np.array([0, 0] * 65535 + [2, 65535, 0, 0] * 12000, np.uint16)
    begin = time.process_time()
    with pytest.raises(Unrenderable):
        expand_segments(data, 65536)
    assert time.process_time() - begin < 1


def test_expansion_stops_at_the_announced_entries():
    assert len(expand_segments(np.array([0, 1, 5] + [1, 65535, 7] * 1000, np.uint16), 256)) == 256


@pytest.mark.parametrize(
    ("descriptor", "table"), [([4, 0, 16], words(1, 2)), ([2, 0, 64], words(1, 2)), ([2, 0, 16], b"")]
)
def test_palette_that_is_too_short_has_its_code(descriptor, table):
    with pytest.raises(Unrenderable) as caught:
        drawn(with_palette(b"\0\1", descriptor, table, table, table))
    assert caught.value.code == "bad_palette"


def test_missing_palette_has_its_code():
    with pytest.raises(Unrenderable) as caught:
        drawn(picture(b"\0\1", 1, 2, PhotometricInterpretation="PALETTE COLOR"))
    assert caught.value.code == "bad_palette"


def test_profile_is_applied_only_when_asked_for():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    dataset = colour(10, 120, 240, ICCProfile=srgb)
    assert drawn(dataset) == [[[10, 120, 240]]]
    assert np.abs(np.array(drawn(dataset, icc=True)) - [10, 120, 240]).max() <= 1


def test_broken_profile_leaves_the_colours():
    assert drawn(colour(10, 120, 240, ICCProfile=b"no profile at all!"), icc=True) == [[[10, 120, 240]]]
