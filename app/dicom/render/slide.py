"""One level of a slide, put together of its tiles (PS3.3 C.7.6.17.3, C.8.12.4)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain

import numpy as np
from pydicom.dataset import Dataset

from app.dicom.pixels.attributes import has_value, integer, items, text
from app.dicom.pixels.frames import Frame
from app.dicom.pixels.functional_groups import frame_item
from app.dicom.pixels.image_header import ImageHeader, read_header
from app.dicom.pixels.preview_error import EmptyFrame, PreviewError, unrenderable
from app.dicom.pixels.reduced import read_reduced
from app.dicom.render.geometry import fitting_size, pixel_ratio, resize
from app.dicom.render.grayscale import common_window
from app.dicom.render.window import ValueOfInterest
from app.model.options import PreviewOptions

MOST_TILES = 2048
SAMPLED = 9
"""Tiles that decide the window of a grey slide."""
GLASS, NOTHING = 255, 0
POSITION = "PlanePositionSlideSequence"

Draw = Callable[[Dataset, Frame, PreviewOptions, ValueOfInterest | None], np.ndarray]
Tile = tuple[int, int, int]
"""Index of a frame, and the row and column of its top left pixel; 0-based."""


def is_tiled(dataset: Dataset) -> bool:
    """Say whether the frames are tiles of one picture; a part of a concatenation may hold only one tile."""
    is_part = has_value(dataset, "ConcatenationFrameOffsetNumber")
    return min(_matrix(dataset)) > 0 and (is_part or integer(dataset, "NumberOfFrames", 1) > 1)


def draw_slide(
    dataset: Dataset, options: PreviewOptions, frame_index: int, draw: Draw
) -> tuple[np.ndarray, ValueOfInterest | None]:
    """Draw the whole matrix of a slide, or of a segmentation of one.

    Parameters
    ----------
    dataset : one for which `is_tiled` holds
    options : the matrix may have `limits.pixels` samples, as any picture
    frame_index : 0-based; tells which focal plane, optical path or segment is drawn
    draw : draws a decoded tile in its own size

    Returns
    -------
    (rows, columns) or (rows, columns, 3) uint8; only one tile besides it is in memory at a time. Tiles that
    are not there, or have no bytes, are left blank. And how grey values are shown.

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

    def decoded(some: Iterable[Tile]) -> Iterator[tuple[Tile, Frame]]:
        for tile in some:
            try:
                frame = read_reduced(dataset, tile[0], scale, options.limits, matrix[0] * matrix[1])
            except EmptyFrame:
                continue  # scanners leave out tiles on which there is nothing
            yield tile, frame

    step = -(-len(tiles) // SAMPLED)
    first = next(decoded(tiles), None)
    if first is None:
        raise EmptyFrame("no tile has any bytes")
    sample = (frame for _, frame in chain([first], decoded(tiles[step::step])))
    voi = common_window(dataset, sample, options.window)
    canvas: np.ndarray | None = None
    for tile, frame in decoded(tiles):
        image = draw(dataset, frame, options, voi)
        if canvas is None:
            background = GLASS if text(dataset, "Modality") == "SM" else NOTHING
            canvas = np.full(size + image.shape[2:], background, np.uint8)
        _put(canvas, image, tile, header, (size[0] / matrix[0], size[1] / matrix[1]))
    assert canvas is not None
    return canvas, voi


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
    if text(dataset, "DimensionOrganizationType") == "TILED_FULL" or _position(dataset, 0) is None:
        return _counted_tiles(dataset, header, matrix, frame_index)
    _check_count(header.frames)
    several_paths = len(items(dataset, "OpticalPathSequence")) > 1
    planes = dict[str, dict[tuple[int, int], int]]()
    for index in range(header.frames):
        row, column = _position(dataset, index) or (-1, -1)
        if 0 <= row < matrix[0] and 0 <= column < matrix[1]:
            plane = planes.setdefault(_optical_path(dataset, index) if several_paths else "", {})
            plane.setdefault((row, column), index)
    if not planes:
        raise unrenderable(PreviewError.BAD_IMAGE_HEADER, "no tile has a place on the slide")
    fullest = max(planes.values(), key=len)
    return [(index, *place) for place, index in fullest.items()]


def _counted_tiles(
    dataset: Dataset, header: ImageHeader, matrix: tuple[int, int], frame_index: int
) -> list[Tile]:
    """Return the tiles of the plane of a frame, where the number of a frame says its place.

    Row by row, then the next focal plane, optical path or segment (PS3.3 C.7.6.17.3). The parts of a
    concatenation count on from each other (PS3.3 C.7.6.16.2.2.4).
    """
    part = integer(dataset, "InConcatenationNumber", 1)
    if part > 1 and not has_value(dataset, "ConcatenationFrameOffsetNumber"):
        said = "the part of a concatenation does not say with which frame it begins"
        raise unrenderable(PreviewError.BAD_IMAGE_HEADER, said)
    offset = max(0, integer(dataset, "ConcatenationFrameOffsetNumber", 0))
    down, across = -(-matrix[0] // header.rows), -(-matrix[1] // header.columns)
    plane = (offset + frame_index) // (down * across) * (down * across)
    numbers = range(max(plane, offset), min(plane + down * across, offset + header.frames))
    _check_count(len(numbers))
    corners = (divmod(number - plane, across) for number in numbers)
    return [
        (number - offset, row * header.rows, column * header.columns)
        for number, (row, column) in zip(numbers, corners, strict=True)
    ]


def _check_count(tiles: int) -> None:
    if tiles > MOST_TILES:
        raise unrenderable(PreviewError.TILED_LEVEL, "the level has too many tiles to be drawn whole")


def _optical_path(dataset: Dataset, frame_index: int) -> str:
    holder = frame_item(dataset, frame_index, "OpticalPathIdentificationSequence", "OpticalPathIdentifier")
    return "" if holder is None else text(holder, "OpticalPathIdentifier")


def _position(dataset: Dataset, frame_index: int) -> tuple[int, int] | None:
    holder = frame_item(dataset, frame_index, POSITION, "RowPositionInTotalImagePixelMatrix")
    if holder is None:
        return None
    row = integer(holder, "RowPositionInTotalImagePixelMatrix", 0)
    return row - 1, integer(holder, "ColumnPositionInTotalImagePixelMatrix", 0) - 1
