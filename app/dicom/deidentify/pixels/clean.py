"""Frames without the text that is burned into them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset

from app.dicom.deidentify.pixels.boxes import Box, cover, joined
from app.dicom.deidentify.pixels.guard import plausible
from app.dicom.deidentify.pixels.regions import region_boxes
from app.dicom.deidentify.pixels.text import Line, find_lines
from app.dicom.deidentify.pixels.views import views
from app.dicom.pixels.attributes import has_value, text
from app.dicom.pixels.frames import Frame
from app.dicom.pixels.image_header import read_header
from app.dicom.render.color import rgb

LOOKS = 4
"""How often frames are looked at: text that is still found then is given up."""
COMPUTED = ("SEG", "RTDOSE")
"""Modalities whose frames are calculated. A shape that was taken for text would falsify them."""
RING = 6
"""Pixels around a mask that show what lies behind it."""


@dataclass(frozen=True, slots=True)
class PixelOptions:
    """find_text: look for text; without, only regions and device rules are masked."""

    find_text: bool = True


DEFAULT_OPTIONS = PixelOptions()


@dataclass(frozen=True, slots=True)
class CleanedFrames:
    """What came of cleaning frames.

    frames: as given, if nothing was masked. boxes: where all frames were masked. residual: where there is
    still text; an object with any must not be published.
    """

    frames: np.ndarray
    boxes: tuple[Box, ...]
    residual: tuple[Box, ...]


def clean_frames(
    frames: np.ndarray,
    dataset: Dataset,
    options: PixelOptions = DEFAULT_OPTIONS,
    photometric: str | None = None,
) -> CleanedFrames:
    """Mask burned-in text.

    First what is known without a look: outside of ultrasound regions, and by device. Then text is looked
    for, masked, and looked for again in what is left, until none is found.

    Parameters
    ----------
    frames : (n, rows, columns[, 3]) stored values; not changed
    dataset : describes them
    options : what to look for
    photometric : the colour space that the frames have, if decoding changed it

    Raises
    ------
    ConfigError : the extra `pixels` is not installed
    Unrenderable : the frames cannot be shown

    References
    ----------
    PS3.15 E.3.1 (Clean Pixel Data Option)
    """
    photometric = photometric or read_header(dataset).photometric
    shape = frames.shape[1], frames.shape[2]
    boxes = region_boxes(dataset, shape)
    residual: tuple[Box, ...] = ()
    if options.find_text and not _computed(dataset, frames):
        found, residual = _find_text(views(frames, photometric, dataset), boxes)
        boxes = (*boxes, *found)
    if not boxes:
        return CleanedFrames(frames, (), residual)
    cleaned = frames.copy()
    cleaned[:, cover(boxes, shape)] = fill_value(frames, dataset, photometric)
    return CleanedFrames(cleaned, boxes, residual)


def _computed(dataset: Dataset, frames: np.ndarray) -> bool:
    calculated = text(dataset, "Modality") in COMPUTED or has_value(dataset, "SegmentationType")
    return calculated or frames.dtype.kind == "f" or has_value(dataset, "TotalPixelMatrixColumns")


def _find_text(pictures: list[np.ndarray], known: tuple[Box, ...]) -> tuple[tuple[Box, ...], tuple[Box, ...]]:
    """Return where text stands outside of the known boxes, and where it stays in spite of masks."""
    shape = pictures[0].shape[0], pictures[0].shape[1]
    masked, changed = cover(known, shape), None
    pictures = [hidden(picture, known, masked) for picture in pictures]
    found: list[Box] = []
    for _ in range(LOOKS):
        lines = [line for picture in pictures for line in find_lines(picture, changed)]
        new = [
            box
            for box in text_boxes(lines, shape)
            if not masked[box.top : box.bottom, box.left : box.right].all()
        ]
        if not new:
            return joined(found), ()
        found += new
        changed = cover(new, shape)
        masked |= changed
        pictures = [hidden(picture, new, masked) for picture in pictures]
    return joined(found), joined(new)


def text_boxes(lines: Iterable[Line], shape: tuple[int, int]) -> list[Box]:
    """Return what is masked for the lines that are plausible: their boxes with a margin."""
    grown = []
    for line in lines:
        if plausible(line, shape):
            margin = 1 + min(line.box.width, line.box.height) // 8
            grown.append(line.box.grown(2 * margin, margin).within(shape))
    return [box for box in grown if box is not None]


def hidden(picture: np.ndarray, boxes: Iterable[Box], masked: np.ndarray) -> np.ndarray:
    """Return a picture whose boxes look like what is around them, so that no mask is read as text.

    Parameters
    ----------
    picture : (rows, columns, 3) uint8; not changed
    boxes : to be hidden
    masked : (rows, columns) bool, where boxes lie, these and others
    """
    result = picture.copy()
    for box in boxes:
        around = box.grown(RING, RING).within(masked.shape) or box
        window = slice(around.top, around.bottom), slice(around.left, around.right)
        ring = picture[window][~masked[window]]
        color = np.median(ring, axis=0).astype(np.uint8) if len(ring) else 0
        result[box.top : box.bottom, box.left : box.right] = color
    return result


def fill_value(frames: np.ndarray, dataset: Dataset, photometric: str) -> np.ndarray:
    """Return the stored value that is shown black, as far as the frames have one: one sample, or three."""
    if photometric == "PALETTE COLOR":
        low, high = int(frames.min()), int(frames.max())
        ramp = np.arange(low, high + 1, dtype=frames.dtype)[None]
        shown = rgb(dataset, Frame(ramp, photometric, read_header(dataset), 0))
        return np.asarray(ramp[0, shown.sum(axis=2, dtype=np.int64).argmin()])
    if frames.ndim == 4:
        middle = 1 << (read_header(dataset).bits_stored - 1)
        black = (0, middle, middle) if photometric.startswith("YBR_FULL") else (0, 0, 0)
        return np.array(black, frames.dtype)
    return np.asarray(frames.max() if photometric == "MONOCHROME1" else frames.min())
