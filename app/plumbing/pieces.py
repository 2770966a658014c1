"""Put a clean copy together that a worker sends in pieces: its new bytes, and ranges of the object."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import BinaryIO

from app.model.errors import ShortRead, WorkerCrashed
from app.model.values import Content, Pieces, Span

READ_BYTES = 4 << 20


def joined(pieces: Iterable[Pieces], content: Content, room: int) -> Iterator[bytes]:
    """Yield the bytes of a copy in chunks.

    Parameters
    ----------
    content : the object whose ranges the copy takes over
    room : bytes by which the copy may be larger than the object, since a worker may have been taken over

    Raises
    ------
    ShortRead : the object has other bytes there than those that the worker checked
    WorkerCrashed : a range lies outside of the object, or the copy is too large
    """
    left = content.size + room
    with replace(content, decode=None).open() as stream:  # only workers decode
        for piece in (one for group in pieces for one in group):
            chunks = [piece] if isinstance(piece, bytes) else _range(stream, piece, content)
            for chunk in chunks:
                left -= len(chunk)
                if left < 0:
                    raise WorkerCrashed("the copy is larger than any of the object can be")
                yield chunk


def _range(stream: BinaryIO, span: Span, content: Content) -> Iterator[bytes]:
    if content.decode is not None or span.offset + span.length > content.size:
        raise WorkerCrashed("the copy takes over bytes that the object does not have")
    stream.seek(span.offset)
    left, crc32 = span.length, 0
    while left:
        chunk = stream.read(min(READ_BYTES, left))
        if not chunk:
            raise ShortRead("the object is shorter than it was")
        left -= len(chunk)
        crc32 = zlib.crc32(chunk, crc32)
        yield chunk
    if crc32 != span.crc32:
        raise ShortRead("the object changed while it was copied")
