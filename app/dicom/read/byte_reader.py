"""Random access to the bytes of an object, in memory or read in ranges."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import BinaryIO

from app.model.values import Content

MIN_READ, MAX_READ = 1 << 6, 1 << 18
"""Bytes per read: after a jump, and the maximum of sequential reads."""
MAX_GAP = 1 << 12
"""Skipping at most this many bytes still counts as sequential."""


@dataclass(slots=True)
class Source:
    """The bytes of an object: a stream, and in `data` a buffered part of it that starts at `base`.

    Read-ahead doubles on sequential reads and drops back after a jump: megabytes may lie between two
    fragment headers, and reading them would be wasted.
    """

    stream: BinaryIO
    size: int
    data: bytes = b""
    base: int = 0
    ahead: int = MAX_READ

    def need(self, position: int, count: int) -> int:
        """Buffer `count` bytes, fewer at the end of the object, and return their index in `data`."""
        at = position - self.base
        if at < 0 or min(position + count, self.size) > self.base + len(self.data):
            self.ahead = min(2 * self.ahead, MAX_READ) if 0 <= at <= len(self.data) + MAX_GAP else MIN_READ
            self.base, self.data, at = position, self.read(position, max(count, self.ahead)), 0
        return at

    def value(self, position: int, count: int) -> bytes:
        """Return `count` bytes from `position`, fewer at the end of the object."""
        at = position - self.base
        if at < 0 or at + count > len(self.data):
            if count > MAX_READ:
                return self.read(position, count)
            at = self.need(position, count)
        return self.data[at : at + count]

    def read(self, position: int, count: int) -> bytes:
        """Read from the stream, past the buffer and without filling it."""
        self.stream.seek(position)
        return self.stream.read(max(0, min(count, self.size - position)))


def open_source(content: Content) -> Source:
    """Open an object for random access.

    The size is that of the stream: for an object stored with gzip encoding, `content.size` is another one.
    """
    if (data := content.at_hand) is not None:
        return Source(io.BytesIO(data), len(data), data)
    stream = content.open()
    if isinstance(stream, io.BufferedReader):  # Source reads ahead itself; a buffer would add to each jump
        stream = io.BufferedReader(stream.detach(), MIN_READ)
    return Source(stream, stream.seek(0, io.SEEK_END))
