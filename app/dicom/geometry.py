"""The shape of a preview: square pixels, and no side longer than asked for."""

from __future__ import annotations

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset

from app.dicom.attributes import numbers
from app.dicom.functional_groups import frame_item

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


def fit(image: np.ndarray, ratio: float, max_side: int) -> np.ndarray:
    """Make pixels square and the image small enough, in one resampling.

    Parameters
    ----------
    image : (rows, columns) or (rows, columns, 3) uint8
    ratio : height of a pixel by its width; the longer way is stretched, so that nothing is lost
    max_side : longest side of the result in pixels, 0 for any

    Returns
    -------
    (rows, columns) or (rows, columns, 3) uint8, the image itself where nothing is to be done
    """
    rows, columns = image.shape[:2]
    height, width = rows * max(ratio, 1.0), columns * max(1 / ratio, 1.0)
    scale = min(1.0, max_side / max(height, width)) if max_side > 0 else 1.0
    size = max(1, round(width * scale)), max(1, round(height * scale))
    if size == (columns, rows):
        return image
    picture = Image.fromarray(np.ascontiguousarray(image))
    # Hamming is nearly as sharp as Lanczos at half its cost, and does not ring around edges.
    kind = Image.Resampling.HAMMING if scale < 1 else Image.Resampling.BICUBIC
    return np.asarray(picture.resize(size, kind, reducing_gap=2.0))
