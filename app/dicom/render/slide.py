"""Draw one level of a slide by assembling its tiles (PS3.3 C.7.6.17.3, C.8.12.4)."""

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

MAX_TILES = 2048
SAMPLE_TILES = 9
"""Number of tiles from which the window of a grey slide is computed."""
GLASS, NOTHING = 255, 0  # background of a slide (modality SM), and of a segmentation of one
POSITION = "PlanePositionSlideSequence"

Draw = Callable[[Dataset, Frame, PreviewOptions, ValueOfInterest | None], np.ndarray]
Tile = tuple[int, int, int]
"""Index of a frame, and the row and column of its top left pixel; 0-based."""


def is_tiled(dataset: Dataset) -> bool:
    """Return whether the frames are tiles of one picture; a part of a concatenation may have only one."""
    is_part = has_value(dataset, "ConcatenationFrameOffsetNumber")
    return min(_matrix(dataset)) > 0 and (is_part or integer(dataset, "NumberOfFrames", 1) > 1)


def draw_slide(
    dataset: Dataset, options: PreviewOptions, frame_index: int, draw: Draw
) -> tuple[np.ndarray, ValueOfInterest | None]:
    """Draw the whole matrix of a slide, or of a segmentation of one.

    Parameters
    ----------
    dataset : one for which `is_tiled` holds
    options : `limits.pixels` applies to the samples of the whole matrix
    frame_index : 0-based; selects the focal plane, optical path or segment
    draw : draws a decoded tile at its own size

    Returns
    -------
    (rows, columns) or (rows, columns, 3) uint8, and the mapping of grey values. Only one tile at a time is in
    memory. Missing and empty tiles are left blank.

    Raises
    ------
    Unrenderable : tiled_level if the matrix is too large; otherwise the error of any tile
    """
    header, matrix = read_header(dataset), _matrix(dataset)
    size = fitting_size(matrix, pixel_ratio(dataset, 0), options.max_side)
    scale = min(size[0] / matrix[0], size[1] / matrix[1])
    if matrix[0] * matrix[1] * header.samples > options.limits.pixels:
        fault = f"the level has more samples than workers.max_pixels ({options.limits.pixels})"
        raise unrenderable(PreviewError.TILED_LEVEL, fault)
    tiles = _tiles(dataset, header, matrix, frame_index)

    def decoded(some: Iterable[Tile]) -> Iterator[tuple[Tile, Frame]]:
        for tile in some:
            try:
                frame = read_reduced(dataset, tile[0], scale, options.limits, matrix[0] * matrix[1])
            except EmptyFrame:
                continue  # scanners leave out tiles with nothing on them
            yield tile, frame

    step = -(-len(tiles) // SAMPLE_TILES)
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
    """Draw a tile at its place; neighbours share a rounded edge, so there is no gap between them."""
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
    """Return the tiles of one plane, by their positions or, without any, by counting.

    If several frames have the same position, the first counts.
    """
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
        raise unrenderable(PreviewError.BAD_IMAGE_HEADER, "no tile has a position on the slide")
    fullest = max(planes.values(), key=len)
    return [(index, *place) for place, index in fullest.items()]


def _counted_tiles(
    dataset: Dataset, header: ImageHeader, matrix: tuple[int, int], frame_index: int
) -> list[Tile]:
    """Return the tiles of the plane of a frame if the frame number determines the position.

    Frames run row by row, then to the next focal plane, optical path or segment (PS3.3 C.7.6.17.3). The parts
    of a concatenation continue the numbering (PS3.3 C.7.6.16.2.2.4).
    """
    part = integer(dataset, "InConcatenationNumber", 1)
    if part > 1 and not has_value(dataset, "ConcatenationFrameOffsetNumber"):
        fault = "the part of a concatenation has no Concatenation Frame Offset Number"
        raise unrenderable(PreviewError.BAD_IMAGE_HEADER, fault)
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
    if tiles > MAX_TILES:
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
