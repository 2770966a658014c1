"""All frames as an animated GIF."""

import io

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset

from app.dicom.render.cine import cine, frame_delay
from app.model.errors import Unrenderable
from app.model.options import PreviewOptions
from tests.data import apply
from tests.dicom.pictures import JPEG_LS, encapsulated, picture, with_items


def played(dataset: Dataset, **options: object) -> list[tuple[np.ndarray, int]]:
    """Return what a player shows: RGB pixels and milliseconds of each frame."""
    gif = Image.open(io.BytesIO(b"".join(cine(dataset, PreviewOptions(**options)))))
    frames = []
    for index in range(gif.n_frames):
        gif.seek(index)
        frames.append((np.asarray(gif.convert("RGB")), gif.info["duration"]))
    assert gif.info["loop"] == 0
    return frames


def shades(*values: int, **elements: object) -> Dataset:
    """Return 2 x 3 frames of one value each."""
    pixels = b"".join(bytes([value] * 6) for value in values)
    return picture(pixels, 2, 3, NumberOfFrames=len(values), **elements)


def test_every_frame_is_shown_in_its_greys():
    frames = played(shades(0, 7, 255, WindowCenter=128, WindowWidth=256))
    assert [image[..., 1].tolist() for image, _ in frames] == [[[v] * 3] * 2 for v in (0, 7, 255)]


def test_one_automatic_window_holds_for_all_frames():
    shown = [int(image[0, 0, 0]) for image, _ in played(shades(10, 20, 30))]
    assert shown == [0, 128, 255]


def test_window_of_the_representative_frame_holds_for_all():
    def window(center: int) -> dict[str, object]:
        return with_items("FrameVOILUTSequence", {"WindowCenter": center, "WindowWidth": 1})

    groups = with_items("PerFrameFunctionalGroupsSequence", window(5), window(25))
    dataset = shades(10, 30, RepresentativeFrameNumber=2, **groups)
    assert [int(image[0, 0, 0]) for image, _ in played(dataset)] == [0, 255]


def test_window_that_was_asked_for_holds_for_all_frames():
    shown = [int(image[0, 0, 0]) for image, _ in played(shades(10, 20, 30), window="15,1")]
    assert shown == [0, 255, 255]


def test_window_that_shows_nothing_is_replaced_by_one_for_all_frames():
    ramp = np.arange(200, dtype=np.uint8).reshape(10, 20)
    dataset = picture(ramp.tobytes() * 2, 10, 20, NumberOfFrames=2, WindowCenter=-500, WindowWidth=100)
    assert [np.ptp(image) for image, _ in played(dataset)] == [255, 255]


@pytest.mark.parametrize(
    ("elements", "delay"),
    [
        ({}, 100),
        ({"FrameTime": "40"}, 40),
        ({"CineRate": "25"}, 40),
        ({"RecommendedDisplayFrameRate": "50", "FrameTime": "40"}, 20),
        ({"FrameTimeVector": ["0", "30", "50"]}, 40),
        ({"FrameTime": "0", "CineRate": "10"}, 100),
        ({"FrameTime": "1"}, 20),
        ({"FrameTime": "1e9"}, 5000),
    ],
)
def test_frames_are_shown_as_long_as_the_object_says(elements, delay):
    assert frame_delay(apply(Dataset(), **elements)) == delay


def test_delay_is_written_in_hundredths_of_a_second():
    assert [ms for _, ms in played(shades(1, 2, FrameTime="33.3"))] == [30, 30]


def test_of_many_frames_every_nth_is_shown_for_as_long_as_n():
    frames = played(shades(*(n % 200 for n in range(600)), FrameTime="40"))
    assert (len(frames), frames[0][1]) == (200, 120)


def test_colours_are_kept():
    red, blue = bytes([250, 10, 20] * 6), bytes([5, 15, 240] * 6)
    dataset = picture(red + blue, 2, 3, NumberOfFrames=2, SamplesPerPixel=3, PhotometricInterpretation="RGB")
    first, second = (image[0, 0].astype(int) for image, _ in played(dataset))
    assert np.abs(first - (250, 10, 20)).max() <= 4
    assert np.abs(second - (5, 15, 240)).max() <= 4


def test_long_side_has_its_limit():
    assert played(picture(bytes(1200 * 4), 4, 1200))[0][0].shape == (3, 1024, 3)
    assert played(picture(bytes(1200 * 4), 4, 1200), max_side=600)[0][0].shape == (2, 600, 3)


def test_single_frame_stands_still():
    assert len(played(shades(9))) == 1


def test_frame_that_is_broken_has_its_code():
    dataset = picture(encapsulated(b"\xff\xd8", b"\xff\xd8"), 2, 2, JPEG_LS, NumberOfFrames=2)
    with pytest.raises(Unrenderable) as caught:
        played(dataset)
    assert caught.value.code == "bad_codestream"


def test_frames_are_drawn_one_by_one():
    pieces = cine(shades(*range(100)), PreviewOptions())
    head, first = next(pieces), next(pieces)
    assert head.startswith(b"GIF89a")
    assert max(len(first), *(len(piece) for piece in pieces)) < 100
