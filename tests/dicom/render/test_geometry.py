"""Square pixels and the longest side."""

import pytest

from app.dicom.render.preview import render
from app.model.options import PreviewOptions
from tests.dicom.pictures import picture, with_items


def size(rows: int, columns: int, max_side: int, **elements: object) -> tuple[int, ...]:
    dataset = picture(bytes(rows * columns), rows, columns, **elements)
    return render(dataset, PreviewOptions(max_side=max_side), 0).shape


def test_longest_side_is_kept_within_the_limit():
    assert size(40, 20, 10) == (10, 5)
    assert size(40, 20, 40) == (40, 20)
    assert size(40, 20, 0) == (40, 20)
    assert size(400, 1, 10) == (10, 1)


def test_longest_side_is_1024_unless_the_options_set_another():
    assert render(picture(bytes(2000 * 10), 2000, 10), PreviewOptions(), 0).shape == (1024, 5)


@pytest.mark.parametrize(
    "elements",
    [
        {"PixelAspectRatio": [2, 1]},
        {"PixelSpacing": [0.5, 0.25]},
        {"ImagerPixelSpacing": [0.5, 0.25]},
        with_items(
            "SharedFunctionalGroupsSequence", with_items("PixelMeasuresSequence", {"PixelSpacing": [2, 1]})
        ),
    ],
)
def test_pixels_are_made_square(elements):
    assert size(10, 30, 0, **elements) == (20, 30)


def test_flat_pixels_are_stretched_the_other_way():
    assert size(10, 30, 0, PixelAspectRatio=[1, 2]) == (10, 60)
    assert size(10, 30, 30, PixelAspectRatio=[1, 2]) == (5, 30)


@pytest.mark.parametrize("ratio", [[0, 1], [1, -1], [1, 1000], [1000, 1], [1], [1001, 1000]])
def test_ratio_that_makes_no_sense_is_square(ratio):
    assert size(10, 30, 0, PixelAspectRatio=ratio) == (10, 30)
