"""Inflate in chunks; read gzip as a forward-only stream."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import BinaryIO, Protocol

from app.archive.limits import check_count, check_size
from app.model.errors import BadArchive
from app.model.options import ArchiveLimits

CHUNK = 1 << 18
BYTES_PER_MEMBER = 4096
"""Every so many inflated bytes allow one gzip member above `max_members`; bgzip uses 64 KiB per member."""
GZIP_MAGIC = b"\x1f\x8b\x08"


class Forward(Protocol):
    """A stream that is read forward only."""

    def read(self, count: int, /) -> bytes:
        """Return the next bytes, fewer only at the end."""
        ...

    def seek(self, target: int, /) -> int:
        """Skip forward; return the position reached, which is less than `target` at the end."""
        ...


def inflate(stream: BinaryIO, packed: int) -> Iterator[bytes]:
    """Inflate the next `packed` bytes of raw deflate (RFC 1951), in chunks of at most CHUNK bytes.

    Raises BadArchive: `truncated`, `bad_data`, `size_mismatch` (the data end before `packed` bytes).
    """
    unpacker, left, rest = zlib.decompressobj(-zlib.MAX_WBITS), packed, b""
    while not unpacker.eof:
        if not rest:
            rest = stream.read(min(left, CHUNK))
            left -= len(rest)
        try:
            out = unpacker.decompress(rest, CHUNK)
        except zlib.error:
            raise BadArchive("the deflated data of a member are damaged", code="bad_data") from None
        # zlib may hold output after it has taken all input, so only no input and no output is an end.
        if not (rest or out or unpacker.eof):
            raise BadArchive("the deflated data of a member are truncated", code="truncated")
        rest = unpacker.unconsumed_tail
        if out:
            yield out
    if left or unpacker.unused_data:
        raise BadArchive("a member has less deflated data than declared", code="size_mismatch")


def read_chunks(stream: Forward, length: int) -> Iterator[bytes]:
    """Yield the next `length` bytes; raises BadArchive (`truncated`) if there are fewer."""
    while length:
        chunk = stream.read(min(length, CHUNK))
        if not chunk:
            raise BadArchive("a member ends before its size", code="truncated")
        length -= len(chunk)
        yield chunk


class Inflated:
    """The inflated bytes of a gzip file (RFC 1952), forward only, counted against the limits while reading.

    Raises BadArchive while reading: `archive_truncated`, `archive_damaged` (also for a bad checksum), and the
    codes of `check_size` and `check_count`. Zeros or garbage after the last gzip member are ignored, as by
    gzip(1).
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
        """Skip to `target`, or to the end if that comes first, and return the position."""
        while self._position < target and self._fill():
            step = min(target - self._position, len(self._chunk))
            self._chunk = self._chunk[step:]
            self._position += step
        return self._position

    def drain(self) -> int:
        """Skip to the end, which verifies the checksum, and return the position."""
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
            check_count(members - self._position // BYTES_PER_MEMBER, self._limits)
            unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)  # gzip format: verifies checksum and length
            while not unpacker.eof:
                try:
                    out = unpacker.decompress(rest, CHUNK)
                except zlib.error:
                    raise BadArchive("the gzip data are damaged", code="archive_damaged") from None
                if not (rest or out or unpacker.eof):
                    raise BadArchive("the gzip data are truncated", code="archive_truncated")
                yield out
                rest = unpacker.unconsumed_tail or (b"" if unpacker.eof else self._stream.read(CHUNK))
            rest = unpacker.unused_data
            if len(rest) < len(GZIP_MAGIC):
                rest += self._stream.read(CHUNK)
