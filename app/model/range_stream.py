"""A stream over remote bytes that are read in ranges, from a store or, in a worker, from the server."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any


class RangedStream(io.RawIOBase):
    """So many bytes, of which `get` returns some from a position on, `most` at a time."""

    def __init__(self, get: Callable[[int, int], bytes], size: int, most: int) -> None:
        self._get, self._size, self._most, self._position = get, size, most, 0

    def readable(self) -> bool:
        return True  # as the buffer around it asks

    def seekable(self) -> bool:
        return True  # likewise

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the position without reading."""
        position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if position < 0:
            raise ValueError("negative position")
        self._position = position
        return position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read as much as fits, in one range."""
        count = min(len(buffer), self._most, self._size - self._position)
        if count <= 0:
            return 0
        found = self._get(self._position, count)
        buffer[: len(found)] = found
        self._position += len(found)
        return len(found)

    def readall(self) -> bytes:
        """Read the rest in few ranges."""
        return b"".join(iter(lambda: self.read(self._most), b""))
