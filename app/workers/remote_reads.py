"""Large objects in a worker: it has no access to stores, so it asks the server for each range.

    worker: RangedStream.read ─▶ [number of the content, position, count] ─▶ server: Served.read ─▶ its bytes

So a worker needs no files, connections or credentials, and an error here is an error of the store.
"""

from __future__ import annotations

import io
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import BinaryIO

from app.model.errors import DeadlineExceeded
from app.model.range_stream import RangedStream
from app.model.values import Content
from app.workers.messages import SIZE, Unreadable, exactly, packed

MOST_BYTES = 8 << 20
"""Maximum bytes in one answer."""
TIMES, AND_BYTES, A_RANGE = 16, 64 << 20, 64
"""Read budget of one task: 16 times its objects' size + 64 MiB; each range costs 64 bytes extra."""
BUFFER_BYTES = 64 << 10
"""Minimum bytes per request, unless the reader sets another: it costs little more than one byte."""


class Served:
    """The server's side: the contents of one task, opened on first read. A context manager.

    until: deadline for reads, in the seconds of `time.monotonic`.
    """

    def __init__(self, contents: Sequence[Content], until: float) -> None:
        self._contents, self._until = contents, until
        self._left = TIMES * sum(content.size for content in contents) + AND_BYTES
        self._streams: dict[int, BinaryIO] = {}
        self._opened = ExitStack()

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def read(self, number: int, position: int, count: int) -> bytes:
        """Return a range of a content, or less of it.

        Raises Unreadable unless a worker may ask for it, DeadlineExceeded, and what the store raises.
        """
        if not (0 <= number < len(self._contents) and 0 <= count <= MOST_BYTES):
            raise Unreadable("no such range")
        if not 0 <= position <= self._contents[number].size - count:
            raise Unreadable("no such range")
        self._left -= count + A_RANGE
        if self._left < 0:
            raise Unreadable("nobody has to read an object that often")
        if time.monotonic() > self._until:
            raise DeadlineExceeded("the object was not read in time")
        if number not in self._streams:
            opener = self._contents[number].opener
            assert opener is not None  # small contents are sent with the task
            self._streams[number] = self._opened.enter_context(opener())
        self._streams[number].seek(position)
        return self._streams[number].read(count)


def asker(line: socket.socket, stream: BinaryIO) -> Callable[[int, int], Callable[[], BinaryIO]]:
    """Return the factory of a worker's openers; it writes to `line` and reads from `stream`."""

    def ask(number: int, position: int, count: int) -> bytes:
        line.sendall(packed([number, position, count]))
        (size,) = SIZE.unpack(exactly(stream, SIZE.size))
        return exactly(stream, min(size, count))

    def opener(number: int, size: int) -> Callable[[], BinaryIO]:
        return lambda: io.BufferedReader(RangedStream(partial(ask, number), size, MOST_BYTES), BUFFER_BYTES)

    return opener
