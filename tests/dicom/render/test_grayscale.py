"""Grey frames: modality, window, inversion, automatic windows, segments."""

import numpy as np
import pytest
from pydicom.uid import ExplicitVRBigEndian

from app.dicom.pixels.frames import read_frame
from app.dicom.render.grayscale import automatic_window, common_window
from app.dicom.render.window import Window
from tests.dicom.pictures import drawn, picture, with_items, words

HALF = {"WindowCenter": 128, "WindowWidth": 256}
"""A linear window over eight bits: grey is the value itself."""


def test_window_applies_to_modality_values():
    dataset = picture(words(0, 1024, 1063, 2000), 1, 4, BitsAllocated=16, WindowCenter=40, WindowWidth=2)
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    # c=40, w=2: up to 39 black, beyond 40 white.
    assert drawn(dataset) == [[0, 0, 0, 255]]


def test_window_asked_for_goes_before_the_one_of_the_data_set():
    assert drawn(picture(b"\0\x0a\x14", 1, 3, **HALF), window="10,20,linear-exact") == [[0, 128, 255]]


@pytest.mark.parametrize(
    "elements",
    [
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"},
        {"PresentationLUTShape": "INVERSE"},
    ],
)
def test_inversion_is_done_once_and_after_the_window(elements):
    assert drawn(picture(b"\0\x40\xff", 1, 3, **HALF, **elements)) == [[255, 255 - 0x40, 0]]


def test_frames_have_their_own_windows():
    def window(center: int) -> dict[str, object]:
        return with_items("FrameVOILUTSequence", {"WindowCenter": center, "WindowWidth": 1})

    groups = with_items("PerFrameFunctionalGroupsSequence", window(10), window(20))
    dataset = picture(b"\x0f\x19" * 2, 1, 2, NumberOfFrames=2, **groups)
    assert drawn(dataset, 0) == [[255, 255]]
    assert drawn(dataset, 1) == [[0, 255]]


def automatic(values: list[int], rows: int = 1, **elements: object) -> tuple[float, float]:
    pixels = words(*values)
    dataset = picture(pixels, rows, len(values) // rows, BitsAllocated=16, **elements)
    frame = read_frame(dataset, 0)
    window = automatic_window(dataset, [frame])
    assert window.function == "LINEAR_EXACT"
    return window.center - window.width / 2, window.center + window.width / 2


def test_automatic_window_leaves_one_percent_below_and_half_a_percent_above():
    assert automatic(list(range(1, 1001))) == (10, 995)


def crowd(*groups: tuple[int, int, int]) -> list[int]:
    """Return, for each group, so many pixels spread evenly from the least to the greatest value."""
    spread = (np.linspace(least, greatest, count) for count, least, greatest in groups)
    return np.concatenate(list(spread)).round().astype(int).tolist()


ANATOMY = (9000, 100, 400)


@pytest.mark.parametrize("count", [60, 270, 900])
@pytest.mark.parametrize(
    ("marks", "ends"),
    [
        ([(4095, 4095)], (103, 399)),  # a lead marker
        ([(4000, 4095)], (103, 399)),  # not quite saturated
        ([(2000, 2000), (4095, 4095), (4095, 4095)], (103, 399)),
        ([(-3000, -3000)], (103, 399)),
        ([(-3000, -3000), (4095, 4095)], (103, 399)),
    ],
)
def test_marks_far_from_the_anatomy_do_not_decide_the_window(marks, ends, count):
    values = crowd(ANATOMY, *((count // len(marks), *mark) for mark in marks))
    low, high = automatic(values, PixelRepresentation=1)
    assert low == pytest.approx(ends[0], abs=3)
    assert high == pytest.approx(ends[1], abs=3)


def test_mark_with_soft_edges_does_not_decide_the_window():
    low, high = automatic(crowd(ANATOMY, (30, 400, 4095), (300, 4095, 4095)))
    assert (low, high) == (pytest.approx(103, abs=1), pytest.approx(405, abs=6))


def test_dark_mark_of_an_inverted_image_does_not_decide_the_window():
    inverted = {"RescaleSlope": -1, "RescaleIntercept": 4095}
    low, high = automatic(crowd(ANATOMY, (300, 4095, 4095)), **inverted)
    assert (low, high) == (pytest.approx(4095 - 399, abs=3), pytest.approx(4095 - 103, abs=3))


@pytest.mark.parametrize(
    ("values", "high"),
    [
        (crowd(ANATOMY, (300, 600, 650)), 648),  # near the rest
        (crowd((9000, 0, 60), (700, 2000, 4000)), 3900),  # a picture on a dark ground
        (crowd((9000, 0, 0), (300, 4095, 4095)), 4095),  # text on black
        (crowd((9000, 0, 12), (300, 255, 255)), 255),  # the same, compressed
        (crowd((9000, 0, 200), (450, 200, 2000)), 1850),  # vessels: a tail, not a mark
        (crowd(ANATOMY, (2000, 4095, 4095)), 4095),  # direct exposure: too much for a mark
    ],
)
def test_bright_parts_of_the_picture_decide_the_window(values, high):
    assert automatic(values)[1] == pytest.approx(high, rel=0.05)


def test_what_eight_bits_show_is_all_picture():
    values = bytes(crowd((9000, 10, 80), (300, 255, 255)))
    dataset = picture(values, 100, 93)
    window = automatic_window(dataset, [read_frame(dataset, 0)])
    assert window.center + window.width / 2 == 255


@pytest.mark.parametrize("modality", ["PT", "NM", "RTDOSE"])
def test_hot_spots_of_counts_are_no_marks(modality):
    assert automatic(crowd(ANATOMY, (300, 4095, 4095)), Modality=modality) == (0, 4095)


def test_automatic_window_is_in_modality_values():
    assert automatic(list(range(1, 1001)), RescaleSlope=-2, RescaleIntercept=0) == (-1982, -12)


def test_padding_does_not_decide_the_window():
    values = [*range(1, 101), *[60000] * 100]
    assert automatic(values, PixelPaddingValue=60000) == (1, 100)
    assert automatic([*values, 50000], PixelPaddingValue=60000, PixelPaddingRangeLimit=50000) == (1, 100)


def test_padding_is_read_with_the_sign_of_the_pixels():
    values = [*range(1, 101), *[-2000] * 100]
    assert automatic(values, PixelRepresentation=1, PixelPaddingValue=-2000) == (1, 100)


@pytest.mark.parametrize(("modality", "low"), [("PT", 0), ("NM", 0), ("CT", 400)])
def test_counts_are_shown_from_zero(modality, low):
    assert automatic([400, 500], Modality=modality) == (low, 500)


@pytest.mark.parametrize(("value", "grey"), [(0, 0), (255, 255), (51, 51)])
def test_constant_frame_is_shown_as_its_share_of_the_range(value, grey):
    assert drawn(picture(bytes([value] * 4), 2, 2)) == [[grey] * 2] * 2


def test_frame_of_nothing_but_padding_is_drawn():
    assert drawn(picture(b"\7\7", 1, 2, PixelPaddingValue=7)) == [[7, 7]]


def window_of(values: list[int], center: float, width: float, **elements: object) -> Window:
    """Return the window that these pixels are shown with, beside a window of the data set."""
    dataset = picture(words(*values), 1, len(values), BitsAllocated=16, **elements)
    dataset.WindowCenter, dataset.WindowWidth = center, width
    found = common_window(dataset, [read_frame(dataset, 0)], "auto")
    assert isinstance(found, Window)
    return found


@pytest.mark.parametrize(
    ("values", "window", "modality", "ends"),
    [
        (crowd((2000, 201, 16344)), (-600, 1600), "DX", (354, 16263)),  # a window of Hounsfield units
        (crowd((2000, 0, 134)), (32768, 65536), "NM", (0, 133)),  # all that 16 bits can hold
        (crowd((2000, 80, 1300)), (30, 100), "CT", (92, 1294)),  # its rescale was lost
        (crowd((2000, 0, 1000)), (6000, 500), "MR", (10, 995)),  # black
        (crowd((10, 0, 80), (1990, 500, 2500)), (0, 300), "DX", (510, 2490)),  # one in 200 is in the window
    ],
)
def test_window_that_shows_nothing_of_the_picture_is_replaced(values, window, modality, ends):
    found = window_of(values, *window, Modality=modality)
    assert found.replaces_unusable
    assert found.center - found.width / 2 == pytest.approx(ends[0], abs=2)
    assert found.center + found.width / 2 == pytest.approx(ends[1], abs=2)


@pytest.mark.parametrize(
    ("values", "window", "elements"),
    [
        (
            crowd((2000, 0, 300)),
            (40, 400),
            {"RescaleIntercept": -1024, "RescaleSlope": 1},
        ),  # air beside a head
        (crowd((2000, 0, 900)), (40, 80), {"RescaleIntercept": -1024, "RescaleSlope": 1}),  # and its rest
        (crowd((2000, 0, 0)), (2048, 4096), {"Modality": "XA"}),  # a frame without exposure
        (crowd((2000, 0, 12)), (2048, 4096), {"Modality": "XA"}),  # and its noise
        (crowd((2000, 0, 30)), (32768, 65536), {"Modality": "PT"}),  # a slice beyond the patient
        (crowd((2000, 0, 3)), (32768, 65536), {"Modality": "NM"}),  # a frame before the tracer comes
        (crowd((2000, 4090, 4095)), (2048, 4096), {"Modality": "DX"}),  # nothing but direct exposure
        (crowd((1900, 0, 0), (100, 0, 1000)), (600, 800), {"Modality": "MR"}),  # a small thing
        (
            crowd((1960, 500, 2500), (40, 0, 80)),
            (0, 300),
            {"Modality": "DX"},
        ),  # one in fifty is in the window
    ],
)
def test_window_of_a_frame_that_is_rightly_dark_or_bright_is_kept(values, window, elements):
    found = window_of(values, *window, **{"Modality": "CT", **elements})
    assert found == Window(*window)


def test_window_that_someone_asked_for_is_never_replaced():
    dataset = picture(words(*crowd((2000, 201, 16344))), 1, 2000, BitsAllocated=16, Modality="DX")
    assert np.unique(drawn(dataset, window="-600,1600")).tolist() == [255]


def test_padding_does_not_make_a_window_unusable():
    values = [*[0] * 5000, *crowd((50, 1000, 2000))]
    assert window_of(values, 1500, 1000, PixelPaddingValue=0) == Window(1500, 1000)
    assert window_of(values, 100, 50, PixelPaddingValue=0, Modality="MR").replaces_unusable


def test_window_is_judged_by_all_frames_that_it_is_for():
    dark, bright = crowd((2000, 0, 1000)), crowd((2000, 5000, 9000))
    dataset = picture(words(*dark, *bright), 1, 2000, BitsAllocated=16, NumberOfFrames=2, Modality="MR")
    dataset.WindowCenter, dataset.WindowWidth = 7000, 4000
    first, second = (read_frame(dataset, index) for index in (0, 1))
    assert common_window(dataset, [first, second], "auto") == Window(7000, 4000)


def test_big_frames_are_sampled():
    pixels = np.zeros((1500, 1500), np.uint8)
    pixels[:, 700:] = 100
    dataset = picture(pixels.tobytes(), 1500, 1500)
    window = automatic_window(dataset, [read_frame(dataset, 0)])
    assert (window.center, window.width) == (50, 100)


def test_not_a_number_is_black_and_does_not_decide_the_window():
    values = np.array([np.nan, 0.25, 0.5, np.inf], "<f4").tobytes()
    dataset = picture(b"", 1, 4, PixelData=None, BitsAllocated=32, FloatPixelData=values)
    assert drawn(dataset) == [[0, 0, 255, 255]]


def test_window_of_width_one_on_floating_point_pixels_is_no_threshold():
    values = np.array([0, 0.5, 1], "<f4").tobytes()
    elements = {"FloatPixelData": values, "WindowCenter": 0.5, "WindowWidth": 1}
    assert drawn(picture(b"", 1, 3, PixelData=None, BitsAllocated=32, **elements)) == [[0, 128, 255]]


def test_binary_segment_is_black_and_white():
    dataset = picture(b"\x05\0", 1, 4, BitsAllocated=1, SegmentationType="BINARY")
    assert drawn(dataset) == [[255, 0, 255, 0]]


def test_fractional_segment_is_scaled_by_its_maximum():
    dataset = picture(b"\0\x19\x32", 1, 3, SegmentationType="FRACTIONAL", MaximumFractionalValue=50)
    assert drawn(dataset) == [[0, 128, 255]]


def test_label_map_is_spread_above_black():
    dataset = picture(b"\0\1\2", 1, 3, SegmentationType="LABELMAP")
    assert drawn(dataset) == [[0, 159, 255]]


def test_dose_is_windowed_in_its_units():
    dataset = picture(words(0, 1000, 2000), 1, 3, BitsAllocated=16, Modality="RTDOSE", DoseGridScaling="0.01")
    assert drawn(dataset) == [[0, 128, 255]]
    assert drawn(dataset, window="5,10,linear-exact") == [[0, 255, 255]]


def test_wide_integers_are_drawn():
    pixels = np.array([0, 500_000, 1_000_000], "<u4").tobytes()
    assert drawn(picture(pixels, 1, 3, BitsAllocated=32)) == [[0, 128, 255]]


def test_big_endian_tables_are_read_as_words():
    tables = with_items("VOILUTSequence", {"LUTDescriptor": [2, 0, 8], "LUTData": b"\0\x10\0\xff"})
    dataset = picture(b"\0\1", 1, 2, ExplicitVRBigEndian, **tables)
    assert drawn(dataset) == [[0x10, 255]]
