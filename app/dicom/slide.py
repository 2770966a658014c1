"""One level of a slide, put together of its tiles (PS3.3 C.7.6.17.3, C.8.12.4)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from pydicom.dataset import Dataset

from app.dicom.attributes import integer, text
from app.dicom.frames import Frame
from app.dicom.functional_groups import frame_item
from app.dicom.geometry import fitting_size, pixel_ratio, resize
from app.dicom.grey import common_window
from app.dicom.header import ImageHeader, read_header
from app.dicom.reduced import read_reduced
from app.dicom.unrenderable import PreviewError, unrenderable
from app.dicom.window import ValueOfInterest
from app.types import PreviewOptions

MOST_TILES = 2048
SAMPLED = 9
"""Tiles that decide the window of a grey slide."""
GLASS, NOTHING = 255, 0
POSITION = "PlanePositionSlideSequence"

Draw = Callable[[Dataset, Frame, PreviewOptions, ValueOfInterest | None], np.ndarray]
Tile = tuple[int, int, int]
"""Index of a frame, and the row and column of its top left pixel; 0-based."""


def is_tiled(dataset: Dataset) -> bool:
    """Say whether the frames are tiles of one picture."""
    return integer(dataset, "NumberOfFrames", 1) > 1 and min(_matrix(dataset)) > 0


def draw_slide(dataset: Dataset, options: PreviewOptions, frame_index: int, draw: Draw) -> np.ndarray:
    """Draw the whole matrix of a slide, or of a segmentation of one.

    Parameters
    ----------
    dataset : one for which `is_tiled` holds
    options : the matrix may have `limits.pixels` samples, as any picture
    frame_index : 0-based; tells which focal plane, optical path or segment is drawn
    draw : draws a decoded tile in its own size

    Returns
    -------
    (rows, columns) or (rows, columns, 3) uint8; only one tile besides it is in memory at a time

    Raises
    ------
    Unrenderable : tiled_level where it is too big, and what is wrong with any tile
    """
    header, matrix = read_header(dataset), _matrix(dataset)
    size = fitting_size(matrix, pixel_ratio(dataset, 0), options.max_side)
    scale = min(size[0] / matrix[0], size[1] / matrix[1])
    if matrix[0] * matrix[1] * header.samples > options.limits.pixels:
        said = f"the level has more samples than workers.max_pixels ({options.limits.pixels})"
        raise unrenderable(PreviewError.TILED_LEVEL, said)
    tiles = _tiles(dataset, header, matrix, frame_index)

    def read(tile: Tile) -> Frame:
        return read_reduced(dataset, tile[0], scale, options.limits, matrix[0] * matrix[1])

    sample = tiles[:: -(-len(tiles) // SAMPLED)]
    voi = common_window(dataset, map(read, sample), options.window)
    canvas: np.ndarray | None = None
    for tile in tiles:
        image = draw(dataset, read(tile), options, voi)
        if canvas is None:
            background = GLASS if text(dataset, "Modality") == "SM" else NOTHING
            canvas = np.full(size + image.shape[2:], background, np.uint8)
        _put(canvas, image, tile, header, (size[0] / matrix[0], size[1] / matrix[1]))
    assert canvas is not None
    return canvas


def _put(
    canvas: np.ndarray, image: np.ndarray, tile: Tile, header: ImageHeader, scales: tuple[float, float]
) -> None:
    """Draw a tile where it belongs; neighbours share their rounded edge, so no gap is left between them."""
    _, top, left = tile
    begin = round(top * scales[0]), round(left * scales[1])
    end = round((top + header.rows) * scales[0]), round((left + header.columns) * scales[1])
    height, width = end[0] - begin[0], end[1] - begin[1]
    if height > 0 and width > 0:
        target = canvas[begin[0] : end[0], begin[1] : end[1]]
        target[:] = resize(image, (height, width))[: target.shape[0], : target.shape[1]]


def _matrix(dataset: Dataset) -> tuple[int, int]:
    return integer(dataset, "TotalPixelMatrixRows", 0), integer(dataset, "TotalPixelMatrixColumns", 0)


def _tiles(dataset: Dataset, header: ImageHeader, matrix: tuple[int, int], frame_index: int) -> list[Tile]:
    """Return the tiles of one plane; where their places are written down, the first in each place."""
    down, across = -(-matrix[0] // header.rows), -(-matrix[1] // header.columns)
    full = text(dataset, "DimensionOrganizationType") == "TILED_FULL" or _position(dataset, 0) is None
    first = frame_index - frame_index % (down * across) if full else 0
    frames = min(header.frames - first, down * across) if full else header.frames
    if frames > MOST_TILES:
        raise unrenderable(PreviewError.TILED_LEVEL, "the level has too many tiles to be drawn whole")
    if full:
        # Row by row, then the next focal plane, optical path or segment (PS3.3 C.7.6.17.3).
        corners = [(n // across * header.rows, n % across * header.columns) for n in range(frames)]
        return [(first + n, *corner) for n, corner in enumerate(corners)]
    places = dict[tuple[int, int], int]()
    for index in range(frames):
        row, column = _position(dataset, index) or (-1, -1)
        if 0 <= row < matrix[0] and 0 <= column < matrix[1]:
            places.setdefault((row, column), index)
    if not places:
        raise unrenderable(PreviewError.BAD_IMAGE_HEADER, "no tile has a place on the slide")
    return [(index, *place) for place, index in places.items()]


def _position(dataset: Dataset, frame_index: int) -> tuple[int, int] | None:
    holder = frame_item(dataset, frame_index, POSITION, "RowPositionInTotalImagePixelMatrix")
    if holder is None:
        return None
    row = integer(holder, "RowPositionInTotalImagePixelMatrix", 0)
    return row - 1, integer(holder, "ColumnPositionInTotalImagePixelMatrix", 0) - 1
