"""Slides put together of their tiles."""

import numpy as np
import pytest

from app.dicom.preview import picture as draw_picture
from app.errors import Unrenderable
from app.types import PreviewOptions
from tests.dicom.pictures import picture, with_items

SHADES = {"WindowCenter": 128, "WindowWidth": 256}


def tiled(*values: int, rows: int = 3, columns: int = 4, **elements: object):
    """Return 2 x 2 tiles of one value each."""
    said = {
        "NumberOfFrames": len(values),
        "TotalPixelMatrixRows": rows,
        "TotalPixelMatrixColumns": columns,
        "DimensionOrganizationType": "TILED_FULL",
        "Modality": "SM",
        **SHADES,
        **elements,
    }
    return picture(b"".join(bytes([value] * 4) for value in values), 2, 2, **said)


def drawn(dataset, **options: object) -> list:
    return draw_picture(dataset, PreviewOptions(**options)).tolist()


def test_tiles_are_laid_row_by_row_and_cut_at_the_edge():
    assert drawn(tiled(10, 20, 30, 40)) == [[10, 10, 20, 20], [10, 10, 20, 20], [30, 30, 40, 40]]


def places(*corners: tuple[int, int]) -> dict[str, object]:
    def place(row: int, column: int) -> dict[str, object]:
        where = {
            "RowPositionInTotalImagePixelMatrix": row,
            "ColumnPositionInTotalImagePixelMatrix": column,
        }
        return with_items("PlanePositionSlideSequence", where)

    groups = with_items("PerFrameFunctionalGroupsSequence", *(place(*corner) for corner in corners))
    return {**groups, "DimensionOrganizationType": "TILED_SPARSE"}


def test_sparse_tiles_lie_where_they_say_on_glass():
    dataset = tiled(10, 20, **places((2, 3), (1, 1)))
    assert drawn(dataset) == [[20, 20, 255, 255], [20, 20, 10, 10], [255, 255, 10, 10]]


def test_of_tiles_in_one_place_the_first_is_drawn():
    assert drawn(tiled(10, 20, rows=2, columns=2, **places((1, 1), (1, 1)))) == [[10, 10], [10, 10]]


def test_tiles_without_a_place_are_no_picture():
    with pytest.raises(Unrenderable) as caught:
        drawn(tiled(10, 20, **places((9, 1), (1, 9))))
    assert caught.value.code == "bad_image_header"


def test_middle_one_of_the_focal_planes_is_drawn():
    assert drawn(tiled(10, 20, 30, rows=2, columns=2)) == [[20, 20], [20, 20]]


def test_frame_that_was_asked_for_is_drawn_alone():
    assert drawn(tiled(10, 20, 30, 40), frame="2") == [[20, 20], [20, 20]]


@pytest.mark.parametrize(
    "elements",
    [
        {"TotalPixelMatrixRows": 100_000, "TotalPixelMatrixColumns": 100_000},
        {"TotalPixelMatrixRows": 200, "TotalPixelMatrixColumns": 200, "NumberOfFrames": 10_000},
    ],
)
def test_big_level_is_no_wall_of_tiles(elements):
    with pytest.raises(Unrenderable) as caught:
        drawn(tiled(10, 20, **elements))
    assert caught.value.code == "tiled_level"


def test_slide_is_made_small_without_seams():
    values = np.full((40, 40), 100, np.uint8)
    dataset = picture(
        values.tobytes() * 9,
        40,
        40,
        NumberOfFrames=9,
        TotalPixelMatrixRows=120,
        TotalPixelMatrixColumns=120,
        **SHADES,
    )
    assert np.unique(draw_picture(dataset, PreviewOptions(max_side=31))).tolist() == [100]


def test_grey_tiles_share_one_window():
    automatic = {"WindowCenter": None, "WindowWidth": None}
    image = np.array(drawn(tiled(10, 20, 30, 40, rows=4, **automatic)))
    assert image[0, 0] == 0
    assert image[0, 2] == 85  # a third of the way from 10 to 40
    assert image[3, 3] == 255
