"""Draw the preview of a data set: which frame or page, how, at which size, as PNG."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset

from app.dicom.pages.ecg_paper import draw_waveform
from app.dicom.pages.pdf import draw_document, encapsulated_pdf
from app.dicom.pages.report import draw_report
from app.dicom.pixels.attributes import has_value, integer
from app.dicom.pixels.frames import Frame
from app.dicom.pixels.image_header import pixel_keyword, read_header
from app.dicom.pixels.preview_error import PreviewError, rendering, unrenderable
from app.dicom.pixels.reduced import read_reduced
from app.dicom.render.color import rgb
from app.dicom.render.geometry import fitting_size, pixel_ratio, resize
from app.dicom.render.grayscale import common_window, grey
from app.dicom.render.overlays import burn_overlays, need_whole_frame
from app.dicom.render.png import encode_png
from app.dicom.render.slide import draw_slide, is_tiled
from app.dicom.render.window import ValueOfInterest, Window
from app.model.options import PreviewOptions
from app.model.values import DatasetWarning

PAGES: dict[str, Callable[[Dataset, int], np.ndarray]] = {
    "EncapsulatedDocument": draw_document,
    "WaveformSequence": draw_waveform,
    "ContentSequence": draw_report,
}
"""For data sets without pixel data: keyword of the element to draw -> function, given the longest side."""
WINDOW_UNUSABLE = DatasetWarning("00281050", "window_unusable")
"""The window of the data set would hide the picture, so an automatic one was used."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """The picture of an object, (rows, columns[, 3]) uint8, and warnings about what was overruled for it."""

    image: np.ndarray
    warnings: tuple[DatasetWarning, ...] = ()


def preview(dataset: Dataset, options: PreviewOptions) -> bytes:
    """Draw the preview of an object as PNG.

    Parameters
    ----------
    dataset : the whole data set with its file meta information; the pixel data may still be in the file
    options : frame, window, size, overlays, colour profile

    Returns
    -------
    a PNG of 8-bit grey or RGB; the same data set and options give the same bytes

    Raises
    ------
    Unrenderable : with a code of PreviewError
    TransientError : reading pixel data that were left in the object failed
    """
    return encode_png(picture(dataset, options))


def picture(dataset: Dataset, options: PreviewOptions) -> np.ndarray:
    """Draw the preview of an object, as `drawing`, but without its warnings.

    Returns
    -------
    (rows, columns) uint8 for grey, (rows, columns, 3) uint8 for RGB
    """
    return drawing(dataset, options).image


def drawing(dataset: Dataset, options: PreviewOptions) -> Drawing:
    """Draw the preview of an object: a frame, a slide assembled from its tiles, or the first page.

    Parameters, Raises : as for `preview`
    """
    with rendering():
        frame_index = choose_frame(dataset, options.frame)
        if pixel_keyword(dataset) is None:
            draw_page = _how_to_draw(dataset)
            if draw_page is None:
                raise unrenderable(PreviewError.NO_PIXEL_DATA, "the data set has nothing to draw")
            page = draw_page(dataset, options.max_side)
            return Drawing(resize(page, fitting_size(page.shape, 1.0, options.max_side)))
        if options.frame == "representative" and is_tiled(dataset):
            image, voi = draw_slide(dataset, options, frame_index, draw)
        else:
            image, voi = _render(dataset, options, frame_index, None)
        unusable = isinstance(voi, Window) and voi.replaces_unusable
        return Drawing(image, (WINDOW_UNUSABLE,) if unusable else ())


def undrawn_pdf(dataset: Dataset, options: PreviewOptions) -> bytes | None:
    """Return the PDF for `draw_page` if the object has one and `options.draw_pdf` is off, else None.

    Raises
    ------
    Unrenderable : as `preview`, for faults found before the document is opened
    """
    with rendering():
        drawn_here = options.draw_pdf or pixel_keyword(dataset) is not None
        if drawn_here or _how_to_draw(dataset) is not draw_document:
            return None
        choose_frame(dataset, options.frame)
        return encapsulated_pdf(dataset)


def _how_to_draw(dataset: Dataset) -> Callable[[Dataset, int], np.ndarray] | None:
    return next((draw for word, draw in PAGES.items() if has_value(dataset, word)), None)


def render(
    dataset: Dataset, options: PreviewOptions, frame_index: int, voi: ValueOfInterest | None = None
) -> np.ndarray:
    """Draw one frame with square pixels, no side longer than `options.max_side`.

    Parameters
    ----------
    dataset : the whole data set
    options : as for `preview`; `frame` is not used
    frame_index : 0-based
    voi : mapping of grey values, instead of `options.window`

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
        return _render(dataset, options, frame_index, voi)[0]


def _render(
    dataset: Dataset, options: PreviewOptions, frame_index: int, voi: ValueOfInterest | None
) -> tuple[np.ndarray, ValueOfInterest | None]:
    """Return the picture, and the mapping used for its grey values."""
    header = read_header(dataset)
    ratio = pixel_ratio(dataset, frame_index)
    size = fitting_size((header.rows, header.columns), ratio, options.max_side)
    whole = need_whole_frame(dataset, drawn=options.overlays)
    scale = 1.0 if whole else min(size[0] / header.rows, size[1] / header.columns)
    frame = read_reduced(dataset, frame_index, scale, options.limits)
    voi = voi or common_window(dataset, [frame], options.window)
    return resize(draw(dataset, frame, options, voi), size), voi


def draw(
    dataset: Dataset, frame: Frame, options: PreviewOptions, voi: ValueOfInterest | None = None
) -> np.ndarray:
    """Draw a decoded frame at its own size; `render` resamples the result."""
    if frame.pixels.ndim == 3 or frame.photometric == "PALETTE COLOR":
        image = rgb(dataset, frame, icc=options.icc)
    else:
        image = grey(dataset, frame, voi or options.window)
    return burn_overlays(dataset, frame, image) if options.overlays else image


def choose_frame(dataset: Dataset, frame: str) -> int:
    """Return the 0-based index of the frame to draw.

    Parameters
    ----------
    dataset : holds the number of frames and possibly a representative one
    frame : `representative`, `first` or a 1-based number; without a Representative Frame Number, the
        representative frame is the middle one

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
