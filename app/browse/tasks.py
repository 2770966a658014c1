"""Tasks of browsing that run in workers. pydicom is imported only when a task runs, not in the server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import BinaryIO, cast

from app import archive
from app.archive.gzip import Inflated
from app.archive.unpack import unpack
from app.model.errors import BadArchive, BadDataset, Unrenderable, permanent
from app.model.listing import Kind
from app.model.options import ArchiveLimits, DatasetLimits, PreviewOptions, RenderOptions
from app.model.values import Content

LAYOUT = "layout"
PDF = "application/pdf"
PIECE = 4 << 20


def extract(content: Content, label: str, limits: ArchiveLimits) -> bytes:
    """Return the bytes of one member of an archive.

    Raises
    ------
    BadArchive, NotDicom : as `list_members` and `unpack`; `no_such_member`
    """
    listing = archive.list_members(content, limits)
    entry = next((one for one in listing.entries if one.label == label), None)
    if entry is None:
        raise BadArchive("the archive has no such member", code="no_such_member")
    with content.open() as opened:
        stream = Inflated(opened, content.size, limits) if listing.kind is Kind.GZIP else opened
        with permanent(BadArchive):
            return unpack(stream, listing.kind, entry, limits)


def read_frames(
    content: Content, wanted: Sequence[int], native: bool, limits: DatasetLimits, kept: bytes = b""
) -> Iterator[tuple[str, bytes, int, int]]:
    """Yield frames: transfer syntax and bytes, or instead of bytes offset and length in the object.

    If no layout was cached and the object has one, it comes first, as (`layout`, bytes, 0, 0).

    Parameters
    ----------
    wanted : 0-based
    native : decode compressed frames
    kept : the layout of this object, from an earlier task

    Raises
    ------
    Unrenderable : with a code of PreviewError
    """
    from app.dicom.pixels.frame_bytes import (
        EXPLICIT_LITTLE,
        FrameLayout,
        frame_layout,
        place_of_frame,
        read_frame_bytes,
    )
    from app.dicom.pixels.preview_error import rendering
    from app.dicom.read.dataset import read_dataset

    if kept:
        layout, stream = FrameLayout.from_bytes(kept), content.open()
    else:
        dataset = read_dataset(content, limits)
        layout, stream = frame_layout(dataset, wanted, limits), cast(BinaryIO, dataset.buffer)
        if layout.in_place and content.decode is None:
            yield LAYOUT, layout.to_bytes(), 0, 0
    for index in wanted:
        with rendering():
            place = None if content.decode else place_of_frame(layout, index, limits)
        if place is not None:
            yield EXPLICIT_LITTLE, b"", *place
        else:
            syntax, data = read_frame_bytes(layout, stream, index, native, limits)
            yield syntax, data, 0, 0


def explicit_pieces(content: Content, limits: DatasetLimits, max_bytes: int) -> Iterator[bytes]:
    """Yield an object as a file in Explicit VR Little Endian, as `explicit_file` does."""
    from app.dicom.read.dataset import read_dataset
    from app.dicom.write.explicit import explicit_file

    yield from explicit_file(read_dataset(content, limits), limits, max_bytes)


def decoded_pieces(content: Content) -> Iterator[bytes]:
    """Yield the bytes of an object that is stored gzip-encoded."""
    with permanent(BadDataset), content.open() as stream:
        while piece := stream.read(PIECE):
            yield piece


def render(
    content: Content, how: RenderOptions, options: PreviewOptions, kept: bytes = b""
) -> tuple[bytes, bool]:
    """Return one picture of an object, as `render_image` does, and False; or the PDF that it holds, and True.

    A PDF is drawn by `render_page`, in a process with tighter limits. kept: as for `read_frames`.
    """
    from app.dicom.pixels.frame_bytes import FrameLayout
    from app.dicom.read.dataset import read_dataset
    from app.dicom.render.preview import undrawn_pdf
    from app.dicom.render.rendered import render_image

    offsets = FrameLayout.from_bytes(kept).extended_offsets if kept else b""
    dataset = read_dataset(content, options.limits, offsets)
    whole = replace(options, frame="representative", draw_pdf=False)
    pdf = undrawn_pdf(dataset, whole) if how.frame is None else None
    if pdf is not None:
        return pdf, True
    if how.media_type == PDF:
        raise Unrenderable("the instance holds no PDF document: ask for an image")
    return render_image(dataset, how, options), False


def render_page(pdf: bytes, how: RenderOptions, options: PreviewOptions) -> bytes:
    """Return a picture of the first page of a PDF, as `render_pdf` does; call it within PAGE_LIMITS."""
    from app.dicom.render.rendered import render_pdf

    return render_pdf(pdf, how, options)


def shrink(png: bytes, how: RenderOptions) -> bytes:
    """Return a stored preview made smaller, as `shrink_picture` does."""
    from app.dicom.render.rendered import shrink_picture

    return shrink_picture(png, how)


def animate(pictures: list[bytes]) -> bytes:
    """Return pictures as one GIF, as `animated` does."""
    from app.dicom.render.rendered import animated

    return animated(pictures)


def bulk_value(content: Content, limits: DatasetLimits, threshold: int, tag: str, number: int) -> bytes:
    """Return the bytes of a value that a document names without a place, or whose byte order is swapped.

    Parameters
    ----------
    threshold : bytes, as for `to_metadata` when the document was written
    tag, number : which value: the first, second, ... of this tag among those that stay in the object

    Returns
    -------
    the value in little endian (PS3.18 F.2.7)

    Raises
    ------
    BadDataset : code `no_such_value`
    """
    from app.dicom.read.dataset import read_dataset
    from app.dicom.write.bulk import read_bulk

    return read_bulk(read_dataset(content, limits), threshold, tag, number)


def attributes(
    content: Content, limits: DatasetLimits, paths: Sequence[str]
) -> tuple[list[dict[str, object]], list[str]]:
    """Return attributes by name or path, as app/browse/tags.py says."""
    from app.dicom.metadata.named import read_named
    from app.dicom.read.dataset import read_dataset

    return read_named(read_dataset(content, limits), paths)
