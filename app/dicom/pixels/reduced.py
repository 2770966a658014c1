"""One frame, decoded no larger than a preview needs it."""

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

BIG = 1 << 20
"""Pixels of a picture from which on it is worth it: reduced frames lack a little of the detail."""
HEADROOM = 1.4
"""How much larger than wanted a frame is decoded: low resolutions are jagged until they are made smaller."""


def read_reduced(
    dataset: Dataset, frame_index: int, scale: float, limits: DatasetLimits, picture_pixels: int = 0
) -> Frame:
    """Read a frame, halved while it is decoded as often as that leaves it larger than it is wanted.

    JPEG 2000 holds its resolutions one after the other, so a small preview need not decode the big ones.

    Parameters
    ----------
    dataset : the whole data set with its file meta information
    frame_index : 0-based
    scale : rows of the preview by rows of the frame; below about a third of a big one there is a lot to save
    limits : as for `read_frame`, of the whole frame
    picture_pixels : of the slide that the frame is a tile of: small tiles cost much too where there are many

    Returns
    -------
    Frame whose `pixels` have the rows and columns of its header or 2^-n of them, rounded up; they then lie
    less than a third of a pixel of the preview to the upper left

    Raises
    ------
    Unrenderable : as `read_frame`

    References
    ----------
    ISO 15444-1 5.3 (resolution levels)
    """
    header = read_header(dataset)
    big = max(header.pixels, picture_pixels) >= BIG
    halvings = max(0, int(math.log2(1 / (HEADROOM * scale)))) if big else 0
    codec = CODECS.get(header.transfer_syntax)
    # The mean of two palette indices, or of two segment numbers, is the number of something else.
    numbered = header.photometric == "PALETTE COLOR" or text(dataset, "SegmentationType") == "LABELMAP"
    if not halvings or numbered or codec is None or codec.halve is None:
        return read_frame(dataset, frame_index, limits)
    check_size(header, frame_index, limits)
    data = read_codestream(pixel_bytes(dataset, header.keyword), dataset, frame_index, header.frames, limits)
    values, photometric = decode_frame(data, header, limits, halvings)
    return Frame(values, photometric, header, frame_index)
