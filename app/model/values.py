"""The values that packages exchange. All are frozen; besides them only JSON and rows are exchanged."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import Enum, StrEnum
from typing import Annotated, BinaryIO

Row = Mapping[str, object]
"""One row of a table: column -> str, int, float, bool, bytes, datetime (aware), date, time, list, dict."""


Code = Annotated[str, re.compile(r"[a-z][a-z0-9_]{0,39}").fullmatch]
"""A stable word that identifies a fault."""
Count = Annotated[int, range(1 << 64).__contains__]
OWN_QUEUE = "own_queue"
"""Key in the state of a request: whether the embedded queue of this process sent it."""


class EventType(StrEnum):
    """What happened to an object, as Cloud Storage notifications name it."""

    FINALIZE = "OBJECT_FINALIZE"
    DELETE = "OBJECT_DELETE"
    ARCHIVE = "OBJECT_ARCHIVE"
    METADATA_UPDATE = "OBJECT_METADATA_UPDATE"


REMOVALS = (EventType.DELETE, EventType.ARCHIVE)

REVISION = "dicomlakeRevision"
"""Attribute of a notification that requests a new description of an object version: the revision number."""


FORWARD_TO = "forwardTo"
"""Attribute of a message that is no event but a picture to forward: the receiver, as its URL is shown."""


@dataclass(frozen=True, slots=True)
class Message:
    """One delivery of a published message; `attempt` counts from 1, None if the bus does not count.

    ordering_key: where a bus has ordered delivery, messages with the same key are delivered in order.
    """

    data: bytes
    attributes: Mapping[str, str]
    message_id: str
    publish_time: datetime | None = None
    attempt: int | None = None
    subscription: str = ""
    correlation_id: str = ""
    ordering_key: str = ""


@dataclass(frozen=True, slots=True)
class Announcement:
    """A CloudEvent for other systems, in binary mode: attributes, and the JSON value in `data`.

    The same cause always makes the same `id`, so that receivers can drop repetitions. key: announcements
    with the same key keep their order where the target has ordered keys.
    """

    id: str
    type: str
    source: str
    key: str
    data: bytes
    time: datetime | None = None
    correlation_id: str = ""

    @property
    def attributes(self) -> dict[str, str]:
        """The CloudEvents attributes by name, all but the content type; `subject` is the key."""
        attributes = {"specversion": "1.0", "id": self.id, "type": self.type, "source": self.source}
        attributes["subject"] = self.key
        if self.time is not None:
            attributes["time"] = self.time.astimezone(UTC).isoformat().replace("+00:00", "Z")
        if self.correlation_id:
            attributes["correlationid"] = self.correlation_id
        return attributes


@dataclass(frozen=True, slots=True)
class Picture:
    """A preview for a receiver; `png` is the whole file.

    row_id: the key by which a receiver folds repetitions. path: of the object below the source, of a member
    with its path in the archive. facts: what else a receiver gets, by name.
    """

    row_id: str
    path: str
    facts: Mapping[str, str | None]
    png: bytes

    @property
    def file_name(self) -> str:
        """The last part of the path, with `.png`."""
        return f"{self.path.rpartition('/')[2]}.png"


@dataclass(frozen=True, slots=True)
class Attribute:
    """An attribute to search by or to return; `vr` is that of the dictionary.

    tag: eight hex digits in upper case; for a private one `gggg00ee`, since `creator` may reserve any block.
    """

    tag: str
    vr: str
    keyword: str = ""
    creator: str = ""

    @property
    def row_keys(self) -> tuple[str, ...]:
        """Its possible keys in the column `metadata`, depending on `metadata.keys`."""
        if self.creator:
            return (f"{self.tag[:4]},{self.creator},{self.tag[6:]}",)
        return (self.keyword, self.tag) if self.keyword else (self.tag,)


@dataclass(frozen=True, slots=True)
class ObjectRef:
    """One version of one stored object. `generation` pins the version, a late read cannot see newer bytes."""

    bucket: str
    name: str
    generation: int


@dataclass(frozen=True, slots=True)
class ObjectEvent:
    """A change of one object version. Sizes in bytes; `crc32c` in base64 as Cloud Storage writes it.

    revision: set if the object did not change but is described again; the time of that request in seconds
    since 1970, so later revisions have higher numbers.
    overwritten_by: generation that replaced this version. overwrote: generation that this version replaced.
    alias: name under which rows, artifacts and logs show the object; None for its own.
    """

    type: EventType
    ref: ObjectRef
    time: datetime
    metageneration: int | None = None
    size: int | None = None
    crc32c: str | None = None
    storage_class: str | None = None
    overwritten_by: int | None = None
    revision: int | None = None
    overwrote: int | None = None
    alias: str | None = None

    @property
    def shown(self) -> ObjectRef:
        """The object version as rows, artifacts and logs name it; `ref` is where to read it."""
        return self.ref if self.alias is None else replace(self.ref, name=self.alias)

    @property
    def generations_fall(self) -> bool:
        """Whether this version has a lower generation than one it replaced: views would show the wrong one.

        Cloud Storage does not promise rising generations, although no exception is known.
        """
        generation = self.ref.generation
        return (self.overwrote or 0) > generation or (self.overwritten_by or generation) < generation


@dataclass(frozen=True, slots=True)
class Content:
    """The verified bytes of one object version or, for a large object, a way to read it in ranges.

    Exactly one of `data` and `opener` is set; `size` is the stored size. `opener` works only in the server:
    a worker gets another one, which asks the server for ranges. decode: decodes the stored bytes if they have
    a Content-Encoding; picklable, because it runs only in a worker. member: path of these bytes inside an
    archive.
    """

    ref: ObjectRef
    uri: str
    size: int
    crc32c: str | None = None
    data: bytes | None = None
    opener: Callable[[], BinaryIO] | None = None
    decode: Callable[[BinaryIO], BinaryIO] | None = None
    member: str | None = None

    @property
    def at_hand(self) -> bytes | None:
        """The bytes if they are in memory and not encoded; None if they must be read or decoded."""
        return None if self.decode else self.data

    def open(self) -> BinaryIO:
        """Return a new seekable stream over the bytes."""
        stream = self.opener() if self.opener else io.BytesIO(self.data or b"")
        return self.decode(stream) if self.decode else stream


@dataclass(frozen=True, slots=True)
class DatasetWarning:
    """One element that is invalid or wrongly encoded. `tag` is eight hex digits.

    The document keeps its value verbatim; so does the row, except for NUL characters.
    """

    tag: Annotated[str, re.compile("[0-9A-F]{8}").fullmatch]
    code: Code


@dataclass(frozen=True, slots=True)
class Instance:
    """The description of one DICOM data set: a pure function of its bytes.

    columns: the typed columns of the table `instances` that come from the data set.
    metadata: JSON text for the column `metadata`. document: the PS3.18 Annex F JSON, UTF-8.
    preview: PNG bytes, or None with a reason in `preview_error`. took_ms: milliseconds of `parse`, `render`.
    pdf: an encapsulated PDF whose first page another process must still draw. copy: the de-identified file
    that all of this describes; None where it is the object itself, or if the copy follows in pieces.
    copy_size: bytes of that file, None where there is none.
    """

    columns: Row
    metadata: str
    document: bytes
    preview: bytes | None = None
    preview_error: Code | None = None
    warnings: tuple[DatasetWarning, ...] = ()
    took_ms: Mapping[str, Count] = field(default_factory=dict)
    member: str | None = None
    pdf: bytes | None = None
    copy: bytes | None = None
    copy_size: Count | None = None

    @property
    def decoder_failed(self) -> bool:
        """Whether a decoder failed. Some decoders then leak memory, so the worker must be replaced."""
        return self.preview_error in ("decode_failed", "out_of_memory")


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes of an object that its clean copy takes over as they are. crc32: as zlib computes it."""

    offset: Count
    length: Count
    crc32: Count


Pieces = tuple[bytes | Span, ...]
"""Consecutive parts of a clean copy: new bytes, and ranges of the object."""


@dataclass(frozen=True, slots=True)
class Deidentified:
    """A clean copy of one data set, as a file, and how many elements each action was applied to."""

    data: bytes
    counts: Mapping[str, Count] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a message was given up: a stable code and one sentence without any value of a data set."""

    code: str
    text: str
    object_uri: str = ""


class GiveUp(Enum):
    """When to give up a permanent failure.

    WHEN_DUE: nack until `delivery.permanent_attempts`, then dead-letter. NOW: dead-letter at once. SILENTLY:
    write nothing, because an open dead letter exists already. The last two are for `ingest`, which delivers
    each event once and waits as long as that takes.
    """

    WHEN_DUE = "when_due"
    NOW = "now"
    SILENTLY = "silently"


class Stage(StrEnum):
    """The steps of a delivery, in order."""

    EVENT = "event"
    READ = "read"
    DESCRIBE = "describe"
    WRITE = "write"
    APPEND = "append"
    ANNOUNCE = "announce"
    FORWARD = "forward"


class Status(StrEnum):
    """How an event ended, unless it failed."""

    STORED = "stored"
    DELETED = "deleted"
    SUPERSEDED = "superseded"
    IGNORED = "ignored"
    FORWARDED = "forwarded"
    DEAD_LETTERED = "dead_lettered"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one event. `code` is the reason if it was ignored, superseded or dead-lettered.

    stored: for an archive, the number of members with rows; `instances` then stays empty. reason: for a dead
    letter, its sentence.
    """

    status: Status
    code: str = ""
    instances: tuple[Row, ...] = ()
    stored: int | None = None
    reason: str = ""
