"""The shape of a preview: square pixels, and no side longer than asked for."""

from __future__ import annotations

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset

from app.dicom.pixels.attributes import numbers
from app.dicom.pixels.functional_groups import frame_item

SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
SQUARE = 0.01
"""Pixels that are square but for this share are left as they are."""
LONGEST = 10.0
"""A ratio beyond this, or below its inverse, is a mistake and not a shape."""


def pixel_ratio(dataset: Dataset, frame_index: int) -> float:
    """Return how many times higher than wide a pixel is.

    Parameters
    ----------
    dataset : the whole data set
    frame_index : 0-based

    Returns
    -------
    vertical by horizontal extent; 1.0 if unknown, square within one percent, or absurd

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
            sound = 1 / LONGEST <= ratio <= LONGEST and abs(ratio - 1) > SQUARE
            return ratio if sound else 1.0
    return 1.0


def fitting_size(shape: tuple[int, ...], ratio: float, max_side: int) -> tuple[int, int]:
    """Return the size that makes pixels square and the image small enough.

    Parameters
    ----------
    shape : rows and columns
    ratio : height of a pixel by its width; the longer way is stretched, so that nothing is lost
    max_side : longest side of the result in pixels, 0 for any

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
    (rows, columns) or (rows, columns, 3) uint8, the image itself where nothing is to be done
    """
    if size == image.shape[:2]:
        return image
    picture = Image.fromarray(np.ascontiguousarray(image))
    smaller = size[0] < image.shape[0] or size[1] < image.shape[1]
    # Hamming is nearly as sharp as Lanczos at half its cost, and does not ring around edges.
    kind = Image.Resampling.HAMMING if smaller else Image.Resampling.BICUBIC
    return np.asarray(picture.resize(size[::-1], kind, reducing_gap=2.0))
