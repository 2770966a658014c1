"""Slides put together of their tiles."""

import imagecodecs
import numpy as np
import pytest
from pydicom.dataset import Dataset

from app.dicom.render.preview import picture as draw_picture
from app.model.errors import Unrenderable
from app.model.options import PreviewOptions
from tests.data import apply
from tests.dicom.pictures import JPEG_BASELINE, encapsulated, picture, with_items

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


def part(offset: int | None, *values: int, **elements: object):
    """Return one part of a slide of 2 x 3 tiles that is stored as a concatenation."""
    said = {
        "ConcatenationUID": "1.2.3",
        "InConcatenationNumber": 2,
        "ConcatenationFrameOffsetNumber": offset,
        **elements,
    }
    return tiled(*values, rows=4, columns=6, **said)


def middles(dataset) -> list[list[int]]:
    """Return one pixel of each tile."""
    return np.array(drawn(dataset))[::2, ::2].tolist()


@pytest.mark.parametrize(
    ("dataset", "tiles"),
    [
        (part(0, 1, 2, 3, InConcatenationNumber=1), [[1, 2, 3], [255, 255, 255]]),
        (part(3, 4, 5, 6), [[255, 255, 255], [4, 5, 6]]),
        (part(2, 3, 4), [[255, 255, 3], [4, 255, 255]]),
        (part(4, 5), [[255, 255, 255], [255, 5, 255]]),
        (part(0, 1, InConcatenationNumber=1), [[1, 255, 255], [255, 255, 255]]),
    ],
    ids=["first row", "second row", "across rows", "one tile", "first tile"],
)
def test_part_of_a_concatenation_lies_where_its_frames_are_counted(dataset, tiles):
    # PS3.3 C.7.6.16.2.2.4: the first frame of the part is logical frame offset + 1 of the concatenation.
    assert middles(dataset) == tiles


@pytest.mark.parametrize(
    ("dataset", "tiles"),
    [
        # The second of two focal planes or optical paths begins with logical frame 7.
        (part(6, 1, 2, 3, 4, 5, 6), [[1, 2, 3], [4, 5, 6]]),
        (part(9, 4, 5, 6), [[255, 255, 255], [4, 5, 6]]),
        # The end of the first plane, then most of the second, whose frame is the middle one.
        (part(5, 60, 1, 2, 3, 4), [[1, 2, 3], [4, 255, 255]]),
        (part(5, 60, 1, 2, RepresentativeFrameNumber=1), [[255, 255, 255], [255, 255, 60]]),
    ],
    ids=["second plane", "its second row", "across planes", "end of the first plane"],
)
def test_part_of_a_concatenation_shows_one_plane(dataset, tiles):
    assert middles(dataset) == tiles


def test_part_of_a_concatenation_that_does_not_say_where_it_begins_is_no_picture():
    with pytest.raises(Unrenderable) as caught:
        drawn(part(None, 4, 5, 6))
    assert caught.value.code == "bad_image_header"


def test_sparse_part_of_a_concatenation_lies_where_its_tiles_say():
    assert middles(part(3, 5, 6, **places((3, 3), (3, 5)))) == [[255, 255, 255], [255, 5, 6]]


def test_optical_paths_are_not_mixed():
    # The last tile of one path and the first two of the next, as a part of a concatenation has them.
    dataset = part(5, 60, 1, 2, **places((3, 5), (1, 1), (1, 3)))
    dataset.OpticalPathSequence = [Dataset(), Dataset()]
    for group, path in zip(dataset.PerFrameFunctionalGroupsSequence, "ABB", strict=True):
        group.OpticalPathIdentificationSequence = [apply(Dataset(), OpticalPathIdentifier=path)]
    assert middles(dataset) == [[1, 2, 255], [255, 255, 255]]


def test_label_is_drawn_as_the_frame_it_is():
    label = {"ImageType": ["ORIGINAL", "PRIMARY", "LABEL", "NONE"], "ConcatenationUID": None}
    assert drawn(tiled(9, rows=2, columns=2, **label)) == [[9, 9], [9, 9]]


EMPTY = b""
RED, GREEN = (
    imagecodecs.jpeg8_encode(np.full((8, 8, 3), color, np.uint8)) for color in ((254, 0, 0), (0, 255, 1))
)


def jpeg_slide(pixel_data: bytes, frames: int, **elements: object):
    """Return a slide of one column of tiles of 8 x 8 pixels."""
    said = {
        "NumberOfFrames": frames,
        "SamplesPerPixel": 3,
        "PhotometricInterpretation": "YBR_FULL_422",
        "TotalPixelMatrixRows": 8 * frames,
        "TotalPixelMatrixColumns": 8,
        "DimensionOrganizationType": "TILED_FULL",
        "Modality": "SM",
        **elements,
    }
    return picture(pixel_data, 8, 8, JPEG_BASELINE, **said)


def column(dataset) -> str:
    """Name the colour of each tile: r, g, or w for blank."""
    image = np.array(drawn(dataset))[4::8, 4]
    return "".join("w" if min(pixel) > 250 else "rg"[int(np.argmax(pixel))] for pixel in image)


def table_of(*fragments: bytes) -> list[int]:
    """Return where each fragment begins."""
    return [sum(8 + len(fragment) for fragment in fragments[:n]) for n in range(len(fragments))]


@pytest.mark.parametrize("tiles", ["rwg", "wrg", "rgw", "wwr", "rwwg", "wr"])
@pytest.mark.parametrize("with_table", [True, False], ids=["offset table", "no offset table"])
def test_tile_without_bytes_is_left_blank(tiles, with_table):
    fragments = [{"r": RED, "g": GREEN, "w": EMPTY}[tile] for tile in tiles]
    offsets = table_of(*fragments) if with_table else ()
    assert column(jpeg_slide(encapsulated(*fragments, offsets=offsets), len(tiles))) == tiles


def test_tile_that_has_not_even_a_fragment_is_left_blank():
    size = 8 + len(RED)
    ended = [0, size, size, size + 8 + len(GREEN)]
    assert column(jpeg_slide(encapsulated(RED, GREEN, offsets=ended), 4)) == "rwgw"


def test_empty_tiles_are_counted_where_others_have_several_fragments():
    pieces = (RED[:100], RED[100:], EMPTY, GREEN[:50], GREEN[50:])
    assert column(jpeg_slide(encapsulated(*pieces), 3)) == "rwg"


def test_offset_table_that_was_never_filled_in_leaves_no_tile_blank():
    assert column(jpeg_slide(encapsulated(RED, GREEN, RED, offsets=(0, 0, 0)), 3)) == "rgr"


def test_empty_tile_of_another_than_a_slide_is_black():
    assert drawn(jpeg_slide(encapsulated(RED, EMPTY), 2, Modality="OT"))[12][4] == [0, 0, 0]


@pytest.mark.parametrize("frame", ["2", "representative"])
def test_empty_frame_that_is_no_tile_among_others_is_an_error(frame):
    alone = {"TotalPixelMatrixRows": None, "TotalPixelMatrixColumns": None}
    with pytest.raises(Unrenderable) as caught:
        drawn(jpeg_slide(encapsulated(RED, EMPTY), 2, **alone), frame=frame)
    assert caught.value.code == "truncated_pixel_data"


def test_slide_of_nothing_but_empty_tiles_is_an_error():
    with pytest.raises(Unrenderable) as caught:
        drawn(jpeg_slide(encapsulated(EMPTY, EMPTY), 2))
    assert caught.value.code == "truncated_pixel_data"


def test_empty_tiles_do_not_decide_the_window_of_a_grey_slide():
    shades = (np.full((8, 8), level, np.uint8) for level in (50, 100))
    first, second = (imagecodecs.jpeg8_encode(shade) for shade in shades)
    grey = {"SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2"}
    image = np.array(drawn(jpeg_slide(encapsulated(EMPTY, first, EMPTY, second), 4, **grey)))
    assert image[4::8, 4].tolist() == [255, 0, 255, 255]


def test_grey_tiles_share_one_window():
    automatic = {"WindowCenter": None, "WindowWidth": None}
    image = np.array(drawn(tiled(10, 20, 30, 40, rows=4, **automatic)))
    assert image[0, 0] == 0
    assert image[0, 2] == 85  # a third of the way from 10 to 40
    assert image[3, 3] == 255
