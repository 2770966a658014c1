"""A folder as storage, `file:./lake/landing`: names are paths, generations are modification times."""

from __future__ import annotations

import io
import os
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from app.model.errors import (
    BadEvent,
    ConfigError,
    DicomlakeError,
    ObjectGone,
    ObjectReleased,
    RemovalsHeld,
    ShortRead,
    StorageUnavailable,
)
from app.model.names import spelled
from app.model.options import BIG_BYTES
from app.model.values import Content, ObjectRef
from app.plumbing.makeable import check_makeable
from app.plumbing.private import make_folder
from app.storage import Landed, Listed, Publish, WatchOptions
from app.storage.checksum import checksum
from app.storage.local.file_version import VersionStream, open_version, version
from app.storage.local.files import (
    copy_file,
    delete_file,
    delete_version,
    file_name,
    folders_of,
    is_object_name,
    open_file,
    os_errors,
    stat_file,
    sweep,
    walk,
    write_file,
)
from app.storage.local.generations import Index, Seen, Stamp, check_index, generation, known_objects

if TYPE_CHECKING:
    from app.sources.folder_watcher import Watcher

_NO_TEXT = re.compile("[\0-\x1f\x7f\ud800-\udfff]")
MACHINE = "localhost"
"""Bucket of `file:/`, through which the command line reads files outside the landing folder."""


class LocalStorage:
    """A folder as a bucket; `bucket` is the last component of `root`, an absolute path without links.

    The index holds the generations of files that were published or processed. Watching never changes a file.
    """

    prefix = ""

    def __init__(self, url: str, index: Path | None = None, buckets: tuple[str, ...] = ()) -> None:
        self.root = _root(url, index, buckets)
        self.bucket = self.root.name or MACHINE
        self._watcher: Watcher | None = None
        self._closed = threading.Event()
        self._sweeper: threading.Thread | None = None
        if index is not None:
            _check_there(self.root, index)
        with _folder_errors(self.root):
            make_folder(self.root)
        _check_rights(self.root, writable=index is None)
        if index is not None:
            with _index_folder_errors(index):
                make_folder(index.parent)
        self._index = Index(index, self.root) if index else None

    @staticmethod
    def check_settings(
        url: str, index: Path | None = None, buckets: tuple[str, ...] = (), watched: bool = False
    ) -> None:
        """Raise ConfigError if opening or watching this storage would. Creates and changes nothing."""
        root = _root(url, index, buckets)
        if watched:
            _check_watchable(root)
        if index is not None:
            with _index_folder_errors(index):
                check_makeable(index.parent)
            check_index(index)
            _check_there(root, index)
        with _folder_errors(root):
            check_makeable(root)
        if root.exists():
            _check_rights(root, writable=index is None)

    def uri(self, name: str, bucket: str = "") -> str:
        """Return `file://` and the absolute path, not percent-encoded; for another bucket, `gs://`."""
        if bucket not in ("", self.bucket, MACHINE):
            return f"gs://{bucket}/{name}"
        root = "/" if bucket == MACHINE != self.bucket else str(self.root)
        return f"file://{root.rstrip('/')}/{name}"

    def fetch(self, ref: ObjectRef, size: int | None = None, crc32c: str | None = None) -> Content:
        """Return the verified bytes of exactly this generation; a large file is returned as by `locate`."""
        with self._open(ref) as stream:
            found = stream.stamp.size
            if size is not None and size != found:
                raise ShortRead("the size of the file differs from the announced one")
            content = Content(ref, self.uri(ref.name), found)
            if found <= BIG_BYTES:
                data = stream.readall()
                if len(data) != found:
                    raise ShortRead("the file is shorter than its size")
                content = replace(content, data=data, crc32c=checksum(io.BytesIO(data)))
            else:
                opener = partial(self._reopen, ref, stream.stamp)
                checked = None if crc32c is None else checksum(stream)
                content = replace(content, opener=opener, crc32c=checked)
        if crc32c is not None and crc32c != content.crc32c:
            raise ShortRead("the checksum of the file differs from the announced one")
        return content

    def locate(self, ref: ObjectRef) -> Content:
        """Return this generation for reading in ranges; none of its bytes are read yet."""
        with self._open(ref) as stream:
            opener = partial(open_version, self.root, ref.name, stream.stamp)
            return Content(ref, self.uri(ref.name), stream.stamp.size, opener=opener)

    def ref_of(self, uri: str, generation: int) -> ObjectRef | None:
        """Return the version for an address; None if it is not below the root."""
        name = uri.removeprefix(self.uri(""))
        return None if name == uri or not is_object_name(name) else ObjectRef(self.bucket, name, generation)

    def is_live(self, ref: ObjectRef, metageneration: int | None = None) -> bool:
        """Return whether the file is still this generation, or was when retention deleted it."""
        try:
            return self.find(ref.name) == ref
        except ObjectGone:
            if self._is_released(ref):
                return True
            self._check_gone(ref)
            return False

    def had(self, ref: ObjectRef, now: datetime) -> bool:
        """Return whether the index knows this version of a file, or a later one.

        Raises BadEvent if it still exists. The clock is no help: the generation of a file is its modification
        time, which may be far in the future.
        """
        if self.is_live(ref):
            raise BadEvent("message.attributes.objectGeneration: names a version that is still there")
        seen = self._index.get(ref.name) if self._index else None
        return seen is not None and ref.generation <= seen.generation

    def find(self, name: str) -> ObjectRef:
        """Return the live version of one object; raises ObjectGone if there is none."""
        _check_name(name)
        return ObjectRef(self.bucket, name, self._generation(name, stat_file(self.root, name)))

    def last(self, name: str) -> Seen | None:
        """Return the last recorded version of a name; None if it was removed or released."""
        seen = self._index.get(name) if self._index else None
        return seen if seen and seen.live and not seen.released else None

    def retained(self) -> Iterator[tuple[str, Seen]]:
        """Yield the files that are still as recorded, with their versions; also those about to be deleted."""
        for name, found in walk(self.root, skip=lambda *_: None):
            seen = self._index.get(name) if self._index and is_object_name(name) else None
            if seen and seen.live and seen.told and not seen.again and seen.stamp == found:
                yield name, seen

    def is_released(self, name: str) -> bool:
        """Return whether retention has deleted the last version of a name."""
        seen = self._index.get(name) if self._index else None
        return seen is not None and seen.live and seen.released

    def release(self, name: str, seen: Seen) -> bool:
        """Delete the file of a version, which is no removal; return false if the file is another by now.

        It is recorded first: a crash in between leaves a file that is known as one to delete.
        """
        self.remember(name, replace(seen, released=True))
        return delete_version(self.root, name, seen.stamp)

    def current(self, name: str) -> Seen:
        """Return the current version of a file, known or new; raises ObjectGone if there is no file."""
        found = stat_file(self.root, name)
        if self._index is None:
            return Seen(generation(found, None), found, told=False)
        return version(self.root, name, found, self._index)

    def remember(self, name: str, seen: Seen) -> Seen:
        """Record a version before it is processed, and again as `told` afterwards; returns as Index.put."""
        return self._index.put({name: seen})[name] if self._index else seen

    def write(self, name: str, data: bytes | Iterable[bytes], content_type: str) -> str:
        """Store an object whole or not at all and return its URI; a name that is not a path is escaped."""
        self._sweep()
        path = file_name(name)
        write_file(self.root, path, data)
        return self.uri(path)

    def read(self, uri: str) -> bytes:
        """Return a file that `write` stored, by its URI."""
        name = uri.removeprefix(self.uri(""))
        if name == uri or not is_object_name(name):
            raise ObjectGone("the address is of another storage")
        with os_errors(), open(open_file(self.root, name), "rb", buffering=0) as stream:
            return stream.readall()

    def stored(self, uri: str) -> Content:
        """Return a file that `write` stored, by its URI; a large one for reading in ranges."""
        name = uri.removeprefix(self.uri(""))
        if name == uri or not is_object_name(name):
            raise ObjectGone("the address is of another storage")
        return self.fetch(self.find(name))

    def delete(self, name: str) -> None:
        """Remove an object that `write` stored, and the folders that become empty."""
        delete_file(self.root, file_name(name))

    def list(self, prefix: str = "") -> Iterator[ObjectRef]:
        """Yield the files whose paths start with `prefix`, ordered by path; no links or temporary files."""
        for name, found in walk(self.root, prefix):
            if is_object_name(name):
                yield ObjectRef(self.bucket, name, self._generation(name, found))

    def listing(self, prefix: str = "", after: str = "", bucket: str = "") -> Iterator[Listed]:
        """Yield the files as `list`; one counts as written when its state last changed."""
        if bucket not in ("", self.bucket):
            raise BadEvent("the listing is of another bucket")
        for name, found in walk(self.root, prefix):
            if name > after and is_object_name(name):
                ref = ObjectRef(self.bucket, name, self._generation(name, found))
                yield Listed(ref, found.size, found.ctime_ns / 1e9)

    def land(self, name: str, stream: BinaryIO, replace: bool = False) -> Landed | None:
        """Store an upload, whole or not at all; the same bytes under the same name are not written again.

        A watcher, in this or another process, then publishes it like any file.
        """
        _check_name(name)
        self._sweep()
        with suppress(ObjectGone), VersionStream(self.root, name) as there:
            size = stream.seek(0, io.SEEK_END)
            stream.seek(0)
            if there.stamp.size == size and checksum(there) == checksum(stream):
                return Landed(self.find(name), written=False)
            if not replace:
                return None
        stream.seek(0)
        if not copy_file(self.root, name, stream, replace):
            return self.land(name, stream)  # another process has just created the file
        return Landed(self.find(name), written=True)

    @property
    def session_origin(self) -> str:
        """Empty: uploads are possible only through this service."""
        return ""

    def begin_upload(self, name: str, size: int, origin: str = "", replace: bool = False) -> str | None:
        """Raise BadEvent, because a folder has no URLs for uploads."""
        raise BadEvent("this landing storage takes no uploads but through the service; use POST /upload")

    def folders(self, prefix: str = "") -> tuple[str, ...]:
        """Return the folders directly below this path, sorted."""
        return folders_of(self.root, prefix)

    def watch(self, publish: Publish, options: WatchOptions) -> None:
        """Publish what changed since the last run, then every change; each complete file once."""
        from app.sources.folder_watcher import Watcher  # its library is needed only for watching

        if self._index is None:
            raise ConfigError(f"{self.root} cannot be watched without an index")
        _check_watchable(self.root)
        self._watcher = Watcher(self, self._index, publish, options)
        self._watcher.start()

    def setup(self) -> Sequence[dict[str, Any]]:
        """Return nothing: the service watches the folder itself."""
        return []

    def check(self) -> None:
        """Raise StorageUnavailable unless the folder can be listed and its watcher, if any, is running.

        A storage without an index is not a source, so it must also be writable.
        """
        with os_errors(), os.scandir(self.root):
            pass
        if self._index is None and not os.access(self.root, os.W_OK | os.X_OK):
            raise StorageUnavailable("the folder has become read-only")
        if self._watcher and not self._watcher.alive():
            raise StorageUnavailable("the watcher of the folder has stopped")
        if self._watcher and (held := self._watcher.removals.held()):
            raise RemovalsHeld(f"{held} removals are held back; is a disk not mounted?")

    def close(self) -> None:
        """Stop watching; streams and contents returned before stay usable."""
        self._closed.set()
        if self._watcher:
            self._watcher.close()
        if self._sweeper:
            self._sweeper.join(1.0)
        if self._index:
            self._index.close()

    def _sweep(self) -> None:
        """Remove temporary files left by killed writers, in the background, once per process."""
        if self._sweeper is None:
            self._sweeper = threading.Thread(target=sweep, args=(self.root, self._closed.is_set), daemon=True)
            self._sweeper.start()

    def _open(self, ref: ObjectRef) -> VersionStream:
        if ref.bucket != self.bucket:
            raise BadEvent("the object is in another bucket")
        _check_name(ref.name)
        try:
            stream = VersionStream(self.root, ref.name)
        except ObjectGone:
            self._check_gone(ref)
            raise
        try:
            if self._generation(ref.name, stream.stamp) != ref.generation:
                raise ObjectGone("object version is gone")
        except DicomlakeError:
            stream.close()
            raise
        return stream

    def _reopen(self, ref: ObjectRef, pinned: Stamp) -> VersionStream:
        try:
            return open_version(self.root, ref.name, pinned)
        except ObjectGone:
            self._check_gone(ref)
            raise

    def _check_gone(self, ref: ObjectRef) -> None:
        """Raise ObjectReleased if retention has deleted the file, RemovalsHeld if its disk may be unmounted.

        Otherwise its event would be acknowledged as superseded, and not repeated when the disk is back.
        """
        if self._is_released(ref):
            raise ObjectReleased("retention has deleted the original")
        if self._watcher is None or os.path.lexists(self.root / ref.name):
            return
        known = self.last(ref.name)
        if known and known.generation == ref.generation and self._watcher.removals.doubtful(ref.name):
            raise RemovalsHeld("all known files of the folder are gone; is its disk mounted?")

    def _is_released(self, ref: ObjectRef) -> bool:
        seen = self._index.get(ref.name) if self._index else None
        return seen is not None and seen.live and seen.released and seen.generation == ref.generation

    def _generation(self, name: str, found: Stamp) -> int:
        return generation(found, self._index.get(name) if self._index else None)


def _check_name(name: str) -> None:
    if not is_object_name(name):
        raise BadEvent("the object name is not a path below the root")


def _root(url: str, index: Path | None, buckets: tuple[str, ...]) -> Path:
    """Return the folder of a URL; raises ConfigError if it cannot be a storage with these settings."""
    if buckets:
        raise ConfigError("source.buckets: a folder is the only bucket of its storage; leave it empty")
    path = url.partition(":")[2]
    if path.startswith("//"):
        host, slash, rest = path[2:].partition("/")
        if host not in ("", MACHINE):
            raise ConfigError(f"{url!r} names a host; write file:///absolute/path or file:./relative/path")
        path = slash + rest
    try:
        root = Path(path).resolve()
    except (OSError, ValueError, RuntimeError) as exc:
        raise ConfigError(f"{url!r} is no usable path ({type(exc).__name__})") from exc
    if _NO_TEXT.search(str(root)):  # neither a row nor an event could contain it
        raise ConfigError(f"{spelled(str(root))}: a storage needs a path of UTF-8 text in one line")
    if index is not None and root != Path("/") and index.resolve().is_relative_to(root):
        raise ConfigError(f"{index} lies in the watched folder {root}; keep it outside")
    return root


def _check_watchable(root: Path) -> None:
    if root == Path("/"):
        raise ConfigError("source.url: the whole machine cannot be watched; name a folder")


def _check_there(root: Path, index: Path) -> None:
    """Refuse a missing folder with known objects: most likely its disk is not mounted."""
    if os.path.exists(root):
        return
    if known := known_objects(index, root):
        raise ConfigError(
            f"source.url: the folder {root} is gone but {known} objects of it are known; mount it again, or, "
            "if they are all to be removed, make the empty folder and `serve --accept-removals`"
        )


@contextmanager
def _folder_errors(root: Path) -> Iterator[None]:
    try:
        yield
    except FileExistsError:
        raise ConfigError(f"{root} is a file; a storage needs a folder") from None
    except (OSError, ValueError) as exc:
        raise ConfigError(f"{root} cannot be made ({type(exc).__name__})") from exc


@contextmanager
def _index_folder_errors(index: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as exc:
        raise ConfigError(f"the folder of the index {index} cannot be made ({type(exc).__name__})") from exc


def _check_rights(root: Path, writable: bool) -> None:
    """Refuse a folder without the necessary permissions; a source may be read-only."""
    if not os.access(root, os.R_OK | os.X_OK):
        raise ConfigError(f"{root} cannot be read; give this user the right to read the folder")
    if writable and root != Path("/") and not os.access(root, os.W_OK):
        raise ConfigError(f"{root} cannot be written; give this user the right to write the folder")
