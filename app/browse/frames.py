"""Frames of a stored instance, without the rest of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from app.browse import tasks
from app.browse.cache import key_of
from app.browse.instances import Stored
from app.browse.objects import Originals
from app.model.errors import BadDataset
from app.model.values import Content


@dataclass(frozen=True, slots=True)
class FramePart:
    """One frame: the transfer syntax of its bytes; these, or where they lie in the content."""

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


def read_frame(stored: Stored, frame_index: int, native: bool, originals: Originals) -> FramePart:
    """Return one frame (0-based); a compressed one is decoded where `native` asks for it.

    Where its frames lie is found out at the first read of an object, and kept for a big one.

    Raises
    ------
    ObjectGone : the object is no more
    Unrenderable : with a code of PreviewError
    """
    content = originals.content(stored)
    big = content.data is None
    kept = kept_layout(stored, originals) if big else b""
    arguments = (frame_index,), native, originals.limits, kept
    for syntax, data, offset, length in originals.stream(content, tasks.read_frames, *arguments):
        if syntax == tasks.LAYOUT:
            if big:
                keep_layout(stored, data, originals)
        elif data:
            return FramePart(syntax, content, data, 0, len(data))
        elif 0 <= offset <= content.size - length:
            return FramePart(syntax, content, b"", offset, length)
    raise BadDataset("the frame is not in the object")


def kept_layout(stored: Stored, originals: Originals) -> bytes:
    """Return where the frames of an object lie, as far as that was kept; empty if it was not."""
    named = stored.series_instance_uid, _name(stored)
    return originals.cache.get(*named, stored=stored.frames > 1) or b""


def keep_layout(stored: Stored, layout: bytes, originals: Originals) -> None:
    """Keep where the frames of a big object lie; of a single frame in memory alone."""
    named = stored.series_instance_uid, _name(stored)
    originals.cache.put(*named, layout, "application/octet-stream", stored=stored.frames > 1)


def _name(stored: Stored) -> str:
    return f"{key_of([stored.object_uri, stored.generation, stored.member, stored.dicom_uri])}.frames"
