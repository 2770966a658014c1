"""Frames of a stored instance, without the rest of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from app.browse import tasks
from app.browse.cache import key_of
from app.browse.instances import Stored
from app.browse.metadata import read_document
from app.browse.objects import Originals
from app.dicom.metadata.bulk_entries import bulk_entries
from app.model.errors import BadDataset
from app.model.values import Content


@dataclass(frozen=True, slots=True)
class FramePart:
    """One frame: its transfer syntax, and its bytes or their place in the content."""

    transfer_syntax: str
    content: Content
    data: bytes
    offset: int
    length: int

    def pieces(self, originals: Originals, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Yield its bytes or a part of them."""
        length = self.length - offset if length is None else length
        if self.data:
            yield self.data[offset : offset + length]
        else:
            yield from originals.bytes_of(self.content, self.offset + offset, length)


LITTLE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1")
"""Transfer syntaxes whose native frames are stored exactly as they are sent."""
PIXEL_DATA, TRANSFER_SYNTAX = "7FE00010", "00020010"


def read_frame(stored: Stored, frame_index: int, native: bool, originals: Originals) -> FramePart:
    """Return one frame (0-based); a compressed one is decoded if `native` is set.

    The place of a native frame is calculated. The places of compressed frames are read at the first request
    for an object, and cached if it is big.

    Raises
    ------
    ObjectGone : the object no longer exists
    Unrenderable : with a code of PreviewError
    """
    if (place := _native_place(stored, frame_index, originals)) is not None:
        content = originals.located(stored)
        if content.decode is None and place[0] + place[1] <= content.size:
            return FramePart(LITTLE[1], content, b"", *place)
    content = originals.content(stored)
    big = content.data is None
    kept = kept_layout(stored, originals) if big else b""
    arguments = (frame_index,), native, originals.limits, kept
    # Read to the end: a worker whose task is cut short is replaced.
    for syntax, data, offset, length in list(originals.stream(content, tasks.read_frames, *arguments)):
        if syntax == tasks.LAYOUT:
            if big:
                keep_layout(stored, data, originals)
        elif data:
            return FramePart(syntax, content, data, 0, len(data))
        elif 0 <= offset <= content.size - length:
            return FramePart(syntax, content, b"", offset, length)
    raise BadDataset("the frame is not in the object")


def _native_place(stored: Stored, frame_index: int, originals: Originals) -> tuple[int, int] | None:
    """Return offset and length of a native frame, calculated from the row and the document.

    None unless the pixel data have exactly the calculated length: only then are they neither compressed nor
    subsampled, and no frame shares a byte with the next.
    """
    shape = stored.rows, stored.columns, stored.samples_per_pixel, stored.bits_allocated
    if stored.transfer_syntax_uid not in LITTLE or stored.member is not None or stored.dicom_uri is not None:
        return None
    if not all(shape) or TRANSFER_SYNTAX in str(stored.warnings) or not 0 <= frame_index < stored.frames:
        return None
    bits = prod(number or 0 for number in shape)
    found = [entry for entry in bulk_entries(read_document(stored, originals)) if entry.tag == PIXEL_DATA]
    if bits % 8 or len(found) != 1 or found[0].offset is None:  # of several, icons come first, or last
        return None
    size = bits // 8
    padded = size * stored.frames % 2
    if found[0].length != size * stored.frames + padded:
        return None
    return found[0].offset + frame_index * size, size


def kept_layout(stored: Stored, originals: Originals) -> bytes:
    """Return the cached places of the frames of an object; empty if there are none."""
    named = stored.series_instance_uid, _name(stored)
    return originals.cache.get(*named, stored=stored.frames > 1) or b""


def keep_layout(stored: Stored, layout: bytes, originals: Originals) -> None:
    """Cache the places of the frames of a big object; those of a single frame only in memory."""
    named = stored.series_instance_uid, _name(stored)
    originals.cache.put(*named, layout, "application/octet-stream", stored=stored.frames > 1)


def _name(stored: Stored) -> str:
    return f"{key_of([stored.object_uri, stored.generation, stored.member, stored.dicom_uri])}.frames"
