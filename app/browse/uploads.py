"""Uploads: check that a file is DICOM and put it into the landing storage.

    stream ─▶ identify, in a worker ─▶ name below source.write_prefix ─▶ source.land ─▶ the pipeline

The notification of the landing storage does the rest, as for any other object. A file that is too large for
the service goes straight into a bucket: the client sends its beginning here, and `begin` answers where to.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from io import SEEK_END
from typing import BinaryIO, cast

from app.browse.objects import WAIT_S
from app.dicom import read_identity
from app.model.errors import PermanentError
from app.model.values import Content, ObjectRef
from app.services import Services
from app.storage import SESSION_S

SEGMENT = re.compile(r"(?!\.)[^/\\^%\0-\x1f\x7f\ud800-\udfff]{1,150}")
"""A label, or the name of a file: one segment of a path, of printable characters."""
UID = re.compile(r"[0-9.]{1,64}")


@dataclass(frozen=True, slots=True)
class Identity:
    """The UIDs of a data set, each empty if it is missing; broken: the data set ends too early."""

    study: str
    series: str
    instance: str
    sop_class: str
    broken: bool

    @property
    def whole(self) -> bool:
        """Whether study, series and instance are all known."""
        return all(UID.fullmatch(uid) and uid.strip(".") for uid in (self.study, self.series, self.instance))


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of one file of an upload: a version in the landing storage, or a reason why not.

    reason: invalid_type, duplicate, bad_name, too_large. written: false if the same bytes were already there.
    """

    name: str
    reason: str | None = None
    ref: ObjectRef | None = None
    written: bool = False


@dataclass(frozen=True, slots=True)
class UploadSession:
    """Where and until when a client may put the bytes of one file, and the object that they become.

    A client sends them by PUT, as Cloud Storage's resumable uploads do. The URL is a secret: whoever has it
    may write this object, once.
    """

    url: str
    name: str
    expires: datetime
    success: bool = True


WORDS = {
    "invalid_type": "not a DICOM file, or one without UIDs",
    "duplicate": "another file has this name already; choose another label",
    "bad_name": "the label or the file name cannot be the name of an object that is taken for DICOM",
    "too_large": "the file is larger than source.max_object_bytes",
}
"""The sentence that people see for each reason."""


def land(name: str, stream: BinaryIO, label: str, services: Services) -> Fate:
    """Put one file into the landing storage, as `<label>/<name>`, or without a label by its UIDs.

    Parameters
    ----------
    name : as the sender calls the file; what leads to it is left out
    stream : seekable

    Raises
    ------
    StorageUnavailable, Overloaded : nothing was stored; trying again may help
    """
    name = last_segment(name)
    path = _place(name, stream, stream.seek(0, SEEK_END), label, services)
    if isinstance(path, Fate):
        return path
    landed = services.source.land(path, stream, replace=not label)
    if landed is None:
        return Fate(name, "duplicate")
    return Fate(name, ref=landed.ref, written=landed.written)


def begin(
    name: str, head: BinaryIO, size: int, label: str, origin: str, services: Services
) -> UploadSession | Fate:
    """Return where a client may put a file, named as by `land`, or why it must not.

    Only its beginning is checked here; the pipeline checks the whole object after it has landed. Under a
    label, any file of the same name makes it a duplicate.

    Parameters
    ----------
    head : the first bytes of the file, enough to hold its UIDs; seekable
    size : of the file, in bytes
    origin : of the page that sends it, empty for a program
    """
    name = last_segment(name)
    path = _place(name, head, size, label, services)
    if isinstance(path, Fate):
        return path
    url = services.source.begin_upload(path, size, origin, replace=not label)
    if url is None:
        return Fate(name, "duplicate")
    expires = services.now() + timedelta(seconds=SESSION_S)
    return UploadSession(url, services.source.prefix + path, expires)


def last_segment(name: str) -> str:
    """Return the name of a file without its folders."""
    return re.split(r"[/\\]", name)[-1]


def _place(name: str, head: BinaryIO, size: int, label: str, services: Services) -> str | Fate:
    """Return the name of the object that a file of `size` bytes becomes, or why it is refused."""
    if not SEGMENT.fullmatch(name) or (label and not SEGMENT.fullmatch(label)):
        return Fate(name, "bad_name")
    most = services.settings.source.max_object_bytes
    if most and size > most:
        return Fate(name, "too_large")
    try:
        identity = identify(head, services)
    except PermanentError:
        return Fate(name, "invalid_type")
    if not (label or identity.whole):
        return Fate(name, "invalid_type")
    path = (
        f"{services.settings.source.write_prefix}{label}/{name}" if label else stored_name(identity, services)
    )
    if not re.search(services.settings.source.expect, services.source.prefix + path):
        return Fate(name, "bad_name")
    return path


def stored_name(identity: Identity, services: Services) -> str:
    """Return the name of an instance without a label: made of its UIDs, which are all digits and dots."""
    prefix = services.settings.source.write_prefix
    return f"{prefix}stow/{identity.study}/{identity.series}/{identity.instance}.dcm"


def identify(stream: BinaryIO, services: Services) -> Identity:
    """Return the UIDs of a file, which is read in a worker; raises PermanentError if it is not DICOM."""
    size = stream.seek(0, SEEK_END)
    content = Content(ObjectRef("", "upload", 0), "file:///upload", size, opener=opener(stream))
    limits = services.settings.describe_options().limits
    return Identity(*services.workers.run(read_identity, content, limits, wait_s=WAIT_S))


def opener(stream: BinaryIO) -> Callable[[], BinaryIO]:
    """Return an opener for `Content.opener` that rewinds a stream; the stream itself stays open."""

    def opened() -> BinaryIO:
        stream.seek(0)
        return cast(BinaryIO, Kept(stream))

    return opened


class Kept:
    """A stream that stays open when its reader closes it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.read, self.seek, self.tell = stream.read, stream.seek, stream.tell

    def close(self) -> None:
        """Leave it open."""

    def __enter__(self) -> Kept:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
