"""From the data set to the PNG: choice of the frame, wrong values, codes."""

import io
import warnings

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset

from app.dicom.pixels.preview_error import PreviewError
from app.dicom.read.dataset import read_dataset
from app.dicom.render.preview import choose_frame, preview
from app.model.errors import Unrenderable
from app.model.options import PreviewOptions
from tests.data import content, element, raw
from tests.dicom.pictures import RLE, drawn, encapsulated, picture


def code(dataset: Dataset, **options: object) -> str:
    with pytest.raises(Unrenderable) as caught:
        preview(dataset, PreviewOptions(**options))
    return caught.value.code


HALF = {"WindowCenter": 128, "WindowWidth": 256}
"""A linear window over eight bits: grey is the value itself."""


def test_preview_is_a_png_of_the_drawn_frame():
    dataset = picture(bytes(range(12)), 3, 4, **HALF)
    image = Image.open(io.BytesIO(preview(dataset, PreviewOptions())))
    assert (image.format, image.mode, image.size) == ("PNG", "L", (4, 3))
    assert np.asarray(image).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def test_same_data_set_gives_the_same_bytes():
    first, second = (preview(picture(bytes(range(12)), 3, 4), PreviewOptions()) for _ in range(2))
    assert first == second


def test_window_that_cannot_be_read_has_its_code():
    assert code(picture(b"\0\1", 1, 2), window="wide") == "bad_window"


@pytest.mark.parametrize(
    ("frame", "index"), [("representative", 2), ("first", 0), ("1", 0), ("5", 4), ("3", 2)]
)
def test_frame_is_chosen(frame, index):
    assert choose_frame(picture(bytes(5), 1, 1, NumberOfFrames=5), frame) == index


def test_representative_frame_is_the_one_named():
    named = picture(bytes(5), 1, 1, NumberOfFrames=5, RepresentativeFrameNumber=4)
    assert choose_frame(named, "representative") == 3
    named.RepresentativeFrameNumber = 9
    assert choose_frame(named, "representative") == 2


@pytest.mark.parametrize("frame", ["0", "6", "-1", "", "last", "1.5", "²", "9" * 30])
def test_frame_that_is_not_there_has_its_code(frame):
    assert code(picture(bytes(5), 1, 1, NumberOfFrames=5), frame=frame) == "no_such_frame"


@pytest.mark.parametrize(
    ("tag", "vr", "value"),
    [
        (0x00281050, "DS", b"wide"),
        (0x00281050, "DS", b""),
        (0x00281051, "DS", b"\\\\"),
        (0x00281053, "DS", b""),
        (0x00281053, "DS", b"1,5 "),
        (0x00281052, "DS", b"1e400 "),
        (0x00280008, "IS", b"1A"),
        (0x00280120, "US", b"\1"),
        (0x00280030, "DS", b"0\\0 "),
        (0x00280034, "IS", b"x\\y "),
        (0x20500020, "CS", b""),
        (0x00283010, "SQ", b""),
        (0x00283010, "UN", b"\1\2\3\4"),
        (0x52009230, "UN", b"nonsense"),
        (0x60000010, "US", b"\xff\xff"),
    ],
)
def test_optional_value_that_is_wrong_does_not_cost_the_preview(tag, vr, value):
    elements = {
        0x00280002: element(0x00280002, "US", b"\1\0"),
        0x00280010: element(0x00280010, "US", b"\1\0"),
        0x00280011: element(0x00280011, "US", b"\2\0"),
        0x00280100: element(0x00280100, "US", b"\x08\0"),
        0x7FE00010: element(0x7FE00010, "OB", b"\0\xff"),
        tag: element(tag, vr, value),
    }
    dataset = read_dataset(content(raw(*(elements[tag] for tag in sorted(elements)))))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert drawn(dataset, overlays=True, icc=True) == [[0, 255]]


def test_errors_hold_no_value_of_the_data_set():
    dataset = picture(encapsulated(b"SECRET"), 1, 2, RLE, PhotometricInterpretation="SECRET")
    with pytest.raises(Unrenderable) as caught:
        preview(dataset, PreviewOptions())
    assert "SECRET" not in str(caught.value)


def test_every_code_is_listed_with_its_meaning():
    listed = [line.split()[0] for line in (PreviewError.__doc__ or "").splitlines()[2:] if line.split()]
    assert listed == [code.value for code in PreviewError]
