"""A data set to a picture: which frame, how it is drawn, how big, as PNG."""

from __future__ import annotations

import numpy as np
from pydicom.dataset import Dataset

from app.dicom.attributes import integer
from app.dicom.color import rgb
from app.dicom.frames import Frame, read_frame
from app.dicom.geometry import fit, pixel_ratio
from app.dicom.grey import grey
from app.dicom.overlays import burn_overlays
from app.dicom.png import encode_png
from app.dicom.unrenderable import PreviewError, rendering, unrenderable
from app.types import PreviewOptions


def preview(dataset: Dataset, options: PreviewOptions) -> bytes:
    """Draw the frame that stands for the object.

    Parameters
    ----------
    dataset : the whole data set with its file meta information; the pixel data may still lie in the file
    options : frame, window, size, overlays, colour profile

    Returns
    -------
    a PNG of 8-bit grey or RGB; the same data set and options give the same bytes

    Raises
    ------
    Unrenderable : with a code of PreviewError
    TransientError : reading pixel data that were left in the object failed
    """
    with rendering():
        return encode_png(render(dataset, options, choose_frame(dataset, options.frame)))


def render(dataset: Dataset, options: PreviewOptions, frame_index: int) -> np.ndarray:
    """Draw one frame with square pixels, no side longer than `options.max_side`.

    Parameters
    ----------
    dataset : the whole data set
    options : as for `preview`, except `frame`
    frame_index : 0-based

    Returns
    -------
    (rows, columns) uint8 for grey, (rows, columns, 3) uint8 for RGB

    Raises
    ------
    Unrenderable : with a code of PreviewError
    TransientError : reading pixel data that were left in the object failed

    References
    ----------
    PS3.4 N.2 (order of the grey scale transformations)
    """
    with rendering():
        frame = read_frame(dataset, frame_index, options.max_pixels)
        return fit(draw(dataset, frame, options), pixel_ratio(dataset, frame_index), options.max_side)


def draw(dataset: Dataset, frame: Frame, options: PreviewOptions) -> np.ndarray:
    """Draw a decoded frame in its own size, as `render` does before it resamples."""
    if frame.pixels.ndim == 3 or frame.photometric == "PALETTE COLOR":
        image = rgb(dataset, frame, icc=options.icc)
    else:
        image = grey(dataset, frame, options.window)
    return burn_overlays(dataset, frame, image) if options.overlays else image


def choose_frame(dataset: Dataset, frame: str) -> int:
    """Return the 0-based index of the frame to draw.

    Parameters
    ----------
    dataset : tells how many frames there are and which one is representative
    frame : `representative`, `first` or a 1-based number; the representative frame is the one that the
        data set names, else the middle one

    Raises
    ------
    Unrenderable : no_such_frame

    References
    ----------
    PS3.3 C.7.6.6 (Representative Frame Number)
    """
    frames = max(1, integer(dataset, "NumberOfFrames", 1))
    if frame == "first":
        return 0
    if frame == "representative":
        named = integer(dataset, "RepresentativeFrameNumber", 0)
        return named - 1 if 1 <= named <= frames else frames // 2
    if not (frame.isascii() and frame.isdigit() and 1 <= int(frame) <= frames):
        raise unrenderable(PreviewError.NO_SUCH_FRAME, "the frame is not in the object")
    return int(frame) - 1
