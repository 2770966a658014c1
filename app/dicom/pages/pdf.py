"""Draw the first page of an encapsulated PDF (PS3.3 C.24.2)."""

from __future__ import annotations

import ctypes
import errno
import math
from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from app.dicom.pixels.attributes import element_as_it_lies, octets, text
from app.dicom.pixels.preview_error import PreviewError, unrenderable

if TYPE_CHECKING:
    import pypdfium2

MAX_BYTES = 64 << 20
DEFAULT_SIDE = 2048
"""Pixels of the longest side if the caller sets no maximum: A4 at 175 dpi."""


def draw_document(dataset: Dataset, max_side: int) -> np.ndarray:
    """Draw the first page of the document.

    Parameters
    ----------
    dataset : holds Encapsulated Document
    max_side : maximum length of the longest side in pixels, 0 for the default

    Returns
    -------
    (rows, columns, 3) uint8

    Raises
    ------
    Unrenderable : as `encapsulated_pdf` and `draw_pdf`

    References
    ----------
    PS3.3 C.24.2 (Encapsulated Document), ISO 32000-1
    """
    return draw_pdf(encapsulated_pdf(dataset), max_side)


def encapsulated_pdf(dataset: Dataset) -> bytes:
    """Return the bytes of the document, unchecked except for type and size.

    Raises
    ------
    Unrenderable : no_pixel_data if it is not a PDF, document_too_large
    """
    kind = text(dataset, "MIMETypeOfEncapsulatedDocument")
    if kind not in ("", "APPLICATION/PDF"):
        raise unrenderable(PreviewError.NO_PIXEL_DATA, "only PDF documents are drawn")
    # Check the size before reading the value, which may have been left in the file.
    found = element_as_it_lies(dataset, "EncapsulatedDocument")
    if (
        found.length if isinstance(found, RawDataElement) else len(found.value if found else b"")
    ) > MAX_BYTES:
        raise unrenderable(PreviewError.DOCUMENT_TOO_LARGE, "the document is too large to be drawn")
    return octets(dataset, "EncapsulatedDocument")


def draw_pdf(data: bytes, max_side: int) -> np.ndarray:
    """Draw the first page of a PDF.

    Parameters
    ----------
    data : the PDF file
    max_side : maximum length of the longest side in pixels, 0 for the default

    Returns
    -------
    (rows, columns, 3) uint8 on white

    Raises
    ------
    Unrenderable : bad_document
    MemoryError : some part of the page does not fit in memory
    """
    import pypdfium2  # imported here because few objects need its 7 MB library

    try:
        with closing(pypdfium2.PdfDocument(data)) as pdf:
            page = pdf[0]
            longest = max(page.get_size())
            if not (math.isfinite(longest) and longest > 0):
                raise unrenderable(PreviewError.BAD_DOCUMENT, "the page has no size")
            # Sizes are rounded up; the 0.01 prevents a side one pixel too long, which would be resampled.
            bitmap = _render(page, scale=((max_side or DEFAULT_SIDE) - 0.01) / longest)
            image: np.ndarray = bitmap.to_numpy()[:, :, :3].copy()
    except (pypdfium2.PdfiumError, IndexError):
        raise unrenderable(PreviewError.BAD_DOCUMENT, "the document cannot be read") from None
    return image


def _render(page: pypdfium2.PdfPage, scale: float) -> pypdfium2.PdfBitmap:
    """Draw a page like `PdfPage.render`, but raise MemoryError if memory ran out.

    PDFium silently omits whatever it cannot allocate. The function is called through a prototype of our own
    that captures errno, the only sign of that.
    """
    import pypdfium2
    import pypdfium2.raw as pdfium

    width, height = (math.ceil(length * scale) for length in page.get_size())
    bitmap = pypdfium2.PdfBitmap.new_native(width, height, pdfium.FPDFBitmap_BGR, rev_byteorder=True)
    bitmap.fill_rect((255, 255, 255, 255), 0, 0, width, height)
    function = pdfium.FPDF_RenderPageBitmap
    prototype = ctypes.CFUNCTYPE(function.restype, *function.argtypes, use_errno=True)
    render = prototype(ctypes.cast(function, ctypes.c_void_p).value or 0)
    ctypes.set_errno(0)
    render(bitmap, page, 0, 0, width, height, 0, pdfium.FPDF_ANNOT | pdfium.FPDF_REVERSE_BYTE_ORDER)
    if ctypes.get_errno() == errno.ENOMEM:  # set by malloc; later successful calls do not reset it
        raise MemoryError
    return bitmap
