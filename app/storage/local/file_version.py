"""Identify one version of a file, and read exactly that version or fail."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from app.model.errors import ObjectGone, StorageUnavailable
from app.model.options import BIG_BYTES
from app.storage.checksum import checksum
from app.storage.local.files import open_file, os_errors
from app.storage.local.generations import Index, Seen, Stamp, generation, stamp


class VersionStream(io.FileIO):
    """A file stream that verifies on every read that the file is still the version that was opened."""

    def __init__(self, root: Path, name: str) -> None:
        super().__init__(open_file(root, name))
        self.stamp = stamp(os.fstat(self.fileno()))

    def read(self, size: int | None = -1) -> bytes:
        with self._pinned():
            return super().read(-1 if size is None else size)

    def readinto(self, buffer: Any) -> int:
        with self._pinned():
            return super().readinto(buffer)

    def readall(self) -> bytes:
        with self._pinned():
            return super().readall()

    @contextmanager
    def _pinned(self) -> Iterator[None]:
        with os_errors():
            yield
            if not self.stamp.same_content(stamp(os.fstat(self.fileno()))):
                raise ObjectGone("the file changed while it was read")


def open_version(root: Path, name: str, pinned: Stamp) -> VersionStream:
    """Open a file in the state `pinned`; raise ObjectGone if its state differs.

    Unbuffered: small reads are random access, so read-ahead would be wasted.
    """
    stream = VersionStream(root, name)
    if not stream.stamp.same_content(pinned):
        stream.close()
        raise ObjectGone("object version is gone")
    return stream


def version(root: Path, name: str, found: Stamp, index: Index) -> Seen:
    """Return the version of a file in the state `found`: the last known version of its name, or a new one.

    If only the change time differs, either owner, mode or links changed, which is not a new version, or bytes
    were written and the old modification time restored, which is one; the checksum decides. A large file has
    no stored checksum and counts as changed: that costs work, but the opposite error would lose an object.
    A file in the place of a released one is a new version that replaces it. Raises ObjectGone if the file has
    another state by now.
    """
    seen = index.get(name)
    if seen and seen.live and seen.stamp == found:
        return seen
    crc32c = _checksum_of(root, name, found)
    if seen is None or not seen.live:
        return Seen(generation(found, seen), found, crc32c=crc32c, told=False)
    if not seen.released and seen.stamp.same_content(found) and crc32c is not None and crc32c == seen.crc32c:
        index.put({name: (seen := replace(seen, stamp=found))})
        return seen
    number = generation(found, replace(seen, live=False))
    return Seen(number, found, crc32c=crc32c, told=False, replaced=seen.versions())


def _checksum_of(root: Path, name: str, found: Stamp) -> str | None:
    """Return the checksum of a file in exactly this state; None if it is large or unreadable."""
    if found.size > BIG_BYTES:
        return None
    with suppress(StorageUnavailable), VersionStream(root, name) as stream, os_errors():
        crc32c = checksum(stream)
        if stream.stamp != found or stamp(os.fstat(stream.fileno())) != found:
            raise ObjectGone("the file changed meanwhile")
        return crc32c
    return None
