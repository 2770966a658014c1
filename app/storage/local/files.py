"""Access files below a root folder by name, never outside it.

Every path is opened from the root by descriptors, one segment at a time and without following symbolic links,
so no name can lead out of the root, even while another process swaps folders.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import signal
import stat
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from app.model.errors import BadName, DicomlakeError, NotAFile, ObjectGone, StorageUnavailable
from app.model.names import UNSAFE, shortened, suffix
from app.plumbing.private import FILE_MODE, FOLDER_MODE, make_folder
from app.storage.local.generations import Stamp, stamp

SEGMENT_BYTES, NAME_BYTES = 255, 2048
EVENT_NAME_BYTES = 1024
"""Maximum length of an object name in Cloud Storage, and so in a notification."""
TEMP = re.compile(r"\.dicomlake-[0-9a-f]{16}\.part")
ARTIFACT = re.compile(r"(?i)(?<=[0-9])\.(json|png)\Z")
TEMP_AGE_S = 3600.0
MAX_RACES = 100
COPY_BYTES = 1 << 20
GONE = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.ENAMETOOLONG))
SENTENCES = {
    errno.ENOSPC: "no space is left on the disk of the storage",
    errno.EDQUOT: "the disk quota of the storage is used up",
    errno.EROFS: "the storage is mounted read-only",
    errno.EACCES: "permission denied by the storage",
    errno.EMFILE: "too many files are open",
}
KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFDIR: "a folder",
}
# O_PATH opens folders that may be entered but not listed; O_NONBLOCK prevents blocking on a named pipe.
FOLDER = os.O_DIRECTORY | os.O_CLOEXEC
PASS = FOLDER | getattr(os, "O_PATH", os.O_RDONLY)
READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def os_errors(gone: Collection[int] = ()) -> Iterator[None]:
    """Translate errors of the operating system; those in `gone` mean that the object does not exist."""
    try:
        yield
    except OSError as exc:
        if exc.errno in gone:
            raise ObjectGone("object version is gone") from exc
        raise StorageUnavailable(SENTENCES.get(exc.errno or 0, type(exc).__name__)) from exc


def is_object_name(name: str) -> bool:
    """Return whether a path below the root can be an object name: UTF-8, without `..` or empty segments."""
    if UNSAFE.search(name.replace("%", "")):
        return False
    segments = name.split("/")
    return all(part not in ("", ".", "..") and len(part.encode()) <= SEGMENT_BYTES for part in segments)


def is_event_name(name: str) -> bool:
    """Return whether a path below the root can be an object name in an event."""
    return is_object_name(name) and len(name.encode()) <= EVENT_NAME_BYTES


def check_event_name(name: str) -> None:
    """Raise BadName, with the reason, for a path that cannot be an object name in an event."""
    if not is_object_name(name):
        raise BadName("the path is not UTF-8, or has a line end in it")
    if not is_event_name(name):
        raise BadName(
            f"the path has {len(name.encode())} bytes, the name of an object at most {EVENT_NAME_BYTES}"
        )


def file_name(name: str) -> str:
    """Return the path below the root for an object of any name; different names never share one."""
    *folders, last = name.split("/")
    path = "/".join([*(_file_segment(folder, is_folder=True) for folder in folders), _file_segment(last)])
    if len(path.encode()) <= NAME_BYTES:
        return path
    return f"{path.partition('/')[0]}/{_short('', name)}"


def _file_segment(segment: str, is_folder: bool = False) -> str:
    # "%" is escaped too, so that no other segment gives the same result; a bare "%" is an empty segment.
    text = UNSAFE.sub(lambda found: quote(found.group(), errors="surrogatepass"), segment) or "%"
    if segment in (".", "..") or TEMP.fullmatch(segment):
        text = "%2E" + text[1:]
    if is_folder and ARTIFACT.search(text):  # `a.1.json` is an artifact of `a` and cannot be a folder
        text, segment = ARTIFACT.sub(r"%2E\1", text), f"{segment}/"
    return text if len(text.encode()) <= SEGMENT_BYTES else _short(text, segment)


def _short(text: str, whole: str) -> str:
    """Shorten a text to its head, "%~" (which no escape produces), a digest, and the suffix."""
    return shortened(text, 128, "%~", whole) + suffix(whole)


@contextmanager
def open_folder(root: Path, segments: Sequence[str], make: bool = False) -> Iterator[int]:
    """Yield a descriptor of the folder at `segments`; with `make`, create missing folders.

    Raises StorageUnavailable if the root is missing: that is an outage, not the removal of every object.
    """
    flags = FOLDER if make else PASS
    with os_errors():
        if make and not os.path.isdir(root):
            make_folder(root)
        here = os.open(root, flags)
    try:
        for segment in segments:
            try:
                inner = os.open(segment, flags | os.O_NOFOLLOW, dir_fd=here)
            except FileNotFoundError:
                if not make:
                    raise
                with suppress(FileExistsError):
                    os.mkdir(segment, FOLDER_MODE, dir_fd=here)
                _sync_folder(here)  # even if another process made it
                inner = os.open(segment, flags | os.O_NOFOLLOW, dir_fd=here)
            os.close(here)
            here = inner
        yield here
    finally:
        os.close(here)


def open_file(root: Path, name: str) -> int:
    """Return a descriptor of a regular file for reading; raises ObjectGone if there is none."""
    *folders, last = name.split("/")
    with os_errors(GONE), open_folder(root, folders) as folder:
        # Checked before opening, because opening a device may have side effects.
        _regular(os.stat(last, dir_fd=folder, follow_symlinks=False))
        descriptor = os.open(last, READ, dir_fd=folder)
        try:
            _regular(os.fstat(descriptor))
        except ObjectGone:
            os.close(descriptor)
            raise
        return descriptor


def stat_file(root: Path, name: str) -> Stamp:
    """Return the state of a regular file; raises ObjectGone if there is none."""
    *folders, last = name.split("/")
    with os_errors(GONE), open_folder(root, folders) as folder:
        return _regular(os.stat(last, dir_fd=folder, follow_symlinks=False))


def _regular(found: os.stat_result) -> Stamp:
    if not stat.S_ISREG(found.st_mode):
        raise NotAFile(f"it is {KINDS.get(stat.S_IFMT(found.st_mode), 'something')}, not a regular file")
    return stamp(found)


def has_writer(descriptor: int) -> bool:
    """Return whether any process has the file open for writing, as far as the system can tell.

    Linux grants a read lease only while there is no writer. It is released at once. A writer that opens the
    file in between waits for the release, and we get a signal, so a harmless one is chosen.
    """
    if not hasattr(fcntl, "F_SETLEASE"):
        return False
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as exc:
        return exc.errno == errno.EAGAIN  # others: no leases on this file system, or for other users' files
    return False


def probe(root: Path, name: str) -> tuple[Stamp, bool]:
    """Return the state of a file, and whether any process has it open for writing."""
    descriptor = open_file(root, name)
    try:
        with os_errors():
            return stamp(os.fstat(descriptor)), has_writer(descriptor)
    finally:
        os.close(descriptor)


def walk(
    root: Path, prefix: str = "", skip: Callable[[str, DicomlakeError], None] | None = None
) -> Iterator[tuple[str, Stamp]]:
    """Yield path and state of the regular files whose paths start with `prefix`, ordered by path.

    Our temporary files are left out. Other entries that are left out are passed to `skip`, with the error:
    unreadable folders, folders too deep for a name, and entries that are neither folders nor regular files.
    An unreadable root raises StorageUnavailable, as does any unreadable folder without `skip`.
    """
    start = prefix[: prefix.rfind("/") + 1]
    if start and not is_object_name(start[:-1]):
        return
    pending: list[tuple[str, Stamp | None]] = [(start, None)]
    while pending:
        path, found = pending.pop()
        if found is not None:
            yield path, found
            continue
        if len(os.fsencode(path)) > NAME_BYTES:  # bounds an endless chain of folders
            if skip:
                skip(path, BadName(f"the path is over {NAME_BYTES} bytes"))
            continue
        try:
            with os_errors(GONE), open_folder(root, path.split("/")[:-1]) as folder:
                # A folder sorts with the trailing slash, because its files do.
                pending += sorted(_entries(folder, path, prefix, skip), key=itemgetter(0), reverse=True)
        except ObjectGone:
            continue
        except StorageUnavailable as error:
            if skip is None or not path:
                raise
            skip(path, error)


def _entries(
    folder: int, path: str, prefix: str, skip: Callable[[str, DicomlakeError], None] | None
) -> Iterator[tuple[str, Stamp | None]]:
    descriptor = os.open(".", FOLDER, dir_fd=folder)
    try:
        with os.scandir(descriptor) as entries:
            for entry in entries:
                name = path + entry.name
                if not f"{name}/".startswith(prefix) or TEMP.fullmatch(entry.name):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    yield f"{name}/", None
                elif name.startswith(prefix):
                    try:
                        yield name, _regular(entry.stat(follow_symlinks=False))
                    except FileNotFoundError:
                        continue
                    except NotAFile as error:
                        if skip:
                            skip(name, error)
    finally:
        os.close(descriptor)


def write_file(root: Path, path: str, data: bytes | Iterable[bytes]) -> None:
    """Write a file whole or not at all; it is durable when this returns."""
    *folders, last = path.split("/")
    chunks = [data] if isinstance(data, bytes) else data
    attempts = MAX_RACES if isinstance(data, bytes) else 1  # chunks come only once
    for attempt in range(attempts):
        try:
            with os_errors(), open_folder(root, folders, make=True) as folder:
                _place(folder, last, chunks, os.rename)
            return
        except StorageUnavailable as error:
            # Another process pruned a folder that was still empty: create it again.
            if not isinstance(error.__cause__, FileNotFoundError) or attempt == attempts - 1:
                raise


def copy_file(root: Path, path: str, stream: BinaryIO, replace: bool) -> bool:
    """Write a stream to a file whole or not at all; return false if a file exists and `replace` is off."""
    *folders, last = path.split("/")
    chunks = iter(partial(stream.read, COPY_BYTES), b"")
    try:
        with os_errors(), open_folder(root, folders, make=True) as folder:
            _place(folder, last, chunks, os.rename if replace else os.link)
    except StorageUnavailable as error:
        if isinstance(error.__cause__, FileExistsError):
            return False
        raise
    return True


def folders_of(root: Path, prefix: str) -> tuple[str, ...]:
    """Return the folders directly below the path `prefix`, sorted; none if it is not a folder."""
    try:
        with os_errors(GONE), open_folder(root, prefix.split("/")[:-1]) as folder:
            return tuple(sorted(name[:-1] for name, found in _entries(folder, "", "", None) if found is None))
    except ObjectGone:
        return ()


def _place(folder: int, name: str, chunks: Iterable[bytes], move: Callable[..., None]) -> None:
    temp = f".dicomlake-{secrets.token_hex(8)}.part"
    descriptor = os.open(temp, CREATE, FILE_MODE, dir_fd=folder)
    try:
        with open(descriptor, "wb", buffering=0) as stream:
            for chunk in chunks:
                view = memoryview(chunk)
                while view:
                    view = view[stream.write(view) :]
            os.fsync(descriptor)
        move(temp, name, src_dir_fd=folder, dst_dir_fd=folder)
        if move is not os.rename:  # a link leaves the temporary name behind
            os.unlink(temp, dir_fd=folder)
    except BaseException:
        with suppress(OSError):
            os.unlink(temp, dir_fd=folder)
        raise
    _sync_folder(folder)


def _sync_folder(folder: int) -> None:
    try:
        os.fsync(folder)
    except OSError as exc:
        if exc.errno not in (errno.EINVAL, errno.ENOTSUP):  # not supported by some network file systems
            raise


def delete_file(root: Path, path: str) -> None:
    """Remove a file and the folders above it that become empty; a missing file is not an error."""
    *folders, last = path.split("/")
    with suppress(ObjectGone), os_errors(GONE):
        with open_folder(root, folders) as folder:
            os.unlink(last, dir_fd=folder)
        _prune(root, folders)


def delete_version(root: Path, path: str, version: Stamp) -> bool:
    """Remove a file if it is in exactly this state; return false if it is not. Its folders stay.

    It is renamed before its state is compared, so no file that another process puts in its place is lost.
    """
    *folders, last = path.split("/")
    temp = f".dicomlake-{secrets.token_hex(8)}.part"
    try:
        with os_errors(GONE), open_folder(root, folders) as folder:
            if stamp(os.stat(last, dir_fd=folder, follow_symlinks=False)) != version:
                return False
            os.rename(last, temp, src_dir_fd=folder, dst_dir_fd=folder)
            same = version.same_content(stamp(os.stat(temp, dir_fd=folder, follow_symlinks=False)))
            if not same:
                with suppress(FileExistsError):  # or else another has replaced that one too
                    os.link(temp, last, src_dir_fd=folder, dst_dir_fd=folder)
            os.unlink(temp, dir_fd=folder)
            descriptor = os.open(".", FOLDER, dir_fd=folder)
            try:
                _sync_folder(descriptor)
            finally:
                os.close(descriptor)
            return same
    except ObjectGone:
        return False


def _prune(root: Path, folders: Sequence[str]) -> None:
    with suppress(OSError):  # not empty, a mount point, or already removed: all fine
        for depth in range(len(folders), 0, -1):
            with open_folder(root, folders[: depth - 1]) as folder:
                os.rmdir(folders[depth - 1], dir_fd=folder)


def sweep(root: Path, stop: Callable[[], bool]) -> None:
    """Remove temporary files left by writers that died."""
    before = time.time() - TEMP_AGE_S
    for folder, _, names in os.walk(root):
        if stop():
            return
        for name in filter(TEMP.fullmatch, names):
            with suppress(OSError):
                if os.lstat(os.path.join(folder, name)).st_mtime < before:
                    os.unlink(os.path.join(folder, name))
