"""Read one frame of a data set, without reading or decoding the others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset

from app.dicom.pixels.decoders import BYTEWISE, CODECS, decode_frame
from app.dicom.pixels.fragments import read_codestream
from app.dicom.pixels.image_header import ImageHeader, read_header
from app.dicom.pixels.native import SUBSAMPLED, read_native, stored_values
from app.dicom.pixels.pixel_bytes import PixelBytes, has_fragments, pixel_bytes
from app.dicom.pixels.preview_error import PreviewError, over_limit, rendering, unrenderable
from app.model.options import DEFAULT_LIMITS, DatasetLimits

NATIVE = frozenset(
    (
        "1.2.840.10008.1.2",
        "1.2.840.10008.1.2.1",
        "1.2.840.10008.1.2.2",
        "1.2.840.10008.1.2.1.99",
    )
)
"""Transfer syntaxes whose pixel data are not encapsulated."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One decoded frame.

    pixels: (rows, columns) or (rows, columns, 3) stored values. photometric: their colour space after
    decoding. header: the image header of the data set. index: 0-based.
    """

    pixels: np.ndarray
    photometric: str
    header: ImageHeader
    index: int


def read_frame(dataset: Dataset, frame_index: int, limits: DatasetLimits = DEFAULT_LIMITS) -> Frame:
    """Read and decode one frame.

    Parameters
    ----------
    dataset : the whole data set with its file meta information; the pixel data may still be in the file
    frame_index : 0-based
    limits : on samples, frames, fragments and the parts of a codestream

    Raises
    ------
    Unrenderable : with a code of PreviewError

    References
    ----------
    PS3.5 8 and A.4, PS3.3 C.7.6.3
    """
    with rendering():
        header = read_header(dataset)
        check_size(header, frame_index, limits)
        pixels = pixel_bytes(dataset, header.keyword)
        if header.transfer_syntax in NATIVE:
            if has_fragments(dataset, header.keyword):
                text = "the pixel data are in fragments, which the transfer syntax does not allow"
                raise unrenderable(PreviewError.BAD_ENCAPSULATION, text)
            return _native_frame(pixels, header, frame_index)
        if header.transfer_syntax not in CODECS and header.transfer_syntax not in BYTEWISE:
            raise unrenderable(PreviewError.UNSUPPORTED_TRANSFER_SYNTAX, "no decoder for the transfer syntax")
        data = read_codestream(pixels, dataset, frame_index, header.frames, limits)
        values, photometric = decode_frame(data, header, limits)
        return Frame(values, photometric, header, frame_index)


def check_size(header: ImageHeader, frame_index: int, limits: DatasetLimits) -> None:
    """Check that a frame exists and is not too large, before anything is read.

    Raises
    ------
    Unrenderable : no_such_frame, limit_exceeded, image_too_large
    """
    if not 0 <= frame_index < header.frames:
        raise unrenderable(PreviewError.NO_SUCH_FRAME, "the frame is not in the object")
    if header.frames > limits.frames:
        raise over_limit("the object has more frames than limits.frames", limits.frames)
    if header.pixels * header.samples > limits.pixels:
        text = f"one frame has more samples than workers.max_pixels ({limits.pixels})"
        raise unrenderable(PreviewError.IMAGE_TOO_LARGE, text)


def _native_frame(pixels: PixelBytes, header: ImageHeader, frame_index: int) -> Frame:
    cells = read_native(pixels, header, frame_index)
    photometric = header.photometric
    if photometric in SUBSAMPLED:
        photometric = photometric.removesuffix("_422")
    return Frame(stored_values(cells, header, header.high_bit), photometric, header, frame_index)
