"""The geometry of a preview: square pixels, and no side longer than the maximum."""

from __future__ import annotations

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset

from app.dicom.pixels.attributes import numbers
from app.dicom.pixels.functional_groups import frame_item

SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
SQUARE_TOLERANCE = 0.01
"""Pixels whose ratio differs from 1 by at most this count as square."""
MAX_RATIO = 10.0
"""A ratio above this, or below its inverse, is taken for an error and ignored."""


def pixel_ratio(dataset: Dataset, frame_index: int) -> float:
    """Return the height of a pixel divided by its width.

    Parameters
    ----------
    dataset : the whole data set
    frame_index : 0-based

    Returns
    -------
    vertical / horizontal extent; 1.0 if it is unknown, square within one percent, or absurd

    References
    ----------
    PS3.3 C.7.6.3.1.7 (Pixel Aspect Ratio), 10.7.1.3 (Pixel Spacing: between rows, then between columns)
    """
    pairs = [numbers(dataset, "PixelAspectRatio")]
    for keyword in SPACINGS:
        holder = frame_item(dataset, frame_index, "PixelMeasuresSequence", keyword)
        pairs.append(numbers(holder, keyword) if holder is not None else ())
    for pair in pairs:
        if len(pair) == 2 and all(np.isfinite(pair)) and min(pair) > 0:
            ratio = pair[0] / pair[1]
            sound = 1 / MAX_RATIO <= ratio <= MAX_RATIO and abs(ratio - 1) > SQUARE_TOLERANCE
            return ratio if sound else 1.0
    return 1.0


def fitting_size(shape: tuple[int, ...], ratio: float, max_side: int) -> tuple[int, int]:
    """Return the size that makes pixels square and the image small enough.

    Parameters
    ----------
    shape : rows and columns
    ratio : height / width of a pixel; the longer direction is stretched, so that no detail is lost
    max_side : maximum length of the longest side in pixels, 0 for no maximum

    Returns
    -------
    (rows, columns), each at least 1
    """
    height, width = shape[0] * max(ratio, 1.0), shape[1] * max(1 / ratio, 1.0)
    scale = min(1.0, max_side / max(height, width)) if max_side > 0 else 1.0
    return max(1, round(height * scale)), max(1, round(width * scale))


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resample an image.

    Parameters
    ----------
    image : (rows, columns) or (rows, columns, 3) uint8
    size : rows and columns of the result

    Returns
    -------
    (rows, columns) or (rows, columns, 3) uint8; the same array if it has that size already
    """
    if size == image.shape[:2]:
        return image
    picture = Image.fromarray(np.ascontiguousarray(image))
    smaller = size[0] < image.shape[0] or size[1] < image.shape[1]
    # Hamming is nearly as sharp as Lanczos at half the cost, and does not ring at edges.
    kind = Image.Resampling.HAMMING if smaller else Image.Resampling.BICUBIC
    return np.asarray(picture.resize(size[::-1], kind, reducing_gap=2.0))
