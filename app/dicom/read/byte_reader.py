"""The bytes of an object, at hand or read in ranges."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import BinaryIO

from app.model.values import Content

LEAST, MOST = 1 << 6, 1 << 18
"""Bytes read at once: after a jump, and where reading goes on in order."""
NEAR = 1 << 12
"""Bytes that may be passed over without that being a jump."""


@dataclass(slots=True)
class Source:
    """The bytes of an object: `data` is a piece of them, from `base` on; the stream has the others.

    What is read ahead doubles while reading goes on in order and is little after a jump: from one fragment
    header to the next there may be megabytes.
    """

    stream: BinaryIO
    size: int
    data: bytes = b""
    base: int = 0
    ahead: int = MOST

    def need(self, position: int, count: int) -> int:
        """Have as many of `count` bytes at hand as there are, and return where in `data` they begin."""
        at = position - self.base
        if at < 0 or min(position + count, self.size) > self.base + len(self.data):
            self.ahead = min(2 * self.ahead, MOST) if 0 <= at <= len(self.data) + NEAR else LEAST
            self.base, self.data, at = position, self.read(position, max(count, self.ahead)), 0
        return at

    def value(self, position: int, count: int) -> bytes:
        """Return `count` bytes from `position`, fewer where the object ends."""
        at = position - self.base
        if at < 0 or at + count > len(self.data):
            if count > MOST:
                return self.read(position, count)
            at = self.need(position, count)
        return self.data[at : at + count]

    def read(self, position: int, count: int) -> bytes:
        """Return bytes from the stream itself, and keep none of them."""
        self.stream.seek(position)
        return self.stream.read(max(0, min(count, self.size - position)))


def open_source(content: Content) -> Source:
    """Return the bytes of an object, as many as its stream has: of one stored gzipped that is not `size`."""
    if (data := content.at_hand) is not None:
        return Source(io.BytesIO(data), len(data), data)
    stream = content.open()
    if isinstance(stream, io.BufferedReader):  # what to read ahead is known here, and a jump is no reason to
        stream = io.BufferedReader(stream.detach(), LEAST)
    return Source(stream, stream.seek(0, io.SEEK_END))
