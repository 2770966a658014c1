"""Decode one frame at the lowest resolution that a preview needs."""

from __future__ import annotations

import math

from pydicom.dataset import Dataset

from app.dicom.pixels.attributes import text
from app.dicom.pixels.decoders import CODECS, decode_frame
from app.dicom.pixels.fragments import read_codestream
from app.dicom.pixels.frames import Frame, check_size, read_frame
from app.dicom.pixels.image_header import read_header
from app.dicom.pixels.pixel_bytes import pixel_bytes
from app.model.options import DatasetLimits

MIN_PIXELS = 1 << 20
"""Smaller pictures are decoded whole, because reduced frames lose a little detail."""
HEADROOM = 1.4
"""Minimum size of a reduced frame relative to the preview: scaling it down hides its jagged edges."""


def read_reduced(
    dataset: Dataset, frame_index: int, scale: float, limits: DatasetLimits, picture_pixels: int = 0
) -> Frame:
    """Read a frame, halved during decoding as often as possible while it stays larger than the preview.

    JPEG 2000 stores its resolutions separately, so a small preview need not decode the highest ones.

    Parameters
    ----------
    dataset : the whole data set with its file meta information
    frame_index : 0-based
    scale : rows of the preview / rows of the frame; halving starts at about a third
    limits : as for `read_frame`, applied to the whole frame
    picture_pixels : size of the slide if the frame is a tile: many small tiles are expensive too

    Returns
    -------
    Frame whose `pixels` have the rows and columns of its header, or 2^-n of them, rounded up. Reduced pixels
    are shifted to the upper left by less than a third of a preview pixel

    Raises
    ------
    Unrenderable : as `read_frame`

    References
    ----------
    ISO 15444-1 5.3 (resolution levels)
    """
    header = read_header(dataset)
    big = max(header.pixels, picture_pixels) >= MIN_PIXELS
    halvings = max(0, int(math.log2(1 / (HEADROOM * scale)))) if big else 0
    codec = CODECS.get(header.transfer_syntax)
    # Never average palette indices or segment numbers: the mean is the number of something else.
    numbered = header.photometric == "PALETTE COLOR" or text(dataset, "SegmentationType") == "LABELMAP"
    if not halvings or numbered or codec is None or codec.halve is None:
        return read_frame(dataset, frame_index, limits)
    check_size(header, frame_index, limits)
    data = read_codestream(pixel_bytes(dataset, header.keyword), dataset, frame_index, header.frames, limits)
    values, photometric = decode_frame(data, header, limits, halvings)
    return Frame(values, photometric, header, frame_index)
