"""Extract the codestream of one frame from encapsulated pixel data (PS3.5 A.4)."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import numpy as np
from pydicom.dataset import Dataset

from app.dicom.pixels.attributes import octets
from app.dicom.pixels.pixel_bytes import PixelBytes
from app.dicom.pixels.preview_error import EmptyFrame, PreviewError, over_limit, unrenderable
from app.dicom.read.vr import ITEM, SEQUENCE_END
from app.model.options import DatasetLimits

ITEM_HEADER = struct.Struct("<HHI")
SIGNATURES = (b"\xff\xd8", b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0c", b"\xff\x0a")
"""First bytes of a codestream: JPEG and JPEG-LS, JPEG 2000, JP2 or JPEG XL in a container, JPEG XL."""


def read_codestream(
    pixels: PixelBytes, dataset: Dataset, frame_index: int, frames: int, limits: DatasetLimits
) -> bytes:
    """Return the joined fragments of one frame, without reading the other frames.

    The extended offset table is tried first, then the basic one, then the fragments are counted.

    Parameters
    ----------
    pixels : the value of Pixel Data, starting at the basic offset table
    dataset : holds the extended offset table, if there is one
    frame_index : 0-based
    frames : number of frames that the data set declares
    limits : on the number of fragments

    Raises
    ------
    EmptyFrame : the frame has no bytes
    Unrenderable : bad_encapsulation, truncated_pixel_data, limit_exceeded

    References
    ----------
    PS3.5 A.4 (offset table and fragments), PS3.3 C.7.6.3.1.8 (Extended Offset Table)
    """
    table, start = _basic_offsets(pixels)
    extended = np.frombuffer(octets(dataset, "ExtendedOffsetTable"), "<u8")
    for offsets in (extended, table):
        span = _by_offsets(pixels, start, offsets, frame_index, frames)
        if span is not None:
            return join_spans(pixels, _spans(_walk(pixels, *span, limits.fragments)))
    items = pixels.fragments or _walk(pixels, start, pixels.size, limits.fragments)
    return join_spans(pixels, _spans(_by_counting(pixels, items, frame_index, frames)))


def frame_offsets(
    pixels: PixelBytes, dataset: Dataset, frames: int, wanted: Sequence[int], limits: DatasetLimits
) -> np.ndarray:
    """Return the position of every frame, so that single ones can be read later without the data set.

    Parameters
    ----------
    pixels, dataset, frames, limits : as for `read_codestream`
    wanted : 0-based frames; an offset table is used only if it is right for these, the first and the last

    Returns
    -------
    (frames + 1,) little endian uint64: position of each frame's first item in the value, then the end

    Raises
    ------
    Unrenderable : bad_encapsulation, truncated_pixel_data, limit_exceeded
    """
    table, start = _basic_offsets(pixels)
    extended = np.frombuffer(octets(dataset, "ExtendedOffsetTable"), "<u8")
    for offsets in (extended, table):
        checked = {0, frames - 1, *wanted}
        if all(_by_offsets(pixels, start, offsets, index, frames) for index in checked):
            return np.append(offsets.astype("<u8") + start, np.uint64(pixels.size)).astype("<u8")
    items = pixels.fragments or _walk(pixels, start, pixels.size, limits.fragments)
    firsts = _first_fragments(pixels, items, frames)
    return np.array([*(items[first] for first in firsts), items[-1]], "<u8")


def read_fragments(pixels: PixelBytes, begin: int, end: int, limits: DatasetLimits) -> bytes:
    """Return the joined fragments of the frame between two positions returned by `frame_offsets`.

    Raises
    ------
    EmptyFrame : the frame has no bytes
    Unrenderable : bad_encapsulation, truncated_pixel_data, limit_exceeded
    """
    return join_spans(pixels, _spans(_walk(pixels, begin, end, limits.fragments)))


def fragment_spans(
    pixels: PixelBytes, begin: int, end: int, limits: DatasetLimits
) -> Sequence[tuple[int, int]]:
    """Return offset and length of the fragments between two positions returned by `frame_offsets`.

    Raises
    ------
    Unrenderable : bad_encapsulation, truncated_pixel_data, limit_exceeded
    """
    return list(_spans(_walk(pixels, begin, end, limits.fragments)))


def join_spans(pixels: PixelBytes, spans: Iterable[tuple[int, int]]) -> bytes:
    """Return the bytes of several ranges of a value.

    Raises
    ------
    EmptyFrame : there are none
    """
    joined = io.BytesIO()  # b"".join would keep a view of every fragment, 480 bytes each
    for offset, length in spans:
        joined.write(pixels.read(offset, length))
    if not joined.tell():
        raise EmptyFrame("the frame has no bytes")
    return joined.getvalue()


def _spans(items: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield offset and length of each item's value."""
    size = ITEM_HEADER.size
    return ((begin + size, end - begin - size) for begin, end in pairwise(items))


def _basic_offsets(pixels: PixelBytes) -> tuple[np.ndarray, int]:
    """Return the basic offset table, and the position of the first fragment."""
    tag, length = _item_header(pixels, 0)
    if tag != ITEM:
        raise unrenderable(PreviewError.BAD_ENCAPSULATION, "the pixel data do not begin with an offset table")
    data = pixels.read(ITEM_HEADER.size, length)
    if len(data) < length:
        raise unrenderable(PreviewError.TRUNCATED_PIXEL_DATA, "the offset table is cut off")
    return np.frombuffer(data[: length - length % 4], "<u4"), ITEM_HEADER.size + length


def _by_offsets(
    pixels: PixelBytes, start: int, offsets: np.ndarray, frame_index: int, frames: int
) -> tuple[int, int] | None:
    """Return begin and end of the fragments of a frame; None if the table is wrong."""
    if len(offsets) != frames or frame_index >= frames:
        return None
    begin = start + int(offsets[frame_index])
    end = start + int(offsets[frame_index + 1]) if frame_index + 1 < frames else pixels.size
    if not start <= begin <= end <= pixels.size:
        return None
    tag = _item_header(pixels, begin)[0] if begin < end else SEQUENCE_END
    # A frame may have no fragments, if the table ascends. In a table of zeros, which some writers never fill
    # in, no frame would have any.
    no_fragments = (
        tag == SEQUENCE_END and offsets[0] < offsets[-1] and bool((offsets[1:] >= offsets[:-1]).all())
    )
    return (begin, end) if tag == ITEM or no_fragments else None


def _by_counting(pixels: PixelBytes, items: Sequence[int], frame_index: int, frames: int) -> Sequence[int]:
    """Return the fragments of a frame, by counting them or by the signatures of codestreams."""
    starts = _first_fragments(pixels, items, frames)
    if frame_index >= len(starts):
        raise unrenderable(PreviewError.TRUNCATED_PIXEL_DATA, "fewer frames than the data set declares")
    last = [*starts[frame_index + 1 : frame_index + 2], len(items) - 1][0]
    return items[starts[frame_index] : last + 1]


def _first_fragments(pixels: PixelBytes, items: Sequence[int], frames: int) -> Sequence[int]:
    """Return the indices of the fragments that start a frame."""
    fragments = len(items) - 1
    if frames == 1:
        return range(1)
    if fragments == frames:
        return range(frames)
    first_bytes = (bytes(pixels.read(items[n] + ITEM_HEADER.size, 4)) for n in range(fragments))
    starts = [n for n, begin in enumerate(first_bytes) if begin.startswith(SIGNATURES)]
    if len(starts) < frames:
        empty = (n for n in range(fragments) if items[n + 1] - items[n] == ITEM_HEADER.size)
        with_empty = sorted((*starts, *empty))
        starts = with_empty if len(with_empty) == frames else starts
    if not starts:
        raise unrenderable(PreviewError.BAD_ENCAPSULATION, "the fragments cannot be assigned to frames")
    return starts


def _walk(pixels: PixelBytes, offset: int, end: int, most: int) -> Sequence[int]:
    """Return the positions of the items from `offset`, then the end of the last."""
    items = [offset]
    while offset + ITEM_HEADER.size <= end:
        tag, length = _item_header(pixels, offset)
        if tag == SEQUENCE_END:
            break
        if tag != ITEM:
            raise unrenderable(PreviewError.BAD_ENCAPSULATION, "the fragments are interrupted by other bytes")
        offset += ITEM_HEADER.size + length
        if offset > pixels.size:
            raise unrenderable(PreviewError.TRUNCATED_PIXEL_DATA, "the last fragment is cut off")
        items.append(offset)
        if len(items) - 1 > most:
            raise over_limit("more fragments than limits.fragments", most)
    return items


def _item_header(pixels: PixelBytes, offset: int) -> tuple[int, int]:
    head = pixels.read(offset, ITEM_HEADER.size)
    if len(head) < ITEM_HEADER.size:
        raise unrenderable(PreviewError.TRUNCATED_PIXEL_DATA, "the pixel data end inside an item")
    group, element, length = ITEM_HEADER.unpack(head)
    return group << 16 | element, length
