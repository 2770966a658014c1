"""What is refused before any frame is read."""

import pytest

from tests.dicom.pictures import (
    encapsulated,
    frame_error,
    picture,
)


def test_frame_over_the_pixel_budget_is_refused_before_it_is_decoded():
    assert frame_error(picture(b"", 60000, 60000, PixelData=b"\0\0"), pixels=1000) == "image_too_large"


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.102", "1.2.840.10008.1.2.4.107", "1.2.3"])
def test_video_and_unknown_syntaxes_are_not_supported(syntax):
    assert frame_error(picture(encapsulated(b"\0\0"), 1, 2, syntax)) == "unsupported_transfer_syntax"


@pytest.mark.parametrize("frame_index", [-1, 1, 10**9])
def test_frame_that_is_not_there_has_its_code(frame_index):
    assert frame_error(picture(b"\1\2", 1, 2), frame_index) == "no_such_frame"


@pytest.mark.parametrize(
    "change",
    [
        {"Rows": None},
        {"Columns": 0},
        {"BitsAllocated": 12},
        {"BitsStored": 9},
        {"SamplesPerPixel": 2},
        {"BitsAllocated": None},
    ],
)
def test_impossible_header_is_refused(change):
    dataset = picture(b"\1\2", 1, 2)
    for keyword, value in change.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    assert frame_error(dataset) == "bad_image_header"


@pytest.mark.parametrize("pixels", [None, b""])
def test_data_set_without_pixels_has_its_code(pixels):
    assert frame_error(picture(b"", 1, 2, PixelData=pixels)) == "no_pixel_data"
