"""Describe DICOM objects: pure functions from bytes to metadata and a preview; only here is pydicom used.

Submodules are imported inside the functions, so that a process that only passes `describe` to a worker does
not load pydicom and the codecs.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import quote

from app.dicom.read.collector import collector_paused
from app.model.errors import BadDataset, CannotDeidentify, PermanentError, Unrenderable, permanent
from app.model.keys import Keys
from app.model.options import (
    ANY_MEMBER,
    CleanOptions,
    DatasetLimits,
    DescribeOptions,
    MetadataOptions,
    PreviewOptions,
)
from app.model.values import Content, DatasetWarning, Deidentified, Instance, Pieces

WHOLE_BYTES = 32 << 20
"""Clean copies up to this size are held in memory, and sent in one answer."""

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from app.dicom.deidentify import Profile
    from app.dicom.deidentify.clean_file import CleanFile
    from app.dicom.read.dataset import ObjectDataset


@collector_paused()
def describe(content: Content, options: DescribeOptions) -> Instance:
    """Return the columns, metadata, document and preview of one object, or of its clean copy.

    With `options.clean`, `content.uri` is the address that the copy will have; in that of a member of an
    archive, ANY_MEMBER stands for its name. The result depends only on the bytes and the options, except for
    `took_ms`. `preview` is None if it cannot be made (the reason is in `preview_error`) or if another process
    must draw it (`pdf` is set).

    Raises
    ------
    NotDicom, BadDataset, LimitExceeded : as `read_dataset`
    CannotDeidentify : no copy can be made that is certainly clean
    BadDataset : with code `invalid_value`, if `options.metadata.strict` and any value is not valid
    """
    from app.dicom.read.dataset import read_dataset

    if options.clean is not None:
        instance, copy = _describe_copy(content, options.clean, replace(options, clean=None))
        return replace(instance, copy=copy.whole())
    began = perf_counter()
    dataset = read_dataset(content, options.limits)
    instance = _read(dataset, content, options.metadata)
    if (fault := _strictly(instance, options.metadata)) is not None:
        raise fault
    parsed = perf_counter()
    png, error, overruled, pdf = _preview(dataset, options.preview)
    took = {"parse": _ms(parsed - began), "render": _ms(perf_counter() - parsed)}
    warnings = (*instance.warnings, *overruled)
    return replace(instance, preview=png, preview_error=error, warnings=warnings, took_ms=took, pdf=pdf)


def describe_pieces(content: Content, options: DescribeOptions) -> Iterator[Instance | Pieces]:
    """Yield what `describe` returns; if the clean copy is too large for one answer, its pieces follow.

    `options.clean` must be set.
    """
    assert options.clean is not None
    instance, copy = _describe_copy(content, options.clean, replace(options, clean=None))
    if copy.size <= WHOLE_BYTES:
        yield replace(instance, copy=copy.whole())
        return
    yield instance
    yield from copy.pieces(content.decode is None)


def _describe_copy(
    content: Content, clean: CleanOptions, options: DescribeOptions
) -> tuple[Instance, CleanCopy]:
    """Return the description of a clean copy, and the copy."""
    from app.dicom.deidentify.profile import read_profile

    began = perf_counter()
    profile = read_profile(clean.profile, clean.pixels)
    copy = _cleaned(content, profile, clean.secret, options)
    took = _ms(perf_counter() - began)
    member = content.member
    if member is not None and not clean.keep_names:
        member = Keys(clean.secret).name(member)
    before, any_member, after = content.uri.rpartition(ANY_MEMBER)
    uri = content.uri if member is None or not any_member else f"{before}{member}{after}"
    of_copy = copy.content(content, uri)
    instance = describe(of_copy, options)
    error = instance.preview_error if options.preview.enabled else _undrawn(of_copy, options)
    if error in UNDECODABLE:
        raise CannotDeidentify(f"the pixels of the copy cannot be decoded: {error}")
    took_ms = {**instance.took_ms, "parse": instance.took_ms["parse"] + took}
    return replace(instance, member=member, copy_size=copy.size, took_ms=took_ms), copy


def draw_page(pdf: bytes, options: PreviewOptions) -> tuple[bytes, int]:
    """Draw the first page of `Instance.pdf`; return a PNG and the milliseconds it took.

    Raises
    ------
    Unrenderable : with a code of PreviewError
    LimitExceeded : the page does not fit in memory
    """
    from app.dicom.pages.pdf import draw_pdf
    from app.dicom.pixels.preview_error import DecodeFailed
    from app.dicom.render.geometry import fitting_size, resize
    from app.dicom.render.png import encode_png

    began = perf_counter()
    with permanent(DecodeFailed):
        page = draw_pdf(pdf, options.max_side)
        png = encode_png(resize(page, fitting_size(page.shape, 1.0, options.max_side)))
    return png, _ms(perf_counter() - began)


def describe_head(content: Content, options: DescribeOptions) -> tuple[Instance, PermanentError | None]:
    """Describe the readable beginning of a possibly broken object, without a preview, and return its fault.

    Raises as `describe` if no element can be read.
    """
    from app.dicom.read.dataset import read_head

    dataset, fault = read_head(content, options.limits)
    instance = _read(dataset, content, options.metadata)
    return instance, fault or _strictly(instance, options.metadata)


def read_identity(content: Content, limits: DatasetLimits) -> tuple[str, str, str, str, bool]:
    """Return the UIDs of study, series, instance and SOP class, and whether the object is broken.

    A missing UID is an empty string. Raises as `describe` if no element can be read.
    """
    from app.dicom.read.dataset import read_head, text_of

    dataset, fault = read_head(content, limits)
    study, series, instance, sop_class = (
        text_of(dataset, tag) for tag in (0x0020000D, 0x0020000E, 0x00080018, 0x00080016)
    )
    return study, series, instance, sop_class, fault is not None


def clean_copy(content: Content, profile: Profile, secret: bytes, options: DescribeOptions) -> Deidentified:
    """Return a clean copy of an object, checked by another reader, parsed and drawn.

    Parameters
    ----------
    profile : what is removed, replaced and kept
    secret : key of all that replaces values, at least 32 bytes
    options : how it is read and drawn for the check

    Raises
    ------
    NotDicom, BadDataset, LimitExceeded : as `read_dataset`
    CannotDeidentify : it cannot be made clean, or the copy fails its check

    References
    ----------
    PS3.15 Annex E
    """
    copy = _drawn_copy(content, profile, secret, options)
    return Deidentified(copy.whole(), copy.counts)


def clean_pieces(
    content: Content, profile: Profile, secret: bytes, options: DescribeOptions
) -> Iterator[Pieces]:
    """Yield the file of `clean_copy` in pieces that fit in one answer of a worker; parameters as there."""
    yield from _drawn_copy(content, profile, secret, options).pieces(content.decode is None)


def _drawn_copy(content: Content, profile: Profile, secret: bytes, options: DescribeOptions) -> CleanCopy:
    copy = _cleaned(content, profile, secret, options)
    if error := _undrawn(copy.content(content, content.uri), options):
        raise CannotDeidentify(f"the pixels of the copy cannot be decoded: {error}")
    return copy


class CleanCopy:
    """A clean copy that was checked by another reader. A small one is held whole."""

    def __init__(self, file: CleanFile, in_place: bool, counts: Mapping[str, int]) -> None:
        self.size, self.counts = file.size, counts
        self._file, self._in_place = file, in_place
        self._data = file.whole() if file.size <= WHOLE_BYTES else None

    def whole(self) -> bytes:
        """Return the bytes."""
        return self._file.whole() if self._data is None else self._data

    def open(self) -> BinaryIO:
        """Return a seekable stream over the bytes."""
        return self._file.open() if self._data is None else io.BytesIO(self._data)

    def content(self, original: Content, uri: str) -> Content:
        """Return the copy of an object as one that can be described. uri: the address it will have."""
        opener = self._file.open if self._data is None else None
        return Content(original.ref, uri, self.size, data=self._data, opener=opener)

    def pieces(self, is_stored: bool) -> Iterator[Pieces]:
        """Yield the copy in pieces. is_stored: the object was read as it is stored, not decoded."""
        return self._file.pieces(self._in_place and is_stored)


def _cleaned(content: Content, profile: Profile, secret: bytes, options: DescribeOptions) -> CleanCopy:
    """Return a clean copy that was checked by another reader, but not yet drawn."""
    from app.dicom.deidentify import clean_pixels, deidentify_dataset
    from app.dicom.deidentify.verify import findings
    from app.dicom.read.dataset import read_dataset

    with permanent(CannotDeidentify), collector_paused():
        dataset = read_dataset(content, options.limits)
        clean = deidentify_dataset(dataset, profile, Keys(secret), options.limits, clean_pixels)
        copy = CleanCopy(clean.file, not dataset.deflated, clean.counts)
        left = findings(copy.open(), profile, clean.known)
    if left:
        raise CannotDeidentify(f"the copy failed its check: {left[0].code} at {left[0].tag}")
    return copy


def check_clean(content: Content, profile: Profile, options: DescribeOptions) -> tuple[tuple[str, str], ...]:
    """Return what is left in an object that should be clean: pairs of a tag and a code of `Finding`.

    Parameters
    ----------
    profile : the one that it should be clean by

    Raises
    ------
    NotDicom, BadDataset, LimitExceeded : as `read_dataset`
    """
    from app.dicom.deidentify import hides_in_pixels
    from app.dicom.deidentify.verify import findings
    from app.dicom.read.dataset import read_dataset

    dataset = read_dataset(content, options.limits)
    with content.open() as stream, permanent(BadDataset):
        left = [(finding.tag, finding.code) for finding in findings(stream, profile)]
        if hides_in_pixels(dataset, options.limits):
            left.append(("7FE00010", "hidden"))
    if error := _undrawn(content, options):
        left.append(("7FE00010", error))
    return tuple(left)


UNDECODABLE = frozenset(
    (
        *("bad_image_header", "unsupported_transfer_syntax", "image_too_large", "truncated_pixel_data"),
        *("bad_encapsulation", "bad_codestream", "decode_failed", "limit_exceeded", "out_of_memory"),
    )
)
"""Codes of PreviewError that say that nobody can look at the pixels."""


def _undrawn(content: Content, options: DescribeOptions) -> str:
    """Return why a frame of an object cannot be decoded, empty if it can or there is none."""
    drawing = replace(options.preview, enabled=True, max_side=256, frame="representative", window="auto")
    instance = describe(content, replace(options, preview=drawing))
    return instance.preview_error or "" if instance.preview_error in UNDECODABLE else ""


def _read(dataset: ObjectDataset, content: Content, options: MetadataOptions) -> Instance:
    """Describe a data set, without a preview."""
    from app.dicom.metadata.columns import columns
    from app.dicom.metadata.dicom_json import to_document, to_metadata
    from app.dicom.metadata.file_meta import file_meta_warnings
    from app.dicom.metadata.nul import without_nul
    from app.dicom.metadata.row_json import to_row_metadata

    with permanent(BadDataset):
        metadata = to_metadata(dataset, bulk_source(content), options.bulk_threshold_bytes)
        document = to_document(metadata)
        metadata = without_nul(metadata, document)
        row, misfits = columns(metadata)
        text = to_row_metadata(metadata, options)
        odd = file_meta_warnings(dataset, metadata)
    warnings = (*metadata.warnings, *misfits, *odd)
    return Instance(row, text, document, None, "disabled", warnings, {}, content.member)


def _strictly(instance: Instance, options: MetadataOptions) -> BadDataset | None:
    """Return the error for an invalid value if `options.strict`, else None."""
    if not (options.strict and instance.warnings):
        return None
    return BadDataset(f"element {instance.warnings[0].tag} is not valid", code="invalid_value")


def bulk_source(content: Content) -> str:
    """Return the prefix of each BulkDataURI: the percent-encoded address of the object version.

    For a member of an archive it includes the member, because offsets count from the member's first byte.
    """
    member = "" if content.member is None else f"&member={quote(content.member, safe='')}"
    return f"{quote(content.uri, safe=':/')}?generation={content.ref.generation}{member}"


def _preview(
    dataset: Dataset, options: PreviewOptions
) -> tuple[bytes | None, str | None, tuple[DatasetWarning, ...], bytes | None]:
    """Return the preview, the code of the error if there is none, warnings of drawing, and a PDF to draw."""
    from app.dicom.render.png import encode_png
    from app.dicom.render.preview import drawing, undrawn_pdf

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
