"""The original of an instance, an object or a member of an archive, and the tasks that read it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from tempfile import SpooledTemporaryFile
from typing import IO, Any, TypeVar

from app.browse import tasks
from app.browse.cache import Cache, key_of
from app.browse.instances import Stored
from app.model.errors import ObjectGone, ShortRead
from app.model.options import DatasetLimits
from app.model.values import Content, ObjectRef
from app.plumbing.admission import cost
from app.services import Services
from app.storage import Storage, open_storage

T = TypeVar("T")

WHOLE_BYTES = 8 << 20
"""Up to this size an object is fetched whole: one request instead of several for ranges."""
WAIT_S = 30.0
"""How long a request waits for a worker, and for memory."""
IN_MEMORY_BYTES = 32 << 20
"""Bytes of a transcoded object that are held in memory before it goes to a temporary file."""
MAX_TRANSCODED_BYTES = 2 << 30
PIECE = 1 << 20


def copied(uri: str, generation: int, services: Services) -> Content:
    """Return a clean copy, or how to read it in ranges. generation: of the object that it is a copy of."""
    content = services.artifacts.stored(uri)
    return replace(content, ref=ObjectRef(content.ref.bucket, uri, generation))


@dataclass
class Originals:
    """Reads the objects that rows name, and runs tasks on them. Safe to call from several threads."""

    services: Services
    cache: Cache

    def __post_init__(self) -> None:
        settings = self.services.settings
        self.options = settings.describe_options()
        self.limits: DatasetLimits = self.options.limits
        self._machine: Storage | None = None

    def content(self, stored: Stored) -> Content:
        """Return the bytes of an instance, or how to read them in ranges.

        A member of an archive is extracted in a worker. Raises ObjectGone if that version no longer exists.
        """
        if stored.dicom_uri is not None:
            return copied(stored.dicom_uri, stored.generation, self.services)
        content = self._object(stored, whole=True)
        if stored.member is None:
            return content
        name = f"{key_of([stored.object_uri, stored.generation, stored.member])}.member"
        data = self.cache.get(stored.series_instance_uid, name, stored=False) or b""
        if not data:
            data = self._run(content, tasks.extract, content, stored.member, self.services.settings.archive)
            self.cache.put(stored.series_instance_uid, name, data, "", stored=False)
        return replace(content, size=len(data), data=data, opener=None, decode=None, member=stored.member)

    def located(self, stored: Stored) -> Content:
        """Return how to read a plain object in ranges; raises ObjectGone if that version no longer exists."""
        return self._object(stored, whole=False)

    def run(self, stored: Stored, task: Callable[..., T], *arguments: Any) -> T:
        """Return `task(content, *arguments)` as a worker computes it."""
        content = self.content(stored)
        return self._run(content, task, content, *arguments)

    def run_on(self, content: Content, task: Callable[..., T], *arguments: Any) -> T:
        """Return `task(content, *arguments)` as a worker computes it, for content that is already open."""
        return self._run(content, task, content, *arguments)

    def stream(self, content: Content, task: Callable[..., Iterator[T]], *arguments: Any) -> Generator[T]:
        """Yield from `task(content, *arguments)` in a worker, which stays busy until the last result."""
        with self.services.budget.hold(cost(content), WAIT_S):
            yield from self.services.workers.stream(task, content, *arguments, wait_s=WAIT_S)

    def spooled(self, content: Content, task: Callable[..., Iterator[bytes]], *arguments: Any) -> Spooled:
        """Return everything that a task yields, so that no worker waits for a slow client.

        It is held in memory, above 32 MiB in a temporary file; close it.
        """
        file: IO[bytes] = SpooledTemporaryFile(IN_MEMORY_BYTES)  # noqa: SIM115 - its holder closes it
        try:
            with closing(self.stream(content, task, *arguments)) as pieces:
                for piece in pieces:
                    file.write(piece)
        except BaseException:
            file.close()
            raise
        return Spooled(file, file.tell())

    def bytes_of(self, content: Content, offset: int, length: int) -> Iterator[bytes]:
        """Yield a part of the stored bytes, in pieces."""
        if content.data is not None:
            yield content.data[offset : offset + length]
            return
        with content.open() as stream:
            stream.seek(offset)
            while length:
                piece = stream.read(min(PIECE, length))
                if not piece:
                    raise ShortRead("the object ended before its size")
                length -= len(piece)
                yield piece

    def close(self) -> None:
        """Close what was opened here."""
        if self._machine is not None:
            self._machine.close()

    def _run(self, content: Content, task: Callable[..., T], *arguments: Any) -> T:
        with self.services.budget.hold(cost(content), WAIT_S):
            return self.services.workers.run(task, *arguments, wait_s=WAIT_S)

    def _object(self, stored: Stored, whole: bool) -> Content:
        source: Storage = self.services.source
        ref = source.ref_of(stored.object_uri, stored.generation)
        if ref is None and stored.object_uri.startswith("file:") and self.services.index is not None:
            # `ingest` described it where it lies, outside of the landing folder.
            self._machine = self._machine or open_storage("source", "file:/", self.services.index)
            source = self._machine
            ref = source.ref_of(stored.object_uri, stored.generation)
        if ref is None:
            raise ObjectGone("the object is in a storage that is not read here")
        if whole and stored.size_bytes is not None and stored.size_bytes <= WHOLE_BYTES:
            return source.fetch(ref, stored.size_bytes)
        return source.locate(ref)


@dataclass(frozen=True, slots=True)
class Spooled:
    """A temporary file and its size."""

    file: IO[bytes]
    size: int

    def pieces(self, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Yield the file or a part of it, and close it."""
        left = self.size - offset if length is None else length
        with self.file as file:
            file.seek(offset)
            while left and (piece := file.read(min(PIECE, left))):
                left -= len(piece)
                yield piece
