"""Frames as the pictures in which text is looked for."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from pydicom.dataset import Dataset

from app.dicom.pixels.frames import Frame
from app.dicom.pixels.image_header import read_header
from app.dicom.render.color import rgb
from app.dicom.render.grayscale import automatic_window, common_window, look_up
from app.dicom.render.modality_lut import modality_transform
from app.dicom.render.window import Window

BELOW, ABOVE = 40, 215
"""Greys at the ends of the window, where values beyond it share the rest."""


def views(frames: np.ndarray, photometric: str, dataset: Dataset) -> list[np.ndarray]:
    """Return the pictures that show all text of the frames.

    Parameters
    ----------
    frames : (n, rows, columns[, 3]) stored values
    photometric : their colour space
    dataset : window, palette and modality transformation

    Returns
    -------
    (rows, columns, 3) uint8. One picture of one frame. Of several frames the brightest and the darkest that
    each pixel ever is: text that stands still is in one of them, whatever moves behind it, and so is text
    that stands in a single frame.
    """
    if frames.ndim == 4 or photometric == "PALETTE COLOR":
        return _extremes(_in_colour(frames, photometric, dataset), len(frames))
    extremes = [frames[0]] if len(frames) == 1 else [frames.max(axis=0), frames.min(axis=0)]
    return [_in_grey(frame, photometric, dataset) for frame in extremes]


def _in_colour(frames: np.ndarray, photometric: str, dataset: Dataset) -> Iterator[np.ndarray]:
    header = read_header(dataset)
    for index, frame in enumerate(frames):
        yield rgb(dataset, Frame(frame, photometric, header, index))


def _extremes(pictures: Iterator[np.ndarray], count: int) -> list[np.ndarray]:
    first = next(pictures)
    if count == 1:
        return [np.ascontiguousarray(first)]
    brightest, darkest = first.copy(), first.copy()
    for picture in pictures:
        np.maximum(brightest, picture, out=brightest)
        np.minimum(darkest, picture, out=darkest)
    return [brightest, darkest]


def _in_grey(values: np.ndarray, photometric: str, dataset: Dataset) -> np.ndarray:
    """Show a frame by its window in red and green, and the values beyond the window by all shades of blue."""
    if values.dtype.kind == "f":
        values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    frame = Frame(values, photometric, read_header(dataset), 0)
    window = common_window(dataset, [frame], "auto")
    if not isinstance(window, Window):  # a curve has no ends, a segmentation no window
        window = automatic_window(dataset, [frame])
    modality = modality_transform(dataset, frame.header, 0)
    if values.dtype.kind == "f" or values.dtype.itemsize > 2:
        return _shades(modality.apply(values), window)
    first = int(values.min())
    return look_up(_shades(modality.apply(np.arange(first, int(values.max()) + 1)), window), values, first)


def _shades(shown: np.ndarray, window: Window) -> np.ndarray:
    """Return the colours of modality values of any shape: (..., 3) uint8."""
    least, most = float(shown.min()), float(shown.max())
    low, high = max(least, window.center - window.width / 2), min(most, window.center + window.width / 2)
    if low >= high:
        low, high = least, most
    below, above = low > least, high < most
    ends = [least, low, high, most]
    grey = np.interp(shown, ends, [0, BELOW if below else 0, ABOVE if above else 255, 255])
    beyond = np.interp(shown, ends, [0, 255 if below else 0, 0, 255]) if below or above else grey
    return np.stack([grey, grey, beyond], axis=-1).astype(np.uint8)
