"""Deflated bytes, inflated piece by piece; gzip as a stream that only goes forward."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import BinaryIO, Protocol

from app.archive.limits import check_count, check_size
from app.model.errors import BadArchive
from app.model.options import ArchiveLimits

CHUNK = 1 << 18
BLOCK_BYTES = 4096
"""So much must a gzip member hold on average, past the limit on their number; bgzip's hold 64 KiB."""
GZIP_MAGIC = b"\x1f\x8b\x08"


class Forward(Protocol):
    """What is needed of a stream: to read, and to go forward; `seek` tells the position reached."""

    def read(self, count: int, /) -> bytes:
        """Return the next bytes, fewer only at the end."""
        ...

    def seek(self, target: int, /) -> int:
        """Go forward and return the position."""
        ...


def inflate(stream: BinaryIO, packed: int) -> Iterator[bytes]:
    """Yield what `packed` bytes of raw deflate from here on hold (RFC 1951), at most CHUNK bytes at once.

    Raises BadArchive: `truncated`, `bad_data`, `size_mismatch` (the data end before `packed` bytes do).
    """
    unpacker, left, rest = zlib.decompressobj(-zlib.MAX_WBITS), packed, b""
    while not unpacker.eof:
        if not rest:
            rest = stream.read(min(left, CHUNK))
            left -= len(rest)
        try:
            out = unpacker.decompress(rest, CHUNK)
        except zlib.error:
            raise BadArchive("a member is not deflated as it says", code="bad_data") from None
        # Output may be pending although all input is taken: only no input and no output is an end.
        if not (rest or out or unpacker.eof):
            raise BadArchive("a member ends before its data", code="truncated")
        rest = unpacker.unconsumed_tail
        if out:
            yield out
    if left or unpacker.unused_data:
        raise BadArchive("a member ends before its size", code="size_mismatch")


def read_chunks(stream: Forward, length: int) -> Iterator[bytes]:
    """Yield the next `length` bytes; raises BadArchive (`truncated`) when there are fewer."""
    while length:
        chunk = stream.read(min(length, CHUNK))
        if not chunk:
            raise BadArchive("a member ends before its size", code="truncated")
        length -= len(chunk)
        yield chunk


class Inflated:
    """The inflated bytes of a gzip file (RFC 1952), forward only, counted against the limits as they come.

    Raises BadArchive while reading: `archive_truncated`, `archive_damaged` (the checksum too), and the codes
    of `check_size` and `check_count`. Zeros or garbage after the last gzip member are passed over, as gzip(1)
    does.
    """

    def __init__(self, stream: BinaryIO, size: int, limits: ArchiveLimits) -> None:
        self._stream, self._size, self._limits = stream, size, limits
        self._chunks = self._gunzip()
        self._chunk = memoryview(b"")
        self._position = 0

    def read(self, count: int) -> bytes:
        """Return the next `count` bytes, fewer only at the end."""
        pieces = []
        while count and self._fill():
            piece, self._chunk = self._chunk[:count], self._chunk[count:]
            self._position += len(piece)
            count -= len(piece)
            pieces.append(piece)
        return b"".join(pieces)

    def seek(self, target: int) -> int:
        """Go forward to `target`, or to the end if that comes first, and return the position."""
        while self._position < target and self._fill():
            step = min(target - self._position, len(self._chunk))
            self._chunk = self._chunk[step:]
            self._position += step
        return self._position

    def drain(self) -> int:
        """Go to the end, so that the checksum there is seen, and return the position."""
        while self._fill():
            self._position += len(self._chunk)
            self._chunk = memoryview(b"")
        return self._position

    def _fill(self) -> bool:
        while not self._chunk:
            chunk = next(self._chunks, None)
            if chunk is None:
                return False
            self._chunk = memoryview(chunk)
            check_size(self._position + len(chunk), self._size, self._limits)
        return True

    def _gunzip(self) -> Iterator[bytes]:
        rest, members = self._stream.read(CHUNK), 0
        while rest.startswith(GZIP_MAGIC):
            members += 1
            check_count(members - self._position // BLOCK_BYTES, self._limits)
            unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)  # checks the checksum and the length
            while not unpacker.eof:
                try:
                    out = unpacker.decompress(rest, CHUNK)
                except zlib.error:
                    raise BadArchive("the gzip data are damaged", code="archive_damaged") from None
                if not (rest or out or unpacker.eof):
                    raise BadArchive("the gzip data end too early", code="archive_truncated")
                yield out
                rest = unpacker.unconsumed_tail or (b"" if unpacker.eof else self._stream.read(CHUNK))
            rest = unpacker.unused_data
            if len(rest) < len(GZIP_MAGIC):
                rest += self._stream.read(CHUNK)
