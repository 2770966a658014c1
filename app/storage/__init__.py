"""Door to object storage: whole objects in and out, big ones in ranges; the scheme of a URL picks one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Protocol

from app.model.values import Content, Message, ObjectRef
from app.plumbing.backends import load_backend

Publish = Callable[[Message], object]
"""Take a notification; return only when it is durable."""


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """How a store is watched that does not publish by itself.

    settle_s: a file is complete when nothing changed for so many seconds. accept_removals: what is gone at
    the start was removed, even if it is all that was known of a folder.
    """

    settle_s: float = 0.3
    accept_removals: bool = False


WATCH = WatchOptions()


@dataclass(frozen=True, slots=True)
class Landed:
    """The version that holds the bytes of an upload; `written` is false where they were there already."""

    ref: ObjectRef
    written: bool


class Storage(Protocol):
    """Whole objects in and out, big ones by ranges. Safe to call from several threads."""

    @property
    def bucket(self) -> str:
        """Name of the bucket as events spell it."""
        ...

    @property
    def prefix(self) -> str:
        """What the names of all objects here begin with, in events and in refs; empty or ending in /."""
        ...

    def uri(self, name: str, bucket: str = "") -> str:
        """Return the address of an object, `gs://bucket/name` or `file:///abs/path`.

        `bucket` may be one that is not served here: an event that is refused names it.
        """
        ...

    def fetch(self, ref: ObjectRef, size: int | None = None, crc32c: str | None = None) -> Content:
        """Return exactly this generation, checked against size and checksum.

        Raises ObjectGone when this generation is no more, ShortRead when the bytes differ from what was
        announced, StorageUnavailable when the store fails.
        """
        ...

    def locate(self, ref: ObjectRef) -> Content:
        """Return a way to read this generation in ranges, whatever its size; none of its bytes are read.

        Raises as `fetch`; so do the reads once this generation is gone.
        """
        ...

    def ref_of(self, uri: str, generation: int) -> ObjectRef | None:
        """Return the version that an address names, as `uri` writes it; None where it is not stored here."""
        ...

    def is_live(self, ref: ObjectRef, metageneration: int | None = None) -> bool:
        """Tell whether this generation is still the object's current one, of this metageneration if given.

        Where the store has no metagenerations, as a folder, the generation alone decides.
        """
        ...

    def had(self, ref: ObjectRef, now: datetime) -> bool:
        """Tell whether a version that a removal names may have been there, as far as the store can tell.

        Raises BadEvent when it is still there.
        """
        ...

    def open(self, ref: ObjectRef) -> BinaryIO:
        """Return a seekable stream of this generation that reads in ranges; raises as `fetch`."""
        ...

    def write(self, name: str, data: bytes, content_type: str) -> str:
        """Store an object whole or not at all and return its URI; repeating it gives the same result."""
        ...

    def read(self, uri: str) -> bytes:
        """Return the whole of an object that `write` stored here, by its URI; raises ObjectGone if it is not.

        For our own artifacts, which are never changed: there is no generation to pin.
        """
        ...

    def delete(self, name: str) -> None:
        """Remove an object; one that is not there is no error."""
        ...

    def list(self, prefix: str = "") -> Iterator[ObjectRef]:
        """Yield the live objects whose names begin with `prefix`, in order of name."""
        ...

    def land(self, name: str, stream: BinaryIO, replace: bool = False) -> Landed | None:
        """Put an upload there, whole or not at all; the same bytes under the same name are not written again.

        stream: seekable, of any size. Where the name is taken by other bytes, `replace` makes a new version
        of it; without, nothing is written and None returned.
        """
        ...

    def folders(self, prefix: str = "") -> tuple[str, ...]:
        """Return the first segments of the names that begin with `prefix`, which ends in a slash or is empty.

        Of names with a further slash, sorted, by one listing with a delimiter.
        """
        ...

    def watch(self, publish: Publish, options: WatchOptions = WATCH) -> None:
        """Begin to publish notifications of changes, where the store does not do so; returns at once."""
        ...

    def check(self) -> None:
        """Raise StorageUnavailable unless the store answers."""
        ...

    def close(self) -> None:
        """Let go of connections and threads."""
        ...


BACKENDS: dict[str, tuple[str, str, str | None]] = {
    "file": ("app.storage.local.storage", "LocalStorage", None),
    "gs": ("app.storage.gcs.storage", "GcsStorage", "gcp"),
}


def check_storage(
    seam: str, url: str, index: Path | None = None, buckets: tuple[str, ...] = (), watched: bool = False
) -> None:
    """Raise ConfigError where opening this storage, or watching it, would; makes and opens nothing."""
    load_backend(seam, url, BACKENDS).check_settings(url, index, buckets, watched)


def open_storage(seam: str, url: str, index: Path | None = None, buckets: tuple[str, ...] = ()) -> Storage:
    """Open the storage that `source.url` or `artifacts.url` names.

    `index` is the SQLite file in which a watched folder keeps what it has seen; `buckets` are further ones
    that may be read beside that of the URL.
    """
    storage: Storage = load_backend(seam, url, BACKENDS)(url, index, buckets)
    return storage
