"""A clean file of any size: parts that are small, taken over from the object, or made anew on each read."""

from __future__ import annotations

import io
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import BinaryIO

from app.dicom.pixels.fragments import join_spans
from app.dicom.pixels.pixel_bytes import PixelBytes
from app.model.range_stream import RangedStream
from app.model.values import Pieces, Span

PIECE = 8 << 20
"""Bytes of a file in one answer of a worker, and of one read."""
MAX_PIECES = 4096
"""Parts of a file in one answer."""


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes of a clean file. `make` returns all of them; only those of a literal are held in memory.

    spans: the ranges of the object's stream that they are, in order; empty where they differ from it.
    """

    length: int
    make: Callable[[], bytes]
    spans: tuple[Span, ...] = ()


def literal(data: bytes) -> Part:
    """Return a part whose bytes are held in memory."""
    return Part(len(data), lambda: data)


def kept(value: PixelBytes, spans: Sequence[tuple[int, int]], data: bytes) -> Part:
    """Return a part of the object. spans: offset and length in the value; data: the bytes there."""
    ends = list(accumulate(length for _, length in spans))
    taken = tuple(
        Span(value.start + offset, length, zlib.crc32(memoryview(data)[end - length : end]))
        for (offset, length), end in zip(spans, ends, strict=True)
    )
    return Part(len(data), partial(join_spans, value, spans), taken)


class CleanFile:
    """The parts of a file as one stream."""

    def __init__(self, parts: Iterable[Part]) -> None:
        self.parts = [part for part in parts if part.length]
        self._starts = [0, *accumulate(part.length for part in self.parts)]
        self.size = self._starts[-1]
        self._made: tuple[int, bytes] = (-1, b"")

    def whole(self) -> bytes:
        """Return all bytes."""
        return b"".join(part.make() for part in self.parts)

    def read(self, position: int, count: int) -> bytes:
        """Return up to `count` bytes, those of one part."""
        index = bisect_right(self._starts, position) - 1
        if self._made[0] != index:
            self._made = -1, b""  # so that only one is held
            self._made = index, self.parts[index].make()
        start = position - self._starts[index]
        return self._made[1][start : start + count]

    def open(self) -> BinaryIO:
        """Return a seekable stream over the bytes."""
        return io.BufferedReader(RangedStream(self.read, self.size, PIECE))

    def pieces(self, in_place: bool) -> Iterator[Pieces]:
        """Yield the file in pieces that fit in one answer of a worker.

        in_place: ranges of parts of the object are those of the stored object, so that they can stand for the
        bytes.
        """
        batch: list[bytes | Span] = []
        room = PIECE
        for part in self.parts:
            if in_place and part.spans:
                batch += part.spans
            else:
                data = part.make()
                for start in range(0, len(data), PIECE):
                    piece = data[start : start + PIECE]
                    batch.append(piece)
                    room -= len(piece)
                    if room <= 0:
                        yield tuple(batch)
                        batch, room = [], PIECE
            if len(batch) >= MAX_PIECES:
                yield tuple(batch)
                batch, room = [], PIECE
        if batch:
            yield tuple(batch)
