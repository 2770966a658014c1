"""Pictures by viewport, region, window, and media type (PS3.18 8.3.5)."""

import io

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset

from app.dicom.render.rendered import render_image, shrink_picture
from app.model.errors import Unrenderable
from app.model.options import PreviewOptions, RenderOptions
from tests import data
from tests.data import parse
from tests.dicom.pictures import picture

PNG = "image/png"


def gradient(**elements: object) -> Dataset:
    """Return 4 rows of 8 columns: 0, 8, 16, ... 248 in order."""
    pixels = bytes(8 * n for n in range(32))
    return parse(data.part10(picture(pixels, 4, 8, WindowCenter="128", WindowWidth="256", **elements)))


def drawn(dataset: Dataset, window: str = "auto", **how: object) -> np.ndarray:
    asked = RenderOptions(**{"media_type": PNG, **how})
    return np.asarray(Image.open(io.BytesIO(render_image(dataset, asked, PreviewOptions(window=window)))))


def test_without_a_viewport_every_pixel_is_there_even_if_pixels_are_not_square():
    assert drawn(gradient()).ravel().tolist() == [8 * n for n in range(32)]
    assert drawn(gradient(PixelSpacing=["2", "1"])).shape == (4, 8)


@pytest.mark.parametrize(
    ("viewport", "spacing", "shape"),
    [
        ((4, 100), ["1", "1"], (2, 4)),
        ((100, 2), ["1", "1"], (2, 4)),
        ((16, 16), ["1", "1"], (8, 16)),
        ((8, 8), ["2", "1"], (8, 8)),
    ],
)
def test_a_viewport_is_filled_and_nothing_is_distorted(viewport, spacing, shape):
    assert drawn(gradient(PixelSpacing=spacing), viewport=viewport).shape == shape


@pytest.mark.parametrize(
    ("region", "first", "last"),
    [
        ((2, 1, 3, 2), 80, 160),  # row 1, column 2 is 8 * 10; row 2, column 4 is 8 * 20
        ((2, 1, -3, 2), 96, 144),
        ((2, 1, 3, -2), 144, 96),
        ((0, 0, 3, 2), 0, 80),
    ],
)
def test_a_region_is_cut_out_and_flipped_by_negative_numbers(region, first, last):
    found = drawn(gradient(), region=region, viewport=(3, 2))
    assert (found.shape, found[0, 0], found[-1, -1]) == ((2, 3), first, last)


def test_a_region_outside_of_the_image_is_refused():
    with pytest.raises(Unrenderable) as caught:
        drawn(gradient(), region=(9, 0, 2, 2), viewport=(2, 2))
    assert caught.value.code == "bad_viewport"


def test_a_window_is_that_of_the_standard():
    # PS3.3 C.11.2.1.2.1, centre 16, width 17: ((x - 15.5) / 16 + 0.5) * 255 for 0, 8, 16 and 24.
    assert drawn(gradient(), "16,17,linear")[0, :4].tolist() == [0, 8, 135, 255]


@pytest.mark.parametrize(("media_type", "form"), [("image/jpeg", "JPEG"), (PNG, "PNG"), ("image/gif", "GIF")])
def test_each_media_type_is_what_it_says(media_type, form):
    image = Image.open(io.BytesIO(render_image(gradient(), RenderOptions(media_type), PreviewOptions())))
    assert (image.format, image.size) == (form, (8, 4))


def test_a_gif_of_all_frames_moves_and_of_one_stands_still():
    dataset = parse(data.enhanced(frames=3))
    moving = render_image(dataset, RenderOptions("image/gif"), PreviewOptions())
    still = render_image(dataset, RenderOptions("image/gif", frame=1), PreviewOptions())
    assert [Image.open(io.BytesIO(gif)).n_frames for gif in (moving, still)] == [3, 1]


def test_a_preview_is_made_smaller_but_never_larger():
    png = render_image(gradient(), RenderOptions(PNG), PreviewOptions())
    sizes = [
        Image.open(io.BytesIO(shrink_picture(png, RenderOptions("image/jpeg", viewport=side)))).size
        for side in ((4, 4), (100, 100))
    ]
    assert sizes == [(4, 2), (8, 4)]


def test_what_has_no_pixels_is_not_drawn():
    with pytest.raises(Unrenderable) as caught:
        drawn(parse(data.minimal()))
    assert caught.value.code == "no_pixel_data"
