"""Object storage: the protocol, and the backends by URL scheme."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from app.model.values import Content, Message, ObjectRef
from app.plumbing.backends import load_backend

Publish = Callable[[Sequence[Message]], object]
"""Publish notifications; return only when all of them are durable."""


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """How to watch a store that sends no notifications itself.

    settle_s: a file counts as complete after this many seconds without a change. accept_removals: treat files
    missing at the start as removed, even if they are all known files of a folder. shown: returns what logs
    show instead of the name of a file or folder.
    """

    settle_s: float
    accept_removals: bool = False
    shown: Callable[[str], str] = str


SESSION_S = 7 * 86_400
"""Validity of a URL from `begin_upload`."""


@dataclass(frozen=True, slots=True)
class Landed:
    """The version that holds the bytes of an upload; `written` is false if they were already stored."""

    ref: ObjectRef
    written: bool


@dataclass(frozen=True, slots=True)
class Listed:
    """One live object of a listing. written_s: when this version was written, in seconds since 1970."""

    ref: ObjectRef
    size: int
    written_s: float
    metageneration: int | None = None
    crc32c: str | None = None
    storage_class: str | None = None


class Storage(Protocol):
    """Reads and writes whole objects, and reads large ones in ranges. Safe to call from several threads."""

    @property
    def bucket(self) -> str:
        """Name of the bucket in events."""
        ...

    @property
    def prefix(self) -> str:
        """Common prefix of the names of all objects, in events and refs; empty or ending in /."""
        ...

    def uri(self, name: str, bucket: str = "") -> str:
        """Return the address of an object, `gs://bucket/name` or `file:///abs/path`.

        `bucket` may be any bucket: a refused event may name one that this service does not serve.
        """
        ...

    def fetch(self, ref: ObjectRef, size: int | None = None, crc32c: str | None = None) -> Content:
        """Read exactly this generation and verify its size and checksum.

        Raises ObjectGone if this generation no longer exists, ShortRead if the bytes differ from the
        announced size or checksum, StorageUnavailable if the store fails.
        """
        ...

    def locate(self, ref: ObjectRef) -> Content:
        """Return this generation for reading in ranges, whatever its size; none of its bytes are read yet.

        Raises as `fetch`, and so do later reads once this generation is gone.
        """
        ...

    def ref_of(self, uri: str, generation: int) -> ObjectRef | None:
        """Return the version for an address as returned by `uri`; None if it is not of this storage."""
        ...

    def is_live(self, ref: ObjectRef, metageneration: int | None = None) -> bool:
        """Return whether this generation, and metageneration if given, is still the current one.

        A store without metagenerations, such as a folder, compares only the generation.
        """
        ...

    def had(self, ref: ObjectRef, now: datetime) -> bool:
        """Return whether the version that a removal names may have existed, as far as the store knows.

        Raises BadEvent if it still exists.
        """
        ...

    def write(self, name: str, data: bytes | Iterable[bytes], content_type: str) -> str:
        """Store an object whole or not at all and return its URI; repeating it gives the same result.

        data: all bytes, or chunks of an object of any size. What the chunks raise is passed on.
        """
        ...

    def read(self, uri: str) -> bytes:
        """Return an object that `write` stored, by its URI; raises ObjectGone if there is none.

        For artifacts only: they never change, so there is no generation to pin.
        """
        ...

    def stored(self, uri: str) -> Content:
        """Return an object that `write` stored, by its URI, as `fetch` does; ObjectGone if there is none."""
        ...

    def delete(self, name: str) -> None:
        """Remove an object; a missing one is not an error."""
        ...

    def list(self, prefix: str = "") -> Iterator[ObjectRef]:
        """Yield the live objects whose names start with `prefix`, ordered by name."""
        ...

    def listing(self, prefix: str = "", after: str = "", bucket: str = "") -> Iterator[Listed]:
        """Yield the live objects as `list`, with what the store tells of each; in the order of UTF-8 bytes.

        after: names up to this one are left out, as of a listing that goes on. bucket: another one that may
        be read; then `prefix` and `after` are relative to it.
        """
        ...

    def land(self, name: str, stream: BinaryIO, replace: bool = False) -> Landed | None:
        """Store an upload, whole or not at all; the same bytes under the same name are not written again.

        stream: seekable, of any size. If an object of this name has other bytes, `replace` creates a new
        version; without `replace` nothing is written and the result is None.
        """
        ...

    @property
    def session_origin(self) -> str:
        """Origin of the URLs from `begin_upload`; empty if uploads are possible only through the service."""
        ...

    def begin_upload(self, name: str, size: int, origin: str = "", replace: bool = False) -> str | None:
        """Return a URL to which the client uploads `size` bytes directly; None if the name is taken.

        The protocol is that of Cloud Storage's resumable uploads. The URL needs no credentials, is valid for
        SESSION_S, and writes this one object once; with `origin`, only pages of that origin can use it. With
        `replace`, it creates a new version of an existing object. Raises BadEvent if the store has no such
        URLs.
        """
        ...

    def folders(self, prefix: str = "") -> tuple[str, ...]:
        """Return the names of the folders directly below `prefix`, which is empty or ends with a slash.

        Sorted; one listing with a delimiter, so the objects in the folders are not visited.
        """
        ...

    def watch(self, publish: Publish, options: WatchOptions) -> None:
        """Start to publish notifications of changes if the store does not do so itself; return at once."""
        ...

    def setup(self) -> Sequence[dict[str, Any]]:
        """Return facts for `doctor` about each bucket; empty where the service watches the store.

        bucket: its name. notifications: each with topic, events, payload and prefix. versioning: whether it
        keeps versions. agent: the account that publishes. policy: pairs of role and member, None if it cannot
        be seen.
        """
        ...

    def check(self) -> None:
        """Raise StorageUnavailable unless the store answers."""
        ...

    def close(self) -> None:
        """Close connections and stop threads."""
        ...


BACKENDS: dict[str, tuple[str, str, str | None]] = {
    "file": ("app.storage.local.storage", "LocalStorage", None),
    "gs": ("app.storage.gcs.storage", "GcsStorage", "gcp"),
}


def check_storage(
    seam: str, url: str, index: Path | None = None, buckets: tuple[str, ...] = (), watched: bool = False
) -> None:
    """Raise ConfigError if opening or watching this storage would. Creates and opens nothing."""
    load_backend(seam, url, BACKENDS).check_settings(url, index, buckets, watched)


def open_storage(seam: str, url: str, index: Path | None = None, buckets: tuple[str, ...] = ()) -> Storage:
    """Open the storage of `source.url` or `artifacts.url`.

    `index` is the SQLite file in which a watched folder stores the versions it has seen; `buckets` are
    further buckets that may be read.
    """
    storage: Storage = load_backend(seam, url, BACKENDS)(url, index, buckets)
    return storage
