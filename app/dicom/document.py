"""The first page of an encapsulated PDF (PS3.3 C.24.2)."""

from __future__ import annotations

import math
from contextlib import closing

import numpy as np
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from app.dicom.attributes import element_as_it_lies, octets, text
from app.dicom.unrenderable import PreviewError, unrenderable

MOST_BYTES = 64 << 20
LONGEST_SIDE = 2048
"""Pixels of a page where no longest side is asked for: A4 at 175 dpi."""


def draw_document(dataset: Dataset, max_side: int) -> np.ndarray:
    """Draw the first page of the document.

    Parameters
    ----------
    dataset : holds Encapsulated Document
    max_side : longest side in pixels, 0 for any

    Returns
    -------
    (rows, columns, 3) uint8

    Raises
    ------
    Unrenderable : no_pixel_data where it is no PDF, bad_document, document_too_large

    References
    ----------
    PS3.3 C.24.2 (Encapsulated Document), ISO 32000-1
    """
    kind = text(dataset, "MIMETypeOfEncapsulatedDocument")
    if kind not in ("", "APPLICATION/PDF"):
        raise unrenderable(PreviewError.NO_PIXEL_DATA, "only PDF documents are drawn")
    # Asked before the value is read: it may have been left in the file.
    found = element_as_it_lies(dataset, "EncapsulatedDocument")
    if (
        found.length if isinstance(found, RawDataElement) else len(found.value if found else b"")
    ) > MOST_BYTES:
        raise unrenderable(PreviewError.DOCUMENT_TOO_LARGE, "the document is too large to be drawn")
    return draw_pdf(octets(dataset, "EncapsulatedDocument"), max_side or LONGEST_SIDE)


def draw_pdf(data: bytes, side: int) -> np.ndarray:
    """Draw the first page of a PDF.

    Parameters
    ----------
    data : the file
    side : longest side of the result in pixels

    Returns
    -------
    (rows, columns, 3) uint8 on white

    Raises
    ------
    Unrenderable : bad_document
    """
    import pypdfium2  # few objects need it, and it maps a library of 7 MB

    try:
        with closing(pypdfium2.PdfDocument(data)) as pdf:
            page = pdf[0]
            longest = max(page.get_size())
            if not (math.isfinite(longest) and longest > 0):
                raise unrenderable(PreviewError.BAD_DOCUMENT, "the page has no size")
            # Sizes are rounded up, and a side one pixel too long would be resampled.
            bitmap = page.render(scale=(side - 0.01) / longest, rev_byteorder=True)
            image: np.ndarray = bitmap.to_numpy()[:, :, :3].copy()
    except (pypdfium2.PdfiumError, IndexError):
        raise unrenderable(PreviewError.BAD_DOCUMENT, "the document cannot be read") from None
    return image
