"""Streams that tell what was done with them."""

import io


class Log(io.BytesIO):
    """A stream that notes where it is read and how much comes."""

    def __init__(self, raw: bytes) -> None:
        super().__init__(raw)
        self.reads: list[tuple[int, int]] = []

    def read(self, size: int | None = -1, /) -> bytes:
        at = self.tell()
        found = super().read(size)
        self.reads.append((at, len(found)))
        return found


class Counted(io.FileIO):
    """A file that counts the bytes read from it."""

    taken = 0

    def read(self, size: int | None = -1, /) -> bytes:
        found = super().read(size)
        self.taken += len(found or b"")
        return found or b""
