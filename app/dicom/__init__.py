"""DICOM objects from bytes to a description: pure functions, the only room that knows pydicom.

Its parts are imported when a function needs them: who only passes `describe` on to a worker process does not
pay for pydicom and the codecs.
"""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING
from urllib.parse import quote

from app.errors import BadDataset, Unrenderable, permanent
from app.types import Content, DatasetWarning, DescribeOptions, Instance, PreviewOptions

if TYPE_CHECKING:
    from pydicom.dataset import Dataset


def describe(content: Content, options: DescribeOptions) -> Instance:
    """Return what one object says: columns, metadata, document and preview, a pure function of its bytes.

    But for `took_ms`, which the clock tells. A preview that cannot be made is None, with the reason in
    `preview_error`; one that is left to another process is None too, with the document in `pdf`.

    Raises
    ------
    NotDicom, BadDataset, LimitExceeded : as `read_dataset`
    BadDataset : with code `invalid_value`, if `options.metadata.strict` and any value is not valid
    """
    from app.dicom.columns import columns
    from app.dicom.dataset import read_dataset
    from app.dicom.file_meta import file_meta_warnings
    from app.dicom.metadata import to_document, to_metadata
    from app.dicom.row_metadata import to_row_metadata

    began = perf_counter()
    dataset = read_dataset(content, options.limits)
    with permanent(BadDataset):
        metadata = to_metadata(dataset, bulk_source(content), options.metadata.bulk_threshold)
        row, misfits = columns(metadata)
        text, document = to_row_metadata(metadata, options.metadata), to_document(metadata)
        odd = file_meta_warnings(dataset, metadata)
    warnings = (*metadata.warnings, *misfits, *odd)
    if options.metadata.strict and warnings:
        raise BadDataset(f"element {warnings[0].tag} is not valid", code="invalid_value")
    parsed = perf_counter()
    png, error, overruled, pdf = _preview(dataset, options.preview)
    took = {"parse": _ms(parsed - began), "render": _ms(perf_counter() - parsed)}
    return Instance(row, text, document, png, error, (*warnings, *overruled), took, content.member, pdf)


def draw_page(pdf: bytes, options: PreviewOptions) -> bytes:
    """Return the preview, as PNG, of an instance that `describe` returned with its `pdf`.

    Raises
    ------
    Unrenderable : with a code of PreviewError
    LimitExceeded : it does not fit in memory
    """
    from app.dicom.document import draw_pdf
    from app.dicom.geometry import fitting_size, resize
    from app.dicom.png import encode_png
    from app.dicom.unrenderable import DecodeFailed

    with permanent(DecodeFailed):
        page = draw_pdf(pdf, options.max_side)
        return encode_png(resize(page, fitting_size(page.shape, 1.0, options.max_side)))


def bulk_source(content: Content) -> str:
    """Return the address of an object version that a BulkDataURI begins with, percent-encoded.

    In an archive also the member, for offsets count from where that begins.
    """
    member = "" if content.member is None else f"&member={quote(content.member, safe='')}"
    return f"{quote(content.uri, safe=':/')}?generation={content.ref.generation}{member}"


def _preview(
    dataset: Dataset, options: PreviewOptions
) -> tuple[bytes | None, str | None, tuple[DatasetWarning, ...], bytes | None]:
    """Return the preview, or why there is none, the warnings of drawing it, and a PDF that was not drawn."""
    from app.dicom.png import encode_png
    from app.dicom.preview import drawing, undrawn_pdf

    if not options.enabled:
        return None, "disabled", (), None
    try:
        if (pdf := undrawn_pdf(dataset, options)) is not None:
            return None, None, (), pdf
        drawn = drawing(dataset, options)
        return encode_png(drawn.image), None, drawn.warnings, None
    except Unrenderable as exc:
        return None, exc.code, (), None


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
