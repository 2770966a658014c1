"""Windows and VOI tables, by the formulas of PS3.3 C.11.2."""

import math

import numpy as np
import pytest

from app.dicom.pixels.image_header import read_header
from app.dicom.render.window import Curve, Window, parse_window, value_of_interest
from app.model.errors import Unrenderable
from tests.dicom.pictures import picture, with_items


def shown(window: Window, *values: float) -> list[float]:
    return window.apply(np.array(values, np.float64)).tolist()


def test_linear_window_of_the_standard():
    # C.11.2.1.2.1: c=2048, w=4096 maps 0 to the least, 4095 to the greatest grey.
    assert shown(Window(2048, 4096), -5, 0, 4095, 9999) == [0, 0, 255, 255]
    assert shown(Window(2048, 4096), 2048)[0] == pytest.approx((0.5 / 4095 + 0.5) * 255)
    # c=0, w=100: -50 and below is black, 49 and above is white.
    assert shown(Window(0, 100), -50, 49) == [0, 255]


def test_linear_window_of_width_one_is_a_threshold():
    assert shown(Window(0, 1), -0.5, -0.4) == [0, 255]


def test_exact_window_reaches_its_ends():
    assert shown(Window(0, 100, "LINEAR_EXACT"), -50, 0, 50) == [0, 127.5, 255]


def test_sigmoid_window_is_half_at_its_centre():
    low, middle, high = shown(Window(10, 4, "SIGMOID"), -1e9, 10, 11)
    assert (low, middle) == (pytest.approx(0), 127.5)
    assert high == pytest.approx(255 / (1 + math.exp(-1)))


@pytest.mark.parametrize(
    ("text", "window"),
    [
        ("40,400", Window(40, 400)),
        (" -600.5 , 1500 ", Window(-600.5, 1500)),
        ("0,0.5,linear-exact", Window(0, 0.5, "LINEAR_EXACT")),
        ("1,2,sigmoid", Window(1, 2, "SIGMOID")),
    ],
)
def test_window_is_read_from_text(text, window):
    assert parse_window(text) == window


@pytest.mark.parametrize("text", ["", "40", "a,b", "40,0", "40,-5", "nan,1", "1,inf", "1,2,cubic"])
def test_senseless_window_has_its_code(text):
    with pytest.raises(Unrenderable) as caught:
        parse_window(text)
    assert caught.value.code == "bad_window"


def said(**elements: object) -> object:
    dataset = picture(b"\0\0", 1, 2, **elements)
    return value_of_interest(dataset, read_header(dataset), 0, signed=False)


def test_first_of_several_windows_is_taken():
    assert said(WindowCenter=[40, 300], WindowWidth=[400, 1500]) == Window(40, 400)


def test_window_narrower_than_one_is_exact():
    assert said(WindowCenter=5, WindowWidth=0.5) == Window(5, 0.5, "LINEAR_EXACT")


def test_function_of_the_window_is_taken():
    assert said(WindowCenter=5, WindowWidth=0.5, VOILUTFunction="LINEAR_EXACT") == Window(
        5, 0.5, "LINEAR_EXACT"
    )
    assert said(WindowCenter=5, WindowWidth=2, VOILUTFunction="MYSTERY") == Window(5, 2)


@pytest.mark.parametrize(
    "elements",
    [
        {},
        {"WindowCenter": 40},
        {"WindowWidth": 400},
        {"WindowCenter": None, "WindowWidth": 400},
        {"WindowCenter": 40, "WindowWidth": 0},
        {"WindowCenter": 40, "WindowWidth": -3},
    ],
)
def test_window_that_makes_no_sense_is_none(elements):
    assert said(**elements) is None


LUT = {"LUTDescriptor": [3, 10, 8], "LUTData": [0, 100, 255]}


def test_lookup_table_goes_before_the_window():
    curve = said(WindowCenter=40, WindowWidth=400, **with_items("VOILUTSequence", LUT))
    assert isinstance(curve, Curve)
    assert curve.apply(np.array([0.0, 10, 11, 12, 99])).tolist() == [0, 0, 100, 255, 255]


def test_broken_lookup_table_leaves_the_window():
    broken = with_items("VOILUTSequence", {"LUTDescriptor": [3, 0, 8]})
    assert said(WindowCenter=40, WindowWidth=400, **broken) == Window(40, 400)


STUMP = with_items("VOILUTSequence", {"LUTDescriptor": [4, 0, 8], "LUTData": b"\x10\x20"})


def test_lookup_table_shorter_than_it_says_leaves_the_window():
    assert said(WindowCenter=40, WindowWidth=400, **STUMP) == Window(40, 400)


@pytest.mark.parametrize("window", [{}, {"WindowCenter": 40, "WindowWidth": 0}])
def test_lookup_table_shorter_than_it_says_holds_its_last_entry_where_there_is_no_window(window):
    curve = said(**window, **STUMP)
    assert isinstance(curve, Curve)
    assert curve.apply(np.array([0.0, 1, 3])).tolist() == [0x10, 0x20, 0x20]


@pytest.mark.parametrize(
    ("bits", "greatest", "grey"),
    [
        (16, 4095, 255),  # Agfa: 16 is the size of a cell, not the range of the entries
        (16, 1023, 255),
        (16, 65535, 255),
        (14, 1023, 255),
        (8, 4095, 255),
        (12, 2048, 128),  # needs its 12 bits
        (8, 100, 100),  # a byte is a byte
        (16, 0, 0),
    ],
)
def test_lookup_table_is_scaled_by_the_bits_that_its_entries_have(bits, greatest, grey):
    curve = said(**with_items("VOILUTSequence", {"LUTDescriptor": [2, 0, bits], "LUTData": [0, greatest]}))
    assert isinstance(curve, Curve)
    assert curve.apply(np.array([1.0]))[0] == pytest.approx(grey, abs=0.5)
